"""The public solvers: one adapter a package, and the settings that were tried of each.

Every adapter takes the arrays of a case and returns what is timed. What it prepares is not: the design matrix,
compilation, conversions. Objectives are checked by the certificate, which is of the program and not of the
package: a gap of 1e-4 cannot be reached with loss or penalty scaled otherwise.
"""

import logging
import warnings
from contextlib import suppress
from typing import Any

import numpy as np
from cronos_solver import cronos
from reference_fista import fista
from solver_cases import Array, Arrays
from timed_trials import Adapter, ReachedError, Solve, Trial, UnsuitableError

# Beyond these the conversion alone of cvxpy (index and value of every entry, several copies) exceeds the machine.
CVXPY_ENTRIES = 5e7
CVXPY_UNKNOWNS = 5_000


def scnn(arrays: Arrays, options: dict[str, Any]) -> Solve:
    """SCNN's R-FISTA (Mishkin, Sahiner, Pilanci, ICML 2022), gated ReLU, with its own line search and restarts.

    Its loss is ||.||^2 / (2n) and its penalty lam sum_g ||W_g||, as here, once its column normalization is off.
    Its model is built directly so that the patterns are ours, not re-drawn; its callback serves the certificate.

    Options: backend, precision, scale (of X; another start of the step size), metrics (recorded at each step).
    """
    import lab
    from scnn.private.interface.solvers import build_fista
    from scnn.private.methods import GradientNorm, IterativeOptimizationProcedure
    from scnn.private.models import ConvexMLP, GroupL1Regularizer
    from scnn.regularizers import NeuronGL1

    lab.set_backend(options["backend"])
    lab.set_device("cpu")
    lab.set_dtype(options["precision"])
    scale = options["scale"]

    def tensor(array: Array) -> Any:
        return lab.tensor(array, dtype=lab.get_dtype())

    data = tensor(arrays.patches * scale), tensor(arrays.target[:, None])
    patterns = tensor(arrays.open)
    metrics: tuple[list[str], ...] = (["objective", "grad_norm"] if options["metrics"] else [], [], [])

    def solve(trial: Trial) -> None:
        lam = trial.beta * scale
        model = ConvexMLP(arrays.patches.shape[1], patterns, None, "einsum", GroupL1Regularizer(lam), c=1)
        optimizer = build_fista(NeuronGL1(lam))
        procedure = IterativeOptimizationProcedure(optimizer, 10**9, GradientNorm(0.0))
        step, following = 0, 0.0

        def look(model: Any, *_: Any) -> Any:
            nonlocal step, following
            step += 1
            with watch.paused():
                if watch.cpu >= following:
                    following = max(1.1 * watch.cpu, 0.1)
                    if trial.report(lab.to_np(model.weights)[0] * scale, f"{step} steps"):
                        raise ReachedError
            return model

        with trial.timed() as watch, suppress(ReachedError):
            procedure(logging.getLogger("scnn"), model, lambda start: start, data, data, metrics, callback=look)

    return solve


