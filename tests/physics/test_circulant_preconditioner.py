"""The nearest circulant against matrices, and conjugate gradients preconditioned by it."""

import math

import pytest
import torch
from torch import Tensor

from convexrecon.data.coils import random_coils
from convexrecon.physics import circulant_preconditioner
from convexrecon.physics.circulant_preconditioner import CirculantPreconditioner, circulant_eigenvalues
from convexrecon.physics.conjugate_gradient import conjugate_gradient, proximal_solve, regularized_solve
from convexrecon.physics.density_compensation import ramp
from convexrecon.physics.forward_model import preconditioner_of
from convexrecon.physics.noncartesian_sense import NonCartesianSense
from convexrecon.physics.sense import Sense
from convexrecon.physics.trajectories import kooshball, radial

CASES = [(2, 3, (7, 10)), (1, 2, (4, 5, 6)), (3, 2, (6, 5))]


def random_complex(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))


def random_case(batch: int, coils: int, shape: tuple[int, ...], own: bool = False) -> NonCartesianSense:
    """Random samples, weights and maps; the first row of pixels is seen by no coil."""
    rng = torch.Generator().manual_seed(7)
    leading = (batch,) if own else ()
    coordinates = torch.rand(*leading, 40, len(shape), generator=rng, dtype=torch.float64) - 0.5
    weights = torch.rand(*leading, 40, generator=rng, dtype=torch.float64)
    maps = random_complex(batch, coils, *shape, seed=3)
    maps = maps / torch.linalg.vector_norm(maps, dim=1, keepdim=True)
    maps[:, :, 0] = 0
    return NonCartesianSense.along(coordinates * torch.tensor(shape), maps, weights, eps=1e-12)


def matrix_of(function: object, like: Tensor) -> Tensor:
    """A map of images (B, *N) as matrices (B, n, n)."""
    assert callable(function)
    shape = like.shape[1:]
    columns = torch.eye(math.prod(shape), dtype=like.dtype).reshape(-1, 1, *shape).expand(-1, *like.shape)
    return torch.stack([function(column).flatten(1) for column in columns], 2)


