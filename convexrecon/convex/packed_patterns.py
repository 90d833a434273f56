"""Which gates are open where, a bit each."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from convexrecon.convex.arrangements import Gates, row_bands


def pack_patterns(open_: Tensor) -> Tensor:
    """(P, n) bool -> (ceil(P / 8), n) uint8, gate i the bit i mod 8 of row i // 8.

    >>> pack_patterns(torch.tensor([[True, False], [True, True]])).tolist()
    [[3, 2]]
    """
    gates, pixels = open_.shape
    rows = -(-gates // 8)
    padded = torch.zeros(8 * rows, pixels, dtype=torch.uint8, device=open_.device)
    padded[:gates] = open_
    weights = (2 ** torch.arange(8, device=open_.device)).to(torch.uint8).view(1, 8, 1)
    return (padded.view(rows, 8, pixels) * weights).sum(1, dtype=torch.uint8)


def unpack_patterns(packed: Tensor, gates: int) -> Tensor:
    """The inverse of `pack_patterns`: (ceil(P / 8), n) uint8 -> (P, n) bool."""
    bits = torch.arange(8, dtype=torch.uint8, device=packed.device).view(1, 8, 1)
    return (packed.unsqueeze(1) >> bits & 1).flatten(0, 1)[:gates].bool()


@dataclass
class RememberedPatterns:
    """The patterns of the images of a data set, decided in the first pass over it and kept as bits.

    Deciding them takes up to half of the arithmetic of a pass; kept, those of 256 gates take 32 bytes a pixel.

    Attributes:
        gates: the arrangement.
        limit: most bytes to keep; images beyond it are decided anew in each pass.
    """

    gates: Gates
    limit: int
    _kept: dict[int, Tensor] = field(default_factory=dict)
    _bytes: int = 0

    def bands(self, position: int, features: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Patterns of the image (1, C, *N) at `position` in the data set, as `Gates.bands` gives them."""
        packed, shape = self._kept.get(position), features.shape[2:]
        if packed is None:
            decided = []
            for rows, open_ in self.gates.bands(features):
                decided.append(pack_patterns(open_[0].flatten(1)))
                yield rows, open_
            self._keep(position, torch.cat(decided, 1))
            return
        inside = math.prod(shape[1:])
        for rows in row_bands(shape):
            open_ = unpack_patterns(packed[:, rows.start * inside : rows.stop * inside], len(self.gates))
            yield rows, open_.view(1, -1, rows.stop - rows.start, *shape[1:])

    def packed(self, position: int, features: Tensor) -> Tensor:
        """The same as bits, (ceil(P / 8), n) uint8, n all pixels: never all of them unpacked."""
        packed = self._kept.get(position)
        if packed is None:
            groups = self.gates.groups()
            packed = torch.cat([pack_patterns(group.patterns(features)[0].flatten(1)) for group in groups])
            self._keep(position, packed)
        return packed

    def _keep(self, position: int, packed: Tensor) -> None:
        if self._bytes + packed.numel() <= self.limit:
            self._kept[position] = packed
            self._bytes += packed.numel()