def skglm(arrays: Arrays, options: dict[str, Any]) -> Solve:
    """skglm's block coordinate descent with working sets and Anderson acceleration (Bertrand et al., 2022).

    Options: precision, solver (arguments of `GroupBCD`). Its tolerance is a distance to the subdifferential, in
    units of beta here.
    """
    from skglm.datafits import QuadraticGroup
    from skglm.penalties import WeightedGroupL2
    from skglm.solvers import GroupBCD
    from skglm.utils.data import grp_converter

    precision = options["precision"]
    design, target = _design(arrays, precision), arrays.target.astype(precision)
    gates, features = arrays.open.shape[1], arrays.patches.shape[1]
    indices, starts = grp_converter(features, gates * features)

    def fit(matrix: Array, right: Array, beta: float, tolerance: float) -> Array:
        penalty = WeightedGroupL2(beta, np.ones(gates), starts, indices)
        initial = np.zeros(gates * features, precision), np.zeros(len(right), precision)
        solver = GroupBCD(tol=tolerance, **options["solver"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            datafit = QuadraticGroup(starts, indices)
            weights, _, _ = solver.solve(matrix, right, datafit, penalty, *initial)
        return np.asarray(weights)

    # Compiles all of it on a few rows, contiguous as the whole is.
    few = np.asfortranarray(design[:500]), target[:500]
    fit(*few, beta=1e-4 * float(np.abs(few[0].T @ few[1]).max()) / 500, tolerance=0.0)

    def solve(trial: Trial) -> None:
        for tolerance in (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 1e-6):
            with trial.timed():
                weights = fit(design, target, trial.beta, tolerance * trial.beta)
            if trial.report(weights, f"tol {tolerance:g} beta"):
                return

    return solve


def celer(arrays: Arrays, options: dict[str, Any]) -> Solve:
    """celer's group lasso: working sets with extrapolated dual points (Massias et al., ICML 2018, JMLR 2020).

    Options: precision, solver (arguments of `celer.GroupLasso`). Its tolerance is a gap relative to
    ||t||^2 / n, half of ours.
    """
    from celer import GroupLasso

    precision = options["precision"]
    design, target = _design(arrays, precision), arrays.target.astype(precision)

    def solve(trial: Trial) -> None:
        for tolerance in (5e-2, 5e-3, 5e-4, 5e-5, 2e-5, 5e-6):
            model = GroupLasso(
                groups=arrays.patches.shape[1],
                alpha=trial.beta,
                fit_intercept=False,
                tol=tolerance,
                **options["solver"],
            )
            with trial.timed(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model.fit(design, target)
            if trial.report(model.coef_, f"tol {tolerance:g}"):
                return

    return solve


def cvxpy(arrays: Arrays, options: dict[str, Any]) -> Solve:
    """A conic solver by cvxpy: as stated, or with the loss compressed to P d rows and scaled to order one.

    Options: solver, compressed, precision (of the compression), tolerances (names of the solver's), ladder (their
    values), solver_options.
    """
    import cvxpy as cp

    rows, features = arrays.patches.shape
    gates = arrays.open.shape[1]
    unknowns = gates * features
    if unknowns > CVXPY_UNKNOWNS:
        raise UnsuitableError(f"{unknowns:,} unknowns are too many for a dense factor of the conic system")
    if not options["compressed"] and rows * unknowns > CVXPY_ENTRIES:
        raise UnsuitableError(f"{rows * unknowns:.1e} entries of the design matrix are too many for cvxpy")
    design, target = _design(arrays, options["precision"]), arrays.target.astype(options["precision"])
    scale = float(np.sqrt(np.square(target).mean())) if options["compressed"] else 1.0

    def posed(beta: float) -> tuple[Any, Any]:
        if options["compressed"]:
            hessian = (design.T @ design / rows).astype(np.float64)
            hessian.flat[:: unknowns + 1] += 4 * np.finfo(design.dtype).eps * np.trace(hessian) / unknowns
            factor = np.linalg.cholesky(hessian)
            matrix, right = factor.T, np.linalg.solve(factor, design.T @ target / rows) / scale
        else:
            matrix, right = design / np.sqrt(rows), target / np.sqrt(rows)
        weights = cp.Variable(unknowns)
        groups = [cp.norm2(weights[g * features : (g + 1) * features]) for g in range(gates)]
        loss = cp.sum_squares(matrix @ weights - right) / 2
        return weights, cp.Problem(cp.Minimize(loss + beta / scale * cp.sum(cp.hstack(groups))))

    def solve(trial: Trial) -> None:
        for tolerance in options["ladder"]:
            accuracy = dict.fromkeys(options["tolerances"], tolerance)
            with trial.timed(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                weights, problem = posed(trial.beta)
                problem.solve(solver=options["solver"], **accuracy, **options["solver_options"])
            if trial.report(weights.value * scale, f"tolerance {tolerance:g}"):
                return

    return solve


def _design(arrays: Arrays, precision: Any) -> Array:
    """The explicit matrix; a package has about 8 GB for it."""
    size = arrays.patches.size * arrays.open.shape[1] * np.dtype(precision).itemsize
    if size > 8e9:
        raise UnsuitableError(f"the design matrix needs {size / 1e9:.1f} GB in {np.dtype(precision).name}")
    return arrays.design(precision)


_SCNN = {"backend": "numpy", "precision": "float32", "scale": 1.0, "metrics": False}
_BCD: dict[str, Any] = {"precision": "float64", "solver": {}}
_CLARABEL = {
    "solver": "CLARABEL",
    "compressed": False,
    "precision": "float64",
    "tolerances": ("tol_gap_abs", "tol_gap_rel", "tol_feas"),
    "ladder": (1e-3, 1e-4, 1e-5, 1e-6, 1e-8),
    "solver_options": {},
}
_SCS = _CLARABEL | {
    "solver": "SCS",
    "tolerances": ("eps_abs", "eps_rel"),
    "ladder": (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7),
    "solver_options": {"max_iters": 1_000_000},
}
_FLOAT32 = {"precision": "float32"}
_COMPRESSED = {"compressed": True}
_CRONOS = {"rho": 1000.0, "rank": 200, "iterations": 100}


def _scs(**extra: Any) -> dict[str, Any]:
    return _SCS | _COMPRESSED | _FLOAT32 | {"solver_options": {"max_iters": 1_000_000, **extra}}


# The settings that `--search` tries. "default" is the package as it comes, but for tolerance and budget.
SETTINGS: dict[str, tuple[Adapter, dict[str, dict[str, Any]]]] = {
    "R-FISTA": (fista, {"default": {"tolerances": (1e-1, 1e-2, 1e-3, 9e-5, 3e-5)}}),
    "SCNN": (
        scnn,
        {
            "default": _SCNN | {"metrics": True},
            "no metrics": _SCNN,
            "float64": _SCNN | {"precision": "float64"},
            "torch float32": _SCNN | {"backend": "torch"},
            "torch float64": _SCNN | {"backend": "torch", "precision": "float64"},
            "X / 10": _SCNN | {"scale": 0.1},
        },
    ),
    "skglm": (
        skglm,
        {
            "default": _BCD,
            "float32": _FLOAT32 | {"solver": {}},
            "float32, all gates at once": _FLOAT32 | {"solver": {"p0": 10**6}},
            "float32, 1000 epochs": _FLOAT32 | {"solver": {"max_epochs": 1000}},
            "float32, fixpoint": _FLOAT32 | {"solver": {"ws_strategy": "fixpoint"}},
        },
    ),
    "celer": (
        celer,
        {
            "default": _BCD,
            "float32": _FLOAT32 | {"solver": {}},
            "float32, all gates at once": _FLOAT32 | {"solver": {"p0": 10**6}},
            "float32, no pruning": _FLOAT32 | {"solver": {"prune": False}},
        },
    ),
    "Clarabel": (
        cvxpy,
        {
            "default": _CLARABEL,
            "compressed": _CLARABEL | _COMPRESSED,
            "compressed, float32": _CLARABEL | _COMPRESSED | _FLOAT32,
            "compressed, float32, faer": _CLARABEL
            | _COMPRESSED
            | _FLOAT32
            | {"solver_options": {"direct_solve_method": "faer"}},
        },
    ),
    "SCS": (
        cvxpy,
        {
            "default": _SCS,
            "compressed": _SCS | _COMPRESSED,
            "compressed, float32": _scs(),
            "compressed, float32, indirect": _scs(use_indirect=True),
            "compressed, float32, not normalized": _scs(normalize=False),
        },
    ),
    "CRONOS": (
        cronos,
        {
            "default": {"rho": 0.1, "rank": 10, "iterations": 20},
            "rho 300": _CRONOS | {"rho": 300.0},
            "rho 1000": _CRONOS,
            "rho 1000, rank 400": _CRONOS | {"rank": 400},
            "rho 3000": _CRONOS | {"rho": 3000.0},
        },
    ),
}

# Chosen by the search of `solver_comparison.py`, which is recorded in README.md.
BEST = {
    "R-FISTA": "default",
    "SCNN": "no metrics",
    "skglm": "float32",
    "celer": "float32",
    "Clarabel": "compressed, float32",
    "SCS": "compressed, float32, not normalized",
    "CRONOS": "rho 1000",
}
