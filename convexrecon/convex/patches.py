"""The data of a program, and its pixels as patches, one chunk of one image at a time."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from convexrecon.convex.arrangements import Gates, around

# Pixels a chunk on a CPU: large enough for an efficient matrix product, small enough to stay in cache.
PIXELS_PER_CHUNK = 4096
# Elsewhere so many, and so many numbers, that starting a product takes less time than the product.
PIXELS_ON_DEVICE = 2**16
ENTRIES_ON_DEVICE = 2**25
# Numbers that hold the patches cut from an image at a time, on a CPU.
BAND_ENTRIES = 2**23


class OutputMap(Protocol):
    """A linear map of the denoiser's output that a loss sits behind; it follows the precision of its input."""

    def forward(self, output: Tensor) -> Tensor:
        """B u: (B, m, *N) -> data of any shape."""
        ...

    def adjoint(self, data: Tensor) -> Tensor:
        """B^T r: data -> (B, m, *N)."""
        ...


@dataclass(frozen=True)
class BlockBatch:
    """Part of the data of a program.

    Attributes:
        features: u, (B, C, *N) real.
        target: t, (B, m, *N) real, or what `behind` makes of such.
        rows: (B, 1, *N) bool, the pixels that count, or None for all.
        behind: the map of the denoiser's output that the loss sits behind, or None for the identity.
    """

    features: Tensor
    target: Tensor
    rows: Tensor | None = None
    behind: OutputMap | None = None

    @property
    def pixels(self) -> int:
        """Number of pixels that count."""
        return self.features[:, :1].numel() if self.rows is None else int(self.rows.sum())


# The data of a program: a pass over it at each call, always the same.
Stream = Callable[[], Iterable[BlockBatch]]


@dataclass(frozen=True)
class PatchMap:
    """``A: (P, d, m) -> (m, n)`` on a chunk of n pixels; satisfies `solvers.linear_maps.LinearMap`.

    The same map as `GatedConvolution` restricted to those pixels, as two matrix products: in float64 on a
    CPU much faster than a convolution.

    Attributes:
        patches: (d, n).
        open: D, (P, n), zeros and ones of the patches' dtype.
        target: t, (m, n).
    """

    patches: Tensor
    open: Tensor
    target: Tensor

    def forward(self, weights: Tensor) -> Tensor:
        """A W: (P, d, m) -> (m, n)."""
        gates, features, outputs = weights.shape
        responses = weights.transpose(1, 2).reshape(gates * outputs, features) @ self.patches
        return responses.view(gates, outputs, -1).mul_(self.open.unsqueeze(1)).sum(0)

    def adjoint(self, data: Tensor) -> Tensor:
        """A^T R: (m, n) -> (P, d, m)."""
        gated = self.open.unsqueeze(1) * data
        return (gated.flatten(0, 1) @ self.patches.T).view(*gated.shape[:2], -1).transpose(1, 2)


def pixel_chunks(
    batch: BlockBatch,
    gates: Gates,
    constant: bool,
    precision: torch.dtype,
    chunk: int | None = None,
    patterns: Callable[[Tensor], Iterable[tuple[slice, Tensor]]] | None = None,
) -> Iterator[PatchMap]:
    """The pixels of a batch that count, at most `chunk` at a time, never two images at once.

    Args:
        batch: part of the data.
        gates: the arrangement.
        constant: whether the last feature is the constant 1.
        precision: of patches, patterns and targets; the patterns are decided in float32 always.
        chunk: most pixels of a chunk; `pixels_per_chunk` if None.
        patterns: gives the gates' patterns of an image (1, C, *N) as `Gates.bands` does, if known.
    """
    chunk = chunk or pixels_per_chunk(batch, gates)
    for index in range(batch.features.shape[0]):
        features = batch.features[index : index + 1]
        target = batch.target[index].flatten(1)
        keep = None if batch.rows is None else batch.rows[index].flatten()
        done = 0
        for band, open_ in _banded(features, precision, gates, constant, patterns or gates.bands):
            here = slice(done, done + band.shape[1])
            done += band.shape[1]
            parts = (band, open_, target[:, here])
            chosen = None if keep is None else keep[here].nonzero().squeeze(1)
            count = band.shape[1] if chosen is None else len(chosen)
            # Without pixels one chunk all the same: the shapes of what it multiplies are asked of it.
            for start in range(0, max(1, count), chunk):
                part = slice(start, start + chunk)
                pixels = [t[:, part] if chosen is None else t.index_select(1, chosen[part]) for t in parts]
                yield PatchMap(pixels[0].contiguous(), pixels[1].to(precision), pixels[2].to(precision))


