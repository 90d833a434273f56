r"""Group lasso on H as a smooth problem in one number a group: Newton's method with working sets.

With ``||W|| = min_{t > 0} ||W||^2 / (2 beta t) + beta t / 2`` the program becomes a minimum over t >= 0 of

.. math:: \varphi(t) = \min_W \tfrac12 \langle W, HW\rangle - \langle c, W\rangle
          + \sum_g \tfrac{\|W_g\|^2}{2 t_g} + \tfrac{\beta^2}{2} \sum_g t_g ,

which is convex and smooth up to the boundary. Its minimizer over W is ``W_g = t_g R_g`` with
``R = c - HW = (I + HT)^{-1} c``, its gradient ``(beta^2 - ||R_g||^2) / 2`` and its Hessian
``<R_g, ((H^{-1} + T)^{-1})_{gh} R_h>``: G unknowns however many features there are, and ``t_g = 0`` removes a group.
The variational form is that of multiple kernel learning (Bach, Jenatton, Mairal and Obozinski, Found Trends Mach
Learn 4:1 (2012), section 5.1).

Strong correlation of features, which makes first-order methods and ADMM slow, does not enter the number of
iterations: about ten from nothing to a relative gap of 1e-10, two from a neighbouring beta. Ridge solutions W of a t
near the one before come from the factor of `reused_factor`, as does the Hessian.
"""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from .certificates import beta_max, certify, check_beta
from .newton_descent import FULL_LENGTH, SMALLEST_STEP, descend, shortened
from .penalties import GroupLasso
from .quadratics import DenseQuadratic
from .reused_factor import ReusedFactor, RidgePoint
from .solution import Solution

# Groups that join the working set at a time, at least; more when more are active already.
NEWCOMERS = 4
# Below this share of beta_max nearly all groups are active, and a ridge solution is a better start than none.
RIDGE_START = 0.02
RIDGE = 1e-3
# What an inexact ridge solution may add to the gap, in shares of the tolerance.
ACCURACY = 0.05
# .. and of how far from beta the norms of residuals are.
FORCING = 0.05
# A step that leaves more of the gap than this has a Hessian that comes from too far away, if not from here.
SLOW = 0.2
SLOW_STEPS = 3


@dataclass(frozen=True)
class _Point:
    """phi at t, and the ridge solution W there with R = c - HW."""

    ridge: RidgePoint
    value: float

    @property
    def t(self) -> Tensor:
        return self.ridge.t

    @property
    def weights(self) -> Tensor:
        return self.ridge.weights

    @property
    def residual(self) -> Tensor:
        return self.ridge.residual

    @property
    def norms(self) -> Tensor:
        return self.residual.flatten(1).norm(dim=1)


@dataclass(frozen=True)
class _Program:
    """What stays the same from step to step."""

    systems: ReusedFactor
    beta: float
    tolerance: float

    def at(self, t: Tensor, start: Tensor | None = None) -> _Point:
        """phi at t, as exactly as it matters; `start` is near its W."""
        ridge = self.systems.solve(t, start, partial(self._allowed, t))
        return _Point(ridge, ridge.value + self.beta**2 * float(t.sum()) / 2)

    def _allowed(self, t: Tensor, weights: Tensor, residual: Tensor) -> float:
        """What ``||R_g - W_g / t_g||`` may be: anything once W is certified."""
        quadratic, beta = self.systems.quadratic, self.beta
        certificate = certify(quadratic, GroupLasso(), beta, weights, quadratic.linear - residual)
        if certificate.relative_gap <= self.tolerance:
            return float("inf")
        # A group that is off by r adds r ||W_g|| to the gap.
        least = ACCURACY * self.tolerance * quadratic.tau / 2 / max(beta * float(t.sum()), 1e-300)
        norms = residual.flatten(1).norm(dim=1)
        away = torch.where(t > 0, (norms - beta).abs(), (norms - beta).clamp_min(0))
        return max(min(least, ACCURACY * beta), FORCING * float(away.max()))


