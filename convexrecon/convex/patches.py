"""The data of a program, and its pixels as patches, one chunk of one image at a time."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from convexrecon.convex.arrangements import Gates

# Pixels a chunk: large enough for an efficient matrix product, small enough to stay in cache.
PIXELS_PER_CHUNK = 4096


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
        return torch.einsum("pmn,pn->mn", responses.view(gates, outputs, -1), self.open)

    def adjoint(self, data: Tensor) -> Tensor:
        """A^T R: (m, n) -> (P, d, m)."""
        gated = self.open.unsqueeze(1) * data
        return (gated.flatten(0, 1) @ self.patches.T).view(*gated.shape[:2], -1).transpose(1, 2)


def pixel_chunks(
    batch: BlockBatch, gates: Gates, constant: bool, precision: torch.dtype, chunk: int = PIXELS_PER_CHUNK
) -> Iterator[PatchMap]:
    """The pixels of a batch that count, at most `chunk` at a time, never two images at once.

    Args:
        batch: part of the data.
        gates: the arrangement.
        constant: whether the last feature is the constant 1.
        precision: of patches, patterns and targets; the patterns are decided in float32 always.
        chunk: most pixels of a chunk.
    """
    for index in range(batch.features.shape[0]):
        features = batch.features[index : index + 1]
        patches = image_patches(features.to(precision), gates.kernel, constant)
        patterns = gates.patterns(features)[0].flatten(1)
        target = batch.target[index].flatten(1)
        if batch.rows is not None:
            keep = batch.rows[index].flatten().nonzero().squeeze(1)
            patches, patterns, target = patches[:, keep], patterns[:, keep], target[:, keep]
        for start in range(0, patches.shape[1], chunk):
            part = slice(start, start + chunk)
            yield PatchMap(
                patches[:, part].contiguous(), patterns[:, part].to(precision), target[:, part].to(precision)
            )


def image_patches(features: Tensor, kernel: tuple[int, ...], constant: bool) -> Tensor:
    """Patches of one image (1, C, *N) as columns: (d, pixels), zero padding, constant row last."""
    padding = [extent // 2 for extent in reversed(kernel) for _ in range(2)]
    padded = F.pad(features[0], padding)
    for axis, extent in enumerate(kernel):
        padded = padded.unfold(axis + 1, extent, 1)
    dims = len(kernel)
    order = [0, *range(dims + 1, 2 * dims + 1), *range(1, dims + 1)]
    pixels = features[0, 0].numel()
    columns = padded.permute(order).reshape(-1, pixels)
    if constant:
        columns = torch.cat([columns, torch.ones(1, pixels, dtype=columns.dtype, device=columns.device)])
    return columns
