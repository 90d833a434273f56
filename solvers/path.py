"""Solutions for a decreasing sequence of beta, each started from the one before."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch

from .admm import admm
from .certificates import beta_max, certify
from .penalties import Penalty
from .proximal_gradient import proximal_gradient
from .quadratics import DenseQuadratic, Quadratic
from .solution import Solution


def geometric_betas(largest: float, ratio: float, count: int) -> list[float]:
    """`count` values from ``largest`` down to ``largest * ratio``, equally spaced in the logarithm.

    >>> geometric_betas(1.0, 0.01, 3)
    [1.0, 0.1, 0.01]
    """
    if not (largest > 0 and 0 < ratio < 1 and count >= 2):
        raise ValueError(f"betas: expected largest > 0, 0 < ratio < 1, count >= 2, found {largest}, {ratio}, {count}")
    return [largest * ratio ** (k / (count - 1)) for k in range(count)]


def solve(
    quadratic: Quadratic, penalty: Penalty, beta: float, *, tolerance: float = 1e-5, **options: object
) -> Solution:
    """The fastest algorithm for this quadratic: ADMM where H is a matrix, else proximal gradient.

    Args:
        quadratic: f.
        penalty: R.
        beta: its weight; at or above `beta_max` the answer is zero at once.
        tolerance: relative duality gap to stop at.
        options: passed to the algorithm (`initial`, `max_iterations`, `check_every`).
    """
    if beta >= beta_max(quadratic, penalty):
        zero = torch.zeros_like(quadratic.linear)
        certificate = certify(quadratic, penalty, beta, zero, zero)
        return Solution(zero, beta, certificate, 0, certificate.relative_gap <= tolerance)
    if isinstance(quadratic, DenseQuadratic) and beta > 0:
        return admm(quadratic, penalty, beta, tolerance=tolerance, **options)  # type: ignore[arg-type]
    return proximal_gradient(quadratic, penalty, beta, tolerance=tolerance, **options)  # type: ignore[arg-type]


def solve_path(
    quadratic: Quadratic,
    penalty: Penalty,
    betas: Sequence[float] | None = None,
    *,
    tolerance: float = 1e-5,
) -> Iterator[Solution]:
    """Yield the solution at each beta, warm-started; the data are not touched again.

    Args:
        quadratic: f; accumulated once, it serves every beta.
        penalty: R.
        betas: decreasing; 20 values from beta_max to beta_max / 1000 if None.
        tolerance: relative duality gap to stop at, for each.
    """
    if betas is None:
        betas = geometric_betas(beta_max(quadratic, penalty), 1e-3, 20)
    if any(later >= earlier for earlier, later in pairwise(betas)):
        raise ValueError("betas: expected a decreasing sequence")
    previous: Solution | None = None
    for beta in betas:
        warm = previous.weights if previous is not None and previous.active_groups else None
        previous = solve(quadratic, penalty, beta, tolerance=tolerance, initial=warm)
        yield previous
