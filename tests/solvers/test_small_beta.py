"""Programs of nearly equal inputs at small beta: certified in double precision, said to fall short in single."""

import pytest
import torch
from torch import Tensor

from convexrecon.solvers.certificates import beta_max
from convexrecon.solvers.path import solve, solve_path
from convexrecon.solvers.penalties import penalty_named
from convexrecon.solvers.quadratics import DenseQuadratic, IndefiniteError
from convexrecon.solvers.reference import reference_gated

PENALTIES = ["group_lasso", "nuclear"]


def twins(
    groups: int = 3, rows: int = 120, outputs: int = 2, apart: float = 1e-4, features: int = 4
) -> tuple[Tensor, Tensor]:
    """Gated blocks (G, n, 2 d) of features that come twice, `apart` from each other, and targets (n, m)."""
    rng = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    features_once = normal(rows, features) * torch.logspace(0, -2, features, dtype=torch.float64)
    both = torch.cat([features_once, features_once + apart * normal(rows, features)], 1)
    open_ = (both @ normal(2 * features, groups) > 0).double()
    blocks = torch.einsum("ng,nd->gnd", open_, both)
    targets = torch.einsum("gnd,gdm->nm", blocks, normal(groups, 2 * features, outputs))
    return blocks, targets + 0.3 * normal(rows, outputs)


def rounded(blocks: Tensor, targets: Tensor) -> DenseQuadratic:
    """Their statistics with products in single precision."""
    groups, rows, features = blocks.shape
    wide = blocks.float().transpose(0, 1).flatten(1)
    linear = (wide.T @ targets.float()).double().view(groups, features, -1)
    return DenseQuadratic((wide.T @ wide).double() / rows, linear / rows, float(targets.square().sum() / rows))


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("outputs", [1, 2])
def test_the_optimum_is_that_of_cvxpy(penalty: str, outputs: int) -> None:
    blocks, targets = twins(outputs=outputs)
    quadratic, named = DenseQuadratic.from_data(blocks, targets), penalty_named(penalty)
    for ratio in (1e-3, 1e-5, 1e-6):
        beta = ratio * beta_max(quadratic, named)
        solution = solve(quadratic, named, beta, tolerance=1e-7)
        reference = reference_gated(blocks.numpy(), targets.numpy(), beta, penalty)
        assert solution.converged
        assert solution.certificate.relative_gap <= 1e-7
        assert solution.certificate.objective == pytest.approx(reference.objective, rel=1e-6)


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize(
    ("groups", "rows", "apart"), [(1, 120, 1e-5), (3, 15, 1e-3), (3, 120, 0.0)], ids=["one gate", "few rows", "equal"]
)
def test_degenerate_programs_are_certified(penalty: str, groups: int, rows: int, apart: float) -> None:
    quadratic = DenseQuadratic.from_data(*twins(groups, rows, apart=apart))
    named = penalty_named(penalty)
    largest = beta_max(quadratic, named)
    for solution in solve_path(quadratic, named, [1e-2 * largest, 1e-5 * largest], tolerance=1e-6):
        assert solution.converged
        assert solution.certificate.relative_gap <= 1e-6


@pytest.mark.parametrize("penalty", PENALTIES)
def test_an_indefinite_h_gives_good_weights_and_no_false_certificate(penalty: str) -> None:
    blocks, targets = twins(groups=6, rows=2000)
    exact, coarse = DenseQuadratic.from_data(blocks, targets), rounded(blocks, targets)
    assert coarse.indefinite
    assert not exact.indefinite
    named = penalty_named(penalty)
    beta = 1e-7 * beta_max(exact, named)
    optimum = solve(exact, named, beta, tolerance=1e-7)
    found = solve(coarse, named, beta, tolerance=1e-7)
    assert optimum.converged
    assert not found.converged
    assert found.certificate.relative_gap > 1e-7
    product = exact.multiply(found.weights)
    loss = (exact.tau + float((found.weights * (product - 2 * exact.linear)).sum())) / 2
    objective = loss + beta * float(named.value(found.weights))
    assert optimum.certificate.objective <= objective <= 1.01 * optimum.certificate.objective


def test_an_h_that_no_rounding_explains_is_refused() -> None:
    quadratic = DenseQuadratic.from_data(*twins())
    shift = 0.01 * torch.eye(len(quadratic.matrix), dtype=torch.float64)
    wrong = DenseQuadratic(quadratic.matrix - shift, quadratic.linear, quadratic.tau)
    for penalty in PENALTIES:
        named = penalty_named(penalty)
        with pytest.raises(IndefiniteError, match="positive semidefinite up to rounding"):
            solve(wrong, named, 1e-5 * beta_max(wrong, named))
    with pytest.raises(IndefiniteError, match="double precision"):
        wrong.shifted_inverse(1e-3)
