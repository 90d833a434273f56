"""Time of fitting a block against the arithmetic it cannot avoid, and memory against the number of slices.

The unavoidable arithmetic is the packed symmetric product of `sufficient_statistics`, P (P + 1) d (d + 1) / 2
floating-point operations a pixel, at the speed of this machine's own float32 matrix product of those shapes,
measured in the same run. Everything else (drawing gates, patches, products of patches and gates, float64
sums, assembling H, ADMM, certificates) is overhead. Run: python benchmarks/block_fit.py
"""

import argparse
import time
from collections.abc import Iterator

import torch
import torch.nn.functional as F

from convexrecon.convex.arrangements import draw_gates
from convexrecon.convex.patches import PIXELS_PER_CHUNK, BlockBatch
from convexrecon.convex.program import ProgramSettings, solve_program
from convexrecon.training.profiler import Profile


def slices(count: int, size: int) -> Iterator[BlockBatch]:
    """Smooth random images with noise to remove: one slice at a time, never all in memory."""
    for index in range(count):
        rng = torch.Generator().manual_seed(index)
        clean = 4 * F.avg_pool2d(torch.randn(1, 2, size, size, generator=rng), 7, 1, 3)
        noisy = clean + 0.2 * torch.randn(clean.shape, generator=rng)
        yield BlockBatch(noisy, clean - noisy)


def product_seconds(gates: int, features: int, pixels: int) -> float:
    """Seconds of the packed product alone, best of three, for `pixels` pixels."""
    left = torch.rand(gates * (gates + 1) // 2, PIXELS_PER_CHUNK)
    right = torch.rand(features * (features + 1) // 2, PIXELS_PER_CHUNK)
    repeats = 8
    best = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        for _ in range(repeats):
            left @ right.T
        best = min(best, (time.perf_counter() - started) / repeats)
    return best * pixels / PIXELS_PER_CHUNK


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=8)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{options.slices} slices {options.size}x{options.size}, 5x5, {options.threads} threads")
    print("gates  product s  accumulate s  solve s  gates s  ratio  relative gap  iterations")
    for count in (16, 32, 64):
        samples = [batch.features for batch in slices(4, options.size)]
        started = time.perf_counter()
        gates = draw_gates(samples, count, (5, 5), torch.Generator().manual_seed(0))
        drawing = time.perf_counter() - started
        data = list(slices(options.slices, options.size))
        pixels = options.slices * options.size**2
        floor = product_seconds(count, 51, pixels)
        solved = solve_program(lambda data=data: data, gates, ProgramSettings())  # type: ignore[misc]
        total = drawing + solved.seconds_accumulate + solved.seconds_solve
        print(
            f"{count:5d}  {floor:9.2f}  {solved.seconds_accumulate:12.2f}  {solved.seconds_solve:7.2f}"
            f"  {drawing:7.2f}  {total / floor:5.2f}  {solved.solution.certificate.relative_gap:12.1e}"
            f"  {solved.solution.iterations:10d}"
        )
    print("\npeak memory against the number of slices (32 gates)")
    gates = draw_gates([next(slices(1, 128)).features], 32, (5, 5), torch.Generator().manual_seed(0))
    for number in (4, 16, 64):
        with Profile(torch.device("cpu")) as profile:
            solve_program(lambda number=number: slices(number, 128), gates, ProgramSettings())  # type: ignore[misc]
        print(f"{number:4d} slices: {profile.peak_memory_mb:6.0f} MB, {profile.seconds:5.1f} s")


if __name__ == "__main__":
    main()
