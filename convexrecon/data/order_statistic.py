"""The k-th smallest of more numbers than memory holds, in two passes."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from convexrecon.errors import InputError

# Bits of a float32 that are counted last; the 15 below the sign, exponent and seven of the fraction, come first.
_LOW_BITS = 16


def order_statistics(parts: Callable[[], Iterable[Tensor]], ranks: Sequence[int]) -> list[float]:
    """The `ranks`-th smallest of all numbers, exactly.

    Floats that are not negative are ordered as their bits. Their upper halves are counted in a first pass, which tells
    in which of 2^15 bins a number is; the lower halves of those in its bin are counted in a second one. Counts are all
    that is held: half a megabyte a rank.

    Args:
        parts: a pass over float32 numbers, none negative, at each call; always the same.
        ranks: each from 1 to how many there are.

    Raises:
        InputError: fewer numbers than that, or none.

    >>> numbers = torch.tensor([3.0, 0.5, 2.0, 2.5])
    >>> order_statistics(lambda: numbers.split(2), [1, 3])
    [0.5, 2.5]
    """
    upper = torch.zeros(1 << (31 - _LOW_BITS), dtype=torch.int64)
    for part in parts():
        upper += torch.bincount(_bits(part) >> _LOW_BITS, minlength=len(upper)).cpu()
    total = upper.cumsum(0)
    for rank in ranks:
        if not 1 <= rank <= int(total[-1]):
            raise InputError(f"rank: expected from 1 to the {int(total[-1])} numbers there are, found {rank}")
    bins = [int(torch.searchsorted(total, rank)) for rank in ranks]
    lower = {chosen: torch.zeros(1 << _LOW_BITS, dtype=torch.int64) for chosen in bins}
    for part in parts():
        bits = _bits(part)
        for chosen, counts in lower.items():
            inside = bits[bits >> _LOW_BITS == chosen] & ((1 << _LOW_BITS) - 1)
            counts += torch.bincount(inside, minlength=len(counts)).cpu()
    found = []
    for rank, chosen in zip(ranks, bins, strict=True):
        before = int(total[chosen] - upper[chosen])
        low = int(torch.searchsorted(lower[chosen].cumsum(0), rank - before))
        found.append(torch.tensor(chosen << _LOW_BITS | low, dtype=torch.int32).view(torch.float32).item())
    return found


def _bits(part: Tensor) -> Tensor:
    return part.flatten().contiguous().view(torch.int32)
