"""Orthonormal periodized Daubechies wavelets in 2-D, for batches of complex images on any device.

One level is ``L X R^T`` with two small orthogonal matrices: at the sizes of MRI slices a dense matrix
product is faster than eight strided taps, its inverse is its transpose, and it runs wherever torch does.
"""

from collections.abc import Sequence
from dataclasses import dataclass

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
class Wavelet2d:
    """A multi-level orthonormal wavelet transform W of images of one size, ``W^H W = W W^H = I``.

    Coefficients keep the shape of the image: level by level the top-left quadrant holds the coarse
    image, the other three its details (Mallat, IEEE PAMI 11:674, 1989). The boundary is periodic.

    Attributes:
        shape: (y, x), each divisible by ``2^levels``.
        levels: number of levels.
        matrices: per level the orthogonal matrices (y', y') and (x', x') of that level's size.

    >>> wavelet = daubechies4((16, 24), levels=2, dtype=torch.float64)
    >>> image = torch.randn(3, 16, 24, dtype=torch.complex128)
    >>> torch.allclose(wavelet.inverse(wavelet.forward(image)), image)
    True
    """

    shape: tuple[int, int]
    levels: int
    matrices: tuple[tuple[Tensor, Tensor], ...]

    def forward(self, image: Tensor) -> Tensor:
        """W x: image (B, y, x) complex -> coefficients (B, y, x) complex, coarse part top left."""
        return _join(self._analyse(_split(image)))

    def inverse(self, coefficients: Tensor) -> Tensor:
        """W^H c: coefficients (B, y, x) complex -> image (B, y, x) complex."""
        return _join(self._synthesise(_split(coefficients)))

    def shrink_details(self, image: Tensor, threshold: Tensor) -> Tensor:
        """``W^H soft(W x, threshold)``: details shrunk by complex soft thresholding, the coarse part kept.

        Args:
            image: (B, y, x) complex.
            threshold: (B, 1, 1) real, at least 0.
        """
        parts = self._analyse(_split(image))
        coarse = parts[(..., *self.coarse)].clone()
        energy = parts.square().sum(1)
        # 1 - threshold / |c|, and 0 where |c| <= threshold; a zero coefficient stays zero for any factor.
        factor = (1 - threshold * energy.clamp_min(torch.finfo(energy.dtype).tiny).rsqrt()).clamp_min(0)
        parts = parts * factor.unsqueeze(1)
        parts[(..., *self.coarse)] = coarse
        return _join(self._synthesise(parts))

    def _analyse(self, parts: Tensor) -> Tensor:
        """(B, 2, y, x) real -> (B, 2, y, x) real."""
        first, *deeper = self.matrices
        out = first[0] @ parts @ first[1].mT
        for rows, columns in deeper:
            block = out[..., : len(rows), : len(columns)]
            block.copy_(rows @ block @ columns.mT)
        return out

    def _synthesise(self, parts: Tensor) -> Tensor:
        """The inverse of `_analyse`; may overwrite its argument."""
        first, *deeper = self.matrices
        for rows, columns in reversed(deeper):
            block = parts[..., : len(rows), : len(columns)]
            block.copy_(rows.mT @ block @ columns)
        return first[0].mT @ parts @ first[1]

    @property
    def coarse(self) -> tuple[slice, slice]:
        """Where the coarse image lies in the coefficients: index with ``c[(..., *wavelet.coarse)]``."""
        return slice(self.shape[0] >> self.levels), slice(self.shape[1] >> self.levels)


def daubechies4(
    shape: Sequence[int],
    levels: int,
    *,
    shift: tuple[int, int] = (0, 0),
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Wavelet2d:
    """The Daubechies wavelet with four vanishing moments ('db4', eight taps), periodized.

    Equals PyWavelets ``wavedec2(x, 'db4', mode='periodization', level=levels)`` coefficient by coefficient.

    Args:
        shape: (y, x) of the images.
        levels: at least one.
        shift: transform ``x(. - shift)``, x moved cyclically by `shift` pixels, instead of x: another grid.
        dtype: real type of the matrices; images are complex of the same precision.
        device: where the images are.

    Raises:
        InputError: a size that is not a positive multiple of ``2^levels``.
    """
    if levels < 1 or len(shape) != 2 or any(size < 1 or size % (1 << levels) for size in shape):
        raise InputError(f"wavelet: expected (y, x) divisible by 2^levels, found shape {tuple(shape)}, levels {levels}")
    matrices = []
    for level in range(levels):
        pair = [_level_matrix(size >> level) for size in shape]
        if level == 0:
            # W of the moved image is W with its columns moved back: the shift costs nothing.
            pair = [torch.roll(matrix, -offset, 1) for matrix, offset in zip(pair, shift, strict=True)]
        matrices.append((pair[0].to(device, dtype), pair[1].to(device, dtype)))
    return Wavelet2d((shape[0], shape[1]), levels, tuple(matrices))


def default_levels(shape: Sequence[int], *, most: int = 4, coarsest: int = 12) -> int:
    """As many levels as leave the coarse image at least `coarsest` pixels wide: between 1 and `most`.

    >>> default_levels((320, 320)), default_levels((40, 320))
    (4, 1)
    """
    levels = 1
    while levels < most and min(shape) >> (levels + 1) >= coarsest:
        levels += 1
    return levels


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
    """(B, y, x) complex -> (B, 2, y, x) real, a fresh contiguous copy that may be written to."""
    return torch.stack((image.real, image.imag), 1)


def _join(parts: Tensor) -> Tensor:
    return torch.complex(parts[:, 0].contiguous(), parts[:, 1].contiguous())
