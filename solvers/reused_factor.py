r"""Ridge solutions in groups, ``argmin_W f(W) + sum_g ||W_g||^2 / (2 t_g)``, for many t from few Cholesky factors.

With T the diagonal of t_g the solution is ``M c``, ``M = (H + T^{-1})^{-1}`` on the groups of t_g > 0. A factor of
``I + T_0^{1/2} H T_0^{1/2}`` at a T_0 nearby is a preconditioner whose condition number is at most the range of
t / t_0. An iteration with it takes N^2 operations instead of N^3 / 3. Factors and iterations are in single precision,
which takes a third of the time; residuals are taken in double precision between them (iterative refinement: Higham,
Accuracy and Stability of Numerical Algorithms, 2nd ed., chapter 12), so that the solution has the digits asked for.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .quadratics import DenseQuadratic

# Systems of up to so many rows are factored anew, in double precision, for every t: that takes a millisecond or two.
EXACT_SIDE = 400
# Factors are renewed where a t / t_0 leaves this range, or where so many iterations do not suffice.
FARTHEST = 6.0
MOST_ITERATIONS = 30
# What a residual may fall by between products in double precision.
SINGLE_REDUCTION = 1e-4

# (W, c - HW) -> the largest ||(c - HW)_g - W_g / t_g|| that will do; Inf if W will do whatever it is.
Allowed = Callable[[Tensor, Tensor], float]


@dataclass(frozen=True)
class GroupFactor:
    """Cholesky factor of ``I + T_0^{1/2} H T_0^{1/2}`` on some groups.

    Attributes:
        groups: which, (a,).
        t: t_0 of each, (a,) > 0, float64.
        lower: the factor, (a d, a d), float32 or float64.
    """

    groups: Tensor
    t: Tensor
    lower: Tensor

    def half(self, columns: Tensor) -> Tensor:
        """``L^-1 T_0^{1/2} V`` in the precision of L: (a, d, k) -> (a d, k)."""
        scaled = (columns * self.t.sqrt().view(-1, 1, 1)).flatten(0, 1).to(self.lower)
        return torch.linalg.solve_triangular(self.lower, scaled, upper=False)

    def back(self, half: Tensor) -> Tensor:
        """``T_0^{1/2} L^-T Z``: (a d, k) -> (a, d, k) float64; of `half` that is M(T_0) V."""
        solved = torch.linalg.solve_triangular(self.lower.T, half, upper=True).double()
        return solved.view(len(self.t), -1, half.shape[1]) * self.t.sqrt().view(-1, 1, 1)


@dataclass(frozen=True)
class RidgePoint:
    """A ridge solution in groups.

    Attributes:
        t: (G,) >= 0.
        weights: W, (G, d, m).
        residual: c - HW, (G, d, m).
        value: ``f(W) - tau / 2 + sum_g ||W_g||^2 / (2 t_g)``; Inf where ``I + T^{1/2} H T^{1/2}`` has no factor, -Inf
            where the solution was left unfinished since W would do.
        factor: one for these groups, at this t or nearby; None without groups.
    """

    t: Tensor
    weights: Tensor
    residual: Tensor
    value: float
    factor: GroupFactor | None


class ReusedFactor:
    """Ridge solutions at one t after another with the factor of an earlier one, as long as it serves.

    Args:
        quadratic: f with H as a matrix.
        exact_side: systems of more rows than this reuse factors.

    Attributes:
        factorizations: of systems of more than `exact_side` rows so far.
    """

    def __init__(self, quadratic: DenseQuadratic, exact_side: int = EXACT_SIDE) -> None:
        self.quadratic, self.exact_side = quadratic, exact_side
        self.factorizations = 0
        self._unit = max(quadratic.mean_curvature, 1e-300)
        self._single: Tensor | None = None
        self._factor: GroupFactor | None = None

    def solve(self, t: Tensor, start: Tensor | None, allowed: Allowed) -> RidgePoint:
        """The ridge solution at t.

        Args:
            t: (G,) >= 0.
            start: W to start from, (G, d, m), where a factor is reused.
            allowed: how exact it has to be.
        """
        linear = self.quadratic.linear
        groups = t.nonzero().squeeze(1)
        if len(groups) == 0:
            return RidgePoint(t, torch.zeros_like(linear), linear, 0.0, None)
        if len(groups) * linear.shape[1] > self.exact_side:
            for factor in (self._factor, None):
                if factor is not None and not _serves(factor, groups, t):
                    continue
                suited = self._renewed(groups, t) if factor is None else factor
                found = None if suited is None else self._refined(t, suited, start, allowed)
                if found is not None:
                    return found
        return self._exactly(t, groups)

    def forget(self) -> None:
        """Renew the factor at the next t."""
        self._factor = None

    def _exactly(self, t: Tensor, groups: Tensor) -> RidgePoint:
        linear = self.quadratic.linear
        weights = torch.zeros_like(linear)
        self.factorizations += len(groups) * linear.shape[1] > self.exact_side
        factor = _factored(self.quadratic.matrix, linear.shape[1], groups, t[groups])
        if factor is None:  # H is indefinite by rounding, and t so large that it shows
            return RidgePoint(t, weights, linear, math.inf, None)
        weights[groups] = factor.back(factor.half(linear[groups]))
        residual = linear - self.quadratic.multiply(weights)
        return RidgePoint(t, weights, residual, -_dot(linear, weights) / 2, factor)

    def _renewed(self, groups: Tensor, t: Tensor) -> GroupFactor | None:
        self.factorizations += 1
        features = self.quadratic.linear.shape[1]
        self._factor = _factored(self._single_matrix(), features, groups, t[groups], self._unit)
        return self._factor

    def _single_matrix(self) -> Tensor:
        """H over its mean curvature, float32."""
        if self._single is None:
            self._single = (self.quadratic.matrix / self._unit).float()
        return self._single

    def _refined(self, t: Tensor, factor: GroupFactor, start: Tensor | None, allowed: Allowed) -> RidgePoint | None:
        """Conjugate gradients in single precision until the residual will do; None where they do not get there."""
        linear, groups = self.quadratic.linear, factor.groups
        inverse = (1 / t[groups]).view(-1, 1, 1)
        weights = torch.zeros_like(linear)
        weights[groups] = factor.back(factor.half(linear[groups])) if start is None else start[groups]
        left, last = MOST_ITERATIONS, math.inf
        while True:
            residual = linear - self.quadratic.multiply(weights)
            own = residual[groups] - weights[groups] * inverse
            largest = float(own.flatten(1).norm(dim=1).max())
            enough = allowed(weights, residual)
            if largest <= enough:
                value = -(_dot(linear, weights) + _dot(own, weights[groups])) / 2 if enough < math.inf else -math.inf
                return RidgePoint(t, weights, residual, value, factor)
            if not largest < last / 2 or left <= 0:
                return None
            wanted = max(enough / largest / 2, SINGLE_REDUCTION)
            move, used = self._conjugate_gradients(t[groups], factor, own / largest, wanted, left)
            weights[groups] += largest * move
            left, last = left - used, largest

    def _conjugate_gradients(
        self, t: Tensor, factor: GroupFactor, target: Tensor, wanted: float, most: int
    ) -> tuple[Tensor, int]:
        """M times `target` (a, d, m) until no group of what is left has a norm above `wanted`; iterations taken.

        In the unknowns ``T^{-1/2} W``, in which the system is ``I + T^{1/2} H T^{1/2}``.
        """
        root = (self._unit * t).sqrt().float().view(-1, 1, 1)
        ratio = (factor.t / t).sqrt().float().view(-1, 1, 1)
        spread = root.new_zeros(self.quadratic.linear.shape)
        rows = spread.flatten(0, 1)

        def image(direction: Tensor) -> Tensor:
            spread[factor.groups] = root * direction
            product = (rows.T @ self._single_matrix()).T.reshape(spread.shape)
            return direction + root * product[factor.groups]

        def preconditioned(left: Tensor) -> Tensor:
            half = torch.linalg.solve_triangular(factor.lower, (ratio * left).flatten(0, 1), upper=False)
            return ratio * torch.linalg.solve_triangular(factor.lower.T, half, upper=True).view_as(left)

        left = root * target.float()
        found, direction, energy = torch.zeros_like(left), torch.zeros_like(left), 1.0
        bound = wanted * root.flatten()
        used = 0
        while used < most and not bool((left.flatten(1).norm(dim=1) <= bound).all()):
            used += 1
            near = preconditioned(left)
            before, energy = energy, _dot(left, near)
            direction = near + energy / before * direction
            moved = image(direction)
            length = energy / max(_dot(direction, moved), 1e-37)
            found += length * direction
            left -= length * moved
        return (root * found).double() / self._unit, used


def _dot(left: Tensor, right: Tensor) -> float:
    return float(torch.dot(left.flatten(), right.flatten()))


def _serves(factor: GroupFactor, groups: Tensor, t: Tensor) -> bool:
    """Whether a factor is for these groups, and for a t not too far from this one."""
    if not torch.equal(factor.groups, groups):
        return False
    ratio = t[groups] / factor.t
    return float(ratio.max()) <= FARTHEST and float(ratio.min()) >= 1 / FARTHEST


def _factored(matrix: Tensor, features: int, groups: Tensor, t: Tensor, unit: float = 1.0) -> GroupFactor | None:
    """The factor at t (a,), of a matrix that is H over `unit`; None where there is none."""
    root = (unit * t).sqrt().to(matrix)
    count = len(matrix) // features
    blocks = matrix.view(count, features, count, features)
    if len(groups) < count:
        blocks = blocks.index_select(0, groups).index_select(2, groups)
    system = (blocks * root.view(-1, 1, 1, 1)).mul_(root.view(1, 1, -1, 1)).view(len(t) * features, -1)
    system.diagonal().add_(1)
    lower, failed = torch.linalg.cholesky_ex(system)
    return None if bool(failed) else GroupFactor(groups, t, lower)