def variational_newton(
    quadratic: DenseQuadratic,
    beta: float,
    *,
    start: Tensor | None = None,
    initial: Tensor | None = None,
    tolerance: float = 1e-5,
    max_iterations: int = 100,
    systems: ReusedFactor | None = None,
) -> Solution:
    """``min_W f(W) + beta sum_g ||W_g||_F`` by projected Newton steps in t, a ridge problem each.

    Steps solve the quadratic model with t >= 0 exactly. Where ``||R_g|| > beta`` the model is made of
    ``1 / ||R_g||``, nearly linear in t as in trust-region methods (Hebden; More and Sorensen, SIAM J Sci Stat
    Comput 4:553 (1983)), instead of ``||R_g||^2``; the plain model follows if that does not descend.

    Args:
        quadratic: f with H as a matrix.
        beta: weight of the penalty, > 0.
        start: t (G,) >= 0 to start from, ``||W_g|| / beta`` of a neighbouring solution.
        initial: W (G, d, m) near the ridge solution at `start`, if known.
        tolerance: stop at this relative duality gap.
        max_iterations: most Newton steps.
        systems: ridge solutions of this quadratic; its last factor is used, and left for the next call.

    Raises:
        ValueError: beta not a positive finite number, a start that is not (G,) and >= 0, or systems of another f.
    """
    check_beta(beta)
    if beta == 0:
        raise ValueError("beta: expected a positive number, found 0")
    if systems is not None and systems.quadratic is not quadratic:
        raise ValueError("systems: expected those of this quadratic, found those of another")
    program = _Program(systems or ReusedFactor(quadratic), beta, tolerance)
    point = program.at(_checked_start(program, start), initial)
    if point.value == float("inf"):
        point = program.at(torch.zeros_like(point.t))
        if quadratic.indefinite:  # phi is not convex: there is nothing to descend to
            max_iterations = 0

    last, slow = float("inf"), 0

    def step(point: _Point, gap: float) -> _Point | None:
        nonlocal last, slow, program
        slow = slow + 1 if gap > SLOW * last else 0
        if slow == SLOW_STEPS:  # nor is it the distance: single precision does not do
            program = replace(program, systems=ReusedFactor(quadratic, len(quadratic.matrix)))
        elif slow:
            program.systems.forget()
        last = gap
        return _step(program, point)

    return descend(quadratic, GroupLasso(), beta, point, step, tolerance, max_iterations)


def _checked_start(program: _Program, start: Tensor | None) -> Tensor:
    quadratic, beta = program.systems.quadratic, program.beta
    linear = quadratic.linear
    if start is None:
        if beta >= RIDGE_START * beta_max(quadratic, GroupLasso()):
            return linear.new_zeros(len(linear))
        level = 1 / (RIDGE * max(quadratic.mean_curvature, 1e-300))
        ridge = program.systems.solve(linear.new_full(linear.shape[:1], level), None, lambda *_: float("inf"))
        return ridge.weights.flatten(1).norm(dim=1) / beta
    if start.shape != linear.shape[:1] or not bool((start >= 0).all()):
        raise ValueError(f"start: expected ({len(linear)},) numbers >= 0, found {tuple(start.shape)}")
    return start.to(linear)


def _step(program: _Program, point: _Point) -> _Point | None:
    """The next point, lower in phi; None where rounding allows none."""
    beta = program.beta
    working = _working_set(point, beta)
    model = _model(program.systems.quadratic, point, working)
    known, norms = point.t[working], point.norms[working]
    slope = (beta**2 - norms**2) / 2
    secular = torch.where(norms > beta, norms**2 * (1 - norms / beta), slope)
    for gradient, shortest in ((secular, FULL_LENGTH), (slope, SMALLEST_STEP)):
        move = _nonnegative_minimum(model.hessian, gradient, known) - known
        along = partial(_along, program, point, model, move)
        nearer = shortened(along, point, float((slope * move).sum()), shortest)
        if nearer is not None:
            return nearer
    return None


def _along(program: _Program, point: _Point, model: "_Model", move: Tensor, length: float) -> _Point:
    """The point at `length` times the move of t on the working set; W is foretold to first order."""
    t = point.t.clone()
    t[model.working] = (t[model.working] + length * move).clamp_min(0)
    residual = point.residual[model.working]
    residual[: len(model.change)] -= length * (model.change @ move)
    initial = torch.zeros_like(point.residual)
    initial[model.working] = t[model.working].view(-1, 1, 1) * residual
    return program.at(t, initial)


def _working_set(point: _Point, beta: float) -> Tensor:
    """Active groups, then of those that violate ||R_g|| <= beta the ones that do so most."""
    norms = point.norms
    active = point.t.nonzero().squeeze(1)
    violating = ((point.t == 0) & (norms > beta)).nonzero().squeeze(1)
    order = norms[violating].argsort(descending=True)
    newcomers = violating[order[: max(NEWCOMERS, len(active))]]
    return torch.cat([active, newcomers])


@dataclass(frozen=True)
class _Model:
    """phi near a point, on its working set of w groups, a of which are active and come first.

    Attributes:
        working: the groups, (w,).
        hessian: (w, w).
        change: by what R_g falls on the active groups for a change of each t, (a, d, m, w).
    """

    working: Tensor
    hessian: Tensor
    change: Tensor


