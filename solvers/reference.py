r"""Reference solutions of small programs by cvxpy: slow, accurate, and independent of our own solvers.

The loss is compressed exactly by a QR factorization, so the number of samples does not matter to the solver,
and scaled so that data and targets are of order one; objectives are recomputed from the original arrays.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import cvxpy as cp
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

MAX_WEIGHTS = 5_000
MAX_SEMIDEFINITE_ENTRIES = 20_000
MAX_CONSTRAINTS = 20_000


@dataclass(frozen=True)
class ReferenceSolution:
    """weights: (G, d, m) of the gated program; objective: recomputed from them; status: as cvxpy names it,
    with the solver."""

    weights: Array
    objective: float
    status: str


@dataclass(frozen=True)
class ReferenceConeSolution:
    """w, z: (G, d) of the cone program; objective: recomputed from them; max_violation: the most negative
    entry of C_g w_g and C_g z_g as a positive number (an interior-point solution is feasible only up to it);
    status: as cvxpy names it, with the solver."""

    w: Array
    z: Array
    objective: float
    max_violation: float
    status: str


def reference_gated(
    blocks: npt.ArrayLike,
    targets: npt.ArrayLike,
    beta: float,
    penalty: str = "group_lasso",
) -> ReferenceSolution:
    r"""Minimize 1/(2n) ||sum_g A_g W_g - T||_F^2 + beta sum_g R(W_g), R the Frobenius or the nuclear norm.

    penalty: 'group_lasso' (Frobenius) or 'nuclear'.
    blocks: (G, n, d); targets: (n, m). Raises ValueError for shapes that do not fit, NaN or Inf, beta < 0, an
    unknown penalty or more unknowns than an interior-point method takes, RuntimeError if no solver succeeds.

    >>> solution = reference_gated([[[1.0], [0.0]]], [[3.0], [0.0]], beta=0.5)
    >>> bool(np.isclose(solution.weights[0, 0, 0], 2.0)), bool(np.isclose(solution.objective, 1.25))
    (True, True)
    """
    design, target = _validated(blocks, targets, 2, beta)
    groups, _, width = design.shape
    outputs = target.shape[1]
    if penalty not in ("group_lasso", "nuclear"):
        raise ValueError(f"penalty must be 'group_lasso' or 'nuclear', found {penalty!r}")
    _limit("weights G d m", groups * width * outputs, MAX_WEIGHTS)
    if penalty == "nuclear":
        _limit("semidefinite entries G (d + m)^2", groups * (width + outputs) ** 2, MAX_SEMIDEFINITE_ENTRIES)
    scaled = _compress(design, target, beta)
    weights = [cp.Variable((width, outputs)) for _ in range(groups)]
    norm = cp.normNuc if penalty == "nuclear" else lambda x: cp.norm(cp.vec(x, order="F"), 2)
    loss = cp.sum_squares(scaled.factor @ cp.vstack(weights) - scaled.target) / 2
    status = _solve(cp.Problem(cp.Minimize(loss + scaled.beta * sum(norm(x) for x in weights))))
    values = np.stack([np.asarray(x.value, dtype=np.float64) for x in weights]) * scaled.unit
    residual = np.einsum("gnd,gdm->nm", design, values) - target
    kind: Any = "nuc" if penalty == "nuclear" else "fro"
    size = sum(float(np.linalg.norm(x, kind)) for x in values)
    return ReferenceSolution(values, float((residual**2).sum() / (2 * len(target)) + beta * size), status)


def reference_cone(
    blocks: npt.ArrayLike, cones: npt.ArrayLike, target: npt.ArrayLike, beta: float
) -> ReferenceConeSolution:
    r"""Minimize 1/(2n) ||sum_g A_g (w_g - z_g) - t||^2 + beta sum_g (||w_g|| + ||z_g||) inside the cones.

    The cones are C_g w_g >= 0, C_g z_g >= 0. With A_g = D_g P and C_g = (2 D_g - I) P this is the convex
    program of a two-layer ReLU network (arXiv 2012.05169, theorem 1). blocks: (G, n, d); cones: (G, r, d);
    target: (n,). Raises ValueError and RuntimeError as `reference_gated` does.

    >>> solution = reference_cone(np.eye(2)[None], np.eye(2)[None], [3.0, -4.0], beta=0.5)
    >>> np.round(solution.w, 4) + 0.0, np.round(solution.z, 4) + 0.0
    (array([[2., 0.]]), array([[0., 3.]]))
    """
    design, goal = _validated(blocks, target, 1, beta)
    rows = np.asarray(cones, dtype=np.float64)
    groups, _, width = design.shape
    if rows.ndim != 3 or rows.shape[0] != groups or rows.shape[2] != width:
        raise ValueError(f"cones must be ({groups}, r, {width}) like the blocks, found {rows.shape}")
    if not np.isfinite(rows).all():
        raise ValueError("cones holds NaN or Inf")
    _limit("weights 2 G d", 2 * groups * width, MAX_WEIGHTS)
    _limit("constraints 2 G r", 2 * groups * rows.shape[1], MAX_CONSTRAINTS)
    lengths = np.linalg.norm(rows, axis=2, keepdims=True)
    unit_rows = rows / np.where(lengths > 0, lengths, 1)
    scaled = _compress(design, goal[:, None], beta)
    w, z = [[cp.Variable(width) for _ in range(groups)] for _ in range(2)]
    difference = cp.hstack([a - b for a, b in zip(w, z, strict=True)])
    loss = cp.sum_squares(scaled.factor @ difference - scaled.target[:, 0]) / 2
    size = sum(cp.norm(x, 2) for x in w + z)
    inside = [c @ x >= 0 for part in (w, z) for c, x in zip(unit_rows, part, strict=True)]
    status = _solve(cp.Problem(cp.Minimize(loss + scaled.beta * size), inside))
    found = [np.stack([np.asarray(x.value, dtype=np.float64) for x in part]) * scaled.unit for part in (w, z)]
    residual = np.einsum("gnd,gd->n", design, found[0] - found[1]) - goal
    norms = sum(float(np.linalg.norm(part, axis=1).sum()) for part in found)
    lowest = min(float(np.einsum("grd,gd->gr", rows, part).min()) for part in found)
    objective = float((residual**2).sum() / (2 * len(goal)) + beta * norms)
    return ReferenceConeSolution(found[0], found[1], objective, max(0.0, -lowest), status)


def reference_decomposition(cone: npt.ArrayLike, difference: npt.ArrayLike) -> tuple[Array, Array]:
    r"""Minimize ||w|| + ||z|| subject to w - z = V, C w >= 0, C z >= 0.

    cone: C (r, d); difference: V (d,). Returns w and z, each (d,). Raises ValueError for shapes that do not
    fit, NaN or Inf, or too many rows, RuntimeError if no solver succeeds, as where no decomposition exists.

    >>> w, z = reference_decomposition(np.eye(2), [3.0, -4.0])
    >>> np.round(w, 4) + 0.0, np.round(z, 4) + 0.0
    (array([3., 0.]), array([0., 4.]))
    """
    rows, wanted = np.asarray(cone, dtype=np.float64), np.asarray(difference, dtype=np.float64)
    if rows.ndim != 2 or wanted.shape != rows.shape[1:]:
        raise ValueError(f"expected a cone (r, d) and a difference (d,), found {rows.shape} and {wanted.shape}")
    if not (np.isfinite(rows).all() and np.isfinite(wanted).all()):
        raise ValueError("cone or difference hold NaN or Inf")
    _limit("rows", len(rows), MAX_CONSTRAINTS)
    unit = float(np.linalg.norm(wanted)) or 1.0
    z = cp.Variable(len(wanted))
    w = z + wanted / unit
    _solve(cp.Problem(cp.Minimize(cp.norm(w, 2) + cp.norm(z, 2)), [rows @ w >= 0, rows @ z >= 0]))
    found = np.asarray(z.value, dtype=np.float64) * unit
    return found + wanted, found


@dataclass(frozen=True)
class _Compressed:
    """1/2 ||factor x - target||^2 + beta R(x) has the minimizers of the program, divided by `unit`."""

    factor: Array
    target: Array
    beta: float
    unit: float


def _compress(design: Array, target: Array, beta: float) -> _Compressed:
    groups, samples, width = design.shape
    matrix = design.transpose(1, 0, 2).reshape(samples, groups * width) / np.sqrt(samples)
    goal = target / np.sqrt(samples)
    if samples > groups * width:
        q, matrix = np.linalg.qr(matrix)
        goal = q.T @ goal  # the part of the target outside the range is a constant of the loss
    matrix_unit = float(np.linalg.norm(matrix)) / np.sqrt(groups * width) or 1.0
    goal_unit = float(np.linalg.norm(goal)) or 1.0
    return _Compressed(
        matrix / matrix_unit, goal / goal_unit, beta / (matrix_unit * goal_unit), goal_unit / matrix_unit
    )


def _validated(blocks: npt.ArrayLike, target: npt.ArrayLike, ndim: int, beta: float) -> tuple[Array, Array]:
    design, goal = np.asarray(blocks, dtype=np.float64), np.asarray(target, dtype=np.float64)
    if design.ndim != 3 or design.size == 0:
        raise ValueError(f"blocks must be a non-empty (G, n, d), found {design.shape}")
    if goal.ndim != ndim or len(goal) != design.shape[1] or goal.size == 0:
        wanted = f"({design.shape[1]},)" if ndim == 1 else f"({design.shape[1]}, m)"
        raise ValueError(f"the target must be {wanted} to fit blocks {design.shape}, found {goal.shape}")
    if not (np.isfinite(design).all() and np.isfinite(goal).all()):
        raise ValueError("blocks or target hold NaN or Inf")
    if not 0 <= beta < np.inf:
        raise ValueError(f"beta must be finite and not negative, found {beta}")
    return design, goal


def _limit(what: str, found: int, limit: int) -> None:
    if found > limit:
        raise ValueError(f"too large for a reference solution: {found} {what}, at most {limit} are taken")


def _solve(problem: Any) -> str:
    """Solve at tight tolerances by Clarabel, or by SCS if that fails; the status, with the solver's name."""
    tight = {"tol_gap_abs": 1e-12, "tol_gap_rel": 1e-12, "tol_feas": 1e-12, "max_iter": 500}
    attempts: list[tuple[str, dict[str, float]]] = [
        ("CLARABEL", tight),
        ("SCS", {"eps_abs": 1e-10, "eps_rel": 1e-10, "max_iters": 200_000}),
    ]
    failures = []
    for solver, options in attempts:
        try:
            with warnings.catch_warnings():
                # So tight, most solutions end as "optimal_inaccurate" though far better than by default.
                warnings.filterwarnings("ignore", message="Solution may be inaccurate")
                problem.solve(solver=solver, **options)
        except cp.error.SolverError as error:
            failures.append(f"{solver}: {error}")
            continue
        if problem.status in ("optimal", "optimal_inaccurate"):
            return f"{problem.status} ({solver})"
        failures.append(f"{solver}: {problem.status}")
    raise RuntimeError("no reference solution: " + "; ".join(failures))
