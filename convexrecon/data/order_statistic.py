"""The k-th smallest of more numbers than memory holds, in two passes."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from convexrecon.errors import InputError

# Bits of a float32 that are counted first; the 15 below the sign, exponent and seven of the fraction, are a bin.
_LOW_BITS = 16


def order_statistic(parts: Callable[[], Iterable[Tensor]], rank: int) -> float:
    """The `rank`-th smallest of all numbers, exactly.

    Floats that are not negative are ordered as their bits. Their upper halves are counted in a first pass, which tells
    in which of 2^15 bins the number is; those of that bin are collected in a second one, a small part of all.

    Args:
        parts: a pass over float32 numbers, none negative, at each call; always the same.
        rank: from 1 to how many there are.

    Raises:
        InputError: fewer numbers than that, or none.

    >>> numbers = torch.tensor([3.0, 0.5, 2.0, 2.5])
    >>> order_statistic(lambda: numbers.split(2), 3)
    2.5
    """
    counts = torch.zeros(1 << (31 - _LOW_BITS), dtype=torch.int64)
    for part in parts():
        counts += torch.bincount(_bins(part), minlength=len(counts)).cpu()
    total = counts.cumsum(0)
    if not 1 <= rank <= int(total[-1]):
        raise InputError(f"rank: expected from 1 to the {int(total[-1])} numbers there are, found {rank}")
    chosen = int(torch.searchsorted(total, rank))
    before = int(total[chosen - 1]) if chosen > 0 else 0
    inside = torch.cat([part.flatten()[_bins(part) == chosen] for part in parts()])
    return float(inside.kthvalue(rank - before).values)


def _bins(part: Tensor) -> Tensor:
    return part.flatten().contiguous().view(torch.int32) >> _LOW_BITS
