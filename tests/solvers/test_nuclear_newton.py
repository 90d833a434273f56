import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_problems import random_problem

from convexrecon.solvers.certificates import beta_max
from convexrecon.solvers.nuclear_newton import nuclear_newton
from convexrecon.solvers.path import solve, solve_path
from convexrecon.solvers.penalties import NuclearNorm
from convexrecon.solvers.quadratics import DenseQuadratic
from convexrecon.solvers.reference import reference_gated
from convexrecon.solvers.variational_newton import variational_newton


@given(
    seed=st.integers(0, 10_000),
    groups=st.integers(1, 7),
    features=st.integers(1, 6),
    outputs=st.integers(1, 4),
    exponent=st.floats(-4.0, -0.01),
)
@settings(max_examples=15, deadline=None)
def test_any_problem_is_solved_to_eight_digits(
    seed: int, groups: int, features: int, outputs: int, exponent: float
) -> None:
    quadratic = DenseQuadratic.from_data(*random_problem(seed, groups, 5 + seed % 40, features, outputs))
    beta = 10**exponent * beta_max(quadratic, NuclearNorm())
    solution = nuclear_newton(quadratic, beta, tolerance=1e-8)
    assert solution.converged
    assert solution.iterations <= 40


@pytest.mark.parametrize("ratio", [0.5, 0.05, 0.002])
def test_the_objective_and_ranks_are_those_of_cvxpy(ratio: float) -> None:
    blocks, targets = random_problem(21, groups=5, features=6)
    quadratic = DenseQuadratic.from_data(blocks, targets)
    beta = ratio * beta_max(quadratic, NuclearNorm())
    solution = nuclear_newton(quadratic, beta, tolerance=1e-9)
    reference = reference_gated(blocks.numpy(), targets.numpy(), beta, "nuclear")
    assert solution.certificate.objective == pytest.approx(reference.objective, rel=1e-7)
    largest = float(torch.linalg.svdvals(solution.weights).max())
    ranks = (torch.linalg.svdvals(solution.weights) > 1e-4 * largest).sum(1)
    assert (
        ranks.tolist() == (torch.linalg.svdvals(torch.from_numpy(reference.weights)) > 1e-4 * largest).sum(1).tolist()
    )


def test_with_one_output_it_is_the_group_lasso() -> None:
    quadratic = DenseQuadratic.from_data(*random_problem(22, outputs=1))
    beta = 0.05 * beta_max(quadratic, NuclearNorm())
    nuclear = nuclear_newton(quadratic, beta, tolerance=1e-10).weights
    torch.testing.assert_close(
        nuclear, variational_newton(quadratic, beta, tolerance=1e-10).weights, atol=1e-6, rtol=1e-4
    )


def test_a_path_is_certified_throughout() -> None:
    quadratic = DenseQuadratic.from_data(*random_problem(23, groups=8))
    path = list(solve_path(quadratic, NuclearNorm(), tolerance=1e-9))
    assert all(solution.converged for solution in path)
    cold = solve(quadratic, NuclearNorm(), path[12].beta, tolerance=1e-9)
    assert path[12].certificate.objective == pytest.approx(cold.certificate.objective, rel=1e-8)


def test_zero_beta_and_empty_data() -> None:
    quadratic = DenseQuadratic.from_data(*random_problem(24))
    with pytest.raises(ValueError, match="expected a positive number"):
        nuclear_newton(quadratic, 0.0)
    blocks, targets = random_problem(25)
    assert solve(DenseQuadratic.from_data(0 * blocks, targets), NuclearNorm(), 0.1).active_groups == 0
