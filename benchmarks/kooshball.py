"""A kooshball of N^3 voxels fitted and trained on block by block: memory, against the patch and against the volume.

    python benchmarks/kooshball.py --sizes 48 64 --patches 24 32 48

For every size a process of its own simulates a head seen by 8 coils along undersampled spokes, and measures, in this
order: the forward model (its kernel, one A^H A); a convex block of 32 gates fitted, certified and applied, patch by
patch; one step of GLEAM and one of end-to-end training of two blocks with gradient data consistency, the denoisers
patch by patch, each checkpointed. Memory of a fit or a step is what the tensors that it makes take at most, beside
maps, k-space and images; the peak of the resident set of the process, so far, is everything. For whole volumes it gives
what backpropagation would take: a straight line through steps without patches at 24^3 and 32^3.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from blockwise import network
from kooshball_cascade import fit_block
from kooshball_scan import Scan, scan, trajectory
from torch import Tensor

from convexrecon.cascade import Block
from convexrecon.data.dataset import Batch
from convexrecon.denoisers.gated import GatedDenoiser
from convexrecon.physics.data_consistency import GradientDataConsistency
from convexrecon.physics.noncartesian_sense import NonCartesianSense
from convexrecon.training.descent import Portion
from convexrecon.training.descent_settings import DescentSettings
from convexrecon.training.live_memory import LiveMemory
from convexrecon.training.ranks import Ranks
from convexrecon.training.step_clock import StepClock
from convexrecon.training.train_descent import TRAINERS

CPU = torch.device("cpu")
# Sizes at which steps on whole volumes are measured, for the straight line through them.
MODELLED = (24, 32)
SPOKES, NOISE = 0.1, 0.05
GATES = 32


@dataclass(frozen=True)
class Volume:
    """As much of a batch as a step of training asks for."""

    sense: NonCartesianSense
    kspace: Tensor
    target: Tensor


def peak_gb() -> float:
    """Most that the process has held, in units of 1e9 bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024e-9


def row(name: str, work: Callable[[], Any], *, follow: bool = True) -> tuple[dict[str, Any], Any]:
    """What some work takes, as a row: MB of its tensors, seconds of the process and of the clock, peak so far."""
    cpu, wall = time.process_time(), time.perf_counter()
    if follow:
        with LiveMemory(CPU) as memory:
            result = work()
    else:
        result = work()
    seconds = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
    return {"name": name, "mb": memory.peak_mb if follow else None, **seconds, "peak_gb": peak_gb()}, result


def step_of(one: Scan, method: str, options: argparse.Namespace, patch: int | None) -> Callable[[], float]:
    """A step of training of a cascade of two blocks, denoised in patches or not."""
    cascade = network(options.denoiser, options.width, 2)
    for block in cascade:
        block.use_patches(patch)
    descent = TRAINERS[method](cascade, DescentSettings(), Ranks())
    portion = Portion(cast("Batch", Volume(one.sense, one.kspace, one.target)))
    return lambda: descent.step(portion, StepClock(CPU))


def convex_block(one: Scan) -> Block:
    """A block fitted to the volume, to be applied."""
    solved = fit_block([one], [one.start], GATES, 3, 0)
    print(f"certified gap {solved.solution.certificate.relative_gap:.1e}", file=sys.stderr, flush=True)
    return Block(GatedDenoiser(solved.gates, solved.solution.weights, constant=True), GradientDataConsistency())


def measure(size: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """All rows of a size, in this process."""
    fourier = trajectory(size, SPOKES)
    rows: list[dict[str, Any]] = [{"name": "libraries", "mb": None, "cpu": 0, "wall": 0, "peak_gb": peak_gb()}]

    def add(name: str, work: Callable[[], Any], *, follow: bool = True) -> Any:
        measured, result = row(name, work, follow=follow)
        rows.append(measured)
        print(measured, file=sys.stderr, flush=True)
        return result

    add("kernel of A^H A", lambda: fourier.scale)
    one = add("simulated scan", lambda: scan(fourier, options.coils, 0, NOISE, options.images), follow=False)
    add("A^H A", lambda: one.sense.normal(one.start))
    block = add(f"convex fit, {GATES} gates", lambda: convex_block(one))
    for patch in options.patches:
        block.use_patches(patch)
        with torch.no_grad():
            add(
                f"convex block applied, patches of {patch}^3", lambda: block(one.start, one.sense, one.start, one.start)
            )
        for method in options.methods:
            add(f"{method}, patches of {patch}^3", step_of(one, method, options, patch))
    return rows


def whole_volume_mb(options: argparse.Namespace, sizes: list[int]) -> dict[int, float]:
    """What a step on whole volumes takes: a straight line in the number of voxels, through two small ones."""
    taken = []
    for size in MODELLED:
        one = scan(trajectory(size, SPOKES), options.coils, 0, NOISE)
        taken.append(row("whole", step_of(one, "end_to_end", options, None))[0]["mb"])
    slope = (taken[1] - taken[0]) / (MODELLED[1] ** 3 - MODELLED[0] ** 3)
    return {size: taken[1] + slope * (size**3 - MODELLED[1] ** 3) for size in sizes}


def main() -> None:
    """Measure what is asked for, a process for every size, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[48])
    parser.add_argument("--patches", type=int, nargs="+", default=[24, 32])
    parser.add_argument("--methods", nargs="*", default=["gleam", "end_to_end"])
    parser.add_argument("--denoiser", choices=["relu", "resnet", "modl"], default="relu")
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--coils", type=int, default=8)
    parser.add_argument("--images", type=Path, help="a volume to measure on; a synthetic head without it")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.alone:
        print(json.dumps(measure(options.sizes[0], options)))
        return
    whole = whole_volume_mb(options, options.sizes)
    print("| volume | work | MB | complex volumes | CPU s | s | peak of the process GB |")
    print("|---|---|---:|---:|---:|---:|---:|", flush=True)
    for size in options.sizes:
        arguments = _without_sizes(sys.argv[1:])
        command = [sys.executable, __file__, *arguments, "--sizes", str(size), "--alone"]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        for measured in json.loads(done.stdout):
            taken, volumes = "-", "-"
            if measured["mb"] is not None:
                taken, volumes = f"{measured['mb']:.0f}", f"{measured['mb'] / (8e-6 * size**3):.1f}"
            print(
                f"| {size}^3 | {measured['name']} | {taken} | {volumes} | {measured['cpu']:.0f} | "
                f"{measured['wall']:.0f} | {measured['peak_gb']:.2f} |"
            )
        print(
            f"| {size}^3 | end_to_end, whole volume, predicted | {whole[size]:.0f} | "
            f"{whole[size] / (8e-6 * size**3):.1f} | | | |",
            flush=True,
        )


def _without_sizes(arguments: list[str]) -> list[str]:
    """The command line without its sizes."""
    if "--sizes" not in arguments:
        return arguments
    start = arguments.index("--sizes")
    stop = next((k for k in range(start + 1, len(arguments)) if arguments[k].startswith("--")), len(arguments))
    return arguments[:start] + arguments[stop:]


if __name__ == "__main__":
    main()
