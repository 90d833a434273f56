"""Proximal quasi-Newton: few products with an H that is expensive to multiply and similar to a known matrix."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .admm import admm
from .certificates import certify, check_beta
from .penalties import Penalty
from .processes import ALONE, Processes
from .quadratics import Quadratic, ScalableQuadratic
from .solution import Solution

# The inner problem is solved to this share of the gap that is left.
INNER_SHARE = 1e-2
INNER_ITERATIONS = 500
# .. and, where it then is no descent, to so much smaller ones.
INNER_ATTEMPTS, INNER_TIGHTENING = 4, 1e-2
FULL_STEP_SHARE = 0.9
# Products in a row without gain, after which rounding in them is what is left of the gap.
STALLED = 4
# Gains: of the objective relative to that at zero, and of the gap and the dual norm relative to themselves. At small
# beta the gap stays near that of no dual point at all until the dual norm has fallen to some multiple of beta.
LEAST_DESCENT, LEAST_NARROWING = 1e-7, 0.02
GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class UpdatedQuadratic:
    """A quadratic with a low-rank change of its Hessian, ``M = M_0 + sum_j s_j u_j u_j^T``.

    M_0 acts on every output alike; the u_j couple them.

    Attributes:
        base: M_0, of which the Hessian alone is used.
        vectors: u, (r, G, d, m) float64.
        signs: s, (r,) of +1 and -1.
        linear: c, (G, d, m) float64.
        tau: twice the objective at zero.
    """

    base: ScalableQuadratic
    vectors: Tensor
    signs: Tensor
    linear: Tensor
    tau: float

    def multiply(self, weights: Tensor) -> Tensor:
        """M W."""
        amounts = self.signs * (self.vectors.flatten(1) @ weights.flatten())
        return self.base.multiply(weights) + (amounts @ self.vectors.flatten(1)).view_as(weights)

    @property
    def mean_curvature(self) -> float:
        """Mean of the diagonal of M_0."""
        return self.base.mean_curvature

    def shifted_inverse(self, shift: float) -> Callable[[Tensor], Tensor]:
        """``R -> (M + shift I)^-1 R`` by the Woodbury identity."""
        of_base = self.base.shifted_inverse(shift)
        if len(self.vectors) == 0:
            return of_base
        # All vectors and outputs at once: they are just columns to M_0.
        columns = self.vectors.permute(1, 2, 0, 3)
        solved = of_base(columns.flatten(2)).view(columns.shape).permute(2, 0, 1, 3)
        flat = solved.flatten(1).contiguous()
        core = torch.diag(self.signs) + self.vectors.flatten(1) @ flat.T

        def inverse(rhs: Tensor) -> Tensor:
            amounts = torch.linalg.solve(core, flat @ rhs.flatten())
            return of_base(rhs) - (amounts @ flat).view_as(rhs)

        return inverse


def proximal_quasi_newton(
    quadratic: Quadratic,
    model: ScalableQuadratic | UpdatedQuadratic,
    penalty: Penalty,
    beta: float,
    *,
    initial: Tensor | None = None,
    product: Tensor | None = None,
    tolerance: float = 1e-5,
    max_iterations: int = 100,
    rounded: bool = True,
    processes: Processes = ALONE,
) -> tuple[Solution, UpdatedQuadratic]:
    """``min_W f(W) + beta R(W)``, one product H W an iteration, with the help of a matrix close to H.

    Each step minimizes the penalized model ``<grad f, D> + 1/2 <D, M D> + beta R(W + D)`` by `admm`, takes
    the exact best step along D, and teaches M the curvature just seen (BFGS: ``M D = H D`` from then on).
    Where the penalty is smooth these are the iterates of conjugate gradients preconditioned with M_0.
    Lee, Sun and Saunders, SIAM J Optim 24:1420 (2014); Nocedal and Wright, Numerical Optimization, eq. 6.19.

    Args:
        quadratic: f; every product may be a pass over the data.
        model: M_0, a matrix whose eigenvectors and relative eigenvalues are near those of H; its scale is
            found, its linear term not used. Or the M of an earlier call, to go on from.
        penalty: R.
        beta: weight of R, > 0.
        initial: (G, d, m) starting point, zero if None.
        product: H times it, if already known.
        tolerance: stop at this relative duality gap.
        max_iterations: most products with H, the first one aside; fewer where they no longer gain anything, since
            their rounding hides what is left.
        rounded: whether products are in single precision. If they are not, that the dual norm falls is a gain too,
            which rounding does not feign.
        processes: those that take part in each product; all of them call this.

    Returns:
        The solution, and M with all that was learnt.

    Raises:
        ValueError: beta not a positive finite number.
    """
    check_beta(beta)
    weights = torch.zeros_like(quadratic.linear) if initial is None else initial.double().clone()
    if product is None:
        product = quadratic.multiply(weights) if bool(weights.any()) else torch.zeros_like(weights)
    hessian = model if isinstance(model, UpdatedQuadratic) else _started(model, weights)
    certificate = certify(quadratic, penalty, beta, weights, product)
    iteration = 0
    # What decides on another product is agreed on.
    weights, (gap,) = processes.agree_on(weights, certificate.relative_gap)
    progress = _Progress(certificate.objective, gap, math.inf)
    while gap > tolerance and iteration < max_iterations and progress.idle < STALLED:
        gradient = product - quadratic.linear
        local = _expanded(hessian, quadratic, weights, product)
        nearer = _inner_solution(local, penalty, beta, weights, gradient, INNER_SHARE * gap * quadratic.tau / local.tau)
        move, _ = processes.agree_on(nearer - weights)
        image = quadratic.multiply(move)
        iteration += 1
        image, (curvature,) = processes.agree_on(image, float((move * image).sum()))
        if not curvature > 0:
            break
        step = _best_step(penalty, beta, weights, move, float((gradient * move).sum()), curvature)
        weights, product = weights + step * move, product + step * image
        certificate = certify(quadratic, penalty, beta, weights, product)
        weights, (gap, objective, dual_norm) = processes.agree_on(
            weights, certificate.relative_gap, certificate.objective, certificate.dual_norm
        )
        progress = progress.after(objective, gap, math.inf if rounded else dual_norm, quadratic.tau)
        hessian = _taught(hessian, move, image, curvature)
    return Solution(weights, beta, certificate, iteration, gap <= tolerance), hessian


@dataclass(frozen=True)
class _Progress:
    """The least objective, gap and dual norm so far, and how many steps in a row have improved none of them."""

    objective: float
    gap: float
    dual_norm: float
    idle: int = 0

    def after(self, objective: float, gap: float, dual_norm: float, tau: float) -> "_Progress":
        lower = objective < self.objective - LEAST_DESCENT * tau / 2
        narrower = gap < (1 - LEAST_NARROWING) * self.gap
        nearer = dual_norm < (1 - LEAST_NARROWING) * self.dual_norm
        idle = 0 if lower or narrower or nearer else self.idle + 1
        return _Progress(min(objective, self.objective), min(gap, self.gap), min(dual_norm, self.dual_norm), idle)


def _started(model: ScalableQuadratic, like: Tensor) -> UpdatedQuadratic:
    """M_0 without updates."""
    return UpdatedQuadratic(model, like.new_zeros(0, *like.shape), like.new_zeros(0), like, 0.0)


def _expanded(hessian: UpdatedQuadratic, quadratic: Quadratic, weights: Tensor, product: Tensor) -> UpdatedQuadratic:
    """The quadratic with Hessian M that has the gradient of f at W.

    Its constant, which only scales the inner gap, leaves it at its unpenalized minimum the value f(W): that
    of f itself would not do, since no data need exist that have this Hessian, gradient and value.
    """
    linear = hessian.multiply(weights) - product + quadratic.linear
    explained = float((linear * hessian.shifted_inverse(1e-7 * hessian.mean_curvature)(linear)).sum())
    value = quadratic.tau + float((weights * (product - 2 * quadratic.linear)).sum())
    return replace(hessian, linear=linear, tau=explained + max(value, 0.0))


def _inner_solution(
    local: UpdatedQuadratic, penalty: Penalty, beta: float, weights: Tensor, gradient: Tensor, tolerance: float
) -> Tensor:
    """A W in whose direction the objective decreases, near the minimum of the penalized model.

    The gap may be far larger than what W is from optimal by, where beta is small and the dual point is barely
    infeasible; then a minimum to a share of the gap may be no better than W, and has to be found more exactly.
    """
    before = float(penalty.value(weights))
    nearer = weights
    for _ in range(INNER_ATTEMPTS):
        nearer = admm(
            local, penalty, beta, initial=nearer, tolerance=tolerance, max_iterations=INNER_ITERATIONS
        ).weights
        change = float((gradient * (nearer - weights)).sum()) + beta * (float(penalty.value(nearer)) - before)
        if change < 0:
            break
        tolerance *= INNER_TIGHTENING
    return nearer


def _taught(hessian: UpdatedQuadratic, move: Tensor, image: Tensor, curvature: float) -> UpdatedQuadratic:
    """BFGS update with the pair D, H D; the first one sets the scale of M_0 as well."""
    modelled = hessian.multiply(move)
    if len(hessian.vectors) == 0:
        scale = curvature / float((move * modelled).sum())
        hessian, modelled = replace(hessian, base=hessian.base.scaled(scale)), modelled * scale
    expected = float((move * modelled).sum())
    pair = torch.stack([image / math.sqrt(curvature), modelled / math.sqrt(expected)])
    signs = hessian.signs.new_tensor([1.0, -1.0])
    return replace(hessian, vectors=torch.cat([hessian.vectors, pair]), signs=torch.cat([hessian.signs, signs]))


def _best_step(penalty: Penalty, beta: float, weights: Tensor, move: Tensor, slope: float, curvature: float) -> float:
    """``argmin_a a slope + a^2 / 2 curvature + beta R(W + a D)`` over a >= 0, by golden section.

    The full step is preferred where it gains nearly as much: it alone keeps the groups and singular values
    that the penalty has set to zero.
    """

    def value(step: float) -> float:
        return step * slope + step**2 / 2 * curvature + beta * float(penalty.value(weights + step * move))

    high = 1.0
    while value(2 * high) < value(high) and high < 2.0**20:
        high *= 2
    low, high = 0.0, 2 * high
    inner, outer = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    at_inner, at_outer = value(inner), value(outer)
    while high - low > 1e-6 * high:
        if at_inner < at_outer:
            high, outer, at_outer = outer, inner, at_inner
            inner = high - GOLDEN * (high - low)
            at_inner = value(inner)
        else:
            low, inner, at_inner = inner, outer, at_outer
            outer = low + GOLDEN * (high - low)
            at_outer = value(outer)
    best = (low + high) / 2
    at_zero, at_one = value(0.0), value(1.0)
    return 1.0 if at_zero - at_one >= FULL_STEP_SHARE * (at_zero - value(best)) else best
