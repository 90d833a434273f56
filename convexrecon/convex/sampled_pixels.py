"""A random share of a program's pixels, held in memory: what candidate gates are scored on."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from convexrecon.convex.arrangements import Gates
from convexrecon.convex.patches import PIXELS_PER_CHUNK, BlockBatch, PatchMap, pixel_chunks
from convexrecon.errors import InputError


@dataclass(frozen=True)
class SampledPixels:
    """Patches and targets of n pixels of a program.

    Attributes:
        patches: (d, n) float32, the row of ones last where filters have a constant term.
        target: t, (m, n) float32.
        taps: number of rows of `patches` that gates act on.
        roots: root and inverse root of the patches' second moment ``C = X X^T / n`` over those rows: two
            (taps, taps), of which the second leaves out directions that the pixels do not have.
    """

    patches: Tensor
    target: Tensor
    taps: int
    roots: tuple[Tensor, Tensor]

    @property
    def count(self) -> int:
        """n."""
        return self.patches.shape[1]

    def parts(self, gates: Gates, data: Tensor) -> Iterator[PatchMap]:
        """A for the gates given, a few thousand pixels at a time, with `data` (m, n) as its target."""
        offsets = gates.offsets.unsqueeze(1)
        for start in range(0, self.count, PIXELS_PER_CHUNK):
            part = slice(start, start + PIXELS_PER_CHUNK)
            patches = self.patches[:, part]
            open_ = gates.filters.flatten(1) @ patches[: self.taps] >= offsets
            yield PatchMap(patches, open_.to(patches.dtype), data[:, part])

    def residual(self, gates: Gates, weights: Tensor, data: Tensor | None = None) -> Tensor:
        """Data less A W, of the targets if no other data (m, n) are given: (m, n)."""
        parts = self.parts(gates, self.target if data is None else data)
        return torch.cat([part.target - part.forward(weights.to(part.target.dtype)) for part in parts], 1)

    def thinned(self, data: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Patches (d, n') and data (m, n') of at most `count` of the pixels, evenly spaced."""
        every = slice(None, None, max(1, math.ceil(self.count / count)))
        return self.patches[:, every].contiguous(), data[:, every].contiguous()


def sample_pixels(
    batches: Iterable[BlockBatch], gates: Gates, constant: bool, share: float, generator: torch.Generator
) -> SampledPixels:
    """Keep every pixel that counts with probability `share`.

    The draw follows the order of the pixels, so that it does not depend on how they are batched.

    Args:
        batches: one pass over the data.
        gates: any gates of the program: their kernel is used.
        constant: whether filters have a constant term.
        share: from 0 to 1.
        generator: all randomness comes from it.

    Raises:
        InputError: no pixel was kept.
    """
    patches, targets = [], []
    for batch in batches:
        for chunk in pixel_chunks(batch, gates, constant, torch.float32):
            keep = (torch.rand(chunk.target.shape[1], generator=generator) < share).to(chunk.target.device)
            patches.append(chunk.patches[:, keep])
            targets.append(chunk.target[:, keep])
    if not patches or sum(part.shape[1] for part in patches) == 0:
        raise InputError(f"gates: no pixel in a share of {share:g} of the data; expected more pixels to search on")
    columns = torch.cat(patches, 1)
    taps = columns.shape[0] - int(constant)
    return SampledPixels(columns, torch.cat(targets, 1), taps, _roots(columns[:taps]))


def _roots(patches: Tensor) -> tuple[Tensor, Tensor]:
    moment = (patches.double() @ patches.double().T) / patches.shape[1]
    values, vectors = torch.linalg.eigh(moment)
    values = values.clamp_min(0)
    kept = values > 1e-7 * values[-1]
    inverse = torch.where(kept, values, 1).rsqrt() * kept
    return ((vectors * values.sqrt()) @ vectors.T).float(), ((vectors * inverse) @ vectors.T).float()
