"""Reconstruction time and PSNR off the grid: convex cascades against L1-wavelet and CG, one operator, one process.

    python benchmarks/kooshball_speed.py --size 48

Volumes of `--train` heads train the cascades; the weights of the others are tuned on one of them. Heads to validate on
choose how many A^H A the cascade of learned steps takes: the fewest with which it is above L1-wavelet there. Other
heads are reconstructed, and a row is the mean over them. The iterations of L1-wavelet that count are those until its
PSNR is within 0.1 dB of what it converges to. Seconds are those of the process, of which other work on the machine
takes nothing, from measured samples to image; A^H y and its plan, which all need, and the preconditioner of a scan's
maps are in them, the kernel of A^H A, once for a trajectory, is not.
"""

import argparse
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from kooshball_cascade import PIXELS, fit_cascade
from kooshball_scan import Scan, scan, trajectory
from kooshball_steps import LearnedSteps, fit_steps
from torch import Tensor

from convexrecon.cascade import Cascade
from convexrecon.evaluate.baselines import cg_sense
from convexrecon.evaluate.metrics import psnr
from convexrecon.physics.conjugate_gradient import regularized_solve
from convexrecon.physics.l1_wavelet import solve_l1_wavelet
from convexrecon.physics.noncartesian_sense import NonCartesianSense

# Within so many dB of where it converges an iteration has arrived.
CLOSE = 0.1
# Iterations that L1-wavelet starts from, plain and preconditioned: what A^H A is asked of there are directions.
CG_START, PCG_START = 10, 5
START_LAM = 0.01

Method = Callable[[NonCartesianSense, Tensor], Tensor]


@dataclass(frozen=True)
class Watched(NonCartesianSense):
    """An operator that notes, whenever A^H A is asked for, the seconds so far and the PSNR of what it is asked of.

    Attributes:
        target: (1, *N).
        curve: (seconds, PSNR) of each; what the PSNR takes is not in the seconds.
        clock: when it started, in one number.
    """

    target: Tensor
    curve: list[tuple[float, float]]
    clock: list[float]

    @classmethod
    def now(cls, one: Scan) -> "Watched":
        """The operator of a scan, from now on."""
        return cls(one.sense.maps, one.sense.fourier, one.target, [], [time.process_time()])

    def normal(self, image: Tensor) -> Tensor:
        """A^H A x."""
        before = time.process_time()
        self.curve.append((before - self.clock[0], psnr(image[0], self.target[0])))
        self.clock[0] += time.process_time() - before
        return super().normal(image)


def timed(one: Scan, method: Method) -> tuple[float, float]:
    """PSNR and seconds of a method, by an operator that has kept nothing but what is of the trajectory."""
    sense = NonCartesianSense(one.sense.maps, one.sense.fourier)
    with torch.no_grad():
        started = time.process_time()
        image = method(sense, one.kspace)
        seconds = time.process_time() - started
    return psnr(image[0], one.target[0]), seconds


def products_of(one: Scan, method: Method) -> int:
    """How many A^H A a method takes."""
    watched = Watched.now(one)
    with torch.no_grad():
        method(watched, one.kspace)
    return len(watched.curve)


def best_lam(lams: Sequence[float], quality: Callable[[float], float]) -> float:
    """The best of a grid, extended where its edge is best."""
    found = {lam: quality(lam) for lam in lams}
    while (best := max(found, key=lambda lam: found[lam])) in (min(found), max(found)) and len(found) < 9:
        new = best / 3 if best == min(found) else 3 * best
        found[new] = quality(new)
    return best


def preconditioned(sense: NonCartesianSense, kspace: Tensor, lam: float, iterations: int) -> Tensor:
    """CG-SENSE by preconditioned iterations."""
    adjoint = sense.adjoint(kspace)
    return regularized_solve(sense, adjoint, lam, tolerance=0, max_iterations=iterations).solution


@dataclass(frozen=True)
class Convergence:
    """How L1-wavelet came to what it converges to.

    Attributes:
        reached: PSNR that it converges to.
        quality, seconds, products: PSNR, seconds and A^H A of where it is within 0.1 dB of that.
        curve: (seconds, PSNR) on the way, from its start on.
    """

    reached: float
    quality: float
    seconds: float
    products: int
    curve: list[tuple[float, float]]

    def stopped(self, seconds: float) -> float:
        """The best PSNR that its iterations have had within so many seconds; NaN while it looks for its start."""
        return max((quality for when, quality in self.curve if when <= seconds), default=math.nan)


