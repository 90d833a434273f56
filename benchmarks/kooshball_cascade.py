"""A convex cascade for `kooshball.py`: blocks with one gradient step each, and a last one without."""

import time
from collections.abc import Iterator, Sequence

import torch
from kooshball_scan import Scan
from torch import Tensor

from convexrecon.cascade import Block, Cascade, support, to_channels
from convexrecon.convex.arrangements import draw_gates
from convexrecon.convex.patches import BlockBatch
from convexrecon.convex.program import BlockSolution, ProgramSettings, solve_program
from convexrecon.denoisers.gated import GatedDenoiser
from convexrecon.evaluate.metrics import psnr
from convexrecon.physics.consistency_path import best_lam, consistency_path
from convexrecon.physics.data_consistency import (
    GradientDataConsistency,
    NoDataConsistency,
    ProximalDataConsistency,
)

# So many pixels of all volumes together determine a program as well as more.
PIXELS = 2_000_000


def fit_block(
    scans: Sequence[Scan],
    images: Sequence[Tensor],
    units: int,
    kernel: int,
    seed: int,
    others: Sequence[Sequence[Tensor]] | None = None,
    pixels: int = PIXELS,
) -> BlockSolution:
    """The certified optimum of a block's program on volumes (1, *N), a share of the pixels drawn from each.

    Its denoiser sees the images and, of each volume, as many others as are given, of which it corrects none.
    """
    total = sum(int((scan.target != 0).sum()) for scan in scans)

    def features(number: int) -> Tensor:
        seen = [images[number], *([] if others is None else others[number])]
        return torch.cat([to_channels(image) for image in seen], 1)

    def stream() -> Iterator[BlockBatch]:
        for number, (scan, image) in enumerate(zip(scans, images, strict=True)):
            rng = torch.Generator().manual_seed(1000 * seed + number)
            rows = (scan.target != 0) & (torch.rand(image.shape, generator=rng) < pixels / total)
            yield BlockBatch(features(number), to_channels(scan.target - image), rows.unsqueeze(1))

    # Gates are scaled and told apart on the middle of a volume.
    sample = features(0)
    half = sample.shape[2] // 2
    rng = torch.Generator().manual_seed(seed)
    gates = draw_gates([sample[:, :, half - 4 : half + 4]], units, (kernel,) * 3, rng, whitened=0.5)
    return solve_program(stream, gates, ProgramSettings(beta_ratio=1e-5, tolerance=1e-3, memory_gb=2.0))


def fit_cascade(
    scans: Sequence[Scan],
    steps: int,
    units: int,
    kernel: int,
    patch: int,
    *,
    initial: str = "zero_filled",
    products: int = 0,
    pixels: int = PIXELS,
) -> Cascade:
    """A cascade with `steps` steps of data consistency, each behind a denoiser, and a last denoiser without.

    They are gradient steps of the length that is best on the scans or, with `products` above 0, proximal steps of the
    lam that is best on them by so many iterations of conjugate gradients, each an A^H A.
    """
    cascade = Cascade(initial=initial)
    starts = [cascade.start(scan.sense, scan.start) for scan in scans]
    images = starts
    for index in range(steps + 1):
        started = time.perf_counter()
        # Before the first block the image is what it starts as.
        solved = fit_block(scans, images, units, kernel, index, None if index == 0 else [[s] for s in starts], pixels)
        denoiser = GatedDenoiser(solved.gates, solved.solution.weights, constant=True)
        inputs = ("image",) if index == 0 else ("image", "initial")
        block = Block(denoiser, NoDataConsistency(), inputs=inputs, patch=patch)
        seen = list(zip(images, scans, starts, strict=True))
        with torch.no_grad():
            images = [block(x, one.sense, one.start, start) for x, one, start in seen]
            chosen = 0.0
            if index < steps and products:
                paths = [
                    consistency_path(s.sense, s.start, x, s.target, steps=products)
                    for x, s in zip(images, scans, strict=True)
                ]
                chosen = best_lam(paths)
                block.consistency = ProximalDataConsistency(chosen, iterations=products, tolerance=1e-6)
                images = [block.consistency(x, one.sense, one.start) for x, one in zip(images, scans, strict=True)]
            elif index < steps:
                chosen, images = _gradient_step(scans, images)
                block.consistency = GradientDataConsistency(chosen)
        cascade.blocks.append(block)
        quality = sum(psnr(x[0], one.target[0]) for x, one in zip(images, scans, strict=True)) / len(scans)
        print(
            f"block {index + 1}: gap {solved.solution.certificate.relative_gap:.0e}, step {chosen:.2g}, "
            f"train {quality:.2f} dB, {time.perf_counter() - started:.0f} s",
            flush=True,
        )
    return cascade


def _gradient_step(scans: Sequence[Scan], images: Sequence[Tensor]) -> tuple[float, list[Tensor]]:
    """``argmin_s sum ||z - s g - x*||^2``, g = A^H (A z - y), and the images z - s g."""
    gradients = [
        (scan.sense.normal(z) - scan.start) * support(scan.sense) for scan, z in zip(scans, images, strict=True)
    ]
    along = sum(float((g.conj() * (z - s.target)).real.sum()) for g, z, s in zip(gradients, images, scans, strict=True))
    length = along / sum(float(g.abs().square().sum()) for g in gradients)
    length = min(max(length, 0.05), 1.95)
    return length, [z - length * g for z, g in zip(images, gradients, strict=True)]
