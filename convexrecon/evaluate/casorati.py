"""Blocks of the Casorati matrix of a series, pixels by frames, and soft-thresholding of their singular values."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def shrink_singular_values(
    series: Tensor, threshold: Tensor, block: Sequence[int] | None = None, offset: Sequence[int] | None = None
) -> Tensor:
    """Proximal step of ``threshold sum_b ||C_b x||_*``, the nuclear norms of Casorati matrices of blocks.

    C_b x has one row per pixel of block b, one column per frame. Blocks tile the image from -offset on; those
    that reach beyond its edge are cut there.

    Args:
        series: x, (B, t, *N) complex.
        threshold: (B,) real, at least 0.
        block: size of the blocks, one number per axis of N, in pixels; the whole image if None.
        offset: where the first block begins before the image, 0 to block - 1; zeros if None.

    Returns:
        (B, t, *N) complex.

    >>> series = torch.randn(1, 5, 8, 9, dtype=torch.complex128)
    >>> shrunk = shrink_singular_values(series, torch.tensor([2.0], dtype=torch.float64))
    >>> before, after = (torch.linalg.svdvals(x.reshape(5, 72)) for x in (series, shrunk))
    >>> torch.allclose(after, (before - 2).clamp_min(0))
    True
    """
    shape = series.shape[2:]
    sizes = tuple(shape) if block is None else tuple(min(b, n) for b, n in zip(block, shape, strict=True))
    starts = (0,) * len(sizes) if offset is None else tuple(o % b for o, b in zip(offset, sizes, strict=True))
    # Zero rows change neither singular values nor vectors of the others: padding is cutting blocks at the edge.
    ends = [-(o + n) % b for o, n, b in zip(starts, shape, sizes, strict=True)]
    padded = F.pad(series, [pad for pair in zip(reversed(starts), reversed(ends), strict=True) for pad in pair])
    blocks = _to_blocks(padded, sizes)
    shrunk = _from_blocks(_shrink(blocks, threshold.view(-1, 1, 1)), padded.shape, sizes)
    inside: Any = (..., *(slice(o, o + n) for o, n in zip(starts, shape, strict=True)))
    return shrunk[inside]


def _shrink(matrices: Tensor, threshold: Tensor) -> Tensor:
    """Singular values of (B, blocks, pixels, frames) less the threshold (B, 1, 1), at least zero."""
    wide = matrices.shape[-2] < matrices.shape[-1]
    tall = matrices.mH if wide else matrices
    # Eigenvectors of the small Gram matrix: much faster than a decomposition of the tall one. In double precision,
    # or singular values below 3e-4 of the largest would be noise.
    double = tall.to(torch.complex128)
    energies, vectors = torch.linalg.eigh(double.mH @ double)
    values = energies.clamp_min(0).sqrt()
    factors = torch.where(values > threshold, 1 - threshold / values.clamp_min(1e-300), 0)
    projection = ((vectors * factors.unsqueeze(-2)) @ vectors.mH).to(matrices.dtype)
    shrunk = tall @ projection
    return shrunk.mH if wide else shrunk


def _to_blocks(series: Tensor, sizes: Sequence[int]) -> Tensor:
    """(B, t, *N) -> (B, blocks, pixels of a block, t); sizes divide N."""
    split = series
    for axis, size in enumerate(sizes):
        split = split.unflatten(2 + 2 * axis, (-1, size))
    counts = [2 + 2 * axis for axis in range(len(sizes))]
    return split.permute(0, *counts, *(c + 1 for c in counts), 1).reshape(
        len(series), -1, math.prod(sizes), series.shape[1]
    )


def _from_blocks(blocks: Tensor, shape: Sequence[int], sizes: Sequence[int]) -> Tensor:
    """The inverse of `_to_blocks`, for a series of `shape` (B, t, *N)."""
    d = len(sizes)
    counts = [n // size for n, size in zip(shape[2:], sizes, strict=True)]
    split = blocks.reshape(shape[0], *counts, *sizes, shape[1])
    order = [axis for a in range(d) for axis in (1 + a, 1 + d + a)]
    return split.permute(0, 1 + 2 * d, *order).reshape(tuple(shape))
