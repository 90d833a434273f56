"""Accelerated proximal gradient with adaptive restart and step: needs only products H W."""

import torch
from torch import Tensor

from .certificates import certify, check_beta
from .penalties import Penalty
from .quadratics import Quadratic
from .solution import Solution


def proximal_gradient(
    quadratic: Quadratic,
    penalty: Penalty,
    beta: float,
    *,
    initial: Tensor | None = None,
    tolerance: float = 1e-5,
    max_iterations: int = 20_000,
    check_every: int = 10,
) -> Solution:
    """``min_W f(W) + beta R(W)`` by FISTA, one product H W an iteration.

    Momentum restarts when it points uphill (O'Donoghue and Candes, Found Comput Math 15:715 (2015),
    gradient scheme). The step is the inverse of a curvature L found by power iteration and raised
    whenever ``<D, H D> > L ||D||^2`` for the step D just taken, which costs nothing since H D is known.
    Beck and Teboulle, SIAM J Imaging Sci 2:183 (2009).

    Args:
        quadratic: f, dense or streamed.
        penalty: R.
        beta: weight of R, >= 0.
        initial: (G, d, m) starting point, zero if None.
        tolerance: stop at this relative duality gap.
        max_iterations: most products with H.
        check_every: iterations between certificates.
    """
    check_beta(beta)
    weights = torch.zeros_like(quadratic.linear) if initial is None else initial.double().clone()
    product = quadratic.multiply(weights)
    curvature = largest_curvature(quadratic)
    point, point_product, momentum = weights, product, 1.0
    certificate = certify(quadratic, penalty, beta, weights, product)
    iteration = 0
    while certificate.relative_gap > tolerance and iteration < max_iterations and curvature > 0:
        iteration += 1
        step = penalty.prox(point - (point_product - quadratic.linear) / curvature, beta / curvature)
        step_product = quadratic.multiply(step)
        move, move_product = step - point, step_product - point_product
        needed = float((move * move_product).sum()) / max(float((move**2).sum()), 1e-300)
        if needed > curvature * (1 + 1e-9):
            curvature = 1.05 * needed
            continue
        if float((move * (step - weights)).sum()) < 0:
            momentum = 1.0
        following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead = (momentum - 1) / following
        point = step + ahead * (step - weights)
        point_product = step_product + ahead * (step_product - product)
        weights, product, momentum = step, step_product, following
        if iteration % check_every == 0:
            certificate = certify(quadratic, penalty, beta, weights, product)
    certificate = certify(quadratic, penalty, beta, weights, product)
    return Solution(weights, beta, certificate, iteration, certificate.relative_gap <= tolerance)


def largest_curvature(quadratic: Quadratic, *, iterations: int = 20, seed: int = 0) -> float:
    """Largest eigenvalue of H by power iteration, from below; 0 for H = 0.

    Args:
        quadratic: gives the products.
        iterations: products with H.
        seed: of the random start.
    """
    rng = torch.Generator().manual_seed(seed)
    vector = torch.randn(quadratic.linear.shape, generator=rng, dtype=torch.float64).to(quadratic.linear.device)
    value = 0.0
    for _ in range(iterations):
        vector = vector / vector.norm()
        image = quadratic.multiply(vector)
        value = float((vector * image).sum())
        if value <= 0:
            return 0.0
        vector = image
    return value
