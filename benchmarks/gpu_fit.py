"""Seconds, certified gap and memory of fitting a block on a GPU, and how near its products come to what it can do.

A block of two channels (7 x 7, P = 64 and 256) by statistics and by passes, fused and not; and a block stacked on 256
frozen features, by passes. The ceiling is the largest rate of a square matrix product on the same device in the same
run. Counted are, for a pass H W, its 4 n P m d operations at the time of one pass; for statistics the 2 n d^2 of every
set of gates at the time of accumulating H. Run: python benchmarks/gpu_fit.py
(to try it without a GPU: python benchmarks/gpu_fit.py --device cpu --pixels 4096)
"""

import argparse
import json
import math
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F

from convexrecon.convex.arrangements import Gates, convolve, draw_gates
from convexrecon.convex.fused_map import can_fuse
from convexrecon.convex.fused_tiles import Products
from convexrecon.convex.gated_convolution import feature_count
from convexrecon.convex.matrix_free import streamed_quadratic
from convexrecon.convex.pair_cover import pair_cover
from convexrecon.convex.patches import BlockBatch
from convexrecon.convex.pattern_sums import pattern_bits
from convexrecon.convex.program import ProgramSettings, solve_program
from convexrecon.convex.sufficient_statistics import PATCH_ENTRIES, PIXELS_COLLECTED
from convexrecon.training.profiler import Profile

KERNEL = (7, 7)
SIZE = 256
REPEATS = 3


@dataclass(frozen=True)
class Row:
    """One fit; what could not be measured is None.

    Attributes:
        block: what was fitted, by what method, with what products.
        gates, features, pixels: P, d, n.
        seconds: of the fit, its certificate in float64 among them.
        iterations: of the solver; passes where there is no H.
        relative_gap: certified, in float64.
        peak_mb: most memory in use, that of the data among it; 1e6 bytes.
        product_seconds: of one pass H W, or of accumulating H.
        product_tflops: operations a second in it, 1e12.
        share: of the ceiling.
        failure: why there is no result.
    """

    block: str
    gates: int
    features: int
    pixels: int
    seconds: float | None = None
    iterations: int | None = None
    relative_gap: float | None = None
    peak_mb: float | None = None
    product_seconds: float | None = None
    product_tflops: float | None = None
    share: float | None = None
    failure: str = ""


