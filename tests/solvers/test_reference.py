"""The cvxpy references against closed forms and optimality conditions that share no code with them."""

import cvxpy as cp
import numpy as np
import numpy.typing as npt
import pytest

from convexrecon.solvers.reference import reference_cone, reference_decomposition, reference_gated

Array = npt.NDArray[np.float64]


def random_program(seed: int, groups: int, n: int, d: int, m: int) -> tuple[Array, Array]:
    random = np.random.default_rng(seed)
    return random.standard_normal((groups, n, d)), random.standard_normal((n, m))


def shrink(values: Array, threshold: float, penalty: str) -> Array:
    """The prox of the Frobenius and the nuclear norm."""
    if penalty == "group_lasso":
        return values * max(0.0, 1 - threshold / float(np.linalg.norm(values)))
    u, s, v = np.linalg.svd(values, full_matrices=False)
    return np.asarray(u * np.maximum(s - threshold, 0) @ v)


@pytest.mark.parametrize("penalty", ["group_lasso", "nuclear"])
def test_orthonormal_design_gives_the_prox(penalty: str) -> None:
    random = np.random.default_rng(1)
    n, d, m, groups = 17, 5, 2, 3
    design = np.linalg.qr(random.standard_normal((n, groups * d)))[0].reshape(n, groups, d).transpose(1, 0, 2)
    targets = 3 * random.standard_normal((n, m))
    beta = 0.11
    solution = reference_gated(design, targets, beta, penalty)
    expected = np.stack([shrink(block.T @ targets, n * beta, penalty) for block in design])
    assert 0 < np.linalg.norm(expected) < np.linalg.norm(design.transpose(0, 2, 1) @ targets)
    np.testing.assert_allclose(solution.weights, expected, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("penalty", ["group_lasso", "nuclear"])
@pytest.mark.parametrize(("groups", "n", "d", "m"), [(4, 60, 3, 2), (5, 11, 4, 2), (3, 30, 6, 3)])
def test_gated_reaches_its_duality_bound(groups: int, n: int, d: int, m: int, penalty: str, seed: int) -> None:
    design, targets = random_program(seed, groups, n, d, m)
    order: float | None = 2 if penalty == "nuclear" else None
    dual_norms = [np.linalg.norm(block.T @ targets / n, order) for block in design]
    beta = 0.2 * float(max(dual_norms))
    solution = reference_gated(design, targets, beta, penalty)
    residual = targets - np.einsum("gnd,gdm->nm", design, solution.weights)
    kind = "nuc" if penalty == "nuclear" else "fro"
    size = sum(np.linalg.norm(x, kind) for x in solution.weights)  # type: ignore[call-overload]
    assert solution.objective == pytest.approx(np.square(residual).sum() / (2 * n) + beta * size, rel=1e-12)
    largest = max(np.linalg.norm(block.T @ residual / n, order) for block in design)
    nu = residual / n * min(1.0, beta / float(largest))
    bound = float((nu * targets).sum() - n / 2 * np.square(nu).sum())
    assert bound <= solution.objective * (1 + 1e-12)
    assert solution.objective - bound <= 1e-7 * np.square(targets).sum() / (2 * n)


@pytest.mark.parametrize("penalty", ["group_lasso", "nuclear"])
def test_objective_does_not_depend_on_scale(penalty: str) -> None:
    design, targets = random_program(5, 3, 25, 4, 2)
    plain = reference_gated(design, targets, 0.05, penalty)
    scaled = reference_gated(1e4 * design, 1e-5 * targets, 0.05e-1, penalty)
    assert scaled.objective == pytest.approx(1e-10 * plain.objective, rel=1e-8)
    np.testing.assert_allclose(1e9 * scaled.weights, plain.weights, atol=1e-5)


def test_large_beta_gives_zero_and_no_beta_least_squares() -> None:
    design, targets = random_program(6, 3, 40, 4, 2)
    assert np.abs(reference_gated(design, targets, 10.0).weights).max() < 1e-8
    flat = design.transpose(1, 0, 2).reshape(40, 12)
    fit = flat @ np.linalg.lstsq(flat, targets, rcond=None)[0]
    expected = np.square(fit - targets).sum() / 80
    assert reference_gated(design, targets, 0.0).objective == pytest.approx(expected, rel=1e-10)


def test_cone_with_no_binding_row_equals_the_gated_group_lasso() -> None:
    design, targets = random_program(7, 3, 50, 4, 1)
    gated = reference_gated(design, targets, 0.03)
    # A half-space around each gated solution and its mirror image contains (w, 0) at the optimum.
    rows = gated.weights.transpose(0, 2, 1)
    cone = reference_cone(design, rows, targets[:, 0], 0.03)
    assert cone.objective == pytest.approx(gated.objective, rel=1e-8)
    np.testing.assert_allclose(cone.w - cone.z, gated.weights[:, :, 0], atol=1e-5)


def test_cone_constraints_bind_and_hold() -> None:
    design, targets = random_program(8, 2, 30, 3, 1)
    rows = np.random.default_rng(9).standard_normal((2, 12, 3))
    rows[:, :, 0] = np.abs(rows[:, :, 0]) + 1
    free = reference_gated(design, targets, 0.01)
    cone = reference_cone(design, rows, targets[:, 0], 0.01)
    assert cone.objective > free.objective * (1 + 1e-6)
    lowest = min(float((rows @ part[:, :, None]).min()) for part in (cone.w, cone.z))
    assert cone.max_violation == pytest.approx(max(0.0, -lowest), rel=1e-3, abs=1e-14)
    assert cone.max_violation <= 1e-8
    residual = np.einsum("gnd,gd->n", design, cone.w - cone.z) - targets[:, 0]
    norms = np.linalg.norm(cone.w, axis=1).sum() + np.linalg.norm(cone.z, axis=1).sum()
    assert cone.objective == pytest.approx(np.square(residual).sum() / 60 + 0.01 * norms, rel=1e-12)


def test_the_decomposition_is_optimal_by_its_dual() -> None:
    # In the quadrant the parts of (3, -4, 5) are its positive and negative parts; a rotation changes no norm.
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0]
    w, z = reference_decomposition(rotation, rotation.T @ np.array([3.0, -4.0, 5.0]))
    np.testing.assert_allclose(rotation @ w, [3.0, 0.0, 5.0], atol=1e-6)
    np.testing.assert_allclose(rotation @ z, [0.0, 4.0, 0.0], atol=1e-6)
    with pytest.raises(RuntimeError, match="infeasible"):
        reference_decomposition([[1.0, 0.0], [-1.0, 0.0]], [1.0, 0.0])
    with pytest.raises(ValueError, match=r"found \(3, 3\) and \(2,\)"):
        reference_decomposition(rotation, np.ones(2))


