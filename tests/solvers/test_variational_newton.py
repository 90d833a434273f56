import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_problems import random_problem

from convexrecon.solvers.admm import admm
from convexrecon.solvers.certificates import beta_max
from convexrecon.solvers.least_squares import least_squares
from convexrecon.solvers.path import solve
from convexrecon.solvers.penalties import GroupLasso
from convexrecon.solvers.quadratics import DenseQuadratic
from convexrecon.solvers.reference import reference_gated
from convexrecon.solvers.reused_factor import ReusedFactor
from convexrecon.solvers.variational_newton import variational_newton


@given(
    seed=st.integers(0, 10_000),
    groups=st.integers(1, 9),
    features=st.integers(1, 6),
    outputs=st.integers(1, 3),
    exponent=st.floats(-5.0, -0.01),
)
@settings(max_examples=60, deadline=None)
def test_any_problem_is_solved_to_ten_digits(
    seed: int, groups: int, features: int, outputs: int, exponent: float
) -> None:
    # Fewer rows than features at times: H is then singular.
    quadratic = DenseQuadratic.from_data(*random_problem(seed, groups, 5 + seed % 40, features, outputs))
    largest = beta_max(quadratic, GroupLasso())
    solution = variational_newton(quadratic, 10**exponent * largest, tolerance=1e-10)
    assert solution.converged
    assert solution.iterations <= 30
    assert solution.certificate.dual_norm <= 10**exponent * largest * (1 + 1e-3)
    # In single precision with refinement, factors reused, what larger systems go through.
    systems = ReusedFactor(quadratic, exact_side=0)
    reused = variational_newton(quadratic, 10**exponent * largest, tolerance=1e-10, systems=systems)
    assert reused.converged
    assert reused.iterations <= 40
    assert reused.certificate.objective == pytest.approx(solution.certificate.objective, abs=1e-9 * quadratic.tau)


@pytest.mark.parametrize("ratio", [0.5, 0.05, 0.002])
@pytest.mark.parametrize("outputs", [1, 2])
def test_the_objective_is_that_of_cvxpy(ratio: float, outputs: int) -> None:
    blocks, targets = random_problem(11, groups=6, features=5, outputs=outputs)
    quadratic = DenseQuadratic.from_data(blocks, targets)
    beta = ratio * beta_max(quadratic, GroupLasso())
    solution = variational_newton(quadratic, beta, tolerance=1e-10)
    reference = reference_gated(blocks.numpy(), targets.numpy(), beta)
    assert solution.certificate.objective == pytest.approx(reference.objective, rel=1e-7)
    torch.testing.assert_close(solution.weights, torch.from_numpy(reference.weights), rtol=1e-3, atol=1e-5)


@given(scale=st.floats(-12, 12), start=st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_neither_the_units_nor_the_start_change_the_optimum(scale: float, start: int) -> None:
    quadratic = DenseQuadratic.from_data(*random_problem(12))
    beta = 0.03 * beta_max(quadratic, GroupLasso())
    expected = admm(quadratic, GroupLasso(), beta, tolerance=1e-11).weights
    unit = 10**scale
    scaled = DenseQuadratic(unit**2 * quadratic.matrix, unit * quadratic.linear, quadratic.tau)
    rng = torch.Generator().manual_seed(start)
    first = None if start == 0 else torch.rand(5, generator=rng, dtype=torch.float64) ** start / unit**2
    solution = variational_newton(scaled, unit * beta, start=first, tolerance=1e-11)
    assert solution.converged
    torch.testing.assert_close(unit * solution.weights, expected, rtol=1e-3, atol=1e-4)


def test_copies_of_a_group_and_groups_of_zeros_are_no_obstacle() -> None:
    blocks, targets = random_problem(13, groups=3)
    repeated = torch.cat([blocks, blocks[:1], 0 * blocks[:1]])
    quadratic = DenseQuadratic.from_data(repeated, targets)
    single = DenseQuadratic.from_data(blocks, targets)
    beta = 0.01 * beta_max(single, GroupLasso())
    solution = solve(quadratic, GroupLasso(), beta, tolerance=1e-10)
    assert solution.converged
    assert bool((solution.weights[4] == 0).all())
    alone = solve(single, GroupLasso(), beta, tolerance=1e-10)
    assert solution.certificate.objective == pytest.approx(alone.certificate.objective, rel=1e-8)


def test_without_a_penalty_the_solution_is_that_of_least_norm() -> None:
    blocks, targets = random_problem(14, groups=4, rows=12)
    solution = solve(DenseQuadratic.from_data(blocks, targets), GroupLasso(), 0.0)
    exact = torch.linalg.pinv(blocks.permute(1, 0, 2).reshape(12, -1)) @ targets
    torch.testing.assert_close(solution.weights, exact.view_as(solution.weights), rtol=1e-4, atol=1e-6)
    assert solution.certificate.relative_gap < 1e-10
    wide = DenseQuadratic.from_data(*random_problem(15, groups=2, rows=50, features=3))
    found = least_squares(wide)
    torch.testing.assert_close(wide.multiply(found.weights), wide.linear)
    assert least_squares(DenseQuadratic.from_data(0 * blocks, targets)).active_groups == 0


def test_bad_statistics_and_starts_are_refused() -> None:
    quadratic = DenseQuadratic.from_data(*random_problem(0))
    with pytest.raises(ValueError, match=r"start: expected \(5,\) numbers >= 0, found \(4,\)"):
        variational_newton(quadratic, 0.1, start=torch.ones(4))
    with pytest.raises(ValueError, match="expected a positive number"):
        variational_newton(quadratic, 0.0)
    with pytest.raises(ValueError, match="initial: expected"):
        solve(quadratic, GroupLasso(), 0.1, initial=torch.zeros(2, 7, 2))
    broken = DenseQuadratic(quadratic.matrix * float("nan"), quadratic.linear, quadratic.tau)
    with pytest.raises(ValueError, match="NaN or Inf in H or c"):
        solve(broken, GroupLasso(), 0.1)
    with pytest.raises(ValueError, match="finite number >= 0, found -1"):
        solve(quadratic, GroupLasso(), -1.0)
