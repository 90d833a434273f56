"""The circulant nearest to A^H A off the grid: inverted by one FFT pair of the combined image."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# Half cycles either way that the eigenvalues are averaged over, by number of axes: nine tenths of the power of a
# volume's maps, and nearly all of a slice's. In a volume twice as many take eight times as long; at penalties of 0.01
# and more they save no iteration.
_REACH = {2: 8, 3: 5}
# Numbers that a convolution may write its patches to at once, as some do: 128 MB.
_ENTRIES_AT_ONCE = 1 << 25
# Pixels of an axis that the maps' power is found from, about, for each half cycle: smooth maps need no more.
_PIXELS = 4


@dataclass(frozen=True, eq=False)
class CirculantPreconditioner:
    """``M r = S F^H (c + lam)^-1 F S r + (1 - S) r / lam``, an inverse of A^H A + lam in which coils are not seen.

    Hermitian and positive definite for lam > 0; exact where all maps are zero. F is the orthonormal FFT of the image,
    S the support of the maps.

    Attributes:
        eigenvalues: c, (B, *N) real, not negative, DC at index 0.
        support: S, (B, *N) bool.
    """

    eigenvalues: Tensor
    support: Tensor

    def solve(self, residual: Tensor, lam: Tensor | float) -> Tensor:
        """M r: (B, *N) complex and lam > 0 -> (B, *N)."""
        axes = tuple(range(1, residual.ndim))
        spectrum = torch.fft.fftn(residual * self.support, dim=axes) / (self.eigenvalues + lam)
        return torch.where(self.support, torch.fft.ifftn(spectrum, dim=axes), residual / lam)


def circulant_eigenvalues(transfer: Tensor, maps: Tensor, *, reach: int | None = None) -> Tensor:
    """Of the circulant C with least ``||C - sum_c S_c^H T S_c||_F``, T a convolution: what is diagonal in k-space.

    They are T's transfer function on the doubled grid, averaged around every second frequency with the maps' power:
    ``c(k) = sum_m t(2 k + m) p(m)``, ``p(m) = sum_c |(F S_c)(m)|^2 / (N 2N)``, F the transform on the doubled grid.
    p is cut off at `reach` and rescaled to its sum, the share of the image that the coils see; it is found from every
    few pixels of the maps, whose aliases are small as they are smooth. What the cut makes negative is zero.
    T. Chan, SIAM J Sci Stat Comput 9:766 (1988), eq. 2; as preconditioners of a convolution: R. Chan and Ng, SIAM
    Review 38:427 (1996).

    Args:
        transfer: t, (B or 1, *2N) real, DC at index 0.
        maps: S_c, (B, C, *N) complex.
        reach: half cycles of p kept either way, 8 in 2-D and 5 in 3-D if None; N or more keep all, of all pixels.

    Returns:
        (B, *N) real.
    """
    shape = tuple(maps.shape[2:])
    reach = _REACH[len(shape)] if reach is None else reach
    power = _power(maps, reach)
    reaches = [min(reach, size) for size in shape]
    # First the last axis; one less at the end, since frequencies -h to h - 1 are kept.
    ends = [end for h in reversed(reaches) for end in (h, h - 1)]
    padded = F.pad(transfer.unsqueeze(0), ends, mode="circular")
    convolve = F.conv2d if len(shape) == 2 else F.conv3d
    rows = max(1, _ENTRIES_AT_ONCE // (power[0].numel() * len(maps) * max(1, maps[0, 0, 0].numel())))
    parts = []
    for start in range(0, shape[0], rows):
        count = min(rows, shape[0] - start)
        seen = padded.narrow(2, 2 * start, 2 * (count - 1) + power.shape[1])
        parts.append(convolve(seen, power.unsqueeze(1), stride=2, groups=len(transfer))[0])
    return torch.cat(parts, 1).clamp_min(0)


def _power(maps: Tensor, reach: int) -> Tensor:
    """p, (B, *2h) real, h the lesser of reach and N: frequencies -h to h - 1."""
    shape = tuple(maps.shape[2:])
    axes = tuple(range(2, maps.ndim))
    seen = torch.linalg.vector_norm(maps, dim=1).square().flatten(1).mean(1)
    for axis, size in zip(axes, shape, strict=True):
        stride = max(1, round(size / (_PIXELS * reach)))
        index = torch.arange(0, size, stride, device=maps.device)
        maps = maps.index_select(axis, index)
    spectrum = torch.fft.fftn(maps, s=[2 * size for size in maps.shape[2:]], dim=axes)
    power = torch.fft.fftshift(torch.view_as_real(spectrum).square().sum((1, -1)), dim=tuple(a - 1 for a in axes))
    for axis, size in enumerate(shape, 1):
        h, middle = min(reach, size), power.shape[axis] // 2
        power = power.narrow(axis, middle - h, 2 * h)
    total = power.flatten(1).sum(1)
    share = seen / torch.where(total > 0, total, 1)
    return power * share.view(-1, *[1] * len(shape))
