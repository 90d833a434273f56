"""A convex cascade of learned gradient steps for `kooshball_speed.py`: an A^H A a step, and no conjugate gradients.

The first block sees ``M A^H y``, M the preconditioner. Every other sees the image z that the one before has made, the
preconditioned residual ``M A^H (y - A z)``, and the image that z was made from: what a step of gradient descent with
momentum is made of, each with filters and gates of its own. Every block is a convex program, solved to a certificate.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from kooshball_cascade import fit_block
from kooshball_scan import Scan
from torch import Tensor

from convexrecon.cascade import to_channels, to_complex
from convexrecon.convex.gated_pixels import gated_at
from convexrecon.denoisers.gated import GatedDenoiser
from convexrecon.evaluate.metrics import psnr
from convexrecon.physics.forward_model import ForwardModel, preconditioner_of

# Of the preconditioner, relative to ||A||^2 <= 1.
LAM = 0.03


def seen_by(sense: ForwardModel, adjoint_kspace: Tensor, image: Tensor, before: Tensor) -> list[Tensor]:
    """What a block sees: the image, the preconditioned residual, and the image before; (B, *N) each."""
    return [image, lifted(sense, adjoint_kspace - sense.normal(image)), before]


def lifted(sense: ForwardModel, residual: Tensor) -> Tensor:
    """M r, (B, *N)."""
    preconditioner = preconditioner_of(sense)
    return residual if preconditioner is None else preconditioner.solve(residual, LAM)


def denoised(denoiser: GatedDenoiser, seen: Sequence[Tensor], support: Tensor) -> Tensor:
    """The denoised image (B, *N), zero beyond the support."""
    channels = torch.cat([to_channels(image) for image in seen], 1)
    change = gated_at(denoiser.gates, denoiser.weights, channels, support, constant=denoiser.constant)
    return seen[0] * support + to_complex(change)


@dataclass(frozen=True)
class LearnedSteps:
    """The cascade.

    Attributes:
        denoisers: of all blocks; one more than A^H A.
    """

    denoisers: list[GatedDenoiser]

    def images(self, sense: ForwardModel, kspace: Tensor) -> Iterator[Tensor]:
        """The image after every block, (B, *N)."""
        support = sense.maps.abs().amax(1) > 0
        adjoint_kspace = sense.adjoint(kspace)
        before = lifted(sense, adjoint_kspace)
        image = denoised(self.denoisers[0], [before], support)
        yield image
        for denoiser in self.denoisers[1:]:
            seen = seen_by(sense, adjoint_kspace, image, before)
            before, image = image, denoised(denoiser, seen, support)
            yield image

    def reconstruct(self, sense: ForwardModel, kspace: Tensor, products: int) -> Tensor:
        """The image after so many A^H A, (B, *N)."""
        *_, image = LearnedSteps(self.denoisers[: products + 1]).images(sense, kspace)
        return image


@torch.no_grad()
def fit_steps(scans: Sequence[Scan], products: int, units: int, kernel: int, pixels: int) -> LearnedSteps:
    """A cascade of so many A^H A, and a block more, fitted block by block."""
    supports = [one.sense.maps.abs().amax(1) > 0 for one in scans]
    before = [lifted(one.sense, one.start) for one in scans]
    seen: list[list[Tensor]] = [[start] for start in before]
    denoisers: list[GatedDenoiser] = []
    for index in range(products + 1):
        started = time.process_time()
        first, others = [images[0] for images in seen], [images[1:] for images in seen]
        solved = fit_block(scans, first, units, kernel, index, others, pixels)
        denoiser = GatedDenoiser(solved.gates, solved.solution.weights, constant=True)
        denoisers.append(denoiser)
        images = [denoised(denoiser, inputs, inside) for inputs, inside in zip(seen, supports, strict=True)]
        quality = sum(psnr(x[0], one.target[0]) for x, one in zip(images, scans, strict=True)) / len(scans)
        gap = solved.solution.certificate.relative_gap
        taken = time.process_time() - started
        print(f"{index} A^H A: gap {gap:.0e}, train {quality:.2f} dB, {taken:.0f} CPU s", flush=True)
        if index < products:
            seen = [seen_by(one.sense, one.start, *x) for one, *x in zip(scans, images, before, strict=True)]
            before = images
    return LearnedSteps(denoisers)
