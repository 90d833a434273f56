r"""The cone-constrained program with any number of rows, by cutting planes on sufficient statistics.

.. math::
    \min_{w, z} \frac{1}{2n} \Big\| \sum_g A_g (w_g - z_g) - t \Big\|^2 + \beta \sum_g (\|w_g\| + \|z_g\|)
    \quad\text{s.t.}\quad C_g w_g \ge 0,\ C_g z_g \ge 0 .

The loss is known by H = A^T A / n, c = A^T t / n and tau = ||t||^2 / n. The program with few of the rows is a
relaxation, so its dual bound holds for the whole; a pass over all rows finds those that its solution violates, and
how far the solution must be pulled towards the inside of its cones to satisfy every one, which is the upper bound.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .cone_fits import quadratic_fit
from .cone_interior_point import ConeProgram, solve_cone_program, without_idle_groups
from .cone_rows import ConeRows
from .quadratics import DenseQuadratic

ROWS_PER_ROUND = 20
FIRST_TOLERANCE = 1e-3


@dataclass(frozen=True)
class CutSolution:
    """A point that satisfies every row, and a lower bound of the optimum.

    Attributes:
        w, z: (G, d) float64, zero where the penalty removed them.
        objective: there. bound: of the optimum. relative_gap: their distance over the objective at zero.
        proof: what the bound is computed from.
        rounds: passes over the rows after the first. newton_steps: of all relaxed programs.
        converged: whether the tolerance was reached.
    """

    w: Tensor
    z: Tensor
    objective: float
    bound: float
    relative_gap: float
    proof: "DualProof"
    rounds: int
    newton_steps: int
    converged: bool


@dataclass(frozen=True)
class DualProof:
    """A dual point: the residual at u (G, d), rows (G, r, d) and their multipliers a (2, G, r) >= 0.

    Feasible, and D(nu) <= P*, once scaled so that ||A_g^T nu + C_g^T a|| <= beta; see `cone_certificate`.
    """

    u: Tensor
    rows: Tensor
    multipliers: Tensor


def solve_by_cutting_planes(
    quadratic: DenseQuadratic,
    cones: ConeRows,
    interior: Tensor,
    beta: float,
    *,
    tolerance: float = 1e-5,
    max_rounds: int = 50,
) -> CutSolution:
    """Solve until the relative duality gap is at most `tolerance`.

    Args:
        quadratic: H, c (G, d, 1) and tau.
        cones: their rows, one pass over which is made a round.
        interior: (G, d), a direction strictly inside each cone, see `interior_directions`.
        beta: positive.
        tolerance: of the gap between a point that satisfies every row and the lower bound, over tau / 2.
        max_rounds: the result's relative_gap says what was reached.

    Raises:
        ValueError: more than one output, shapes that do not fit, NaN or Inf, beta <= 0, tau = 0, or a direction
            that is not inside its cone.
    """
    _check(quadratic, interior, beta)
    groups, d = interior.shape
    fit = quadratic_fit(quadratic.matrix, quadratic.linear[:, :, 0], quadratic.tau)
    at_zero = quadratic.tau / 2
    inside = inner_directions(cones, interior, 3 * d)
    inward, rows = inside.directions, inside.rows
    # With w = z the data are not met, and at this size the penalty is as large as the loss at zero.
    ball = at_zero / (2 * groups * beta) * inward.expand(2, -1, -1)
    point, objective, bound = torch.zeros_like(ball), at_zero, 0.0
    proof = DualProof(torch.zeros_like(inward), rows, torch.zeros(2, groups, rows.shape[1]).to(rows))
    steps = rounds = 0
    while True:
        program = ConeProgram(fit, rows, beta)
        gap = max((objective - bound) / at_zero, 0.0)
        if gap <= tolerance or rounds == max_rounds:
            break
        share = min(max(gap, 1e-6), 1.0) / 2
        start = (1 - share) * point + share * ball
        centring = (program.objective(start) - bound) / program.degree
        aim = max(tolerance / 4, min(FIRST_TOLERANCE, gap / 100)) * at_zero
        found = solve_cone_program(program, start, tolerance=aim, centring=centring)
        steps += found.iterations
        rounds += 1
        if found.bound > bound:
            bound, proof = found.bound, DualProof(found.u, rows, found.multipliers)
        lowest = cones.lowest(found.v.transpose(0, 1), inward, ROWS_PER_ROUND)
        candidate = inside.pulled(found.v, lowest.values[..., 0].T, found.v.norm(dim=-1))
        if program.objective(candidate) < objective:
            point, objective = candidate, program.objective(candidate)
        rows = torch.cat([rows, violated(lowest.values, lowest.rows)], 1)
    point = without_idle_groups(program, point)
    objective = program.objective(point)
    gap = max((objective - bound) / at_zero, 0.0)
    return CutSolution(point[0], point[1], objective, bound, gap, proof, rounds, steps, gap <= tolerance)


@dataclass(frozen=True)
class InnerDirections:
    """Directions u (G, d) strictly inside the cones, of norm one; margin (G,): how far along them rounding reaches.

    rows: (G, r, d), the lowest at the directions.
    """

    directions: Tensor
    margin: Tensor
    rows: Tensor

    def pulled(self, points: Tensor, lowest: Tensor, sizes: Tensor) -> Tensor:
        """Points (p, G, d) moved along u until no relative height (p, G) is negative, nor is with rounding.

        sizes: (p, G), of what the heights were computed from.
        """
        length = (-lowest).clamp_min(0) + self.margin * sizes
        return points + length[..., None] * self.directions


def inner_directions(cones: ConeRows, interior: Tensor, count: int) -> InnerDirections:
    """What pulls points inside, with the `count` lowest rows; raises ValueError if a direction is not inside."""
    directions = torch.nn.functional.normalize(interior.double(), dim=1, eps=1e-300)
    found = cones.lowest(directions[:, None], None, count)
    depth = found.values[:, 0, 0]
    if not bool((depth > 0).all()):
        outside = (~(depth > 0)).nonzero()[:, 0].tolist()
        raise ValueError(f"interior: not strictly inside the cones {outside}")
    rounding = interior.shape[1] * torch.finfo(torch.float64).eps
    return InnerDirections(directions, rounding / depth, found.rows[:, 0])


def violated(values: Tensor, rows: Tensor) -> Tensor:
    """The rows (G, p, k, d) of negative value (G, p, k), zeros in place of the others: (G, up to p k, d)."""
    below = (values < 0).flatten(1, 2)
    order = below.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
    order = order[:, : int(below.sum(1).max())]
    chosen = torch.where(below[..., None], rows.flatten(1, 2), 0.0)
    return chosen.gather(1, order[..., None].expand(-1, -1, rows.shape[-1]))


def _check(quadratic: DenseQuadratic, interior: Tensor, beta: float) -> None:
    groups, d, outputs = quadratic.linear.shape
    if outputs != 1:
        raise ValueError(f"quadratic: expected one output, found {outputs}")
    if tuple(interior.shape) != (groups, d):
        raise ValueError(f"interior: expected ({groups}, {d}) like the quadratic's c, found {tuple(interior.shape)}")
    if not (beta > 0 and beta < float("inf")):
        raise ValueError(f"beta must be positive and finite, found {beta}")
    if not (bool(torch.isfinite(quadratic.matrix).all()) and bool(torch.isfinite(quadratic.linear).all())):
        raise ValueError("quadratic holds NaN or Inf")
    if not quadratic.tau > 0:
        raise ValueError("the target is zero everywhere")
