"""A convex cascade for `kooshball.py`: blocks with one gradient step each, and a last one without."""

import time
from collections.abc import Iterator, Sequence

import torch
from kooshball_scan import Scan
from torch import Tensor

from convexrecon.cascade import Block, Cascade, input_channels, support, to_channels
from convexrecon.convex.arrangements import draw_gates
from convexrecon.convex.patches import BlockBatch
from convexrecon.convex.program import BlockSolution, ProgramSettings, solve_program
from convexrecon.denoisers.gated import GatedDenoiser
from convexrecon.physics.data_consistency import GradientDataConsistency, NoDataConsistency

# So many pixels of all volumes together determine a program as well as more.
PIXELS = 2_000_000


def fit_block(
    scans: Sequence[Scan],
    images: Sequence[Tensor],
    units: int,
    kernel: int,
    seed: int,
    *,
    whitened: float = 0.5,
    inputs: Sequence[str] = ("image",),
) -> BlockSolution:
    """The certified optimum of a block's program on volumes (1, *N), a share of the pixels drawn from each."""
    total = sum(int((scan.target != 0).sum()) for scan in scans)

    def features(scan: Scan, image: Tensor) -> Tensor:
        return input_channels({"image": image, "zero_filled": scan.start}, inputs)

    def stream() -> Iterator[BlockBatch]:
        for number, (scan, image) in enumerate(zip(scans, images, strict=True)):
            rng = torch.Generator().manual_seed(1000 * seed + number)
            rows = (scan.target != 0) & (torch.rand(image.shape, generator=rng) < PIXELS / total)
            yield BlockBatch(features(scan, image), to_channels(scan.target - image), rows.unsqueeze(1))

    sample = features(scans[0], images[0])
    # Gates are scaled and told apart on the middle of a volume.
    middle = sample[:, :, sample.shape[2] // 2 - 4 : sample.shape[2] // 2 + 4]
    rng = torch.Generator().manual_seed(seed)
    gates = draw_gates([middle], units, (kernel,) * 3, rng, whitened=whitened)
    return solve_program(stream, gates, ProgramSettings(beta_ratio=1e-5, tolerance=1e-3, memory_gb=2.0))


def fit_cascade(
    scans: Sequence[Scan], steps: int, units: int, kernel: int, patch: int, *, report: bool = True
) -> Cascade:
    """A cascade with `steps` gradient steps, each behind a denoiser and of the length that is best on the scans, and a
    last denoiser behind which there is none."""
    images = [scan.start for scan in scans]
    cascade = Cascade()
    for index in range(steps + 1):
        started = time.perf_counter()
        # Before the first block the image is the zero-filled one.
        inputs = ("image",) if index == 0 else ("image", "zero_filled")
        solved = fit_block(scans, images, units, kernel, index, inputs=inputs)
        block = Block(
            GatedDenoiser(solved.gates, solved.solution.weights, constant=True),
            NoDataConsistency(),
            inputs=inputs,
            patch=patch,
        )
        with torch.no_grad():
            images = [block(x, scan.sense, scan.start, scan.start) for scan, x in zip(scans, images, strict=True)]
            if index < steps:
                length, images = _gradient_step(scans, images)
                block.consistency = GradientDataConsistency(min(max(length, 0.05), 1.95))
        cascade.blocks.append(block)
        if report:
            error = torch.stack(
                [
                    (x - s.target).abs().square().mean() / s.target.abs().square().amax()
                    for x, s in zip(images, scans, strict=True)
                ]
            )
            print(
                f"block {index + 1}: gap {solved.solution.certificate.relative_gap:.0e}, step "
                f"{float(getattr(block.consistency, 'step', 0.0)):.2f}, train {-10 * float(error.log10().mean()):.2f} dB, "
                f"{time.perf_counter() - started:.0f} s",
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
