r"""A primal-dual interior-point method for norms over polyhedral cones.

.. math:: \min_{w, z}\ \phi(w - z) + \beta \sum_g (\|w_g\| + \|z_g\|)\quad\text{s.t.}\quad C_g w_g \ge 0,\ C_g z_g \ge 0

Each norm is bounded by a variable t in a second-order cone; Nesterov and Todd's scaling, Mehrotra's predictor and
corrector. A step couples the groups through phi alone, so that beside it only batches of d x d systems are
solved, and neither the conditioning of H nor the narrowness of the cones costs iterations.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from . import second_order_cone as soc
from .cone_fits import Fit, Stepper, cholesky

FRACTION_TO_BOUNDARY = 0.99
PATIENCE = 6
CENTRING_STEPS = 60
LONGEST_CENTRING_STEP = 1e8


@dataclass(frozen=True)
class ConeProgram:
    """The program: phi, rows (G, r, d) float64 of norm one or zero (no constraint), and beta > 0."""

    fit: Fit
    rows: Tensor
    beta: float

    @property
    def used(self) -> Tensor:
        """(G, r), which rows are constraints."""
        return (self.rows != 0).any(-1)

    @property
    def degree(self) -> int:
        """Number of complementarity products: at each the gap of a central point is the same."""
        return 2 * (int(self.used.sum()) + len(self.rows))

    def objective(self, v: Tensor) -> float:
        """phi(w - z) + beta sum (||w_g|| + ||z_g||) for v = (w, z), (2, G, d)."""
        return self.fit.value(v[0] - v[1]) + self.beta * float(v.norm(dim=-1).sum())

    def heights(self, v: Tensor) -> Tensor:
        """C v, (2, G, r)."""
        return (self.rows @ v[..., None])[..., 0]

    def raised(self, a: Tensor) -> Tensor:
        """C^T a, (2, G, d)."""
        return (a[..., None, :] @ self.rows)[..., 0, :]


@dataclass(frozen=True)
class InteriorPoint:
    """What the iterations end with: the best point found and the best lower bound found.

    v: (w, z), (2, G, d), feasible for the rows given, if any was. objective: there, infinite if none was.
    bound: of the optimum, proved by u (G, d), q (G, d) and multipliers a (2, G, r) >= 0. iterations: Newton steps.
    """

    v: Tensor
    objective: float
    bound: float
    u: Tensor
    q: Tensor
    multipliers: Tensor
    iterations: int


@dataclass(frozen=True)
class _State:
    """Primal v (2, G, d), bound of its norm t (2, G), slack s (2, G, r); dual a (2, G, r), y (2, G, 1 + d), q (G, d).

    Also holds steps of the same."""

    v: Tensor
    t: Tensor
    s: Tensor
    a: Tensor
    y: Tensor
    q: Tensor

    @property
    def point(self) -> Tensor:
        """(t, v)."""
        return torch.cat([self.t[..., None], self.v], -1)

    @property
    def complementarity(self) -> float:
        """Sum of the products that are equal on the central path."""
        return float((self.s * self.a).sum() + (self.point * self.y).sum())


@dataclass(frozen=True)
class _Newton:
    """The linear system at a state: C^T diag(a / s) C + the norms' curvature with t eliminated, coupled by phi."""

    scaling: soc.Scaling
    step: Stepper


def solve_cone_program(
    program: ConeProgram, start: Tensor, *, tolerance: float, centring: float, max_iterations: int = 100
) -> InteriorPoint:
    """Minimize until objective and lower bound are `tolerance` apart, or rounding allows no more.

    Args:
        program: what to minimize.
        start: (2, G, d), allowed by phi. Strictly inside the cones it keeps every iterate inside; else the
            constraints hold in the limit only.
        tolerance: absolute duality gap to reach.
        centring: complementarity products at the start: its gap over their number.
        max_iterations: Newton steps after those that centre the start.
    """
    state, strictly = _central(program, start, centring)
    steps = 0
    if strictly:
        state, steps = _centred(program, state, centring)
    best, least, waited = _measure(program, state), float("inf"), 0
    for iteration in range(max_iterations + 1):
        best = best if iteration == 0 else _better(best, _measure(program, state))
        # Far from the optimum bounds may be vacuous; complementarity tells whether there is progress.
        progress = min(best.objective - best.bound, state.complementarity)
        least, waited = (progress, 0) if progress < 0.9 * least else (least, waited + 1)
        if best.objective - best.bound <= tolerance or waited > PATIENCE or iteration == max_iterations:
            break
        state = _advanced(program, state)
        steps += 1
    return InteriorPoint(best.v, best.objective, best.bound, best.u, best.q, best.multipliers, steps)


