"""Cutting planes against cvxpy, and what their certificate promises."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from relu_problems import ReluProblem, relu_problem

from convexrecon.solvers.cone_constrained import cone_beta_max, solve_cone_constrained
from convexrecon.solvers.cone_cutting_planes import CutSolution, solve_by_cutting_planes
from convexrecon.solvers.cone_interior_point import dual_vectors
from convexrecon.solvers.cone_rows import DenseRows, interior_directions
from convexrecon.solvers.quadratics import DenseQuadratic
from convexrecon.solvers.reference import reference_cone


def quadratic_of(problem: ReluProblem) -> DenseQuadratic:
    return DenseQuadratic.from_data(problem.blocks, problem.target[:, None])


def solved(problem: ReluProblem, beta: float, tolerance: float, max_rounds: int = 50) -> CutSolution:
    cones = DenseRows(problem.cones)
    interior, inside = interior_directions(cones, problem.gates)
    assert bool(inside.all())
    quadratic = quadratic_of(problem)
    return solve_by_cutting_planes(quadratic, cones, interior, beta, tolerance=tolerance, max_rounds=max_rounds)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(2, 90),
    d=st.integers(1, 7),
    groups=st.integers(1, 5),
    spread=st.sampled_from([0.0, 3.0]),
    ratio=st.sampled_from([1e-4, 1e-2, 0.3, 0.9]),
)
def test_matches_cvxpy_and_its_gap_is_no_smaller_than_the_truth(
    seed: int, n: int, d: int, groups: int, spread: float, ratio: float
) -> None:
    problem = relu_problem(seed, n, d, groups, spread)
    largest = cone_beta_max(problem.blocks, problem.cones, problem.target)
    if largest == 0:
        return
    at_zero = float(problem.target.square().mean()) / 2
    arrays = (problem.blocks.numpy(), problem.cones.numpy(), problem.target.numpy())
    optimum = reference_cone(*arrays, ratio * largest).objective
    for tolerance in (1e-2, 1e-6):
        found = solved(problem, ratio * largest, tolerance)
        assert found.converged
        assert found.relative_gap <= tolerance
        assert found.bound <= optimum + 1e-9 * at_zero
        assert (found.objective - optimum) / at_zero <= found.relative_gap + 1e-9
        for part in (found.w, found.z):
            assert float((problem.cones @ part[:, :, None]).min()) >= 0


def test_matches_the_solver_that_holds_every_row_and_needs_few_of_them() -> None:
    problem = relu_problem(3, 1200, 6, 4)
    beta = 1e-3 * cone_beta_max(problem.blocks, problem.cones, problem.target)
    found = solved(problem, beta, 1e-8)
    whole = solve_cone_constrained(problem.blocks, problem.cones, problem.target, beta)
    assert found.objective == pytest.approx(whole.objective, rel=1e-7)
    assert found.proof.rows.shape[1] < 100


def test_the_proof_bounds_the_optimum_on_its_own() -> None:
    problem = relu_problem(5, 300, 5, 3)
    beta = 1e-2 * cone_beta_max(problem.blocks, problem.cones, problem.target)
    found = solved(problem, beta, 1e-6)
    residual = problem.target - torch.einsum("gnd,gd->n", problem.blocks, found.proof.u)
    n = len(residual)
    q = torch.einsum("gnd,n->gd", problem.blocks, residual) / n
    assert bool((found.proof.multipliers >= 0).all())
    sizes = dual_vectors(found.proof.rows, found.proof.multipliers, q).norm(dim=-1)
    nu = residual / n * min(1.0, beta / float(sizes.max()))
    bound = float(nu @ problem.target - n / 2 * nu @ nu)
    assert bound <= found.objective
    assert found.objective - bound <= 1.1e-6 * float(problem.target.square().mean()) / 2


def test_above_beta_max_the_solution_is_exactly_zero() -> None:
    problem = relu_problem(6, 200, 4, 5)
    beta = cone_beta_max(problem.blocks, problem.cones, problem.target)
    above, below = solved(problem, 1.01 * beta, 1e-7), solved(problem, 0.9 * beta, 1e-7)
    assert not above.w.any()
    assert not above.z.any()
    assert below.w.any() or below.z.any()
    idle = torch.cat([below.w, below.z]).norm(dim=1) == 0
    assert bool(idle.any())


def test_too_few_rounds_say_so_and_still_bound() -> None:
    problem = relu_problem(7, 2000, 8, 4)
    beta = 1e-4 * cone_beta_max(problem.blocks, problem.cones, problem.target)
    few, all_ = solved(problem, beta, 1e-8, max_rounds=1), solved(problem, beta, 1e-8)
    assert not few.converged
    assert few.relative_gap > 1e-8
    assert few.rounds == 1
    assert few.bound <= all_.objective <= few.objective


def test_the_scale_of_data_and_target_does_not_matter() -> None:
    problem = relu_problem(8, 150, 5, 3)
    beta = 1e-2 * cone_beta_max(problem.blocks, problem.cones, problem.target)
    plain = solved(problem, beta, 1e-7)
    scaled = ReluProblem(1e4 * problem.blocks, 1e-6 * problem.cones, 1e-7 * problem.target, 1e3 * problem.gates)
    found = solved(scaled, 1e-3 * beta, 1e-7)
    assert found.converged
    assert found.objective == pytest.approx(1e-14 * plain.objective, rel=1e-6)


def test_refuses_what_it_cannot_solve() -> None:
    problem = relu_problem(9, 40, 4, 3)
    quadratic, cones = quadratic_of(problem), DenseRows(problem.cones)
    with pytest.raises(ValueError, match=r"not strictly inside the cones \[0, 1, 2\]"):
        solve_by_cutting_planes(quadratic, cones, -problem.gates, 0.1)
    with pytest.raises(ValueError, match=r"expected \(3, 4\)"):
        solve_by_cutting_planes(quadratic, cones, problem.gates[:2], 0.1)
    with pytest.raises(ValueError, match="beta must be positive"):
        solve_by_cutting_planes(quadratic, cones, problem.gates, 0.0)
    two = DenseQuadratic.from_data(problem.blocks, torch.ones(40, 2))
    with pytest.raises(ValueError, match="one output, found 2"):
        solve_by_cutting_planes(two, cones, problem.gates, 0.1)
    silent = DenseQuadratic.from_data(problem.blocks, torch.zeros(40, 1))
    with pytest.raises(ValueError, match="zero everywhere"):
        solve_by_cutting_planes(silent, cones, problem.gates, 0.1)
    broken = DenseQuadratic(quadratic.matrix * np.nan, quadratic.linear, quadratic.tau)
    with pytest.raises(ValueError, match="NaN or Inf"):
        solve_by_cutting_planes(broken, cones, problem.gates, 0.1)
