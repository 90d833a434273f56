"""The SENSE forward model: coil sensitivities, Fourier transform, sampling."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from convexrecon.errors import InputError
from convexrecon.physics.fourier import fft, ifft

# Complex numbers of coil images that `normal` holds at a time: more fall out of a processor's cache, which costs more
# than half of the time of volumes and series; fewer leave small slices to the overhead of many transforms.
_AT_ONCE = 2**19


@dataclass(frozen=True)
class Sense:
    """Cartesian SENSE, ``A x = M F S x``, in any number of dimensions.

    With ``sum_c |maps_c|^2 <= 1`` and the orthonormal FFT, ``||A|| <= 1``.
    Pruessmann et al., Magn Reson Med 42:952 (1999), eq. 1.

    Attributes:
        maps: (B, C, *N) complex sensitivity maps S; an axis of N that is not transformed may be 1, of maps that are the
            same all along it, such as those of a series, which are then stored once.
        mask: (B or 1, 1, *N) sampling mask M, zeros and ones, uncentred (DC at index 0); it says what N is.
        axes: how many of the last axes F transforms; all of them if None. Of a series (t, y, x), and of a volume
            whose fully sampled readout comes first and is transformed already, 2: every frame has its own k-space.

    Raises:
        InputError: shapes that do not fit together, or a mask that samples nothing.

    >>> maps = torch.ones(1, 1, 4, 6, dtype=torch.complex64)
    >>> sense = Sense(maps, torch.ones(1, 1, 4, 6))
    >>> image = torch.randn(1, 4, 6, dtype=torch.complex64)
    >>> torch.allclose(sense.adjoint(sense.forward(image)), image, atol=1e-6)
    True
    """

    maps: Tensor
    mask: Tensor
    axes: int | None = None

    def __post_init__(self) -> None:
        if self.maps.ndim < 3 or not self.maps.is_complex():
            raise InputError(f"maps: expected complex (B, C, *N), found {self.maps.dtype} {tuple(self.maps.shape)}")
        if self.axes is not None and not 1 <= self.axes <= self.ndim:
            raise InputError(
                f"axes: expected 1 to {self.ndim}, those of maps {tuple(self.maps.shape)}, found {self.axes}"
            )
        constant = self.ndim - self.transformed
        fits = (
            self.mask.ndim == self.maps.ndim
            and self.mask.shape[0] in (1, self.maps.shape[0])
            and self.mask.shape[1] == 1
            and self.mask.shape[2 + constant :] == self.maps.shape[2 + constant :]
            and all(m in (1, n) for m, n in zip(self.maps.shape[2:], self.mask.shape[2:], strict=True))
        )
        if not fits:
            raise InputError(
                f"mask: expected (B or 1, 1, *N) for maps {tuple(self.maps.shape)}, found {tuple(self.mask.shape)}"
            )
        if not bool(torch.any(self.mask != 0)):
            raise InputError("mask: samples nothing (every entry is zero)")

    @property
    def ndim(self) -> int:
        """Number of image dimensions."""
        return self.maps.ndim - 2

    @property
    def transformed(self) -> int:
        """How many of the last axes are transformed."""
        return self.ndim if self.axes is None else self.axes

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(B, *N)."""
        return (self.maps.shape[0], *self.mask.shape[2:])

    @property
    def kspace_shape(self) -> tuple[int, ...]:
        """(B, C, *N)."""
        return (*self.maps.shape[:2], *self.mask.shape[2:])

    def forward(self, image: Tensor) -> Tensor:
        """A x: image (B, *N) -> k-space (B, C, *N), zero where not sampled."""
        return self.mask * fft(self.maps * image.unsqueeze(1), self.transformed)

    def adjoint(self, kspace: Tensor) -> Tensor:
        """A^H y: k-space (B, C, *N) -> image (B, *N).

        Raises:
            InputError: k-space of another shape.
        """
        if tuple(kspace.shape) != self.kspace_shape:
            raise InputError(f"kspace: expected (B, C, *N) = {self.kspace_shape}, found {tuple(kspace.shape)}")
        return (self.maps.conj() * ifft(self.mask * kspace, self.transformed)).sum(1)

    def normal(self, image: Tensor) -> Tensor:
        """A^H A x: image (B, *N) -> image (B, *N), in memory of one coil's image, or of some small ones.

        One mask product, since M is zeros and ones.
        """
        total: Tensor | None = None
        for maps in self.maps.split(max(1, _AT_ONCE // image.numel()), 1):
            # In one expression, so that what it passes through is freed: for small slices the time goes to memory.
            images = maps.conj() * ifft(self.mask * fft(maps * image.unsqueeze(1), self.transformed), self.transformed)
            part = images.sum(1) if images.shape[1] > 1 else images[:, 0]
            total = part if total is None else total + part
        assert total is not None
        return total

    def to(self, device: torch.device | str) -> "Sense":
        """The same operator on another device."""
        return Sense(self.maps.to(device), self.mask.to(device), self.axes)

    def as_precise_as(self, image: Tensor) -> "Sense":
        """The same operator in the precision of a complex image."""
        return Sense(self.maps.to(image.dtype), self.mask.to(image.real.dtype), self.axes)

    def joined(self, others: Sequence["Sense"]) -> "Sense":
        """The operator of this batch and others of its shape as one."""
        parts = [self, *others]
        masks = [part.mask.expand(len(part.maps), *part.mask.shape[1:]) for part in parts]
        return Sense(torch.cat([part.maps for part in parts]), torch.cat(masks), self.axes)
