"""Seconds of the non-uniform transform and of the two ways to its normal operator, by size and accuracy.

Golden-angle spokes, half as many as sample fully in 2-D (radial, twofold readout oversampling), a fourth in 3-D
(kooshball), seen by SENSE with random unit maps. `plans` and `kernel` are paid once for a trajectory: sorting for
forward and adjoint, and the spectrum of the point spread function with its norm. `both` is A^H A as forward and
adjoint, `Toeplitz` as convolution. Errors are relative, against double precision at 1e-12. Run:

    python benchmarks/nufft.py --sizes 128 256 --volumes 32 64
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from convexrecon.physics.noncartesian_sense import NonCartesianSense
from convexrecon.physics.trajectories import kooshball, radial

HEADER = (
    "| image | samples | coils | eps | plans s | kernel s | forward s | adjoint s | both s | Toeplitz s "
    "| error forward | error both | error Toeplitz |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
)


def trajectory(shape: tuple[int, ...]) -> Tensor:
    """(samples, d), cycles per field of view."""
    size = max(shape)
    if len(shape) == 2:
        return radial((size, size), round(0.8 * size)).flatten(0, 1)
    return kooshball((size, size, size), round(0.4 * size**2), oversampling=1).flatten(0, 1)


def seconds(run: Callable[[], Tensor], repeats: int) -> float:
    """The least of `repeats` runs, after one that is not counted."""
    run()
    taken = []
    for _ in range(repeats):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return min(taken)


def error(found: Tensor, exact: Tensor) -> float:
    """Relative, in the Euclidean norm."""
    return float(torch.linalg.vector_norm(found - exact) / torch.linalg.vector_norm(exact))


def row(shape: tuple[int, ...], coils: int, eps: float, repeats: int, device: str) -> str:
    """One line of the table."""
    coordinates = trajectory(shape).to(device)
    rng = torch.Generator().manual_seed(0)
    wide = torch.randn(1, *shape, generator=rng, dtype=torch.complex128).to(device)
    maps = torch.randn(1, coils, *shape, generator=rng, dtype=torch.complex128).to(device)
    maps = maps / torch.linalg.vector_norm(maps, dim=1, keepdim=True)
    image = wide.to(torch.complex64)
    sense = NonCartesianSense.along(coordinates, maps.to(torch.complex64), eps=eps)
    start = time.perf_counter()
    sense.normal(image)
    kernel = time.perf_counter() - start
    start = time.perf_counter()
    samples = sense.forward(image)
    twice = sense.adjoint(samples)
    first = time.perf_counter() - start
    forward = seconds(lambda: sense.forward(image), repeats)
    adjoint = seconds(lambda: sense.adjoint(samples), repeats)
    both = seconds(lambda: sense.adjoint(sense.forward(image)), repeats)
    toeplitz = seconds(lambda: sense.normal(image), repeats)
    exact = NonCartesianSense.along(coordinates, maps, eps=1e-12)
    # The scales differ by the accuracy of the kernels.
    ratio = float(sense.fourier.scale / exact.fourier.scale)
    exact_samples = ratio * exact.forward(wide)
    exact_twice = ratio * exact.adjoint(exact_samples)
    errors = (error(samples, exact_samples), error(twice, exact_twice), error(sense.normal(image), exact_twice))
    name = " x ".join(map(str, shape))
    times = (max(first - forward - adjoint, 0), kernel - toeplitz, forward, adjoint, both, toeplitz)
    return (
        f"| {name} | {len(coordinates):,} | {coils} | {eps:.0e} | "
        + " | ".join(f"{t:.4f}" for t in times)
        + " | "
        + " | ".join(f"{e:.1e}" for e in errors)
        + " |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="*", default=[64, 128], help="sides of square images, pixels")
    parser.add_argument("--volumes", type=int, nargs="*", default=[24], help="sides of cubic volumes, pixels")
    parser.add_argument("--eps", type=float, nargs="+", default=[1e-2, 1e-4, 1e-6])
    parser.add_argument("--coils", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(HEADER)
    for shape in [(n, n) for n in arguments.sizes] + [(n, n, n) for n in arguments.volumes]:
        for eps in arguments.eps:
            print(row(shape, arguments.coils, eps, arguments.repeats, arguments.device), flush=True)


if __name__ == "__main__":
    main()
