"""Data consistency as modules: the proximal step, the gradient step, and none."""

import math

import torch
from torch import Tensor, nn

from convexrecon.errors import InputError
from convexrecon.physics.conjugate_gradient import proximal_solve, regularized_solve
from convexrecon.physics.forward_model import ForwardModel


class ProximalDataConsistency(nn.Module):
    """``x = argmin ||A x - y||^2 + lam ||x - z||^2`` by conjugate gradients started at z.

    Off the grid they are preconditioned: about half as many steps for the same accuracy.

    Args:
        lam: weight of the denoised image against the data, positive. Stored as its logarithm, so
            that training keeps it positive.
        learn: whether lam is a parameter (end-to-end training) or a constant.
        iterations: most CG steps; a sample stops earlier at `tolerance`.
        tolerance: relative residual of the normal equations at which a sample stops.

    Raises:
        InputError: lam not positive and finite.
    """

    kind = "proximal"

    def __init__(self, lam: float = 0.1, *, learn: bool = False, iterations: int = 12, tolerance: float = 1e-4) -> None:
        super().__init__()
        if not (lam > 0 and math.isfinite(lam)):
            raise InputError(f"lam: expected a positive finite number, found {lam}")
        self.log_lam = nn.Parameter(torch.tensor(math.log(lam)), requires_grad=learn)
        self.iterations = iterations
        self.tolerance = tolerance

    @property
    def lam(self) -> float:
        """The weight of the denoised image."""
        return math.exp(float(self.log_lam.detach()))

    def forward(self, image: Tensor, sense: ForwardModel, adjoint_kspace: Tensor) -> Tensor:
        """z (B, *N), A, A^H y (B, *N) -> x (B, *N)."""
        return proximal_solve(
            sense,
            adjoint_kspace,
            image,
            self.log_lam.exp(),
            tolerance=self.tolerance,
            max_iterations=self.iterations,
        )


class GradientDataConsistency(nn.Module):
    """``x = z - step A^H (A z - y)``: one gradient step on ``1/2 ||A z - y||^2``, stable for step < 2."""

    kind = "gradient"

    def __init__(self, step: float = 1.0, *, learn: bool = False) -> None:
        super().__init__()
        if not 0 < step < 2:
            raise InputError(f"step: expected 0 < step < 2 (2 is the edge of stability), found {step}")
        self.step = nn.Parameter(torch.tensor(float(step)), requires_grad=learn)

    @property
    def lam(self) -> float | None:
        """None: a gradient step has a step size, not a weight."""
        return None

    def forward(self, image: Tensor, sense: ForwardModel, adjoint_kspace: Tensor) -> Tensor:
        """z (B, *N), A, A^H y (B, *N) -> x (B, *N)."""
        return image - self.step * (sense.normal(image) - adjoint_kspace)


class NoDataConsistency(nn.Module):
    """``x = z``: for networks that act on the image alone (ISMRM 2021 #1953)."""

    kind = "none"

    @property
    def lam(self) -> float | None:
        """None: there is nothing to weigh."""
        return None

    def forward(self, image: Tensor, sense: ForwardModel, adjoint_kspace: Tensor) -> Tensor:
        """z (B, *N) -> z."""
        return image


DataConsistency = ProximalDataConsistency | GradientDataConsistency | NoDataConsistency


def remaining_error(
    consistency: DataConsistency, error: Tensor, sense: ForwardModel, *, tolerance: float, max_iterations: int
) -> Tensor:
    """What data consistency leaves of an image error: its linear part B.

    ``B e = lam (A^H A + lam)^-1 e`` behind the proximal step, ``e - step A^H A e`` behind the gradient
    step, e behind none. B is self-adjoint; behind the proximal step its eigenvalues are in (0, 1].

    Args:
        consistency: the step; its own accuracy is not used.
        error: e, (B, *N) complex.
        sense: A, of the same precision.
        tolerance: relative residual at which a sample's conjugate gradients stop.
        max_iterations: most conjugate-gradient steps.
    """
    if isinstance(consistency, ProximalDataConsistency):
        lam = consistency.lam
        solved = regularized_solve(sense, error, lam, tolerance=tolerance, max_iterations=max_iterations)
        return lam * solved.solution
    if isinstance(consistency, GradientDataConsistency):
        return error - float(consistency.step) * sense.normal(error)
    return error
