"""What data consistency and reconstruction ask of a forward model, whatever k-space it measures."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor


class Preconditioner(Protocol):
    """An approximate inverse of A^H A + lam, Hermitian and positive definite, for far less than an A^H A."""

    def solve(self, residual: Tensor, lam: Tensor | float) -> Tensor:
        """(B, *N) complex and lam > 0 -> (B, *N), of each sample alone."""


def preconditioner_of(sense: "ForwardModel") -> Preconditioner | None:
    """What conjugate gradients on A^H A + lam converge faster with: a model's `preconditioner`, None if it has none.

    Not a member of `ForwardModel`: on the grid nothing helps, and models of one's own need not say so.
    """
    found: Preconditioner | None = getattr(sense, "preconditioner", None)
    return found


class ForwardModel(Protocol):
    """A linear model A of norm about one, as `Sense` and `NonCartesianSense` are."""

    @property
    def maps(self) -> Tensor:
        """(B, C, *N) complex sensitivity maps, zero outside the object; an axis of 1 where they are constant."""

    @property
    def ndim(self) -> int:
        """Number of image dimensions."""

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(B, *N)."""

    def forward(self, image: Tensor) -> Tensor:
        """A x: image (B, *N) complex -> k-space, (B, C, *N) or (B, C, samples)."""

    def adjoint(self, kspace: Tensor) -> Tensor:
        """A^H y: k-space -> image (B, *N)."""

    def normal(self, image: Tensor) -> Tensor:
        """A^H A x: image (B, *N) -> image (B, *N)."""

    def to(self, device: torch.device | str) -> "ForwardModel":
        """The same operator on another device."""

    def as_precise_as(self, image: Tensor) -> "ForwardModel":
        """The same operator in the precision of a complex image."""

    def joined(self, others: Sequence[Any]) -> "ForwardModel":
        """The operator of this batch and others of its kind and shape, one after the other, as one."""
