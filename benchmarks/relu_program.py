"""The ReLU denoiser's program at useful size: time, rounds, working rows, certified gap, and time against n.

Compared with the gated program at the same gates and strength, whose optimum is lower (its weights need not stay
in cones), and with what its optimum costs as a ReLU network by cone decomposition. The target is the real part
of the noise. By default smooth random images; --images FILE.npy for your own, complex (slice, y, x), to which
noise of --noise times their 95th percentile magnitude is added. Run: python benchmarks/relu_program.py
"""

import argparse
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F

from convexrecon.convex.arrangements import draw_gates
from convexrecon.convex.cone_decomposition import decompose_weights
from convexrecon.convex.patches import BlockBatch, Stream
from convexrecon.convex.program import ProgramSettings, solve_program
from convexrecon.convex.relu_program import ReluSettings, solve_relu_program
from convexrecon.training.profiler import Profile


def random_image(index: int, size: int) -> torch.Tensor:
    """A smooth complex image as (2, y, x)."""
    rng = torch.Generator().manual_seed(index)
    return 4 * F.avg_pool2d(torch.randn(1, 2, size, size, generator=rng), 7, 1, 3)[0]


def slices(image: Callable[[int], torch.Tensor], count: int, noise: float) -> Stream:
    """Noisy images and the real part of the noise to remove, made one at a time."""

    def stream() -> Iterator[BlockBatch]:
        for index in range(count):
            clean = image(index)
            clean = clean / torch.quantile(clean.norm(dim=0), 0.95)
            rng = torch.Generator().manual_seed(10**6 + index)
            noisy = clean + noise * torch.randn(clean.shape, generator=rng)
            yield BlockBatch(noisy[None], (clean - noisy)[None, :1])

    return stream


def report(stream: Stream, count: int, kernel: int, beta_ratio: float, tolerance: float, decompose: bool) -> None:
    """Solve one configuration and print its row."""
    samples = [batch.features for batch in stream()]
    gates = draw_gates(samples, count, (kernel, kernel), torch.Generator().manual_seed(1))
    gated = solve_program(stream, gates, ProgramSettings(beta_ratio=beta_ratio))
    beta = gated.solution.beta
    used = time.process_time()
    with Profile(torch.device("cpu")) as profile:
        relu = solve_relu_program(stream, gates, ReluSettings(beta=beta, tolerance=tolerance))
    used = time.process_time() - used
    at_zero = (relu.certificate.objective - relu.certificate.bound) / max(relu.certificate.relative_gap, 1e-300)
    blow_up, seconds = float("nan"), float("nan")
    if decompose:
        started = time.perf_counter()
        blow_up = decompose_weights(stream, gates, gated.solution.weights, constant=True, tolerance=1e-2).blow_up
        seconds = time.perf_counter() - started
    neurons = int((torch.cat([relu.w, relu.z]) != 0).any(1).sum())
    print(
        f"{relu.pixels:8d} {kernel}x{kernel} {count:5d} {beta_ratio:7.0e} | {relu.seconds_accumulate:6.1f} "
        f"{relu.seconds_solve:6.1f} {used:6.1f} {relu.rounds:6d} {relu.newton_steps:6d} {relu.working_rows:5d} "
        f"{relu.certificate.relative_gap:8.1e} {relu.certificate.lowest:9.1e} {neurons:7d} | "
        f"{relu.certificate.objective / at_zero:7.4f} {gated.solution.certificate.objective / at_zero:7.4f} | "
        f"{blow_up:8.1f} {seconds:6.1f} | {profile.peak_memory_mb:6.0f}",
        flush=True,
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", help="a .npy file of complex images (slice, y, x)")
    parser.add_argument("--slices", type=int, default=2)
    parser.add_argument("--size", type=int, default=256, help="of the random images")
    parser.add_argument("--noise", type=float, default=0.05)
    parser.add_argument("--beta-ratios", type=float, nargs="+", default=[1e-3])
    parser.add_argument("--tolerance", type=float, default=1e-4)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.images is None:
        image, available = lambda index: random_image(index, options.size), 4 * options.slices
    else:
        images = np.load(options.images, mmap_mode="r")
        available = len(images)

        def image(index: int) -> torch.Tensor:
            return torch.view_as_real(torch.from_numpy(images[index].astype(np.complex64))).permute(2, 0, 1)

    print(f"{options.threads} threads; objectives relative to the empty network's")
    print(
        "       n kernel gates   beta |   H s  solve s  CPU s rounds  steps  rows      gap    lowest neurons |"
        "    ReLU   gated |  blow-up      s | peak MB"
    )
    few = slices(image, min(options.slices, available), options.noise)
    for beta_ratio in options.beta_ratios:
        for kernel in (3, 5):
            for count in (8, 16):
                report(few, count, kernel, beta_ratio, options.tolerance, True)
    many = slices(image, min(4 * options.slices, available), options.noise)
    for kernel in (3, 5):
        report(many, 16, kernel, options.beta_ratios[0], options.tolerance, False)


if __name__ == "__main__":
    main()
