"""Batched conjugate gradients that step and stop per sample, and the implicitly differentiated SENSE solve."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from convexrecon.physics.forward_model import ForwardModel


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
    """
    solution = torch.zeros_like(rhs) if initial is None else initial.clone()
    residual = rhs.clone() if initial is None else rhs - normal(initial)
    direction = residual.clone()
    energy = inner(residual, residual)
    rhs_energy = inner(rhs, rhs)
    target = tolerance**2 * rhs_energy
    iterations = torch.zeros(rhs.shape[0], dtype=torch.int64, device=rhs.device)
    spread = (-1,) + (1,) * (rhs.ndim - 1)
    for _ in range(max_iterations):
        moving = energy > target
        if not bool(moving.any()):
            break
        image = normal(direction)
        curvature = inner(direction, image)
        moving &= curvature > 0
        step = torch.where(moving, energy / torch.where(moving, curvature, 1), 0)
        solution = solution + step.view(spread) * direction
        residual = residual - step.view(spread) * image
        new_energy = inner(residual, residual)
        ratio = torch.where(moving, new_energy / torch.where(moving, energy, 1), 0)
        direction = residual + ratio.view(spread) * direction
        energy = torch.where(moving, new_energy, energy)
        iterations += moving
    relative = (energy / torch.where(rhs_energy > 0, rhs_energy, 1)).sqrt()
    return CgResult(solution, iterations, relative)


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
        result = conjugate_gradient(
            lambda x: sense.normal(x) + lam * x,
            adjoint_kspace + lam * image,
            tolerance=tol,
            max_iterations=steps,
            initial=image,
        ).solution
        ctx.sense, ctx.tol, ctx.steps = sense, tol, steps
        ctx.save_for_backward(image, lam, result)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        image, lam, result = ctx.saved_tensors
        pulled = conjugate_gradient(
            lambda x: ctx.sense.normal(x) + lam * x,
            gradient,
            tolerance=ctx.tol,
            max_iterations=ctx.steps,
        ).solution
        of_lam = (pulled.conj() * (image - result)).real.sum().reshape(lam.shape)
        return None, pulled, lam * pulled, of_lam, None, None