def dual_vectors(rows: Tensor, multipliers: Tensor, q: Tensor) -> Tensor:
    """q + C^T a and -q + C^T a', (2, G, d): feasible for the dual where no longer than beta."""
    return torch.stack([q, -q]) + (multipliers[..., None, :] @ rows)[..., 0, :]


def without_idle_groups(program: ConeProgram, v: Tensor) -> Tensor:
    """v (2, G, d) with every w_g and z_g set to zero whose absence does not raise the objective.

    Iterates are inside the cones, so that what the penalty removes is small but not zero in them.
    """
    value = program.objective(v)
    for place in v.norm(dim=-1).flatten().argsort().tolist():
        without = v.flatten(0, 1).clone()
        without[place] = 0
        lower = program.objective(without.view_as(v))
        if lower <= value:
            v, value = without.view_as(v), lower
    return v


def _central(program: ConeProgram, v: Tensor, centring: float) -> tuple[_State, bool]:
    """A state at v whose complementarity products are all `centring`, and whether v is strictly inside."""
    used, beta = program.used, program.beta
    heights = program.heights(v)
    strictly = bool((heights > 0)[:, used].all())
    s = heights if strictly else heights.clamp_min(max(float(v.abs().max()), centring / beta))
    s = torch.where(used, s, 1.0)
    t = (centring + (centring**2 + 4 * beta**2 * v.square().sum(-1)).sqrt()) / (2 * beta)
    y = torch.cat([torch.full_like(t, beta)[..., None], -beta * v / t[..., None]], -1)
    u = v[0] - v[1]
    return _State(v, t, s, torch.where(used, centring / s, 0.0), y, program.fit.pull(u, torch.zeros_like(u))), strictly


def _centred(program: ConeProgram, state: _State, centring: float) -> tuple[_State, int]:
    """Newton steps of the barrier to the central path: from there on the iterations are few.

    A start near the walls has multipliers that leave the stationarity equation far from satisfied, and
    primal-dual steps from such a point are short.
    """
    for taken in range(CENTRING_STEPS):
        newton = _newton(program, state)
        step = _direction(program, state, newton, torch.zeros_like(state.y), torch.zeros_like(state.s))
        if _longest(state, step) > 1 / FRACTION_TO_BOUNDARY:
            return _moved(program, state, step, 1.0), taken + 1
        length = _lowest_barrier(program, state, step, centring)
        moved, strictly = _central(program, state.v + length * step.v, centring)
        if not strictly:
            return state, taken + 1
        state = moved
    return state, CENTRING_STEPS


def _lowest_barrier(program: ConeProgram, state: _State, step: _State, centring: float) -> float:
    """The length at which the barrier is least along a step: next to a wall a plain step only doubles distances."""
    du = step.v[0] - step.v[1]
    steady, slope = float((state.q * du).sum()), float((step.q * du).sum())
    point, move = state.point, step.point

    def rate(length: float) -> float:
        at = point + length * move
        opening = at[..., 0] ** 2 - at[..., 1:].square().sum(-1)
        turning = at[..., 0] * move[..., 0] - (at[..., 1:] * move[..., 1:]).sum(-1)
        walls = float((step.s / (state.s + length * step.s)).sum() + (turning / opening).sum())
        return program.beta * float(step.t.sum()) - steady - length * slope - centring * walls

    low, high = 0.0, min(FRACTION_TO_BOUNDARY * _longest_primal(state, step), LONGEST_CENTRING_STEP)
    if rate(high) <= 0:
        return high
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if rate(middle) < 0 else (low, middle)
    return low if low > 0 else high


def _measure(program: ConeProgram, state: _State) -> InteriorPoint:
    """Objective and lower bound at the state."""
    u = state.v[0] - state.v[1]
    feasible = float(program.heights(state.v).min()) >= -1e-12 * float(state.v.abs().max())
    objective = program.objective(state.v) if feasible else float("inf")
    sizes = dual_vectors(program.rows, state.a, state.q).norm(dim=-1).amax(0)
    bound = program.fit.bound(u, state.q, sizes, program.beta)
    return InteriorPoint(state.v, objective, bound, u, state.q, state.a, 0)


def _better(best: InteriorPoint, found: InteriorPoint) -> InteriorPoint:
    """The better point and, separately, the better bound; the later of two that are infeasible."""
    point = best if best.objective < found.objective else found
    dual = best if best.bound > found.bound else found
    return InteriorPoint(point.v, point.objective, dual.bound, dual.u, dual.q, dual.multipliers, 0)


