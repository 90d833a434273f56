"""Solutions for a decreasing sequence of beta, each started from the one before."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from .admm import admm
from .certificates import beta_max, certify, check_beta
from .least_squares import least_squares
from .nuclear_newton import nuclear_newton
from .penalties import GroupLasso, NuclearNorm, Penalty
from .proximal_gradient import proximal_gradient
from .quadratics import DenseQuadratic, Quadratic
from .reused_factor import ReusedFactor
from .solution import Solution
from .variational_newton import RIDGE_START, variational_newton

# Iterations of ADMM that cost about as much as two Newton steps.
ADMM_FIRST = 60
# Of the last step along a path, in beta, how much is gone on with at most.
LONGEST = 1.0


def geometric_betas(largest: float, ratio: float, count: int) -> list[float]:
    """`count` values from ``largest`` down to ``largest * ratio``, equally spaced in the logarithm.

    >>> geometric_betas(1.0, 0.01, 3)
    [1.0, 0.1, 0.01]
    """
    if not (largest > 0 and 0 < ratio < 1 and count >= 2):
        raise ValueError(f"betas: expected largest > 0, 0 < ratio < 1, count >= 2, found {largest}, {ratio}, {count}")
    return [largest * ratio ** (k / (count - 1)) for k in range(count)]


def solve(
    quadratic: Quadratic,
    penalty: Penalty,
    beta: float,
    *,
    tolerance: float = 1e-5,
    initial: Tensor | None = None,
    max_iterations: int | None = None,
    systems: ReusedFactor | None = None,
) -> Solution:
    """The fastest algorithm for this quadratic and penalty.

    Where H is a matrix: Newton's method in the variational weights, for the nuclear norm at small beta after a few
    iterations of ADMM, which costs less where it converges; ADMM for other penalties. Where H is only known by
    products: accelerated proximal gradient.

    Args:
        quadratic: f.
        penalty: R.
        beta: its weight; at or above `beta_max` the answer is zero at once, at 0 that of least norm.
        tolerance: relative duality gap to stop at.
        initial: (G, d, m), a solution for a beta nearby.
        max_iterations: of the algorithm; None for its own default.
        systems: of this quadratic; what an earlier solution left there is used again, for the group lasso.

    Raises:
        ValueError: beta < 0 or not finite, NaN or Inf in H or c, `initial` of another shape, `systems` of another
            quadratic.
    """
    check_beta(beta)
    _check(quadratic, initial)
    if beta >= beta_max(quadratic, penalty):
        zero = torch.zeros_like(quadratic.linear)
        certificate = certify(quadratic, penalty, beta, zero, zero)
        return Solution(zero, beta, certificate, 0, certificate.relative_gap <= tolerance)
    limit = {} if max_iterations is None else {"max_iterations": max_iterations}
    if isinstance(quadratic, DenseQuadratic):
        if beta == 0:
            return least_squares(quadratic)
        if isinstance(penalty, GroupLasso):
            start = None if initial is None else initial.flatten(1).norm(dim=1) / beta
            return variational_newton(
                quadratic, beta, start=start, initial=initial, tolerance=tolerance, systems=systems, **limit
            )
        if isinstance(penalty, NuclearNorm):
            return _nuclear(quadratic, beta, tolerance, initial, limit)
        return admm(quadratic, penalty, beta, tolerance=tolerance, initial=initial, **limit)
    return proximal_gradient(quadratic, penalty, beta, tolerance=tolerance, initial=initial, **limit)


def _nuclear(
    quadratic: DenseQuadratic, beta: float, tolerance: float, initial: Tensor | None, limit: dict[str, int]
) -> Solution:
    tried = 0
    if beta < RIDGE_START * beta_max(quadratic, NuclearNorm()) and not limit:
        first = admm(quadratic, NuclearNorm(), beta, tolerance=tolerance, initial=initial, max_iterations=ADMM_FIRST)
        if first.converged:
            return first
        initial, tried = first.weights, first.iterations
    found = nuclear_newton(quadratic, beta, initial=initial, tolerance=tolerance, **limit)
    return replace(found, iterations=tried + found.iterations)


def _check(quadratic: Quadratic, initial: Tensor | None) -> None:
    finite = bool(torch.isfinite(quadratic.linear).all())
    if isinstance(quadratic, DenseQuadratic):
        # A sum is finite only if all its terms are.
        finite = finite and bool(torch.isfinite(quadratic.matrix.sum()))
    if not finite:
        raise ValueError("quadratic: NaN or Inf in H or c")
    if initial is not None and initial.shape != quadratic.linear.shape:
        raise ValueError(f"initial: expected {tuple(quadratic.linear.shape)}, found {tuple(initial.shape)}")


def solve_path(
    quadratic: Quadratic,
    penalty: Penalty,
    betas: Sequence[float] | None = None,
    *,
    tolerance: float = 1e-5,
) -> Iterator[Solution]:
    """Yield the solution at each beta, started where the ones before point to; the data are not touched again.

    Args:
        quadratic: f; accumulated once, it serves every beta.
        penalty: R.
        betas: decreasing; 20 values from beta_max to beta_max / 1000 if None.
        tolerance: relative duality gap to stop at, for each.

    Raises:
        ValueError: betas that do not decrease, or as `solve`.
    """
    if betas is None:
        betas = geometric_betas(beta_max(quadratic, penalty), 1e-3, 20)
    if any(later >= earlier for earlier, later in pairwise(betas)):
        raise ValueError("betas: expected a decreasing sequence")
    systems = ReusedFactor(quadratic) if isinstance(quadratic, DenseQuadratic) else None
    found: list[Solution] = []
    for beta in betas:
        initial = _ahead(found, beta)
        found = [*found[-1:], solve(quadratic, penalty, beta, tolerance=tolerance, initial=initial, systems=systems)]
        yield found[-1]


def _ahead(found: Sequence[Solution], beta: float) -> Tensor | None:
    """Weights at `beta` as the last one or two solutions of a path foretell them.

    Between the values at which groups enter, W is nearly linear in beta, as that of the lasso exactly is.
    """
    if not found or not found[-1].active_groups or beta == 0:
        return None
    last = found[-1]
    if len(found) == 1:
        return last.weights * (beta / last.beta)
    before = found[-2]
    length = min((last.beta - beta) / (before.beta - last.beta), LONGEST)
    ahead = last.weights + length * (last.weights - before.weights)
    kept = (ahead * last.weights).sum((1, 2), keepdim=True) > 0
    return torch.where(kept, ahead, 0.0)
