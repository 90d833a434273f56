"""The cone-constrained solver against cvxpy, and its certificate against points known to be worse."""

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from torch import Tensor

from convexrecon.solvers.cone_constrained import (
    cone_beta_max,
    cone_certificate,
    solve_cone_constrained,
)
from convexrecon.solvers.cone_projection import project_onto_cones
from convexrecon.solvers.reference import reference_cone


def relu_program(seed: int, n: int, d: int, groups: int, smooth: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Blocks D_g P, cones (2 D_g - I) P and a target that a small ReLU network makes, with noise."""
    generator = torch.Generator().manual_seed(seed)
    patches = torch.randn(n, d, generator=generator, dtype=torch.float64)
    if smooth:
        place = torch.linspace(0, 1, d, dtype=torch.float64)
        covariance = torch.exp(-10 * (place[:, None] - place) ** 2) + 1e-3 * torch.eye(d)
        patches = patches @ torch.linalg.cholesky(covariance).T
    gates = (patches @ torch.randn(d, groups, generator=generator, dtype=torch.float64) >= 0).double().T
    hidden = (patches @ torch.randn(d, 3, generator=generator, dtype=torch.float64)).relu()
    target = hidden @ torch.randn(3, generator=generator, dtype=torch.float64)
    target = target + torch.randn(n, generator=generator, dtype=torch.float64)
    return gates[:, :, None] * patches, (2 * gates - 1)[:, :, None] * patches, target


def objective(blocks: Tensor, target: Tensor, beta: float, w: Tensor, z: Tensor) -> float:
    residual = torch.einsum("gnd,gd->n", blocks, w - z) - target
    return float(residual.square().sum() / (2 * len(target)) + beta * (w.norm(dim=1) + z.norm(dim=1)).sum())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("ratio", [0.5, 0.1, 0.01, 1e-3])
@pytest.mark.parametrize(("n", "d", "groups"), [(40, 4, 5), (90, 7, 4)])
def test_matches_cvxpy(n: int, d: int, groups: int, ratio: float, smooth: bool, seed: int) -> None:
    blocks, cones, target = relu_program(seed, n, d, groups, smooth)
    beta = ratio * cone_beta_max(blocks, cones, target)
    solution = solve_cone_constrained(blocks, cones, target, beta)
    reference = reference_cone(blocks.numpy(), cones.numpy(), target.numpy(), beta)
    assert solution.objective == pytest.approx(reference.objective, rel=1e-8)
    assert solution.objective == pytest.approx(objective(blocks, target, beta, solution.w, solution.z), rel=1e-12)
    assert solution.relative_gap <= 1e-8
    for part in (solution.w, solution.z):
        assert float((cones @ part[:, :, None]).min()) >= -1e-13 * float(part.norm() * cones.norm(dim=2).max())
    assert solution.max_violation <= 1e-13 * float(torch.cat([solution.w, solution.z]).norm())


def test_larger_problem_meets_cvxpy_and_its_gap() -> None:
    blocks, cones, target = relu_program(3, 200, 10, 10, True)
    beta = 0.02 * cone_beta_max(blocks, cones, target)
    solution = solve_cone_constrained(blocks, cones, target, beta)
    reference = reference_cone(blocks.numpy(), cones.numpy(), target.numpy(), beta)
    assert solution.objective == pytest.approx(reference.objective, rel=1e-8)
    assert solution.relative_gap <= 1e-8


def test_beta_max_is_where_the_solution_becomes_zero() -> None:
    blocks, cones, target = relu_program(4, 60, 5, 6, False)
    beta_max = cone_beta_max(blocks, cones, target)
    for factor in (1.0, 1.5, 100.0):
        solution = solve_cone_constrained(blocks, cones, target, factor * beta_max)
        assert not solution.w.any()
        assert not solution.z.any()
        assert solution.objective == pytest.approx(float(target.square().sum()) / 120, rel=1e-12)
    below = solve_cone_constrained(blocks, cones, target, 0.99 * beta_max)
    assert below.w.any() or below.z.any()
    assert below.objective < float(target.square().sum()) / 120


def test_certificate_bounds_the_optimum_from_any_feasible_point() -> None:
    blocks, cones, target = relu_program(5, 80, 6, 4, True)
    beta = 0.05 * cone_beta_max(blocks, cones, target)
    optimum = reference_cone(blocks.numpy(), cones.numpy(), target.numpy(), beta).objective
    best = solve_cone_constrained(blocks, cones, target, beta)
    for scale in (0.0, 0.5, 0.9, 1.0, 2.0):
        w, z = scale * best.w, scale * best.z
        certificate = cone_certificate(blocks, cones, target, beta, w, z)
        assert certificate.objective == pytest.approx(objective(blocks, target, beta, w, z), rel=1e-12)
        assert certificate.lower_bound <= optimum * (1 + 1e-9)
        at_zero = float(target.square().sum()) / (2 * len(target))
        distance = (certificate.objective - optimum) / at_zero
        assert certificate.relative_gap >= distance - 1e-9
        assert (scale == 1.0) == (certificate.relative_gap <= 1e-7)


def test_certificate_reports_a_point_outside_its_cone() -> None:
    blocks, cones, target = relu_program(6, 50, 5, 3, False)
    outside = torch.ones(3, 5, dtype=torch.float64)
    rows = cones / cones.norm(dim=2, keepdim=True)
    certificate = cone_certificate(blocks, cones, target, 0.1, outside, torch.zeros_like(outside))
    assert certificate.max_violation == pytest.approx(float(-(rows @ outside[:, :, None]).min()))
    assert certificate.max_violation > 0.1


def test_projection_matches_scipy_and_any_start() -> None:
    generator = torch.Generator().manual_seed(7)
    cones = torch.randn(40, 23, 6, generator=generator, dtype=torch.float64)
    cones[:20] += 2.0 * cones[:20, :1]  # correlated rows
    cones[3, 5:9] = cones[3, 4]  # repeated rows
    cones[4, 2] = 0.0
    cones = torch.nn.functional.normalize(cones, dim=2)
    points = torch.randn(40, 6, generator=generator, dtype=torch.float64)
    expected = torch.stack(
        [x + c.T @ torch.from_numpy(nnls(c.T.numpy(), -x.numpy())[0]) for x, c in zip(points, cones, strict=True)]
    )
    projected, multipliers = project_onto_cones(points, cones)
    torch.testing.assert_close(projected, expected, rtol=1e-11, atol=1e-11)
    assert float(multipliers.min()) >= 0
    assert float((cones @ projected[:, :, None]).min()) >= -1e-13
    shuffled = project_onto_cones(-points, cones)[1]
    again, _ = project_onto_cones(points, cones, shuffled)
    torch.testing.assert_close(again, expected, rtol=1e-11, atol=1e-11)


def test_scaling_of_data_and_target_does_not_matter() -> None:
    blocks, cones, target = relu_program(8, 60, 5, 4, False)
    beta = 0.1 * cone_beta_max(blocks, cones, target)
    plain = solve_cone_constrained(blocks, cones, target, beta)
    scaled = solve_cone_constrained(1e4 * blocks, 1e-6 * cones, 1e-7 * target, 1e-3 * beta)
    assert scaled.objective == pytest.approx(1e-14 * plain.objective, rel=1e-8)
    torch.testing.assert_close(1e11 * (scaled.w - scaled.z), plain.w - plain.z, rtol=1e-3, atol=1e-4)


def test_float32_input_is_solved_in_float64() -> None:
    blocks, cones, target = (x.float() for x in relu_program(9, 40, 4, 3, False))
    beta = 0.1 * cone_beta_max(blocks, cones, target)
    solution = solve_cone_constrained(blocks, cones, target, beta)
    reference = reference_cone(blocks.numpy(), cones.numpy(), target.numpy(), beta)
    assert solution.w.dtype == torch.float64
    assert solution.objective == pytest.approx(reference.objective, rel=1e-8)


def test_too_few_iterations_say_so() -> None:
    blocks, cones, target = relu_program(10, 60, 6, 4, True)
    beta = 1e-3 * cone_beta_max(blocks, cones, target)
    optimum = reference_cone(blocks.numpy(), cones.numpy(), target.numpy(), beta).objective
    solution = solve_cone_constrained(blocks, cones, target, beta, max_iterations=3)
    at_zero = float(np.square(target.numpy()).sum()) / (2 * len(target))
    assert solution.iterations == 3
    assert solution.relative_gap > 1e-6
    assert solution.objective - optimum <= solution.relative_gap * at_zero


@pytest.mark.parametrize("beta", [0.0, -1.0, float("nan"), float("inf")])
def test_refuses_a_beta_without_a_certificate(beta: float) -> None:
    with pytest.raises(ValueError, match="beta must be positive"):
        solve_cone_constrained(*relu_program(0, 9, 2, 2, False), beta)


def test_refuses_shapes_that_do_not_fit_and_nan() -> None:
    blocks, cones, target = relu_program(0, 9, 2, 3, False)
    with pytest.raises(ValueError, match=r"\(8,\)"):
        solve_cone_constrained(blocks, cones, target[:8], 0.1)
    with pytest.raises(ValueError, match=r"cones \(3, r, 2\)"):
        solve_cone_constrained(blocks, cones[:2], target, 0.1)
    with pytest.raises(ValueError, match=r"blocks \(G, n, d\)"):
        solve_cone_constrained(blocks[0], cones, target, 0.1)
    with pytest.raises(ValueError, match="must not be empty"):
        solve_cone_constrained(blocks, cones[:, :0], target, 0.1)
    with pytest.raises(ValueError, match="target holds NaN"):
        solve_cone_constrained(blocks, cones, target * torch.nan, 0.1)
    with pytest.raises(ValueError, match=r"w and z must be \(3, 2\)"):
        cone_certificate(blocks, cones, target, 0.1, target, target)
