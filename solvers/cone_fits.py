r"""What couples the two halves of a cone-constrained program: a quadratic loss, or a difference that is given.

Every program here is min phi(w - z) + beta sum_g (||w_g|| + ||z_g||) over cones. An interior-point step solves

.. math:: B_w\,dw - dq = r_w, \qquad B_z\,dz + dq = r_z

where q = -grad phi (a free multiplier where the difference is given) and B are (G, d, d), positive definite,
given by their Cholesky factors.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

# rhs (2, G, d) -> dv (2, G, d) and dq (G, d).
Stepper = Callable[[Tensor], tuple[Tensor, Tensor]]


class Fit(Protocol):
    """phi and what an interior-point method asks of it; u and q are (G, d)."""

    def value(self, u: Tensor) -> float:
        """phi(u), for a u that it allows."""
        ...

    def pull(self, u: Tensor, q: Tensor) -> Tensor:
        """-grad phi(u), or q where u is given."""
        ...

    def bound(self, u: Tensor, q: Tensor, sizes: Tensor, beta: float) -> float:
        """The best dual value on the ray of q that keeps `sizes` (G,) = ||+-q + C^T a|| scaled within beta."""
        ...

    def stepper(self, blocks: Tensor, factors: Tensor) -> Stepper:
        """The solution of the two equations for any right sides; blocks, factors: B, its factors (2, G, d, d)."""
        ...


@dataclass(frozen=True)
class QuadraticFit:
    """phi(u) = 1/2 <u, H u> - <c, u> + tau / 2.

    matrix: H (G d, G d); linear: c (G, d); tau; root: F (G d, G d) with F F^T = H up to rounding.
    """

    matrix: Tensor
    linear: Tensor
    tau: float
    root: Tensor

    def _multiply(self, u: Tensor) -> Tensor:
        return (self.matrix @ u.reshape(-1)).view_as(u)

    def value(self, u: Tensor) -> float:
        """phi(u)."""
        return float(self.tau / 2 + (u * (self._multiply(u) / 2 - self.linear)).sum())

    def pull(self, u: Tensor, q: Tensor) -> Tensor:
        """c - H u."""
        return self.linear - self._multiply(u)

    def bound(self, u: Tensor, q: Tensor, sizes: Tensor, beta: float) -> float:
        """s <rho, t> / n - s^2 ||rho||^2 / (2 n), rho the residual at u, at the best s allowed."""
        along = self.tau - float((self.linear * u).sum())
        length = along - float((u * q).sum())
        limit = beta / max(float(sizes.max()), 1e-300)
        scale = min(max(along / max(length, 1e-300), 0.0), limit)
        return scale * along - scale**2 * length / 2

    def stepper(self, blocks: Tensor, factors: Tensor) -> Stepper:
        """dq = -H (dw - dz): by the Cholesky factor of I + F^T (B_w^-1 + B_z^-1) F."""
        groups, d = self.linear.shape
        inverse = torch.cholesky_inverse(factors).sum(0)
        system = self.root.T @ (inverse @ self.root.view(groups, d, -1)).view(groups * d, -1)
        system.diagonal().add_(1)
        coupling = cholesky(system)

        def step(rhs: Tensor) -> tuple[Tensor, Tensor]:
            free = torch.cholesky_solve(rhs[..., None], factors)[..., 0]
            moved = torch.cholesky_solve((self.root.T @ (free[0] - free[1]).reshape(-1))[:, None], coupling)
            dq = -(self.root @ moved)[:, 0].view(groups, d)
            return torch.cholesky_solve((rhs + torch.stack([dq, -dq]))[..., None], factors)[..., 0], dq

        return step


def quadratic_fit(matrix: Tensor, linear: Tensor, tau: float) -> QuadraticFit:
    """phi with the factor of H that its steps use; matrix (G d, G d), linear (G, d), float64."""
    jitter = max(1e-14 * float(matrix.diagonal().mean()), 1e-300)
    shifted = matrix + jitter * torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    return QuadraticFit(matrix, linear, tau, cholesky(shifted))


@dataclass(frozen=True)
class GivenDifference:
    """phi(u) = 0 where u is `difference` (1, d), infinite elsewhere: one group at a time."""

    difference: Tensor

    def value(self, u: Tensor) -> float:
        """0."""
        return 0.0

    def pull(self, u: Tensor, q: Tensor) -> Tensor:
        """q."""
        return q

    def bound(self, u: Tensor, q: Tensor, sizes: Tensor, beta: float) -> float:
        """s <q, V> with the s that makes the larger size beta."""
        return max(beta / max(float(sizes.max()), 1e-300) * float((q * self.difference).sum()), 0.0)

    def stepper(self, blocks: Tensor, factors: Tensor) -> Stepper:
        """dw = dz = (B_w + B_z)^-1 (r_w + r_z)."""
        both = cholesky(blocks.sum(0))

        def step(rhs: Tensor) -> tuple[Tensor, Tensor]:
            moved = torch.cholesky_solve(rhs.sum(0)[..., None], both)
            return moved[..., 0].expand(2, -1, -1), (blocks[0] @ moved)[..., 0] - rhs[0]

        return step


def cholesky(matrix: Tensor) -> Tensor:
    """Lower factor of positive definite matrices (..., k, k), the diagonal raised where rounding asks for it."""
    factor, failed = torch.linalg.cholesky_ex(matrix)
    diagonal = matrix.diagonal(dim1=-2, dim2=-1)
    raised = 1e-15
    while bool(failed.any()):
        if not raised < 1:
            raise ValueError("a matrix that should be positive definite is not: NaN or Inf in the data?")
        shifted = matrix + torch.diag_embed(raised * diagonal)
        again, still = torch.linalg.cholesky_ex(shifted)
        factor = torch.where((failed > 0)[..., None, None], again, factor)
        failed, raised = torch.where(failed > 0, still, failed), 100 * raised
    return factor
