"""Orthonormal periodized Daubechies wavelets in 1 to 3 dimensions, for batches of complex images on any device.

One level is a small orthogonal matrix along each axis: at the sizes of MR images a dense matrix product is
faster than eight strided taps, its inverse is its transpose, and it runs wherever torch does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from convexrecon.errors import InputError

# Daubechies, Ten Lectures on Wavelets (1992), table 6.1, N = 4: the low-pass filter of eight taps, from the
# spectral factorization in 40 digits, so that its shifts by two are orthonormal to rounding.
DAUBECHIES_4 = (
    0.2303778133088965,
    0.7148465705529157,
    0.6308807679298589,
    -0.027983769416859854,
    -0.18703481171909309,
    0.030841381835560764,
    0.0328830116668852,
    -0.010597401785069032,
)


@dataclass(frozen=True)
class Wavelet:
    """A multi-level orthonormal wavelet transform W of images of one size, ``W^H W = W W^H = I``.

    Coefficients keep the shape of the image: level by level the first half of every axis holds the coarse
    image, the rest its details (Mallat, IEEE PAMI 11:674, 1989). The boundary is periodic. An axis may have
    fewer levels than others, as that of few slices or frames: it is then left as it is at the deeper ones.

    Attributes:
        shape: *N, one to three axes, each divisible by ``2^levels`` of that axis.
        levels: number of levels of each axis.
        matrices: per level the axes it acts on, each with its orthogonal matrix of that level's size.

    >>> wavelet = daubechies4((16, 24), levels=2, dtype=torch.float64)
    >>> image = torch.randn(3, 16, 24, dtype=torch.complex128)
    >>> torch.allclose(wavelet.inverse(wavelet.forward(image)), image)
    True
    """

    shape: tuple[int, ...]
    levels: tuple[int, ...]
    matrices: tuple[tuple[tuple[int, Tensor], ...], ...]

    def forward(self, image: Tensor) -> Tensor:
        """W x: image (B, *N) complex -> coefficients (B, *N) complex, coarse part first."""
        return _join(self._analyse(_split(image)))

    def inverse(self, coefficients: Tensor) -> Tensor:
        """W^H c: coefficients (B, *N) complex -> image (B, *N) complex."""
        return _join(self._synthesise(_split(coefficients)))

    def shrink_details(self, image: Tensor, threshold: Tensor) -> Tensor:
        """``W^H soft(W x, threshold)``: details shrunk by complex soft thresholding, the coarse part kept.

        Args:
            image: (B, *N) complex.
            threshold: (B, 1, ..., 1) real, at least 0.
        """
        parts = self._analyse(_split(image))
        coarse = parts[_at(self.coarse)].clone()
        energy = parts.square().sum(1)
        # 1 - threshold / |c|, and 0 where |c| <= threshold; a zero coefficient stays zero for any factor.
        factor = (1 - threshold * energy.clamp_min(torch.finfo(energy.dtype).tiny).rsqrt()).clamp_min(0)
        parts = parts * factor.unsqueeze(1)
        parts[_at(self.coarse)] = coarse
        return _join(self._synthesise(parts))

    def _analyse(self, parts: Tensor) -> Tensor:
        """(B, 2, *N) real -> (B, 2, *N) real; may overwrite its argument."""
        for depth, pairs in enumerate(self.matrices):
            block = parts[_at(self._coarse_at(depth))]
            out = block
            for axis, matrix in pairs:
                out = _along(matrix, out, axis)
            parts = out if depth == 0 else _put(parts, block, out)
        return parts

    def _synthesise(self, parts: Tensor) -> Tensor:
        """The inverse of `_analyse`; may overwrite its argument."""
        for depth in reversed(range(len(self.matrices))):
            block = parts[_at(self._coarse_at(depth))]
            out = block
            for axis, matrix in reversed(self.matrices[depth]):
                out = _along(matrix.mT, out, axis)
            parts = out if depth == 0 else _put(parts, block, out)
        return parts

    @property
    def coarse(self) -> tuple[slice, ...]:
        """Where the coarse image lies in the coefficients: index with ``c[(..., *wavelet.coarse)]``."""
        return self._coarse_at(len(self.matrices))

    def _coarse_at(self, depth: int) -> tuple[slice, ...]:
        """Where the coarse image lies after `depth` levels."""
        return tuple(slice(n >> min(depth, most)) for n, most in zip(self.shape, self.levels, strict=True))


def daubechies4(
    shape: Sequence[int],
    levels: int | Sequence[int],
    *,
    shift: Sequence[int] | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Wavelet:
    """The Daubechies wavelet with four vanishing moments ('db4', eight taps), periodized.

    Equals PyWavelets ``wavedecn(x, 'db4', mode='periodization', level=levels)`` coefficient by coefficient.

    Args:
        shape: (y, x) of the images, or one axis, or three, as (z, y, x).
        levels: at least one; or one number for each axis, 0 for an axis that is left as it is.
        shift: transform ``x(. - shift)``, x moved cyclically by `shift` pixels, instead of x: another grid.
        dtype: real type of the matrices; images are complex of the same precision.
        device: where the images are.

    Raises:
        InputError: a size that is not a positive multiple of ``2^levels``, or other than one to three axes.
    """
    depths = (levels,) * len(shape) if isinstance(levels, int) else tuple(levels)
    offsets = (0,) * len(shape) if shift is None else tuple(shift)
    if not 1 <= len(shape) <= 3 or len(depths) != len(shape) or len(offsets) != len(shape):
        raise InputError(
            f"wavelet: expected one to three axes, levels and shift for each; found shape {tuple(shape)}, "
            f"levels {levels}, shift {shift}"
        )
    fits = all(size >= 1 and depth >= 0 and size % (1 << depth) == 0 for size, depth in zip(shape, depths, strict=True))
    if max(depths) < 1 or not fits:
        raise InputError(f"wavelet: expected sizes divisible by 2^levels, found shape {tuple(shape)}, levels {levels}")
    matrices = []
    for level in range(max(depths)):
        pairs = []
        for axis, (size, depth) in enumerate(zip(shape, depths, strict=True)):
            if level < depth:
                matrix = _level_matrix(size >> level)
                if level == 0:
                    # W of the moved image is W with its columns moved back: the shift costs nothing.
                    matrix = torch.roll(matrix, -offsets[axis], 1)
                pairs.append((axis - len(shape), matrix.to(device, dtype)))
        matrices.append(tuple(pairs))
    return Wavelet(tuple(shape), depths, tuple(matrices))


def default_levels(shape: Sequence[int], *, most: int = 4, coarsest: int = 12) -> tuple[int, ...]:
    """Per axis as many levels as leave the coarse image at least `coarsest` pixels wide: between 1 and `most`.

    >>> default_levels((320, 320)), default_levels((20, 320, 100))
    ((4, 4), (1, 4, 3))
    """
    return tuple(next((n for n in range(most, 1, -1) if size >> n >= coarsest), 1) for size in shape)


def _at(slices: tuple[slice, ...]) -> Any:
    """The index of the last axes."""
    return (..., *slices)


def _along(matrix: Tensor, parts: Tensor, axis: int) -> Tensor:
    """`matrix` applied along one of the last three axes, counted from the end."""
    if axis == -1:
        return parts @ matrix.mT
    if axis == -2:
        return matrix @ parts
    return (matrix @ parts.flatten(-2)).unflatten(-1, parts.shape[-2:])


def _put(parts: Tensor, block: Tensor, values: Tensor) -> Tensor:
    """`parts` with its view `block` overwritten."""
    block.copy_(values)
    return parts


def _level_matrix(size: int) -> Tensor:
    """One level on a signal of even length: (size, size) orthogonal, float64; low-pass half first."""
    taps = torch.tensor(DAUBECHIES_4, dtype=torch.float64)
    count = len(taps)
    # Reversed taps for the low pass, the quadrature mirror filter, and the offset: PyWavelets' alignment.
    low, high = taps.flip(0), taps * torch.tensor([-1.0, 1.0], dtype=torch.float64).repeat(count // 2)
    matrix = torch.zeros(size, size, dtype=torch.float64)
    for row in range(size // 2):
        for tap in range(count):
            column = (2 * row + count // 2 - tap) % size
            matrix[row, column] += low[tap]
            matrix[size // 2 + row, column] += high[tap]
    return matrix


def _split(image: Tensor) -> Tensor:
    """(B, *N) complex -> (B, 2, *N) real, a fresh contiguous copy that may be written to."""
    return torch.stack((image.real, image.imag), 1)


def _join(parts: Tensor) -> Tensor:
    return torch.complex(parts[:, 0].contiguous(), parts[:, 1].contiguous())
