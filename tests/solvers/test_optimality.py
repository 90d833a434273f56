"""Our solvers against cvxpy, and their certificates against the truth, on random small problems."""

import pytest
import torch
from random_problems import random_problem

from convexrecon.solvers.admm import admm
from convexrecon.solvers.certificates import beta_max, certify, measure_on_data
from convexrecon.solvers.linear_maps import DenseBlocks
from convexrecon.solvers.path import geometric_betas, solve, solve_path
from convexrecon.solvers.penalties import GroupLasso, NuclearNorm, Penalty
from convexrecon.solvers.proximal_gradient import largest_curvature, proximal_gradient
from convexrecon.solvers.quadratics import DenseQuadratic, Part, StreamedQuadratic
from convexrecon.solvers.reference import reference_gated

PENALTIES: list[Penalty] = [GroupLasso(), NuclearNorm()]


@pytest.mark.parametrize("penalty", PENALTIES, ids=lambda p: p.name)
@pytest.mark.parametrize("ratio", [0.5, 0.05, 0.002])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_algorithm_reaches_the_objective_of_cvxpy(penalty: Penalty, ratio: float, seed: int) -> None:
    blocks, targets = random_problem(seed)
    quadratic = DenseQuadratic.from_data(blocks, targets)
    beta = ratio * beta_max(quadratic, penalty)
    reference = reference_gated(blocks.numpy(), targets.numpy(), beta, penalty.name)
    streamed = StreamedQuadratic(lambda: [Part(DenseBlocks(blocks), targets, len(targets))])
    for solution in (
        admm(quadratic, penalty, beta, tolerance=1e-9),
        proximal_gradient(quadratic, penalty, beta, tolerance=1e-9),
        proximal_gradient(streamed, penalty, beta, tolerance=1e-9),
    ):
        assert solution.converged
        assert solution.certificate.objective == pytest.approx(reference.objective, rel=1e-6)


@pytest.mark.parametrize("penalty", PENALTIES, ids=lambda p: p.name)
def test_the_certificate_bounds_the_optimum_from_below_anywhere(penalty: Penalty) -> None:
    blocks, targets = random_problem(3)
    quadratic = DenseQuadratic.from_data(blocks, targets)
    beta = 0.03 * beta_max(quadratic, penalty)
    optimum = admm(quadratic, penalty, beta, tolerance=1e-10)
    rng = torch.Generator().manual_seed(0)
    for size in (0.0, 1e-4, 1e-2, 1.0):
        noise = torch.randn(optimum.weights.shape, generator=rng, dtype=torch.float64)
        certificate = certify(quadratic, penalty, beta, optimum.weights + size * noise)
        assert certificate.bound <= optimum.certificate.objective * (1 + 1e-12)
        assert certificate.objective >= optimum.certificate.bound


@pytest.mark.parametrize("penalty", PENALTIES, ids=lambda p: p.name)
def test_the_certificate_from_data_agrees_with_the_one_from_statistics(penalty: Penalty) -> None:
    blocks, targets = random_problem(4)
    quadratic = DenseQuadratic.from_data(blocks, targets)
    beta = 0.02 * beta_max(quadratic, penalty)
    solution = admm(quadratic, penalty, beta, tolerance=1e-4)
    cuts = [slice(0, 23), slice(23, 60)]
    parts = [Part(DenseBlocks(blocks[:, cut]), targets[cut], cut.stop - cut.start) for cut in cuts]
    measured = measure_on_data(parts, penalty, beta, solution.weights).certificate
    assert measured.objective == pytest.approx(solution.certificate.objective, rel=1e-12)
    assert measured.bound == pytest.approx(solution.certificate.bound, rel=1e-10)


@pytest.mark.parametrize("penalty", PENALTIES, ids=lambda p: p.name)
def test_zero_is_optimal_from_beta_max_on_and_not_before(penalty: Penalty) -> None:
    quadratic = DenseQuadratic.from_data(*random_problem(5))
    largest = beta_max(quadratic, penalty)
    assert solve(quadratic, penalty, largest).active_groups == 0
    assert solve(quadratic, penalty, largest).certificate.relative_gap < 1e-12
    assert admm(quadratic, penalty, 1.01 * largest, tolerance=1e-9).active_groups == 0
    assert solve(quadratic, penalty, 0.98 * largest, tolerance=1e-9).active_groups > 0


@pytest.mark.parametrize("penalty", PENALTIES, ids=lambda p: p.name)
def test_a_warm_path_gives_the_solutions_of_cold_starts(penalty: Penalty) -> None:
    quadratic = DenseQuadratic.from_data(*random_problem(6))
    path = list(solve_path(quadratic, penalty, tolerance=1e-8))
    assert len(path) == 20
    assert [s.beta for s in path] == geometric_betas(beta_max(quadratic, penalty), 1e-3, 20)
    for solution in path[3::5]:
        cold = solve(quadratic, penalty, solution.beta, tolerance=1e-8)
        assert solution.certificate.objective == pytest.approx(cold.certificate.objective, rel=1e-6)
    assert all(s.converged for s in path)


def test_proximal_gradient_at_beta_zero_solves_least_squares() -> None:
    blocks, targets = random_problem(7, groups=2, rows=50, features=3)
    quadratic = DenseQuadratic.from_data(blocks, targets)
    wide = blocks.permute(1, 0, 2).reshape(50, -1)
    exact = torch.linalg.lstsq(wide, targets).solution.view(2, 3, 2)
    found = proximal_gradient(quadratic, GroupLasso(), 0.0, max_iterations=20_000).weights
    torch.testing.assert_close(found, exact, rtol=1e-6, atol=1e-8)


def test_a_target_or_data_of_zeros_gives_the_empty_solution() -> None:
    blocks, targets = random_problem(8)
    for quadratic in (
        DenseQuadratic.from_data(blocks, 0 * targets),
        DenseQuadratic.from_data(0 * blocks, targets),
    ):
        for algorithm in (admm, proximal_gradient):
            assert algorithm(quadratic, GroupLasso(), 0.1).active_groups == 0


def test_largest_curvature_is_the_largest_eigenvalue() -> None:
    quadratic = DenseQuadratic.from_data(*random_problem(9))
    exact = float(torch.linalg.eigvalsh(quadratic.matrix)[-1])
    assert largest_curvature(quadratic, iterations=200) == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("beta", [-1.0, float("nan"), float("inf")])
def test_a_senseless_beta_is_refused(beta: float) -> None:
    quadratic = DenseQuadratic.from_data(*random_problem(0))
    for algorithm in (admm, proximal_gradient):
        with pytest.raises(ValueError, match="beta: expected a finite number >= 0"):
            algorithm(quadratic, GroupLasso(), beta)
    with pytest.raises(ValueError, match="decreasing"):
        list(solve_path(quadratic, GroupLasso(), [0.1, 0.2]))
    with pytest.raises(ValueError, match="H W = c"):
        admm(quadratic, GroupLasso(), 0.0)
