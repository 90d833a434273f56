"""The smooth part ``f(W) = 1/2 <W, H W> - <c, W> + tau / 2``, dense or streamed.

Since f is quadratic, one product H W gives gradient, value and certificate at W, and the gradient at
any extrapolated point by linear combination: every algorithm here costs one product an iteration.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .linear_maps import LinearMap
from .processes import ALONE, Processes

SINGLE_ROUNDING = 2e-8
# Eigenvalues below zero by more than this share of the norm are not from sums in double precision.
DOUBLE_ROUNDING = 1e-11


class IndefiniteError(ValueError):
    """H, which is positive semidefinite, has eigenvalues below zero that matter: its products have too few digits."""


class Quadratic(Protocol):
    """What the algorithms know of the data.

    Attributes:
        linear: c = A^T T / n, (G, d, m) float64.
        tau: ||T||^2 / n, twice the objective at zero.
    """

    @property
    def linear(self) -> Tensor: ...

    @property
    def tau(self) -> float: ...

    def multiply(self, weights: Tensor) -> Tensor:
        """H W: (G, d, m) -> (G, d, m)."""
        ...


class InvertibleQuadratic(Quadratic, Protocol):
    """A quadratic whose shifted Hessian can be inverted: what `admm` needs."""

    @property
    def mean_curvature(self) -> float:
        """Mean of the diagonal of H, or of what it is close to; sets scales."""
        ...

    def shifted_inverse(self, shift: float) -> Callable[[Tensor], Tensor]:
        """``R -> (H + shift I)^-1 R``."""
        ...


class ScalableQuadratic(InvertibleQuadratic, Protocol):
    """An invertible quadratic of which a multiple can be made: a model whose scale is to be found."""

    def scaled(self, factor: float) -> "ScalableQuadratic":
        """With ``factor H`` for H."""
        ...


@dataclass(frozen=True)
class DenseQuadratic:
    """H held as a matrix: the sufficient statistics of the data.

    Attributes:
        matrix: H = A^T A / n, (G d, G d) float64, symmetric.
        linear: c = A^T T / n, (G, d, m) float64.
        tau: ||T||^2 / n.
    """

    matrix: Tensor
    linear: Tensor
    tau: float

    def __post_init__(self) -> None:
        groups, features, _ = self.linear.shape
        if self.matrix.shape != (groups * features, groups * features):
            raise ValueError(
                f"matrix: expected {groups * features} squared for c {tuple(self.linear.shape)}, "
                f"found {tuple(self.matrix.shape)}"
            )

    def multiply(self, weights: Tensor) -> Tensor:
        """H W."""
        # H is symmetric; a few rows times H take half the time of H times a few columns.
        return (weights.flatten(0, 1).T @ self.matrix).T.reshape(weights.shape)

    @property
    def mean_curvature(self) -> float:
        """Mean of the diagonal of H."""
        return float(self.matrix.diagonal().mean())

    def shifted_inverse(self, shift: float) -> Callable[[Tensor], Tensor]:
        """``R -> (H + shift I)^-1 R`` on (G, d, any), by a Cholesky factor that is computed once.

        Raises:
            IndefiniteError: H + shift I is not positive definite.
        """
        factor = self._shifted_factor(shift)
        if factor is None:
            raise IndefiniteError(
                f"H: expected H + {shift:.3g} I positive definite, found an eigenvalue below zero, as rounding leaves "
                "it; make its products in double precision, or take it `steadied()`, or a larger beta"
            )
        return lambda rhs: torch.cholesky_solve(rhs.flatten(0, 1), factor).view_as(rhs)

    @property
    def indefinite(self) -> bool:
        """Whether H has eigenvalues that far below zero that its products were not in double precision; a factor."""
        return self._shifted_factor(DOUBLE_ROUNDING * float(self.matrix.norm())) is None

    def _shifted_factor(self, shift: float) -> Tensor | None:
        shifted = self.matrix.clone()
        shifted.diagonal().add_(shift)
        factor, failed = torch.linalg.cholesky_ex(shifted)
        return None if bool(failed) else factor

    def scaled(self, factor: float) -> "DenseQuadratic":
        """With ``factor H`` for H."""
        return DenseQuadratic(factor * self.matrix, self.linear, self.tau)

    def steadied(self, share: float = SINGLE_ROUNDING) -> "DenseQuadratic":
        """With a multiple of the identity added that makes up for single-precision products in H.

        Their rounding leaves eigenvalues down to some 1e-8 of the largest below zero, of few rows more.

        Args:
            share: what is added, relative to the norm of H.
        """
        matrix = self.matrix.clone()
        matrix.diagonal().add_(share * float(matrix.norm()))
        return DenseQuadratic(matrix, self.linear, self.tau)

    @classmethod
    def from_data(cls, blocks: Tensor, targets: Tensor) -> "DenseQuadratic":
        """Statistics of explicit blocks (G, n, d) and targets (n, m); for tests and small problems."""
        groups, rows, features = blocks.shape
        wide = blocks.permute(1, 0, 2).reshape(rows, groups * features).double()
        data = targets.double()
        linear = (wide.T @ data / rows).view(groups, features, -1)
        return cls(wide.T @ wide / rows, linear, float((data**2).sum() / rows))


class StreamedQuadratic:
    """H known by passes over the data, ``H W = sum_b A_b^T (A_b W) / n``; nothing is kept between passes.

    Products of a part have the precision of its data; their sum over parts is float64.

    Args:
        stream: called once a pass; yields a `Part` for each part of the data, always the same.
        processes: those that each have a share of the data in their stream, at least a part without rows.

    Attributes:
        linear: c = A^T T / n, (G, d, m) float64.
        tau: ||T||^2 / n.
        rows: n.
    """

    def __init__(self, stream: Callable[[], Iterable["Part"]], processes: Processes = ALONE) -> None:
        self._stream, self._processes = stream, processes
        linear: Tensor | None = None
        # A tensor, so that a GPU need not be waited for at every part.
        energy: Tensor | float = 0.0
        rows = 0
        for part in stream():
            term = part.map.adjoint(part.target).double()
            linear = term if linear is None else linear + term
            energy = energy + part.target.double().square().sum()
            rows += part.rows
        if linear is None:
            raise ValueError("stream: yielded no data")
        linear, (energy, count) = processes.sums(linear, float(energy), rows)
        self.rows = int(count)
        if self.rows == 0:
            raise ValueError("stream: yielded no data")
        self.linear = linear / self.rows
        self.tau = energy / self.rows

    def multiply(self, weights: Tensor) -> Tensor:
        """H W, one pass over the data."""
        total = torch.zeros_like(weights, dtype=torch.float64)
        for part in self._stream():
            total += part.map.adjoint(part.map.forward(weights.to(part.target.dtype))).double()
        return self._processes.total(total) / self.rows


@dataclass(frozen=True)
class Corrected:
    """Another quadratic's H with a linear term of its own.

    Attributes:
        quadratic: whose products are used.
        linear: c, (G, d, m) float64.
    """

    quadratic: Quadratic
    linear: Tensor

    @property
    def tau(self) -> float:
        """||T||^2 / n of the other quadratic."""
        return self.quadratic.tau

    def multiply(self, weights: Tensor) -> Tensor:
        """H W."""
        return self.quadratic.multiply(weights)


@dataclass(frozen=True)
class Part:
    """Part of the data of a least-squares problem.

    Attributes:
        map: A_b.
        target: T_b, of the shape that `map.forward` gives.
        rows: how many rows it counts in n.
    """

    map: LinearMap
    target: Tensor
    rows: int