def _advanced(program: ConeProgram, state: _State) -> _State:
    """One step of predictor and corrector."""
    newton = _newton(program, state)
    scaling = newton.scaling
    mean = state.complementarity / program.degree
    square = soc.product(scaling.point, scaling.point)
    affine = _direction(program, state, newton, -square, -state.s * state.a)
    sigma = (1 - min(1.0, _longest(state, affine))) ** 3
    bend = soc.product(scaling.inverse(affine.point), scaling.forward(affine.y))
    bend[..., 0] -= sigma * mean
    linear = sigma * mean - state.s * state.a - affine.s * affine.a
    step = _direction(program, state, newton, -square - bend, linear)
    return _moved(program, state, step, min(1.0, FRACTION_TO_BOUNDARY * _longest(state, step)))


def _newton(program: ConeProgram, state: _State) -> _Newton:
    scaling = soc.scaling(state.point, state.y)
    weighted = (state.a / state.s).sqrt()[..., None] * program.rows
    first, rest = scaling.axis[..., 0], scaling.axis[..., 1:]
    outer = rest[..., :, None] * rest[..., None, :] * (2 / (2 * first**2 - 1))[..., None, None]
    eye = torch.eye(rest.shape[-1], dtype=rest.dtype, device=rest.device)
    matrix = weighted.mT @ weighted + (eye - outer) / scaling.size[..., None, None] ** 2
    return _Newton(scaling, program.fit.stepper(matrix, cholesky(matrix)))


def _direction(program: ConeProgram, state: _State, newton: _Newton, cone: Tensor, linear: Tensor) -> _State:
    """The step with lambda o (W^-1 d(t, v) + W dy) = cone, a ds + s da = linear and all else to its equation."""
    scaling, used = newton.scaling, program.used
    gap = torch.where(used, program.heights(state.v) - state.s, 0.0)
    wanted = scaling.inverse(soc.divide(scaling.point, cone))
    stationary = torch.stack([-state.q, state.q]) - program.raised(state.a) - state.y[..., 1:]
    rhs = wanted[..., 1:] - stationary + program.raised((linear - state.a * gap) / state.s)
    # t is eliminated: its row of W^-2 (t, v) is ((2 f^2 - 1) t - 2 f r^T v) / size^2, w = (f, r).
    first, rest, square = scaling.axis[..., :1], scaling.axis[..., 1:], scaling.size[..., None] ** 2
    above = (wanted[..., :1] - (program.beta - state.y[..., :1])) * square
    stretch = 2 * first**2 - 1
    dv, dq = newton.step(rhs + 2 * first * rest / stretch * above / square)
    dt = (above + 2 * first * (rest * dv).sum(-1, keepdim=True)) / stretch
    ds = torch.where(used, program.heights(dv) + gap, 0.0)
    da = torch.where(used, (linear - state.a * ds) / state.s, 0.0)
    dy = wanted - scaling.inverse(scaling.inverse(torch.cat([dt, dv], -1)))
    return _State(dv, dt[..., 0], ds, da, dy, dq)


def _longest(state: _State, step: _State) -> float:
    """The longest step that leaves no cone."""
    dual = min(_ratio(state.a, step.a), float(soc.longest_step(state.y, step.y).min()))
    return min(_longest_primal(state, step), dual)


def _longest_primal(state: _State, step: _State) -> float:
    return min(_ratio(state.s, step.s), float(soc.longest_step(state.point, step.point).min()))


def _ratio(x: Tensor, dx: Tensor) -> float:
    """The longest step that keeps x + length dx non-negative."""
    return float(torch.where(dx < 0, x / (-dx).clamp_min(1e-300), torch.inf).min())


def _moved(program: ConeProgram, state: _State, step: _State, length: float) -> _State:
    """The state after the step, shortened where rounding would take it out of the cones."""
    used = program.used
    while length > 1e-12:
        v, q, y = state.v + length * step.v, state.q + length * step.q, state.y + length * step.y
        s, a, t = state.s + length * step.s, state.a + length * step.a, state.t + length * step.t
        heights = program.heights(v)
        # The slack is what the rows say once they are satisfied, so that its error does not build up.
        s = torch.where(used & (heights > 0.5 * s) & (heights < 2 * s), heights, s)
        moved = _State(v, t, s, a, y, program.fit.pull(v[0] - v[1], q))
        if bool((s[:, used] > 0).all() and (a[:, used] > 0).all()) and soc.inside(moved.point) and soc.inside(y):
            return moved
        length /= 2
    return state
