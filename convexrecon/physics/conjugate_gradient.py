"""Batched conjugate gradients that step and stop per sample, and the implicitly differentiated SENSE solve."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from convexrecon.physics.forward_model import ForwardModel, preconditioner_of


@dataclass(frozen=True)
class CgResult:
    """What `conjugate_gradient` found.

    Attributes:
        solution: (B, *N) complex.
        iterations: (B,) steps each sample took.
        residual: (B,) norm of the residual relative to that of the right-hand side.
    """

    solution: Tensor
    iterations: Tensor
    residual: Tensor


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Per-sample real inner product Re <a_b, b_b>: (B, *N), (B, *N) -> (B,)."""
    return (a.conj() * b).real.flatten(1).sum(1)


def conjugate_gradient(
    normal: Callable[[Tensor], Tensor],
    rhs: Tensor,
    *,
    tolerance: float = 1e-6,
    max_iterations: int = 30,
    initial: Tensor | None = None,
    precondition: Callable[[Tensor], Tensor] | None = None,
) -> CgResult:
    """Solve ``normal(x) = rhs`` for a Hermitian positive definite operator, per sample of the batch.

    A sample whose residual falls below ``tolerance * ||rhs||`` stops moving, so its result does not
    depend on the batch it sits in; a zero right-hand side gives zero, never 0/0.
    Hestenes and Stiefel, J Res NBS 49:409 (1952).

    Args:
        normal: (B, *N) -> (B, *N), Hermitian positive definite, acting on each sample alone.
        rhs: (B, *N) complex or real.
        tolerance: relative residual at which a sample stops.
        max_iterations: most steps for any sample.
        initial: (B, *N) starting point, zero if None.
        precondition: M, near to the inverse of `normal`, Hermitian positive definite and acting on each sample alone:
            iterations follow the spread of the eigenvalues of M normal. The residual that stops them is not
            preconditioned.
    """
    solution = torch.zeros_like(rhs) if initial is None else initial.clone()
    residual = rhs.clone() if initial is None else rhs - normal(initial)
    lifted = residual if precondition is None else precondition(residual)
    direction = lifted.clone()
    # r^H M r, which the steps are made from, and r^H r, which stops them.
    energy = inner(residual, lifted)
    left = energy if precondition is None else inner(residual, residual)
    rhs_energy = inner(rhs, rhs)
    target = tolerance**2 * rhs_energy
    iterations = torch.zeros(rhs.shape[0], dtype=torch.int64, device=rhs.device)
    spread = (-1,) + (1,) * (rhs.ndim - 1)
    for _ in range(max_iterations):
        moving = left > target
        if not bool(moving.any()):
            break
        image = normal(direction)
        curvature = inner(direction, image)
        moving &= curvature > 0
        step = torch.where(moving, energy / torch.where(moving, curvature, 1), 0)
        solution = solution + step.view(spread) * direction
        residual = residual - step.view(spread) * image
        lifted = residual if precondition is None else precondition(residual)
        new_energy = inner(residual, lifted)
        ratio = torch.where(moving, new_energy / torch.where(moving, energy, 1), 0)
        direction = lifted + ratio.view(spread) * direction
        energy = torch.where(moving, new_energy, energy)
        left = energy if precondition is None else torch.where(moving, inner(residual, residual), left)
        iterations += moving
    relative = (left / torch.where(rhs_energy > 0, rhs_energy, 1)).sqrt()
    return CgResult(solution, iterations, relative)


def regularized_solve(
    sense: ForwardModel,
    rhs: Tensor,
    lam: Tensor | float,
    *,
    tolerance: float = 1e-6,
    max_iterations: int = 30,
    initial: Tensor | None = None,
) -> CgResult:
    """``(A^H A + lam)^-1 b`` by conjugate gradients, preconditioned where the model has a preconditioner.

    Args:
        sense: the operator A; not differentiated.
        rhs: b, (B, *N) complex.
        lam: positive.
        tolerance: relative residual at which a sample stops.
        max_iterations: most steps for any sample.
        initial: (B, *N) starting point, zero if None.
    """
    preconditioner = preconditioner_of(sense)
    return conjugate_gradient(
        lambda x: sense.normal(x) + lam * x,
        rhs,
        tolerance=tolerance,
        max_iterations=max_iterations,
        initial=initial,
        precondition=None if preconditioner is None else lambda r: preconditioner.solve(r, lam),
    )


def proximal_solve(
    sense: ForwardModel,
    adjoint_kspace: Tensor,
    image: Tensor,
    lam: Tensor,
    *,
    tolerance: float = 1e-6,
    max_iterations: int = 30,
) -> Tensor:
    """``argmin_x ||A x - y||^2 + lam ||x - z||^2 = (A^H A + lam)^-1 (A^H y + lam z)``, differentiable.

    Differentiated implicitly: the backward pass is one more solve with the same matrix, so no
    iterate is stored. Aggarwal et al., MoDL, IEEE TMI 38:394 (2019), eq. 12.

    Args:
        sense: the operator A; not differentiated.
        adjoint_kspace: A^H y, (B, *N) complex.
        image: z, (B, *N) complex; also the starting point.
        lam: real scalar tensor, positive.
        tolerance: relative residual at which a sample stops.
        max_iterations: most CG steps.
    """
    return _ProximalSolve.apply(sense, adjoint_kspace, image, lam, tolerance, max_iterations)


class _ProximalSolve(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, sense: ForwardModel, adjoint_kspace: Tensor, image: Tensor, lam: Tensor, tol: float, steps: int
    ) -> Tensor:
        result = regularized_solve(
            sense, adjoint_kspace + lam * image, lam, tolerance=tol, max_iterations=steps, initial=image
        ).solution
        ctx.sense, ctx.tol, ctx.steps = sense, tol, steps
        ctx.save_for_backward(image, lam, result)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        image, lam, result = ctx.saved_tensors
        pulled = regularized_solve(ctx.sense, gradient, lam, tolerance=ctx.tol, max_iterations=ctx.steps).solution
        of_lam = (pulled.conj() * (image - result)).real.sum().reshape(lam.shape)
        return None, pulled, lam * pulled, of_lam, None, None