def converging(one: Scan, lam: float, iterations: int, *, helped: bool = False) -> Convergence:
    """L1-wavelet, watched, from ten CG iterations or five preconditioned ones."""
    watched = Watched.now(one)
    with torch.no_grad():
        start = preconditioned(watched, one.kspace, START_LAM, PCG_START) if helped else None
        final = solve_l1_wavelet(watched, one.kspace, lam, iterations=iterations, tolerance=1e-5, initial=start)
    reached = psnr(final.image[0], one.target[0])
    first = PCG_START if helped else CG_START
    for count in range(first, len(watched.curve)):
        if all(later >= reached - CLOSE for _, later in watched.curve[count:]):
            seconds, quality = watched.curve[count]
            return Convergence(reached, quality, seconds, count, watched.curve[first:])
    seconds = time.process_time() - watched.clock[0]
    return Convergence(reached, reached, seconds, len(watched.curve), watched.curve[first:])


def linear_methods(tuned: Scan) -> dict[str, Method]:
    """A^H y, CG, and CG preconditioned: of each number of iterations the lam that is best on a volume."""
    found: dict[str, Method] = {"A^H y": lambda sense, kspace: sense.adjoint(kspace)}

    def plain(count: int, lam: float) -> Method:
        return lambda sense, kspace: cg_sense(sense, kspace, lam, count, tolerance=0)

    def helped(count: int, lam: float) -> Method:
        return lambda sense, kspace: preconditioned(sense, kspace, lam, count)

    for kind, make, counts in (("CG", plain, (5, 10, 20)), ("CG preconditioned", helped, (3, 5))):
        for count in counts:
            lam = best_lam([1e-3, 1e-2], lambda lam: timed(tuned, make(count, lam))[0])  # noqa: B023
            found[f"{kind}, lam {lam:.2g}, {count} iterations"] = make(count, lam)
    return found


def plainest_l1_wavelet(lam: float, iterations: int) -> Method:
    """L1-wavelet as it is often run: from zero, one wavelet grid, a fixed number of iterations."""

    def method(sense: NonCartesianSense, kspace: Tensor) -> Tensor:
        start = torch.zeros_like(sense.maps[:, 0])
        return solve_l1_wavelet(sense, kspace, lam, iterations=iterations, tolerance=0, shifts=1, initial=start).image

    return method


def cascades(train: Sequence[Scan], options: argparse.Namespace) -> dict[str, Method]:
    """Cascades of gradient or proximal steps, and what they are after each block."""
    wanted = [("zero_filled", steps, 0) for steps in options.steps]
    wanted += [(start, steps, options.products) for start in options.starts for steps in options.steps_from_cg]
    found: dict[str, Method] = {}
    for initial, steps, products in wanted:
        cascade = fit_cascade(
            train, steps, options.gates, options.kernel, 64, initial=initial, products=products, pixels=options.pixels
        )
        kind = f"proximal steps of {products}" if products else "gradient steps"
        for count in range(1, len(cascade) + 1):
            done = f"{min(count, steps)} {kind}" + (" and a last denoiser" if count > steps else "")
            shorter = Cascade(list(cascade)[:count], initial=initial)
            found[f"convex from {initial}, {done}"] = shorter
    return found


def learned(steps: LearnedSteps, products: int) -> Method:
    """A cascade of learned steps, stopped."""
    return lambda sense, kspace: steps.reconstruct(sense, kspace, products)


def chosen_products(steps: LearnedSteps, scans: Sequence[Scan], wanted: float) -> int:
    """The fewest A^H A with which learned steps reach a mean PSNR on scans; all if they do not."""
    most = len(steps.denoisers) - 1
    for products in range(most + 1):
        reached = sum(timed(one, learned(steps, products))[0] for one in scans) / len(scans)
        print(f"validation, {products} A^H A: {reached:.2f} dB, L1-wavelet {wanted:.2f}", flush=True)
        if reached >= wanted:
            return products
    return most