def test_falls_back_to_scs(monkeypatch: pytest.MonkeyPatch) -> None:
    design, targets = random_program(10, 2, 20, 3, 1)
    expected = reference_gated(design, targets, 0.05)
    solve = cp.Problem.solve

    def without_clarabel(problem: object, solver: str, **options: float) -> object:
        if solver == "CLARABEL":
            raise cp.error.SolverError("told to fail")
        return solve(problem, solver=solver, **options)

    monkeypatch.setattr(cp.Problem, "solve", without_clarabel)
    solution = reference_gated(design, targets, 0.05)
    assert "CLARABEL" in expected.status
    assert "SCS" in solution.status
    assert solution.objective == pytest.approx(expected.objective, rel=1e-7)


def test_refuses_what_it_cannot_solve() -> None:
    design, targets = random_program(11, 2, 9, 3, 2)
    with pytest.raises(ValueError, match="'group_lasso' or 'nuclear', found 'l1'"):
        reference_gated(design, targets, 0.1, "l1")
    with pytest.raises(ValueError, match="beta must be finite"):
        reference_gated(design, targets, -0.1)
    with pytest.raises(ValueError, match="NaN or Inf"):
        reference_gated(design * np.nan, targets, 0.1)
    with pytest.raises(ValueError, match=r"target must be \(9, m\)"):
        reference_gated(design, targets[:8], 0.1)
    with pytest.raises(ValueError, match=r"target must be \(9,\)"):
        reference_cone(design, design, targets, 0.1)
    with pytest.raises(ValueError, match=r"cones must be \(2, r, 3\)"):
        reference_cone(design, design[:1], targets[:, 0], 0.1)
    with pytest.raises(ValueError, match=r"too large.*12000 weights G d m, at most 5000"):
        reference_gated(np.ones((2, 2, 3000)), np.ones((2, 2)), 0.1)
    with pytest.raises(ValueError, match=r"too large.*semidefinite"):
        reference_gated(np.ones((9, 2, 50)), np.ones((2, 2)), 0.1, "nuclear")
    with pytest.raises(ValueError, match=r"too large.*constraints 2 G r, at most 20000"):
        reference_cone(design, np.ones((2, 6000, 3)), targets[:, 0], 0.1)