def _banded(
    features: Tensor,
    precision: torch.dtype,
    gates: Gates,
    constant: bool,
    patterns: Callable[[Tensor], Iterable[tuple[slice, Tensor]]],
) -> Iterator[tuple[Tensor, Tensor]]:
    """Patches (d, n) and patterns (P, n) of all pixels of an image, in order, a band of rows at a time."""
    for rows, open_ in patterns(features):
        decided, done = open_[0].flatten(1), 0
        for band in patch_bands(features.to(precision), gates.kernel, constant, rows, periodic=gates.periodic):
            yield band, decided[:, done : done + band.shape[1]]
            done += band.shape[1]


def pixels_per_chunk(batch: BlockBatch, gates: Gates) -> int:
    """Most pixels whose patches (d, n) and responses (P m, n) suit the memory next to the arithmetic of the device."""
    if batch.features.device.type == "cpu":
        return PIXELS_PER_CHUNK
    widest = max(gates.filters[0].numel() + 1, len(gates) * batch.target.shape[1])
    return max(64, min(PIXELS_ON_DEVICE, ENTRIES_ON_DEVICE // widest))


def patch_bands(
    features: Tensor, kernel: tuple[int, ...], constant: bool, within: slice | None = None, *, periodic: bool = False
) -> Iterator[Tensor]:
    """`image_patches` of one image, or of the rows `within`, some rows at a time, so that their patches stay small."""
    entries = features[0].numel() // features.shape[2] * math.prod(kernel)
    most = BAND_ENTRIES if features.device.type == "cpu" else ENTRIES_ON_DEVICE
    rows = max(1, most // entries)
    half, size = kernel[0] // 2, features.shape[2]
    first, last = (0, size) if within is None else (within.start, within.stop)
    for start in range(first, last, rows):
        stop = min(start + rows, last)
        if periodic:
            yield image_patches(around(features, slice(start, stop), half), kernel, constant, padded_rows=True)
            continue
        seen = features[:, :, max(start - half, 0) : stop + half]
        missing = [max(half - start, 0), max(stop + half - size, 0)]
        yield image_patches(F.pad(seen, [0, 0] * (features.ndim - 3) + missing), kernel, constant, padded_rows=True)


def image_patches(features: Tensor, kernel: tuple[int, ...], constant: bool, *, padded_rows: bool = False) -> Tensor:
    """Patches of one image (1, C, *N) as columns: (d, pixels), zero padding, constant row last.

    With `padded_rows` the first axis has its margin already, of half a kernel on both sides.
    """
    halves = [extent // 2 for extent in kernel]
    if padded_rows:
        halves[0] = 0
    padded = F.pad(features[0], [half for half in reversed(halves) for _ in range(2)])
    for axis, extent in enumerate(kernel):
        padded = padded.unfold(axis + 1, extent, 1)
    dims = len(kernel)
    pixels = math.prod(padded.shape[1 : dims + 1])
    order = [0, *range(dims + 1, 2 * dims + 1), *range(1, dims + 1)]
    columns = padded.permute(order).reshape(-1, pixels)
    if constant:
        columns = torch.cat([columns, torch.ones(1, pixels, dtype=columns.dtype, device=columns.device)])
    return columns