def images(pixels: int, device: torch.device) -> Iterator[BlockBatch]:
    """Smooth random images with noise to remove, `pixels` in all or a few less."""
    size = min(SIZE, math.isqrt(pixels))
    for index in range(pixels // size**2):
        rng = torch.Generator().manual_seed(index)
        clean = 4 * F.avg_pool2d(torch.randn(1, 2, size, size, generator=rng), 7, 1, 3)
        noisy = clean + 0.2 * torch.randn(clean.shape, generator=rng)
        yield BlockBatch(noisy.to(device), (clean - noisy).to(device))


def stacked(data: list[BlockBatch], channels: int) -> list[BlockBatch]:
    """The same targets with the rectified responses of random filters for inputs, as of a frozen layer."""
    rng = torch.Generator().manual_seed(0)
    filters = torch.randn(channels, 2, *KERNEL, generator=rng).to(data[0].features.device) / math.prod(KERNEL)
    return [BlockBatch(convolve(batch.features, filters).clamp_min_(0), batch.target) for batch in data]


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Shortest of a few repetitions, after one that is not counted."""
    work()
    times = []
    for _ in range(REPEATS):
        _wait(device)
        started = time.perf_counter()
        work()
        _wait(device)
        times.append(time.perf_counter() - started)
    return min(times)


def ceilings(device: torch.device) -> dict[str, float]:
    """Operations a second of a large square product, in float32 and, where there is such a thing, in TF32."""
    side = 8192 if device.type == "cuda" else 1024
    square = torch.randn(side, side, device=device)
    found = {"float32": 2 * side**3 / seconds_of(lambda: square @ square, device)}
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
        found["TF32"] = 2 * side**3 / seconds_of(lambda: square @ square, device)
        torch.backends.cuda.matmul.allow_tf32 = False
    return found


def fit(name: str, data: list[BlockBatch], gates: Gates, settings: ProgramSettings, ceiling: dict[str, float]) -> Row:
    """Fit a block and time its products; a failure, such as too little memory, is told in the row."""
    device = data[0].features.device
    features = feature_count(data[0].features.shape[1], KERNEL, settings.constant)
    pixels = sum(batch.pixels for batch in data)
    passes = settings.method == "matrix_free"
    block = f"{name}, {settings.method}" + (f" ({settings.products})" if passes else "")
    rate = ceiling["TF32" if passes and settings.products.startswith("tf32") else "float32"]
    shape = (block, len(gates), features, pixels)
    try:
        with Profile(device) as profile:
            solved = solve_program(lambda: data, gates, settings)
        if passes:
            quadratic = streamed_quadratic(lambda: data, gates, settings.constant, 2**30, settings.products)
            taken = seconds_of(lambda: quadratic.multiply(solved.solution.weights), device)
            operations = 4.0 * pixels * len(gates) * data[0].target.shape[1] * features
        else:
            taken = solved.seconds_accumulate
            room = min(PIXELS_COLLECTED, PATCH_ENTRIES // features, pixels)
            operations = 2.0 * len(pair_cover(len(gates), pattern_bits(room, features))) * features**2 * pixels
    except Exception as error:  # whatever it is, it must not cost the figures of the other fits
        return Row(*shape, failure=f"{type(error).__name__}: {error}".splitlines()[0])
    solution = solved.solution
    measured = (profile.seconds, solution.iterations, solution.certificate.relative_gap, profile.peak_memory_mb)
    return Row(*shape, *measured, taken, operations / taken / 1e12, operations / taken / rate)


def markdown(conditions: dict[str, object], rows: list[Row]) -> str:
    """The table, under a line on the machine."""
    lines = [", ".join(f"{name} {value}" for name, value in conditions.items()) + ".", ""]
    lines.append("| block | P | d | n | s | iterations | gap | peak MB | product s | TFLOP/s | of ceiling |")
    lines.append("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    for row in rows:
        cells = [row.block, f"{row.gates}", f"{row.features:,}", f"{row.pixels:,}"]
        if row.failure:
            cells += [row.failure, *[""] * 6]
        else:
            cells += [f"{row.seconds:.2f}", f"{row.iterations}", f"{row.relative_gap:.1e}", f"{row.peak_mb:.0f}"]
            cells += [f"{row.product_seconds:.4f}", f"{row.product_tflops:.3g}", f"{row.share:.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def conditions_of(device: torch.device, ceiling: dict[str, float]) -> dict[str, object]:
    """The machine, the versions, and what the machine can do."""
    on_gpu = device.type == "cuda"
    found: dict[str, object] = {
        "device": torch.cuda.get_device_name(device)
        if on_gpu
        else f"{_processor()}, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
    }
    if on_gpu and find_spec("triton"):
        from triton import __version__ as triton_version

        found["Triton"] = triton_version
    return found | {f"{name} ceiling": f"{rate / 1e12:.2f} TFLOP/s" for name, rate in ceiling.items()}


def jobs(
    options: argparse.Namespace, device: torch.device
) -> Iterator[tuple[str, list[BlockBatch], int, ProgramSettings]]:
    """What is fitted: name, data, number of gates, settings."""
    common = {"beta_ratio": options.beta_ratio, "memory_gb": options.memory_gb}
    fused: list[Products] = ["ieee", "tf32x3", "tf32"] if can_fuse(torch.empty(0, device=device)) else []
    data = list(images(options.pixels, device))
    for count in options.gates:
        yield "2 channels", data, count, ProgramSettings(method="statistics", **common)
        for products in [*fused, "torch"]:
            yield "2 channels", data, count, ProgramSettings(method="matrix_free", products=products, **common)
    wide = stacked(data, options.channels)
    for products in [*fused, "torch"]:
        settings = ProgramSettings(method="matrix_free", products=products, **common)
        yield f"{options.channels} channels", wide, options.gates[0], settings


def main() -> None:
    """Print the table; write it, and the figures as JSON, after every fit."""
    options = _options()
    device = torch.device(options.device)
    ceiling = ceilings(device)
    conditions = conditions_of(device, ceiling) | {"beta / beta_max": options.beta_ratio}
    rows: list[Row] = []
    options.out.mkdir(parents=True, exist_ok=True)
    for name, data, count, settings in jobs(options, device):
        samples = [batch.features for batch in data[:2]]
        gates = draw_gates(samples, count, KERNEL, torch.Generator().manual_seed(0), offset_scale=1.0).to(device)
        if device.type == "cuda":
            torch.cuda.empty_cache()
        rows.append(fit(name, data, gates, settings, ceiling))
        print(markdown({}, rows[-1:]).splitlines()[-1], flush=True)
        (options.out / "gpu_fit.md").write_text(markdown(conditions, rows))
        results = {"conditions": conditions, "fits": [asdict(row) for row in rows]}
        (options.out / "gpu_fit.json").write_text(json.dumps(results, indent=1))
    print(markdown(conditions, rows))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--pixels", type=int, default=2**20)
    parser.add_argument("--gates", type=int, nargs="+", help="64 256 on a GPU, 8 16 on a CPU")
    parser.add_argument("--channels", type=int, help="of the stacked block: 256 on a GPU, 4 on a CPU")
    parser.add_argument("--beta-ratio", type=float, default=1e-3)
    parser.add_argument("--memory-gb", type=float, default=32.0, help="most for H and its factor")
    parser.add_argument("--out", type=Path, default=Path("gpu_fit"), help="folder of the results")
    options = parser.parse_args()
    on_gpu = torch.device(options.device).type == "cuda"
    options.gates = options.gates or ([64, 256] if on_gpu else [8, 16])
    options.channels = options.channels or (256 if on_gpu else 4)
    return options


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