def scan_like(shape: tuple[int, ...]) -> NonCartesianSense:
    """Undersampled spokes seen by the smooth maps of a head coil, in a ball."""
    lines = [torch.linspace(-1, 1, size) for size in shape]
    radius = torch.stack(torch.meshgrid(*lines, indexing="ij")).square().sum(0).sqrt()
    array = random_coils(6, 1, depth=2.0)
    y, x = lines[-2].numpy()[:, None], lines[-1].numpy()[None]
    if len(shape) == 2:
        maps = torch.from_numpy(array.sensitivities(y, x))
        trajectory, shots = radial((shape[0], shape[1]), shape[0] // 4), shape[0] // 4
    else:
        planes = [torch.from_numpy(array.sensitivities(y, x, k / shape[0])) for k in range(shape[0])]
        maps = torch.stack(planes, 1)
        shots = shape[0] ** 2 // 8
        trajectory = kooshball((shape[0], shape[1], shape[2]), shots)
    coordinates = trajectory.flatten(0, 1)
    weights = ramp(coordinates, shape, shots, capped=True)
    return NonCartesianSense.along(coordinates, (maps * (radius < 0.9))[None].to(torch.complex64), weights, eps=1e-4)


@pytest.mark.parametrize(("batch", "coils", "shape"), CASES)
@pytest.mark.parametrize("own", [False, True])
def test_eigenvalues_are_the_diagonal_of_the_normal_matrix_in_kspace(
    batch: int, coils: int, shape: tuple[int, ...], own: bool
) -> None:
    sense = random_case(batch, coils, shape, own)
    axes = tuple(range(1, len(shape) + 1))

    def in_kspace(spectrum: Tensor) -> Tensor:
        image = sense.normal(torch.fft.ifftn(spectrum, dim=axes, norm="ortho"))
        return torch.fft.fftn(image, dim=axes, norm="ortho")

    exact = matrix_of(in_kspace, sense.maps[:, 0]).diagonal(dim1=1, dim2=2).real
    found = circulant_eigenvalues(sense.fourier.transfer(torch.complex128), sense.maps, reach=99)
    torch.testing.assert_close(found.flatten(1), exact, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("shape", [(40, 48), (20, 22, 24)])
def test_few_frequencies_and_pixels_of_smooth_maps_are_enough(shape: tuple[int, ...]) -> None:
    sense = scan_like(shape)
    transfer = sense.fourier.transfer(torch.complex64)
    exact = circulant_eigenvalues(transfer, sense.maps, reach=99)
    found = circulant_eigenvalues(transfer, sense.maps)
    assert float((found - exact).norm() / exact.norm()) < (0.1 if len(shape) == 2 else 0.2)
    assert float(found.mean()) == pytest.approx(float(exact.mean()), rel=0.02)


@pytest.mark.parametrize(("batch", "coils", "shape"), CASES)
def test_rows_at_a_time_do_not_matter(
    batch: int, coils: int, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    sense = random_case(batch, coils, shape)
    transfer = sense.fourier.transfer(torch.complex128)
    whole = circulant_eigenvalues(transfer, sense.maps, reach=2)
    assert whole.shape == (batch, *shape)
    monkeypatch.setattr(circulant_preconditioner, "_ENTRIES_AT_ONCE", 1)
    torch.testing.assert_close(circulant_eigenvalues(transfer, sense.maps, reach=2), whole, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize(("batch", "coils", "shape"), CASES)
@pytest.mark.parametrize("lam", [1e-3, 0.3])
def test_it_is_hermitian_positive_definite_and_exact_where_no_coil_sees(
    batch: int, coils: int, shape: tuple[int, ...], lam: float
) -> None:
    sense = random_case(batch, coils, shape)
    matrix = matrix_of(lambda r: sense.preconditioner.solve(r, lam), sense.maps[:, 0])
    torch.testing.assert_close(matrix, matrix.mH, atol=1e-9, rtol=0)
    eigenvalues = torch.linalg.eigvalsh(matrix)
    assert float(eigenvalues.min()) >= 1 / (sense.preconditioner.eigenvalues.max() + lam) - 1e-9
    assert float(eigenvalues.max()) <= 1 / lam + 1e-6
    image = random_complex(batch, *shape)
    torch.testing.assert_close(sense.preconditioner.solve(image, lam)[:, 0], image[:, 0] / lam)


@pytest.mark.parametrize(("batch", "coils", "shape"), CASES)
@pytest.mark.parametrize("own", [False, True])
def test_preconditioned_iterations_solve_what_the_matrix_solves(
    batch: int, coils: int, shape: tuple[int, ...], own: bool
) -> None:
    sense = random_case(batch, coils, shape, own)
    rhs = random_complex(batch, *shape, seed=5)
    found = regularized_solve(sense, rhs, 0.05, tolerance=1e-12, max_iterations=200)
    matrix = matrix_of(lambda x: sense.normal(x) + 0.05 * x, rhs)
    exact = torch.linalg.solve(matrix, rhs.flatten(1))
    torch.testing.assert_close(found.solution.flatten(1), exact, atol=1e-9, rtol=1e-9)
    left = (rhs.flatten(1) - (matrix @ found.solution.flatten(1).unsqueeze(2)).squeeze(2)).norm(dim=1)
    assert bool((found.residual <= 1e-12).all())
    assert bool((left <= 1e-10 * rhs.flatten(1).norm(dim=1)).all())


def test_the_residual_that_stops_is_not_preconditioned() -> None:
    sense = random_case(2, 3, (7, 10))
    rhs = random_complex(2, 7, 10, seed=5)
    found = regularized_solve(sense, rhs, 1e-3, tolerance=1e-3, max_iterations=200)
    left = rhs - sense.normal(found.solution) - 1e-3 * found.solution
    expected = left.flatten(1).norm(dim=1) / rhs.flatten(1).norm(dim=1)
    torch.testing.assert_close(found.residual, expected, atol=1e-9, rtol=1e-6)
    assert bool((expected <= 1e-3).all())


@pytest.mark.parametrize("own", [False, True])
def test_a_sample_does_not_depend_on_the_batch_it_sits_in(own: bool) -> None:
    sense = random_case(3, 2, (6, 5), own)
    scales = torch.tensor([1e-3, 1.0, 1e4], dtype=torch.float64).view(3, 1, 1)
    rhs = random_complex(3, 6, 5, seed=5) * scales
    rhs[1] = 0
    together = regularized_solve(sense, rhs, 0.05, tolerance=1e-6)
    assert not together.solution[1].any()
    weights, coordinates = sense.fourier.weights, sense.fourier.coordinates
    assert weights is not None
    for b in (0, 2):
        mine = (coordinates[b : b + 1], weights[b : b + 1]) if own else (coordinates, weights)
        one = NonCartesianSense.along(mine[0], sense.maps[b : b + 1], mine[1], eps=1e-12)
        alone = regularized_solve(one, rhs[b : b + 1], 0.05, tolerance=1e-6)
        assert int(alone.iterations[0]) == int(together.iterations[b])
        torch.testing.assert_close(alone.solution[0], together.solution[b], rtol=1e-5, atol=1e-5 * float(scales[b]))


def test_the_proximal_step_is_differentiated_through_it() -> None:
    sense = random_case(1, 2, (3, 3))
    adjoint_kspace, image = (random_complex(1, 3, 3, seed=seed).requires_grad_() for seed in (1, 2))
    lam = torch.tensor(0.37, dtype=torch.float64, requires_grad=True)

    def solve(a: Tensor, z: Tensor, weight: Tensor) -> Tensor:
        return proximal_solve(sense, a, z, weight, tolerance=1e-14, max_iterations=200)

    assert torch.autograd.gradcheck(solve, (adjoint_kspace, image, lam), atol=1e-6)


@pytest.mark.parametrize(("shape", "lam"), [((40, 48), 0.1), ((40, 48), 0.01), ((20, 22, 24), 0.1)])
def test_along_spokes_it_saves_a_third_of_the_iterations(shape: tuple[int, ...], lam: float) -> None:
    sense = scan_like(shape)
    rhs = sense.normal(random_complex(1, *shape).to(torch.complex64))
    plain = conjugate_gradient(lambda x: sense.normal(x) + lam * x, rhs, tolerance=1e-3, max_iterations=100)
    helped = regularized_solve(sense, rhs, lam, tolerance=1e-3, max_iterations=100)
    assert float(plain.residual) <= 1e-3
    assert float(helped.residual) <= 1e-3
    assert int(helped.iterations) <= 2 / 3 * int(plain.iterations)
    assert float((helped.solution - plain.solution).norm() / plain.solution.norm()) < 0.01 / lam**0.5


def test_it_is_computed_once_and_cartesian_models_have_none() -> None:
    sense = random_case(1, 2, (5, 6))
    assert isinstance(sense.preconditioner, CirculantPreconditioner)
    assert sense.preconditioner is sense.preconditioner
    maps = torch.ones(1, 1, 4, 4, dtype=torch.complex64)
    assert preconditioner_of(Sense(maps, torch.ones(1, 1, 4, 4))) is None