def table(size: int, names: Sequence[str], results: Sequence[dict[str, tuple[float, float, int, float]]]) -> None:
    """Print means over heads of PSNR, seconds and A^H A, how they compare with L1-wavelet, and the PSNR of each head.

    The first of the names is the L1-wavelet that others are compared with.
    """
    heads = " | ".join(f"head {k + 1} dB" for k in range(len(results)))
    print(f"\n| {size}^3 | PSNR dB | CPU s | A^H A | times as fast | L1-wavelet stopped then | {heads} |")
    print("|---|" + "---:|" * (5 + len(results)))

    def mean(name: str, column: int) -> float:
        return sum(found[name][column] for found in results) / len(results)

    for name in names:
        stopped = "-" if math.isnan(mean(name, 3)) else f"{mean(name, 3):.2f}"
        ratio = mean(names[0], 1) / max(mean(name, 1), 1e-9)
        each = " | ".join(f"{found[name][0]:.2f}" for found in results)
        print(
            f"| {name} | {mean(name, 0):.2f} | {mean(name, 1):.2f} | {mean(name, 2):.0f} | {ratio:.1f} | "
            f"{stopped} | {each} |"
        )


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=48)
    parser.add_argument("--coils", type=int, default=8)
    parser.add_argument("--spokes", type=float, default=0.1, help="of size^2; pi/2 would be all")
    parser.add_argument("--noise", type=float, default=0.05)
    parser.add_argument("--train", type=int, default=8)
    parser.add_argument("--validate", type=int, nargs="+", default=[50, 51], help="heads that choose")
    parser.add_argument("--test", type=int, nargs="+", default=[100], help="heads that are reconstructed")
    parser.add_argument("--learned", type=int, default=6, help="most A^H A of learned steps; 0 for none of these")
    parser.add_argument("--learned-gates", type=int, default=12)
    parser.add_argument("--steps", type=int, nargs="*", default=[], help="gradient steps of cascades from A^H y")
    parser.add_argument("--steps-from-cg", type=int, nargs="*", default=[], help="steps of those from a CG image")
    parser.add_argument("--starts", nargs="+", default=["cg_sense_sharp"], help="which CG images")
    parser.add_argument("--products", type=int, default=3, help="A^H A of each of these steps; 0: gradient steps")
    parser.add_argument("--gates", type=int, default=32)
    parser.add_argument("--pixels", type=int, default=PIXELS, help="most that a block is fitted to, of all volumes")
    parser.add_argument("--kernel", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=120, help="most of L1-wavelet")
    parser.add_argument("--lam", type=float, nargs="+", default=[1e-3, 3e-3, 1e-2], help="grid of L1-wavelet")
    parser.add_argument("--often", type=int, default=100, help="iterations of L1-wavelet as it is often run")
    parser.add_argument("--images", type=Path, help="a volume instead of heads; seeds turn it round")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args()


def main() -> None:
    """Measure what is asked for and print a table."""
    options = parsed()
    torch.set_num_threads(options.threads)
    fourier = trajectory(options.size, options.spokes)

    def scans(seeds: Sequence[int]) -> list[Scan]:
        return [scan(fourier, options.coils, seed, options.noise, options.images) for seed in seeds]

    train, validation = scans(range(options.train)), scans(options.validate)
    lam = best_lam(options.lam, lambda lam: converging(train[0], lam, options.iterations).reached)
    methods = linear_methods(train[0]) | cascades(train, options)
    if options.learned:
        steps = fit_steps(train, options.learned, options.learned_gates, options.kernel, options.pixels)
        wanted = sum(converging(one, lam, options.iterations).reached for one in validation) / len(validation)
        chosen = chosen_products(steps, validation, wanted)
        for products in range(options.learned + 1):
            mark = ", chosen" if products == chosen else ""
            methods[f"convex, {products} learned steps{mark}"] = learned(steps, products)
    methods[f"L1-wavelet as often run, {options.often} iterations"] = plainest_l1_wavelet(lam, options.often)
    slow, helped, results = f"L1-wavelet, lam {lam:.2g}", "L1-wavelet from a preconditioned start", []
    converged = f"L1-wavelet, all of {options.iterations} iterations"
    for seed, one in zip(options.test, scans(options.test), strict=True):
        plain = converging(one, lam, options.iterations)
        other = converging(one, lam, options.iterations, helped=True)
        found = {
            slow: (plain.quality, plain.seconds, plain.products, plain.quality),
            helped: (other.quality, other.seconds, other.products, other.quality),
            converged: (plain.reached, plain.curve[-1][0], CG_START + len(plain.curve), plain.reached),
        }
        print(f"head {seed}: L1-wavelet converges to {plain.reached:.2f}, {other.reached:.2f} dB", flush=True)
        best = plain if plain.seconds < other.seconds else other
        for name, method in methods.items():
            quality, seconds = timed(one, method)
            found[name] = (quality, seconds, products_of(one, method), best.stopped(seconds))
            print(f"head {seed}: {name}: {quality:.2f} dB, {seconds:.2f} s, {found[name][2]}", flush=True)
        results.append(found)
    table(options.size, [slow, helped, converged, *methods], results)


if __name__ == "__main__":
    main()
