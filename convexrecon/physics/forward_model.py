"""What data consistency and reconstruction ask of a forward model, whatever k-space it measures."""

from typing import Protocol

from torch import Tensor


class ForwardModel(Protocol):
    """A linear model A of norm about one, as `Sense`, `NonCartesianSense` and `CineSense` are."""

    @property
    def maps(self) -> Tensor:
        """(B, C, *N) complex sensitivity maps, zero outside the object; an axis of 1 where they are constant."""

    @property
    def ndim(self) -> int:
        """Number of image dimensions."""

    def forward(self, image: Tensor) -> Tensor:
        """A x: image (B, *N) complex -> k-space, (B, C, *N) or (B, C, samples)."""

    def adjoint(self, kspace: Tensor) -> Tensor:
        """A^H y: k-space -> image (B, *N)."""

    def normal(self, image: Tensor) -> Tensor:
        """A^H A x: image (B, *N) -> image (B, *N)."""
