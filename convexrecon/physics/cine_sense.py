"""The SENSE forward model of a series of images: every frame sampled on its own, coil maps constant in time."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from convexrecon.errors import InputError
from convexrecon.physics.fourier import fft, ifft


@dataclass(frozen=True)
class CineSense:
    """Cartesian SENSE of a dynamic series, ``(A x)_t = M_t F S x_t``; it stands where `Sense` stands.

    F acts on each frame; time is not transformed. With ``sum_c |maps_c|^2 <= 1``, ``||A|| <= 1``.
    Pruessmann et al., Magn Reson Med 42:952 (1999), eq. 1, frame by frame.

    Attributes:
        coil_maps: (B, C, y, x) complex sensitivity maps S; (B, C, z, y, x) for volumes in time.
        mask: (B or 1, 1, t, y, x) sampling mask, zeros and ones, uncentred (DC at index 0).

    Raises:
        InputError: shapes that do not fit together, or a mask that samples nothing.

    >>> maps = torch.ones(1, 1, 4, 6, dtype=torch.complex64)
    >>> cine = CineSense(maps, torch.ones(1, 1, 3, 4, 6))
    >>> series = torch.randn(1, 3, 4, 6, dtype=torch.complex64)
    >>> torch.allclose(cine.adjoint(cine.forward(series)), series, atol=1e-6)
    True
    """

    coil_maps: Tensor
    mask: Tensor

    def __post_init__(self) -> None:
        maps, mask = self.coil_maps, self.mask
        if maps.ndim < 4 or not maps.is_complex():
            raise InputError(f"maps: expected complex (B, C, y, x), found {maps.dtype} {tuple(maps.shape)}")
        fits = (
            mask.ndim == maps.ndim + 1
            and mask.shape[0] in (1, maps.shape[0])
            and mask.shape[1] == 1
            and mask.shape[3:] == maps.shape[2:]
        )
        if not fits:
            raise InputError(
                f"mask: expected (B or 1, 1, t, y, x) for maps {tuple(maps.shape)}, found {tuple(mask.shape)}"
            )
        if not bool(torch.any(mask != 0)):
            raise InputError("mask: samples nothing (every entry is zero)")

    @property
    def maps(self) -> Tensor:
        """(B, C, 1, y, x): the maps with an axis for time, which broadcasts over the frames."""
        return self.coil_maps.unsqueeze(2)

    @property
    def ndim(self) -> int:
        """Number of image dimensions, time among them."""
        return self.mask.ndim - 2

    def forward(self, image: Tensor) -> Tensor:
        """A x: series (B, t, y, x) -> k-space (B, C, t, y, x), zero where not sampled."""
        return self.mask * fft(self.maps * image.unsqueeze(1), self.ndim - 1)

    def adjoint(self, kspace: Tensor) -> Tensor:
        """A^H y: k-space (B, C, t, y, x) -> series (B, t, y, x).

        Raises:
            InputError: not as many coils as maps, or another size than that of the mask.
        """
        wanted = (*self.coil_maps.shape[:2], *self.mask.shape[2:])
        if tuple(kspace.shape) != wanted:
            raise InputError(f"kspace: expected (B, C, t, y, x) = {wanted}, found {tuple(kspace.shape)}")
        return (self.maps.conj() * ifft(self.mask * kspace, self.ndim - 1)).sum(1)

    def normal(self, image: Tensor) -> Tensor:
        """A^H A x: series (B, t, y, x) -> series (B, t, y, x), coil by coil: a cache holds little more."""
        total = torch.zeros_like(image)
        mask = self.mask[:, 0]
        for maps in self.maps.unbind(1):
            kspace = mask * fft(maps * image, self.ndim - 1)
            total = total + maps.conj() * ifft(kspace, self.ndim - 1)
        return total

    def to(self, device: torch.device | str) -> "CineSense":
        """The same operator on another device."""
        return CineSense(self.coil_maps.to(device), self.mask.to(device))

    def as_precise_as(self, image: Tensor) -> "CineSense":
        """The same operator in the precision of a complex series."""
        return CineSense(self.coil_maps.to(image.dtype), self.mask.to(image.real.dtype))

    def joined(self, others: Sequence["CineSense"]) -> "CineSense":
        """The operator of this batch and others of its shape as one."""
        parts = [self, *others]
        masks = [part.mask.expand(len(part.coil_maps), *part.mask.shape[1:]) for part in parts]
        return CineSense(torch.cat([part.coil_maps for part in parts]), torch.cat(masks))