def _model(quadratic: DenseQuadratic, point: _Point, working: Tensor) -> _Model:
    """The Hessian ``<R_g, K_gh R_h>``, ``K = (H^-1 + T)^-1``, and ``K_gh R_h`` for the active groups.

    With ``B = I + T^1/2 H T^1/2`` on the active groups a, and newcomers n, at which T = 0: ``K_aa =
    T^-1/2 (I - B^-1) T^-1/2``, ``K_na = H_na T^1/2 B^-1 T^-1/2`` and ``K_nn = H_nn - H_na T^1/2 B^-1 T^1/2 H_an``,
    forms that lose no digits however large T is. All of them at the T_0 of the factor; `_carried` goes on to T.
    """
    factor, (_, features, outputs) = point.ridge.factor, point.residual.shape
    count = 0 if factor is None else len(factor.groups)
    newcomers, fresh = working[count:], point.residual[working[count:]]
    hessian = point.t.new_zeros(len(working), len(working))
    columns = point.residual.new_zeros(count, features, outputs, len(working))
    if len(newcomers):
        images = _images(quadratic, newcomers, fresh)
        hessian[count:, count:] = torch.einsum("gdm,gdmh->gh", fresh, images[newcomers])
        columns[:, :, :, count:] = -images[working[:count]]
    if factor is None:
        return _Model(working, (hessian + hessian.T) / 2, columns)
    index = torch.arange(count, device=columns.device)
    over = factor.t.view(-1, 1, 1)
    own = point.residual[factor.groups] / over
    columns[index, :, :, index] = own
    hessian[index, index] = (own.square() * over).sum((1, 2))
    half = factor.half(columns.flatten(2))
    by_factor = half.reshape(-1, len(working)).double()
    hessian = hessian - by_factor.T @ by_factor
    change = -factor.back(half).view_as(columns) / over.unsqueeze(3)
    change[index, :, :, index] += own
    hessian = _carried(hessian, change, factor.t, point.t[factor.groups])
    return _Model(working, (hessian + hessian.T) / 2, change)


def _carried(hessian: Tensor, change: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """The Hessian at T from that at T_0 and K_0 R.

    ``K = K_0^1/2 (I + X)^-1 K_0^1/2`` with ``X = K_0^1/2 (T - T_0) K_0^1/2``. Eigenvalues of I + X are within the
    range of t / t_0 and 1, since K_0 is at most T_0^-1; there ``1 / x`` is replaced by the straight line through it
    at the two Chebyshev nodes.
    """
    ratio = after / before
    low, high = min(1.0, float(ratio.min())), max(1.0, float(ratio.max()))
    if low == high:
        return hessian
    moved = change * (after - before).view(-1, 1, 1, 1)
    curved = moved.flatten(0, 2).T @ change.flatten(0, 2)
    middle, reach = (low + high) / 2, (high - low) / 8**0.5
    nodes = middle - reach, middle + reach
    return ((sum(nodes) - 1) * hessian - curved) / (nodes[0] * nodes[1])


def _images(quadratic: DenseQuadratic, groups: Tensor, residual: Tensor) -> Tensor:
    """H times the residuals of one group at a time: (n, d, m) -> (G, d, m, n)."""
    count, features, outputs = residual.shape
    matrix = quadratic.matrix.view(-1, len(quadratic.linear), features)
    columns = [matrix[:, group] @ part for group, part in zip(groups.tolist(), residual, strict=True)]
    return torch.stack(columns, 2).view(-1, features, outputs, count)


def _nonnegative_minimum(hessian: Tensor, gradient: Tensor, t: Tensor) -> Tensor:
    """``argmin_{s >= 0} 1/2 <s - t, Q (s - t)> + <g, s - t>``, as non-negative least squares."""
    values, vectors = torch.linalg.eigh(hessian.cpu())
    root = values.clamp_min(1e-13 * max(float(values[-1]), 1e-300)).sqrt()
    design = (vectors * root).T
    target = (vectors.T @ (hessian @ t - gradient).cpu()) / root
    columns = design.norm(dim=0)
    try:
        scaled, _ = nnls((design / columns).numpy(), target.numpy(), maxiter=50 * len(t) + 100)
    except RuntimeError:  # it cycled: a Newton step cut off at zero
        scaled = np.maximum((vectors @ (target / root) * columns).numpy(), 0)
    return (torch.from_numpy(scaled) / columns).to(t)
