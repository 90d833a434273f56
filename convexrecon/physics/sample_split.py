"""Acquired samples in two: those a reconstruction sees, and those held out to judge it by.

Masks here are centred, (y, x), DC at (y//2, x//2), as in `physics.masks`.
"""

import torch
from torch import Tensor

from convexrecon.errors import InputError

# Standard deviation of the Gaussian that held-out samples are drawn by, relative to the size of k-space.
SPREAD = 0.25
# Side of the central square that is never held out, in samples.
CENTRE = 4


def split_samples(mask: Tensor, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw the samples to hold out, Lambda, from those acquired, Omega; Theta is the rest.

    ``round(share |Omega|)`` samples, one at a time without replacement, with probabilities that fall off from
    the centre as a Gaussian of standard deviation N / 4 along either axis; the central 4 x 4 stay in Theta.
    Single samples are drawn, not columns, whatever the mask. Yaman et al., Magn Reson Med 84:3172 (2020).

    Args:
        mask: Omega, (y, x) zeros and ones, centred.
        share: |Lambda| / |Omega|, in (0, 1).
        generator: source of randomness; see `convexrecon.seeding.generator`.

    Returns:
        (Theta, Lambda), (y, x) each, of the mask's dtype: disjoint, their sum is Omega.

    Raises:
        InputError: a share outside (0, 1), or of which no sample or more than all but the centre would be held out.

    >>> theta, held_out = split_samples(torch.ones(20, 30), 0.4, torch.Generator().manual_seed(0))
    >>> int(theta.sum()), int(held_out.sum()), float((theta * held_out).sum())
    (360, 240, 0.0)
    """
    if not 0 < share < 1:
        raise InputError(f"held_out: expected a share of the samples in (0, 1), found {share}")
    rows, columns = mask.shape
    centre = torch.zeros(rows, columns, dtype=torch.bool)
    top, left = rows // 2 - CENTRE // 2, columns // 2 - CENTRE // 2
    centre[max(top, 0) : top + CENTRE, max(left, 0) : left + CENTRE] = True
    acquired = (mask != 0).cpu()
    candidates = (acquired & ~centre).flatten().nonzero().squeeze(1)
    count = round(share * int(acquired.sum()))
    if not 0 < count <= len(candidates):
        raise InputError(
            f"held_out: a share of {share:g} of {int(acquired.sum())} samples is {count}; expected at least 1 and at "
            f"most the {len(candidates)} outside the central {CENTRE} x {CENTRE}"
        )
    y = (torch.arange(rows, dtype=torch.float64) - rows // 2) / (SPREAD * rows)
    x = (torch.arange(columns, dtype=torch.float64) - columns // 2) / (SPREAD * columns)
    weights = torch.exp(-(y.square().unsqueeze(1) + x.square()) / 2).flatten()[candidates]
    chosen = candidates[torch.multinomial(weights, count, generator=generator)]
    held_out = torch.zeros_like(mask).flatten()
    held_out[chosen.to(mask.device)] = 1
    held_out = held_out.view_as(mask)
    return (mask != 0).to(mask.dtype) - held_out, held_out
