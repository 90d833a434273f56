"""Ridge solutions from factors that are used again, against systems solved directly."""

import math

import pytest
import torch
from random_problems import random_problem
from torch import Tensor

from convexrecon.solvers.quadratics import DenseQuadratic
from convexrecon.solvers.reused_factor import ReusedFactor


def _direct(quadratic: DenseQuadratic, t: Tensor) -> Tensor:
    """M c by a dense solve on the groups in use."""
    features = quadratic.linear.shape[1]
    used = t > 0
    rows = used.repeat_interleave(features)
    system = quadratic.matrix[rows][:, rows] + torch.diag(1 / t[used].repeat_interleave(features))
    weights = torch.zeros_like(quadratic.linear)
    weights[used] = torch.linalg.solve(system, quadratic.linear[used].flatten(0, 1)).view(
        -1, features, weights.shape[2]
    )
    return weights


def _tight(_: Tensor, residual: Tensor) -> float:
    return 1e-11 * float(residual.norm())


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("unit", [1e-9, 1.0, 1e9])
def test_solutions_are_those_of_direct_solves_whatever_came_before(outputs: int, unit: float) -> None:
    plain = DenseQuadratic.from_data(*random_problem(1, groups=6, outputs=outputs))
    quadratic = DenseQuadratic(unit**2 * plain.matrix, unit * plain.linear, plain.tau)
    systems = ReusedFactor(quadratic, exact_side=0)
    rng = torch.Generator().manual_seed(0)
    t = torch.rand(6, generator=rng, dtype=torch.float64) + 0.1
    start = None
    for step in range(12):
        point = systems.solve(t / unit**2, start, _tight)
        expected = _direct(quadratic, t / unit**2)
        torch.testing.assert_close(unit * point.weights, unit * expected, rtol=1e-8, atol=1e-9)
        torch.testing.assert_close(point.residual, quadratic.linear - quadratic.multiply(point.weights))
        smooth = float((point.weights * (quadratic.multiply(point.weights) / 2 - quadratic.linear)).sum())
        used = t > 0
        ridge = float((point.weights[used].square().sum((1, 2)) / (2 * t[used] / unit**2)).sum())
        assert point.value == pytest.approx(smooth + ridge, rel=1e-9)
        start = point.weights
        t = t * (1 + torch.rand(6, generator=rng, dtype=torch.float64))
        t[step % 6] = 0.0 if step % 2 else 0.5  # leaves, or comes back
    assert systems.solve(0 * t, start, _tight).value == 0.0


def test_a_factor_serves_neighbours_and_is_renewed_far_away_or_for_other_groups() -> None:
    quadratic = DenseQuadratic.from_data(*random_problem(2))
    systems = ReusedFactor(quadratic, exact_side=0)
    t = torch.ones(5, dtype=torch.float64)
    for scale in (1.0, 1.5, 3.0, 0.5):
        systems.solve(scale * t, None, _tight)
    assert systems.factorizations == 1
    systems.solve(100 * t, None, _tight)
    assert systems.factorizations == 2
    t[0] = 0
    systems.solve(100 * t, None, _tight)
    assert systems.factorizations == 3
    small = ReusedFactor(quadratic)  # 35 rows are always factored in double precision
    factor = small.solve(t, None, _tight).factor
    assert factor is not None
    assert factor.lower.dtype == torch.float64
    assert small.factorizations == 0


def test_weights_that_will_do_are_left_as_they_are() -> None:
    quadratic = DenseQuadratic.from_data(*random_problem(3))
    systems = ReusedFactor(quadratic, exact_side=0)
    start = torch.randn(quadratic.linear.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    point = systems.solve(torch.ones(5, dtype=torch.float64), start, lambda *_: math.inf)
    torch.testing.assert_close(point.weights, start, rtol=0, atol=0)
    assert point.value == -math.inf


@pytest.mark.parametrize("exact_side", [0, 400])
def test_a_matrix_without_a_factor_has_an_infinite_value(exact_side: int) -> None:
    quadratic = DenseQuadratic.from_data(*random_problem(4))
    lowered = quadratic.matrix - 0.5 * torch.eye(len(quadratic.matrix), dtype=torch.float64)
    systems = ReusedFactor(DenseQuadratic(lowered, quadratic.linear, quadratic.tau), exact_side)
    point = systems.solve(torch.full((5,), 1e3, dtype=torch.float64), None, _tight)
    assert point.value == math.inf
    assert not bool(point.weights.any())
    assert point.factor is None
