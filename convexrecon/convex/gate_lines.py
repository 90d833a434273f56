"""Exact search along a line of gates: every pattern that the line passes through is looked at.

Along ``(g, b) + s (dg, db)`` each pixel's gate opens or closes once, at a known s. Sorted by s, cumulative sums
of what a pixel contributes give ``X^T D r`` of every pattern on the way at the price of a few products.
"""

from dataclasses import replace

import torch
from torch import Tensor

from convexrecon.convex.arrangements import Gates

# Entries of the cumulative sums that exist at any time.
CUMULATED = 2**22


def best_on_lines(gates: Gates, filters: Tensor, offsets: Tensor, patches: Tensor, terms: Tensor) -> Gates:
    """For each gate the best one on a line through it, by ``|| sum_p D(p) terms(p) ||``.

    Args:
        gates: K gates (g, b).
        filters: dg, directions of the lines, (K, C, *k).
        offsets: db, (K,).
        patches: (taps, n), what gates act on.
        terms: contribution of every open pixel, (n, q).
    """
    columns = patches.double()
    levels = gates.filters.flatten(1).double() @ columns - gates.offsets.double().unsqueeze(1)
    slopes = filters.flatten(1).double() @ columns - offsets.double().unsqueeze(1)
    at_once = max(1, CUMULATED // terms.numel())
    pieces = [
        _best_steps(level, slope, terms)
        for level, slope in zip(levels.split(at_once), slopes.split(at_once), strict=True)
    ]
    steps = torch.cat(pieces).to(gates.filters)
    moved = gates.filters + steps.view(-1, *[1] * (filters.ndim - 1)) * filters
    return replace(gates, filters=moved, offsets=gates.offsets + steps * offsets)


def _best_steps(level: Tensor, slope: Tensor, terms: Tensor) -> Tensor:
    """argmax over s of ``||sum of the terms where level + s slope >= 0||``, amid the interval that has it: (K,).

    Args:
        level: of the response over the offset, (K, n).
        slope: its slope along the line, (K, n).
        terms: (n, q).
    """
    still = slope == 0
    crossing = torch.where(still, -torch.inf, -level / slope)
    # Pixels whose gate never changes are given a crossing behind all others, at which nothing happens.
    crossing = torch.where(still, crossing.amax(1, keepdim=True).clamp_min(-1e30) + 1, crossing)
    crossings, order = crossing.sort(1)
    at_start = torch.where(still, level >= 0, slope < 0).to(terms)
    changes = terms[order] * slope.sign().gather(1, order).unsqueeze(2)
    sums = torch.cat([(at_start @ terms).unsqueeze(1), changes], 1).cumsum(1)
    best = sums.square().sum(2).argmax(1, keepdim=True)
    ends = torch.cat([crossings[:, :1] - 1, crossings, crossings[:, -1:] + 1], 1)
    return (ends.gather(1, best) + ends.gather(1, best + 1)).squeeze(1) / 2
