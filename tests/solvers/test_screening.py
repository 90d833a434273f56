import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_problems import random_problem

from convexrecon.solvers.certificates import beta_max
from convexrecon.solvers.path import solve
from convexrecon.solvers.penalties import GroupLasso, NuclearNorm
from convexrecon.solvers.quadratics import DenseQuadratic
from convexrecon.solvers.screening import proved_zero


@given(seed=st.integers(0, 500), exponent=st.floats(-3, 0.3), nuclear=st.booleans(), size=st.floats(-12, 0))
@settings(max_examples=40, deadline=None)
def test_groups_in_use_at_the_optimum_are_never_proved_zero(
    seed: int, exponent: float, nuclear: bool, size: float
) -> None:
    quadratic = DenseQuadratic.from_data(*random_problem(seed, groups=6))
    penalty = NuclearNorm() if nuclear else GroupLasso()
    beta = 10**exponent * beta_max(quadratic, penalty)
    optimum = solve(quadratic, penalty, beta, tolerance=1e-10).weights
    noise = torch.randn(optimum.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    screened = proved_zero(quadratic, penalty, beta, optimum + 10**size * noise)
    norms = optimum.flatten(1).norm(dim=1)
    assert not bool((screened & (norms > 1e-6 * norms.max())).any())


def test_near_the_optimum_most_groups_out_of_use_are_proved_zero() -> None:
    quadratic = DenseQuadratic.from_data(*random_problem(3, groups=12, rows=200))
    beta = 0.3 * beta_max(quadratic, GroupLasso())
    solution = solve(quadratic, GroupLasso(), beta, tolerance=1e-10)
    screened = int(proved_zero(quadratic, GroupLasso(), beta, solution.weights).sum())
    assert screened == 12 - solution.active_groups
    assert 0 < screened < 12
    assert int(proved_zero(quadratic, GroupLasso(), beta, 0 * solution.weights).sum()) < screened
