"""The SENSE forward model for k-space off the grid: radial, spiral, cones, and whatever else."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from convexrecon.errors import InputError
from convexrecon.physics.circulant_preconditioner import CirculantPreconditioner, circulant_eigenvalues
from convexrecon.physics.noncartesian_fourier import NonCartesianFourier, joined_trajectories

# Complex numbers on the doubled grid at once in `normal`: 2 MB in single precision, about a cache (a third faster than
# all coils of a volume at once), and 128 MB on devices that want much to do.
_ELEMENTS_AT_ONCE = {"cpu": 1 << 18}
_ELEMENTS_ON_DEVICES = 1 << 24
# Complex numbers of coil images that a non-uniform transform takes at once: 16 MB, fewer coils than all from 64^3 on.
_TRANSFORMED_AT_ONCE = {"cpu": 1 << 21}


@dataclass(frozen=True)
class NonCartesianSense:
    """Non-Cartesian SENSE, ``A x = s W^(1/2) F S x``, in 2-D and 3-D; it stands where `Sense` stands.

    With ``sum_c |maps_c|^2 <= 1``, ``||A|| <= 1`` as in `Sense` (to the accuracy of `NonCartesianFourier.scale`).
    A includes the root of the weights, so that it has an adjoint and ``||A x - y||^2`` is the weighted error:
    measured samples pass through `weigh` once, before anything else sees them. Signal from beyond the field of
    view does not fold as on the grid but leaves streaks that more iterations make worse: multiply coordinates and
    numbers of pixels by the same factor to make room for it.
    Pruessmann et al., Magn Reson Med 46:638 (2001), with the weights of its eq. 27.

    Attributes:
        maps: (B, C, *N) complex sensitivity maps S.
        fourier: s W^(1/2) F, for one trajectory that all share or for B of them; what it has computed is kept,
            so one object should serve all slices of a scan.

    Raises:
        InputError: shapes or devices that do not fit together.

    >>> from convexrecon.physics.trajectories import radial
    >>> maps = torch.ones(1, 1, 16, 16, dtype=torch.complex64)
    >>> sense = NonCartesianSense.along(radial((16, 16), shots=30).flatten(0, 1), maps, eps=1e-5)
    >>> image = torch.randn(1, 16, 16, dtype=torch.complex64)
    >>> torch.allclose(sense.normal(image), sense.adjoint(sense.forward(image)), atol=1e-3)
    True
    """

    maps: Tensor
    fourier: NonCartesianFourier

    def __post_init__(self) -> None:
        maps, coordinates = self.maps, self.fourier.coordinates
        if maps.ndim not in (4, 5) or not maps.is_complex() or 0 in maps.shape:
            raise InputError(f"maps: expected complex (B, C, *N), not empty; found {maps.dtype} {tuple(maps.shape)}")
        if tuple(maps.shape[2:]) != tuple(self.fourier.shape):
            raise InputError(f"maps: of {tuple(maps.shape[2:])} pixels, the trajectory is for {self.fourier.shape}")
        if coordinates.ndim == 3 and len(coordinates) != len(maps):
            raise InputError(
                f"coordinates: {len(coordinates)} trajectories for {len(maps)} sets of maps; expected (samples, "
                f"{coordinates.shape[-1]}), shared, or one each. Shots of one trajectory are to be flattened: "
                "coordinates.flatten(0, 1)"
            )
        if maps.device != coordinates.device:
            raise InputError(f"maps: on {maps.device}, but the coordinates are on {coordinates.device}")

    @classmethod
    def along(
        cls, coordinates: Tensor, maps: Tensor, weights: Tensor | None = None, *, eps: float = 1e-4
    ) -> "NonCartesianSense":
        """The operator of a trajectory (samples, d) or (B, samples, d), cycles per field of view, and its weights."""
        return cls(maps, NonCartesianFourier(coordinates, tuple(maps.shape[2:]), weights, eps))

    @property
    def ndim(self) -> int:
        """Number of image dimensions."""
        return self.maps.ndim - 2

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(B, *N)."""
        return (self.maps.shape[0], *self.maps.shape[2:])

    def weigh(self, samples: Tensor) -> Tensor:
        """``s W^(1/2) y``: measured samples (B, C, samples), the image origin at index 0, -> the y of this model."""
        return self.fourier.weigh(samples)

    def forward(self, image: Tensor) -> Tensor:
        """A x: image (B, *N) -> samples (B, C, samples), weighted; of large volumes coil by coil."""
        parts = self.maps.split(self._coils_transformed(), dim=1)
        return torch.cat([self.fourier.forward(maps * image.unsqueeze(1)) for maps in parts], 1)

    def adjoint(self, kspace: Tensor) -> Tensor:
        """A^H y: weighted samples (B, C, samples) -> image (B, *N).

        Raises:
            InputError: not as many samples as coordinates, or coils as maps.
        """
        wanted = (*self.maps.shape[:2], self.fourier.coordinates.shape[-2])
        if tuple(kspace.shape) != wanted:
            raise InputError(
                f"kspace: expected (B, C, samples) = {wanted}, shots flattened; found {tuple(kspace.shape)}"
            )
        coils = self._coils_transformed()
        parts = zip(self.maps.split(coils, dim=1), kspace.split(coils, dim=1), strict=True)
        total = torch.zeros_like(self.maps[:, 0])
        for maps, samples in parts:
            total = total + (maps.conj() * self.fourier.adjoint(samples)).sum(1)
        return total

    def _coils_transformed(self) -> int:
        """How many coils the non-uniform transforms take at once: all, but of large volumes."""
        elements = _TRANSFORMED_AT_ONCE.get(self.maps.device.type, _ELEMENTS_ON_DEVICES)
        return max(1, elements // self.maps[:, 0].numel())

    def normal(self, image: Tensor) -> Tensor:
        """A^H A x: image (B, *N) -> image (B, *N), by convolution, some coils at a time."""
        elements = _ELEMENTS_AT_ONCE.get(image.device.type, _ELEMENTS_ON_DEVICES)
        coils = max(1, elements // (image.numel() * 2**self.ndim))
        total = torch.zeros_like(image)
        for maps in self.maps.split(coils, dim=1):
            total = total + (maps.conj() * self.fourier.normal(maps * image.unsqueeze(1))).sum(1)
        return total

    @cached_property
    def preconditioner(self) -> CirculantPreconditioner:
        """An approximate inverse of A^H A + lam, for no more than an A^H A once and next to nothing after; kept."""
        eigenvalues = circulant_eigenvalues(self.fourier.transfer(self.maps.dtype), self.maps)
        return CirculantPreconditioner(eigenvalues, self.maps.abs().amax(1) > 0)

    def to(self, device: torch.device | str) -> "NonCartesianSense":
        """The same operator on another device."""
        return NonCartesianSense(self.maps.to(device), self.fourier.to(device))

    def as_precise_as(self, image: Tensor) -> "NonCartesianSense":
        """The same operator with maps of the precision of a complex image; the transforms follow their input's."""
        return NonCartesianSense(self.maps.to(image.dtype), self.fourier)

    def joined(self, others: Sequence["NonCartesianSense"]) -> "NonCartesianSense":
        """The operator of this batch and others as one, of one trajectory if they share it; else one for each."""
        parts = [self, *others]
        maps = torch.cat([part.maps for part in parts])
        if all(part.fourier is self.fourier for part in parts):
            return NonCartesianSense(maps, self.fourier)
        return NonCartesianSense(maps, joined_trajectories([(part.fourier, len(part.maps)) for part in parts]))
