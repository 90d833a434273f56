"""Alternating directions: a few dozen iterations where first-order methods need thousands."""

import torch
from torch import Tensor

from .certificates import certify, check_beta
from .penalties import Penalty
from .quadratics import InvertibleQuadratic
from .solution import Solution


def admm(
    quadratic: InvertibleQuadratic,
    penalty: Penalty,
    beta: float,
    *,
    initial: Tensor | None = None,
    tolerance: float = 1e-5,
    max_iterations: int = 5_000,
    check_every: int = 5,
    relaxation: float = 1.7,
) -> Solution:
    """``min_W f(W) + beta R(W)`` by over-relaxed ADMM with a cached Cholesky factor of ``H + rho I``.

    Strong correlation between features, which makes first-order methods slow, costs nothing here. The
    step parameter rho = beta / (mean norm of the active groups) is the curvature of the penalty at the
    solution; it is refreshed, and H factored again, when it has drifted by more than a factor of two.
    Boyd et al., Found Trends Mach Learn 3:1 (2011), sections 3.4 and 6.4.

    Args:
        quadratic: f whose shifted H can be inverted, as that of `DenseQuadratic`.
        penalty: R.
        beta: weight of R, > 0 (at beta = 0 solve ``H W = c`` instead).
        initial: (G, d, m) starting point; a ridge solution if None.
        tolerance: stop at this relative duality gap.
        max_iterations: most iterations.
        check_every: iterations between certificates.
        relaxation: over-relaxation factor in (0, 2).

    Raises:
        ValueError: beta not a positive finite number.
    """
    check_beta(beta)
    if beta == 0:
        raise ValueError("beta: expected a positive number, found 0; solve the linear system H W = c instead")
    scale = quadratic.mean_curvature
    if scale <= 0 or float(quadratic.linear.abs().max()) == 0:
        zero = torch.zeros_like(quadratic.linear)
        return Solution(zero, beta, certify(quadratic, penalty, beta, zero), 0, True)
    split = quadratic.shifted_inverse(1e-3 * scale)(quadratic.linear) if initial is None else initial.double().clone()
    rho = _curvature_of_penalty(split, beta, fallback=scale)
    inverse = quadratic.shifted_inverse(rho)
    # The multiplier of W = V at a stationary point is the gradient's negative; start it there. Elsewhere that may be
    # far longer than any multiplier of the penalty's, and a small rho would take thousands of iterations to undo it.
    multiplier = _feasible((quadratic.linear - quadratic.multiply(split)) / rho, penalty, beta / rho)
    certificate = certify(quadratic, penalty, beta, split)
    iteration, refreshed = 0, 0
    while certificate.relative_gap > tolerance and iteration < max_iterations:
        iteration += 1
        free = inverse(quadratic.linear + rho * (split - multiplier))
        relaxed = relaxation * free + (1 - relaxation) * split
        split = penalty.prox(relaxed + multiplier, beta / rho)
        multiplier = multiplier + relaxed - split
        if iteration % check_every == 0:
            certificate = certify(quadratic, penalty, beta, split)
            wanted = _curvature_of_penalty(split, beta, fallback=rho)
            # Each refresh waits longer than the last, so that rho settles and the iteration converges.
            if not 0.5 <= wanted / rho <= 2 and iteration >= refreshed:
                multiplier = multiplier * (rho / wanted)
                rho, refreshed = wanted, 2 * iteration
                inverse = quadratic.shifted_inverse(rho)
    certificate = certify(quadratic, penalty, beta, split)
    return Solution(split, beta, certificate, iteration, certificate.relative_gap <= tolerance)


def _feasible(multiplier: Tensor, penalty: Penalty, radius: float) -> Tensor:
    """Each group scaled into the ball of the dual norm."""
    shrink = (radius / penalty.dual_norm(multiplier).clamp_min(1e-300)).clamp_max(1)
    return multiplier * shrink.view(-1, 1, 1)


def _curvature_of_penalty(weights: Tensor, beta: float, *, fallback: float) -> float:
    norms = weights.flatten(1).norm(dim=1)
    active = norms[norms > 0]
    return beta / float(active.mean()) if len(active) else fallback
