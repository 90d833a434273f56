"""The input of a block computed from its output."""

from dataclasses import dataclass

import torch
from torch import Tensor

from convexrecon.cascade import Block
from convexrecon.denoisers.residual import with_factor_once
from convexrecon.physics.consistency_inverse import invert_consistency
from convexrecon.physics.forward_model import ForwardModel

# Relative difference that rounding leaves, in units of the precision's epsilon.
ROUNDING = 2.0


@dataclass(frozen=True)
class Scan:
    """What every block of a cascade sees beside the image it changes.

    Attributes:
        sense: A.
        adjoint: A^H y, (B, *N) complex.
        initial: the image before the first block, (B, *N) complex.
    """

    sense: ForwardModel
    adjoint: Tensor
    initial: Tensor

    def through(self, block: Block, image: Tensor) -> Tensor:
        """The block's output for an image, (B, *N) -> (B, *N)."""
        output: Tensor = block(image, self.sense, self.adjoint, self.initial)
        return output


def relative_difference(found: Tensor, expected: Tensor) -> Tensor:
    """``||found_b - expected_b|| / ||expected_b||`` of each sample: (B, *N), (B, *N) -> (B,)."""
    size = expected.flatten(1).norm(dim=1)
    return (found - expected).flatten(1).norm(dim=1) / torch.where(size > 0, size, 1)


@torch.no_grad()
def invert_block(block: Block, output: Tensor, scan: Scan, *, iterations: int) -> tuple[Tensor, Tensor]:
    """The x that ``block(x) = output``: data consistency undone, then ``x <- x + (d - denoiser(x))`` from x = d.

    The iteration is ``x <- d - F(x)`` for a denoiser x + F(x): its error falls by the Lipschitz constant of F each
    time, where that is below 1 (Behrmann et al., ICML 2019, arXiv 1811.00995, algorithm 1). A sample stops at
    rounding, or when it comes no closer. Images before and behind a block are zero outside the support of the coil
    maps, so that nothing is lost where the block sets the denoised image to zero.

    Args:
        block: of a denoiser with a skip from the image.
        output: (B, *N) complex.
        scan: what the block sees beside.
        iterations: most steps.

    Returns:
        x (B, *N), and ``||d - denoiser(x)|| / ||d||`` of each sample (B,), not small where the iteration failed.
    """
    denoised = invert_consistency(block.consistency, output, scan.sense, scan.adjoint)
    denoiser = with_factor_once(block.denoiser)
    image = denoised
    # A difference that is not a number is not smaller than anything, and stops its sample too.
    best = torch.full_like(image.real.flatten(1)[:, 0], torch.inf)
    spread = (-1,) + (1,) * (image.ndim - 1)
    moving = torch.ones_like(best, dtype=torch.bool)
    rounding = ROUNDING * torch.finfo(image.dtype).eps
    for step in range(iterations + 1):
        again = block.denoise(image, scan.sense, scan.adjoint, scan.initial, denoiser=denoiser)
        left = relative_difference(again, denoised)
        closer = left < best
        best = torch.where(moving, left, best)
        moving &= closer & (left > rounding)
        if step == iterations or not bool(moving.any()):
            break
        image = torch.where(moving.view(spread), image + (denoised - again), image)
    return image, best
