"""Volumes larger than memory: what preparing and convex training on slabs of a volume hold, as its file grows.

    python benchmarks/streaming.py --slices 64 256 1024

For every number of slices a process of its own simulates a head, prepares it and trains one convex block of 16 gates on
slabs of 16 slices. After its libraries are loaded it may take `--allowed-mb` of memory and no more (the kernel refuses:
RLIMIT_DATA, which pages of files that are read do not count in). Its growth is the most that it holds then, beyond what
it held before.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from convexrecon.data.preparation import PreparationSettings, prepare
from convexrecon.data.simulation import simulate_dataset
from convexrecon.physics.masks import MaskSettings
from convexrecon.training.config import RunSettings
from convexrecon.training.convex_settings import ConvexSettings
from convexrecon.training.model_settings import ModelSettings
from convexrecon.training.profiler import Profile, resident_mb
from convexrecon.training.run_folder import RunFolder
from convexrecon.training.train import train

SIZE, COILS, SLAB = (64, 64), 8, 16
SETTINGS = RunSettings(
    mask=MaskSettings("poisson", 3.0, 12),
    model=ModelSettings(blocks=1, kernel=3, units=16),
    convex=ConvexSettings(pixel_fraction=0.1),
    slab=SLAB,
    validation_fraction=0.0,
)


def private_bytes() -> int:
    """What RLIMIT_DATA limits, as it stands."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmData")))


def measure(slices: int, allowed_mb: float, folder: Path) -> dict[str, float]:
    """Simulate, prepare and train in this process."""
    scans, data = folder / "scans", folder / "data"
    simulate_dataset(
        scans, volumes=1, slices=slices, size=SIZE, coils=COILS, anatomy="head", layout="volume", progress=False
    )
    # A first run on a small volume loads what is loaded when first needed.
    for name in ("small", "small_data"):
        (folder / name).mkdir()
    simulate_dataset(
        folder / "small",
        volumes=1,
        slices=SLAB,
        size=SIZE,
        coils=COILS,
        anatomy="head",
        layout="volume",
        progress=False,
    )
    prepare(folder / "small", folder / "small_data", PreparationSettings(calibration=12), progress=False)
    train(SETTINGS, folder / "small_data", folder / "small_run", progress=False)
    limit = private_bytes() + int(1e6 * allowed_mb)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    before = resident_mb()
    found: dict[str, float] = {}
    for name in ("prepare", "train"):
        started = time.process_time()
        with Profile(torch.device("cpu")) as profile:
            if name == "prepare":
                prepare(scans, data, PreparationSettings(calibration=12), progress=False)
            else:
                train(SETTINGS, data, folder / "run", progress=False)
        found |= {f"{name}_mb": profile.peak_memory_mb - before, f"{name}_s": time.process_time() - started}
    record = RunFolder(folder / "run").read_metrics()[-1]
    sizes = {
        name: sum(file.stat().st_size for file in (folder / name).glob("*.h5")) / 1e6 for name in ("scans", "data")
    }
    return found | {f"{name}_file_mb": size for name, size in sizes.items()} | {"gap": record["relative_gap"]}


def main() -> None:
    """Measure what is asked for, a process for every number of slices, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--allowed-mb", type=float, default=400.0)
    parser.add_argument("--alone", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.alone:
        with TemporaryDirectory() as folder:
            print(json.dumps(measure(options.alone, options.allowed_mb, Path(folder))))
        return
    print("| slices | scan MB | prepared MB | prepare grows MB | CPU s | train grows MB | CPU s | certified gap |")
    print("|---:|---:|---:|---:|---:|---:|---:|---:|", flush=True)
    for slices in options.slices:
        command = [sys.executable, __file__, "--allowed-mb", str(options.allowed_mb), "--alone", str(slices)]
        row = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        print(
            f"| {slices} | {row['scans_file_mb']:.0f} | {row['data_file_mb']:.0f} | {row['prepare_mb']:.0f} | "
            f"{row['prepare_s']:.0f} | {row['train_mb']:.0f} | {row['train_s']:.0f} | {row['gap']:.0e} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
