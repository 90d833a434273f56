import pytest
import torch
from random_problems import random_problem

from convexrecon.solvers.batch import solve_batch
from convexrecon.solvers.certificates import beta_max
from convexrecon.solvers.path import solve
from convexrecon.solvers.penalties import GroupLasso, NuclearNorm, Penalty
from convexrecon.solvers.quadratics import DenseQuadratic


@pytest.mark.parametrize("penalty", [GroupLasso(), NuclearNorm()], ids=lambda p: p.name)
@pytest.mark.parametrize("max_iterations", [200, 20])
def test_a_batch_gives_the_solutions_of_its_problems(penalty: Penalty, max_iterations: int) -> None:
    quadratics = [DenseQuadratic.from_data(*random_problem(seed)) for seed in range(5)]
    betas = [ratio * beta_max(q, penalty) for q, ratio in zip(quadratics, (0.5, 0.1, 0.03, 0.01, 2.0), strict=True)]
    solutions = solve_batch(quadratics, penalty, betas, tolerance=1e-8, max_iterations=max_iterations)
    for quadratic, beta, found in zip(quadratics, betas, solutions, strict=True):
        alone = solve(quadratic, penalty, beta, tolerance=1e-8)
        assert found.converged
        assert found.beta == pytest.approx(beta)
        assert found.certificate.objective == pytest.approx(alone.certificate.objective, rel=1e-7)
    assert solutions[4].active_groups == 0


def test_outputs_apart_are_problems_of_their_own() -> None:
    blocks, targets = random_problem(7)
    apart = [DenseQuadratic.from_data(blocks, targets[:, [k]]) for k in range(2)]
    first, second = solve_batch(apart, GroupLasso(), [0.01, 0.02])
    assert first.weights.shape == (5, 7, 1)
    assert not torch.equal(first.weights, second.weights)


def test_batches_that_do_not_fit_together_are_refused() -> None:
    quadratic = DenseQuadratic.from_data(*random_problem(0))
    other = DenseQuadratic.from_data(*random_problem(0, features=3))
    assert solve_batch([], GroupLasso(), []) == []
    with pytest.raises(ValueError, match="found 2 betas"):
        solve_batch([quadratic], GroupLasso(), [0.1, 0.2])
    with pytest.raises(ValueError, match="of one shape"):
        solve_batch([quadratic, other], GroupLasso(), [0.1, 0.2])
    with pytest.raises(ValueError, match="betas > 0, found 0"):
        solve_batch([quadratic], GroupLasso(), [0.0])
