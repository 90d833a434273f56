"""Reconstruction time and PSNR off the grid: convex cascades against L1-wavelet and CG, one operator, one process.

    python benchmarks/kooshball_speed.py --size 48

Volumes of `--train` heads train the cascades and tune the weights of the others (a grid of lam on one of them); another
head is reconstructed. The iterations of L1-wavelet that count are those until its PSNR is within 0.1 dB of what it
converges to; of CG, the number of iterations and lam with the highest PSNR on the training volume. Seconds are those of
the process, of which other work on the machine takes nothing, from measured samples to image; A^H y and its plan, which
all need, are in them, the kernel of A^H A, once for a trajectory, is not.
"""

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from kooshball_cascade import PIXELS, fit_cascade
from kooshball_scan import Scan, scan, trajectory
from torch import Tensor

from convexrecon.cascade import Cascade
from convexrecon.evaluate.baselines import cg_sense
from convexrecon.evaluate.metrics import psnr
from convexrecon.physics.l1_wavelet import solve_l1_wavelet
from convexrecon.physics.noncartesian_sense import NonCartesianSense

# Within so many dB of where it converges an iteration has arrived.
CLOSE = 0.1
# Iterations of CG that L1-wavelet starts from: what A^H A is asked of there are directions, not images.
CG_START = 10


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


def timed(one: Scan, method: Callable[[], Tensor]) -> tuple[float, float]:
    """PSNR and seconds of a method."""
    with torch.no_grad():
        started = time.process_time()
        image = method()
        seconds = time.process_time() - started
    return psnr(image[0], one.target[0]), seconds


def best_lam(lams: list[float], quality: Callable[[float], float]) -> float:
    """The best of a grid, extended where its edge is best."""
    found = {lam: quality(lam) for lam in lams}
    while (best := max(found, key=lambda lam: found[lam])) in (min(found), max(found)) and len(found) < 9:
        new = best / 3 if best == min(found) else 3 * best
        found[new] = quality(new)
    return best


@dataclass(frozen=True)
class Convergence:
    """How L1-wavelet came to what it converges to.

    Attributes:
        reached: PSNR that it converges to.
        quality, seconds, products: PSNR, seconds and A^H A of where it is within 0.1 dB of that.
        curve: (seconds, PSNR) on the way.
    """

    reached: float
    quality: float
    seconds: float
    products: int
    curve: list[tuple[float, float]]

    def stopped(self, seconds: float) -> float:
        """The best PSNR that its iterations have had within so many seconds; NaN while it looks for its start by CG."""
        return max((quality for when, quality in self.curve[CG_START:] if when <= seconds), default=math.nan)


def converging(one: Scan, lam: float, iterations: int) -> Convergence:
    """L1-wavelet, watched."""
    watched = Watched.now(one)
    with torch.no_grad():
        final = solve_l1_wavelet(watched, one.kspace, lam, iterations=iterations, tolerance=1e-5)
    reached = psnr(final.image[0], one.target[0])
    for count, (seconds, quality) in enumerate(watched.curve):
        if all(later >= reached - CLOSE for _, later in watched.curve[count:]):
            return Convergence(reached, quality, seconds, count, watched.curve)
    return Convergence(reached, reached, time.process_time() - watched.clock[0], len(watched.curve), watched.curve)


def main() -> None:
    """Measure what is asked for and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=48)
    parser.add_argument("--coils", type=int, default=8)
    parser.add_argument("--spokes", type=float, default=0.1, help="of size^2; pi/2 would be all")
    parser.add_argument("--noise", type=float, default=0.05)
    parser.add_argument("--train", type=int, default=8)
    parser.add_argument("--steps", type=int, nargs="*", default=[1], help="gradient steps of the cascades")
    parser.add_argument("--steps-from-cg", type=int, nargs="*", default=[0, 2], help="steps of those from a CG image")
    parser.add_argument("--starts", nargs="+", default=["cg_sense_sharp", "cg_sense"], help="which CG images")
    parser.add_argument("--products", type=int, default=4, help="A^H A of each of these steps; 0: gradient steps")
    parser.add_argument("--gates", type=int, default=32)
    parser.add_argument("--pixels", type=int, default=PIXELS, help="most that a block is fitted to, of all volumes")
    parser.add_argument("--kernel", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=120, help="most of L1-wavelet")
    parser.add_argument("--lam", type=float, nargs="+", default=[1e-3, 3e-3, 1e-2], help="grid of L1-wavelet")
    parser.add_argument("--images", type=Path, help="a volume instead of heads; seeds turn it round")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    fourier = trajectory(options.size, options.spokes)
    train = [scan(fourier, options.coils, seed, options.noise, options.images) for seed in range(options.train)]
    test = scan(fourier, options.coils, 7 if options.images else 100, options.noise, options.images)
    tuned, rows = train[0], []

    def add(name: str, quality: float, seconds: float, products: int) -> None:
        rows.append((name, quality, seconds, products))
        print(f"{name}: {quality:.2f} dB, {seconds:.2f} s, {products}", flush=True)

    test.sense.normal(test.sense.adjoint(test.kspace))
    add("A^H y", *timed(test, lambda: test.sense.adjoint(test.kspace)), 0)

    def cg_quality(lam: float) -> float:
        return timed(tuned, lambda: cg_sense(tuned.sense, tuned.kspace, lam, 20, tolerance=0))[0]

    lam_cg = best_lam([1e-3, 1e-2, 1e-1], cg_quality)
    for count in (5, 10, 20):
        found = timed(test, partial(cg_sense, test.sense, test.kspace, lam_cg, count, tolerance=0))
        add(f"CG, lam {lam_cg:.2g}, {count} iterations", *found, count)
    lam = best_lam(options.lam, lambda lam: converging(tuned, lam, options.iterations).reached)
    slow = converging(test, lam, options.iterations)
    name = f"L1-wavelet, lam {lam:.2g}, converging to {slow.reached:.2f} dB"
    add(name, slow.quality, slow.seconds, slow.products)
    wanted = [("zero_filled", steps, 0) for steps in options.steps]
    wanted += [(start, steps, options.products) for start in options.starts for steps in options.steps_from_cg]
    for initial, steps, products in wanted:
        cascade = fit_cascade(
            train,
            steps,
            options.gates,
            options.kernel,
            64,
            initial=initial,
            products=products,
            pixels=options.pixels,
        )
        kind = f"proximal steps of {products}" if products else "gradient steps"
        for count in range(1, len(cascade) + 1):
            shorter = Cascade(list(cascade)[:count], initial=initial)
            watched = Watched.now(test)
            timed(test, partial(shorter, watched, test.kspace))
            # Not as watched: what is noted takes time.
            found = timed(test, partial(shorter, test.sense, test.kspace))
            done = f"{min(count, steps)} {kind}" + (" and a last denoiser" if count > steps else "")
            add(f"convex from {initial}, {done}, {options.gates} gates {options.kernel}^3", *found, len(watched.curve))
    print(f"\n| {options.size}^3 | PSNR dB | CPU s | A^H A | L1-wavelet's time over it | L1-wavelet stopped then |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, quality, seconds, count in rows:
        ratio, then = slow.seconds / max(seconds, 1e-9), slow.stopped(seconds)
        stopped = "-" if math.isnan(then) else f"{then:.2f}"
        print(f"| {name} | {quality:.2f} | {seconds:.2f} | {count} | {ratio:.1f} | {stopped} |")


if __name__ == "__main__":
    main()
