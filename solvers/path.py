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
from .quadratics import SINGLE_ROUNDING, DenseQuadratic, IndefiniteError, Quadratic
from .reused_factor import ReusedFactor
from .solution import Solution
from .variational_newton import RIDGE_START, variational_newton

# Iterations of ADMM that cost about as much as two Newton steps.
ADMM_FIRST = 60
# Of the last step along a path, in beta, how much is gone on with at most.
LONGEST = 1.0
# What is added to an indefinite H, relative to its norm: as little as is enough.
STEADYING = (SINGLE_ROUNDING, 10 * SINGLE_ROUNDING, 100 * SINGLE_ROUNDING)


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

    An H whose products were rounded so that it is indefinite, which at small beta tells, is steadied: the solution is
    near the optimum, and seldom certified. More digits in H are what helps.

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
        IndefiniteError: H has eigenvalues below zero that rounding does not explain, and they matter.
    """
    check_beta(beta)
    _check(quadratic, initial)
    if beta >= beta_max(quadratic, penalty):
        zero = torch.zeros_like(quadratic.linear)
        certificate = certify(quadratic, penalty, beta, zero, zero)
        return Solution(zero, beta, certificate, 0, certificate.relative_gap <= tolerance)
    limit = {} if max_iterations is None else {"max_iterations": max_iterations}
    if not isinstance(quadratic, DenseQuadratic):
        return proximal_gradient(quadratic, penalty, beta, tolerance=tolerance, initial=initial, **limit)
    if beta == 0:
        return least_squares(quadratic)
    try:
        found = _dense(quadratic, penalty, beta, tolerance, initial, limit, systems)
        if found.converged or limit or not quadratic.indefinite:
            return found
    except IndefiniteError:
        pass
    # A convex program nearby; what its optimum is worth is measured on the one that was given.
    found = _dense(_convex(quadratic), penalty, beta, tolerance, initial, limit, None)
    certificate = certify(quadratic, penalty, beta, found.weights)
    return replace(found, certificate=certificate, converged=certificate.relative_gap <= tolerance)


def _convex(quadratic: DenseQuadratic) -> DenseQuadratic:
    """Steadied by as little as makes H positive definite.

    Raises:
        IndefiniteError: that is more than rounding explains.
    """
    for share in STEADYING:
        steady = quadratic.steadied(share)
        if not steady.indefinite:
            return steady
    raise IndefiniteError(
        f"quadratic: expected H positive semidefinite up to rounding, found an eigenvalue below {-STEADYING[-1]:g} of "
        "its norm"
    )


def _dense(
    quadratic: DenseQuadratic,
    penalty: Penalty,
    beta: float,
    tolerance: float,
    initial: Tensor | None,
    limit: dict[str, int],
    systems: ReusedFactor | None,
) -> Solution:
    if isinstance(penalty, GroupLasso):
        start = None if initial is None else initial.flatten(1).norm(dim=1) / beta
        return variational_newton(
            quadratic, beta, start=start, initial=initial, tolerance=tolerance, systems=systems, **limit
        )
    if isinstance(penalty, NuclearNorm):
        return _nuclear(quadratic, beta, tolerance, initial, limit)
    return admm(quadratic, penalty, beta, tolerance=tolerance, initial=initial, **limit)


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
