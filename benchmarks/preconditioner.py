"""How fast conjugate gradients converge off the grid, plain and preconditioned by the nearest circulant.

    python benchmarks/preconditioner.py --threads 1

Of a synthetic head seen by 8 coils along radial spokes, spirals (2-D) and kooshball spokes (3-D), the solution of
``(A^H A + lam) x = A^H y``: relative distance to the converged solution, and PSNR, after so many A^H A. What stands
beside the preconditioner of the library is T. Chan's circulant of the convolution alone, without maps.
"""

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
from kooshball_scan import BACKGROUND, Scan, scan, trajectory
from torch import Tensor

from convexrecon.data.anatomy import Anatomy
from convexrecon.data.coils import random_coils
from convexrecon.evaluate.metrics import psnr
from convexrecon.physics.circulant_preconditioner import CirculantPreconditioner, circulant_eigenvalues
from convexrecon.physics.conjugate_gradient import conjugate_gradient
from convexrecon.physics.density_compensation import pipe_menon
from convexrecon.physics.noncartesian_fourier import NonCartesianFourier
from convexrecon.physics.noncartesian_sense import NonCartesianSense
from convexrecon.physics.trajectories import radial, spiral

COUNTS = (1, 2, 4, 8)


def planar_scan(coordinates: Tensor, size: int, coils: int, seed: int, noise: float) -> Scan:
    """A slice of a head along a trajectory (samples, 2), weighted by density."""
    subject, array = Anatomy("head", "t1", seed), random_coils(coils, seed)
    shape = (size, size)
    target = torch.from_numpy(subject.render(shape, supersampling=1)).to(torch.complex64)
    maps = torch.from_numpy(array.sensitivities(*subject.coordinates(shape)))
    inside = F.max_pool2d((target.abs() > BACKGROUND * target.abs().max()).float()[None], 5, 1, 2)[0]
    target, maps = target * inside, maps * inside
    fourier = NonCartesianFourier(coordinates, shape, pipe_menon(coordinates, shape))
    measured = fourier.nufft.forward(maps[None] * target[None, None])
    deviation = noise * float(torch.quantile(target.abs()[target != 0], 0.95)) / 2**0.5
    rng = torch.Generator().manual_seed(seed)
    measured += torch.view_as_complex(deviation * torch.randn(*measured.shape, 2, generator=rng))
    sense = NonCartesianSense(maps[None], fourier)
    kspace = sense.weigh(measured)
    return Scan(sense, kspace, sense.adjoint(kspace), target[None])


def without_maps(sense: NonCartesianSense) -> CirculantPreconditioner:
    """T. Chan's circulant of the convolution: that of one coil, which sees all."""
    ones = torch.ones_like(sense.maps[:, :1])
    eigenvalues = circulant_eigenvalues(sense.fourier.transfer(ones.dtype), ones)
    return CirculantPreconditioner(eigenvalues, sense.preconditioner.support)


def rows(name: str, one: Scan, lam: float) -> None:
    """Print what each kind of iteration has reached after so many A^H A."""

    def solved(count: int, precondition: Callable[[Tensor], Tensor] | None) -> Tensor:
        return conjugate_gradient(
            lambda x: one.sense.normal(x) + lam * x,
            one.start,
            tolerance=1e-6,
            max_iterations=count,
            precondition=precondition,
        ).solution

    helped = one.sense.preconditioner
    exact = solved(80, lambda r: helped.solve(r, lam))
    alone = without_maps(one.sense)
    kinds = {
        "plain": None,
        "circulant of T": lambda r: alone.solve(r, lam),
        "circulant of A^H A": lambda r: helped.solve(r, lam),
    }
    for kind, precondition in kinds.items():
        found = [solved(count, precondition) for count in COUNTS]
        cells = [f"{float((x - exact).norm() / exact.norm()):.3f} ({psnr(x[0], one.target[0]):.1f})" for x in found]
        print(f"| {name} | {lam:g} | {kind} | {' | '.join(cells)} |", flush=True)
    print(f"| {name} | {lam:g} | converged | {' | ' * (len(COUNTS) - 1)}({psnr(exact[0], one.target[0]):.1f}) |")


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=128, help="of slices")
    parser.add_argument("--volume", type=int, default=48)
    parser.add_argument("--lam", type=float, nargs="+", default=[0.1, 0.01, 0.001])
    parser.add_argument("--seed", type=int, default=50)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    shape = (options.size, options.size)
    scans = {
        "radial": planar_scan(radial(shape, options.size * 3 // 16).flatten(0, 1), options.size, 8, options.seed, 0.02),
        "spiral": planar_scan(spiral(shape, options.size // 32).flatten(0, 1), options.size, 8, options.seed, 0.02),
        "kooshball": scan(trajectory(options.volume, 0.1), 8, options.seed, 0.05),
    }
    print(f"| trajectory | lam | iterations | {' | '.join(f'{count} A^H A' for count in COUNTS)} |")
    print("|---|---:|---|" + "---:|" * len(COUNTS))
    for name, one in scans.items():
        for lam in options.lam:
            rows(name, one, lam)


if __name__ == "__main__":
    main()
