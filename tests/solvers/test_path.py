"""Paths of solutions: their order, certificates, and that each is the one of a separate solve."""

from collections.abc import Sequence

import pytest
import torch
from random_problems import random_problem

from convexrecon.solvers.certificates import beta_max, certify
from convexrecon.solvers.path import geometric_betas, solve, solve_path
from convexrecon.solvers.penalties import GroupLasso, NuclearNorm, Penalty
from convexrecon.solvers.quadratics import DenseQuadratic
from convexrecon.solvers.reused_factor import EXACT_SIDE, ReusedFactor

PENALTY = GroupLasso()


@pytest.fixture(scope="module")
def large() -> DenseQuadratic:
    """Of more rows than are factored for every t."""
    quadratic = DenseQuadratic.from_data(*random_problem(21, groups=12, rows=800, features=40, outputs=1))
    assert len(quadratic.matrix) > EXACT_SIDE
    return quadratic


def test_every_value_of_a_path_is_certified_at_its_weights_in_decreasing_order(large: DenseQuadratic) -> None:
    path = list(solve_path(large, PENALTY, tolerance=1e-4))
    betas = [solution.beta for solution in path]
    assert betas == sorted(betas, reverse=True)
    assert len(set(betas)) == 20
    for solution in path:
        measured = certify(large, PENALTY, solution.beta, solution.weights)
        assert solution.converged
        assert measured.relative_gap <= 1e-4
        assert measured.relative_gap == pytest.approx(solution.certificate.relative_gap, rel=1e-6, abs=1e-12)
    assert path[0].active_groups == 0
    assert path[-1].active_groups == 12  # so that groups have entered


@pytest.mark.parametrize("ratios", [[0.9, 0.2, 0.19, 0.001], [3.0, 1.0, 0.999, 0.01], [0.05], [0.3, 0.0]])
def test_values_that_a_user_gives_have_the_solutions_of_separate_solves(
    large: DenseQuadratic, ratios: Sequence[float]
) -> None:
    largest = beta_max(large, PENALTY)
    path = list(solve_path(large, PENALTY, [ratio * largest for ratio in ratios], tolerance=1e-10))
    assert [solution.beta for solution in path] == [ratio * largest for ratio in ratios]
    for solution in path:
        alone = solve(large, PENALTY, solution.beta, tolerance=1e-10)
        assert solution.converged
        assert alone.converged
        torch.testing.assert_close(solution.weights, alone.weights, rtol=1e-3, atol=1e-4 * float(alone.weights.max()))


@pytest.mark.parametrize("exact_side", [0, EXACT_SIDE])
def test_groups_may_leave_a_path_again(exact_side: int) -> None:
    quadratic = DenseQuadratic.from_data(*random_problem(10, groups=8, rows=30, features=2, outputs=1))
    systems = ReusedFactor(quadratic, exact_side)
    largest = beta_max(quadratic, PENALTY)
    used, initial = [], None
    for beta in geometric_betas(largest, 1e-3, 20)[1:]:
        solution = solve(quadratic, PENALTY, beta, tolerance=1e-9, initial=initial, systems=systems)
        alone = solve(quadratic, PENALTY, beta, tolerance=1e-9)
        assert solution.converged
        assert solution.certificate.objective == pytest.approx(alone.certificate.objective, abs=1e-9 * quadratic.tau)
        initial = solution.weights
        used.append(initial.flatten(1).any(dim=1))
    pattern = torch.stack(used)
    assert bool((pattern[:-1] & ~pattern[1:]).any())
    assert bool((~pattern[:-1] & pattern[1:]).any())


@pytest.mark.parametrize("penalty", [GroupLasso(), NuclearNorm()], ids=lambda penalty: penalty.name)
def test_a_path_may_start_anywhere_and_stop_early(penalty: Penalty) -> None:
    quadratic = DenseQuadratic.from_data(*random_problem(6))
    largest = beta_max(quadratic, penalty)
    path = solve_path(quadratic, penalty, [0.02 * largest, 0.01 * largest], tolerance=1e-7)
    first = next(path)
    alone = solve(quadratic, penalty, 0.02 * largest, tolerance=1e-7)
    assert first.certificate.objective == pytest.approx(alone.certificate.objective, rel=1e-6)
    assert not list(solve_path(quadratic, penalty, []))


def test_systems_of_another_quadratic_are_refused() -> None:
    first, second = (DenseQuadratic.from_data(*random_problem(seed)) for seed in (0, 1))
    with pytest.raises(ValueError, match="systems: expected those of this quadratic"):
        solve(first, PENALTY, 0.01 * beta_max(first, PENALTY), systems=ReusedFactor(second))
