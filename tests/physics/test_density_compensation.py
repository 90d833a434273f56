"""Density compensation against areas known in closed form."""

import math

import pytest
import torch
from torch import Tensor

from convexrecon.errors import InputError
from convexrecon.physics.density_compensation import pipe_menon, ramp
from convexrecon.physics.nufft import Nufft
from convexrecon.physics.trajectories import kooshball, radial, spiral


def fejer(coordinates: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(samples, samples): prod_a of the sum over |l| < N of (1 - |l| / N) cos(2 pi k l / N) / N."""
    matrix = torch.ones(len(coordinates), len(coordinates), dtype=torch.float64)
    for axis, size in enumerate(shape):
        difference = coordinates[:, axis, None] - coordinates[None, :, axis]
        lags = torch.arange(1 - size, size).double()
        terms = (1 - lags.abs() / size) * torch.cos(2 * torch.pi * difference[..., None] * lags / size)
        matrix = matrix * terms.sum(-1) / size
    return matrix


@pytest.mark.parametrize("shape", [(7, 12), (4, 5, 6)])
def test_each_iteration_divides_by_the_smoothed_density(shape: tuple[int, ...]) -> None:
    rng = torch.Generator().manual_seed(0)
    coordinates = (torch.rand(2, 50, len(shape), generator=rng, dtype=torch.float64) - 0.5) * torch.tensor(shape)
    for b in range(2):
        kernel, weights = fejer(coordinates[b], shape), torch.ones(50, dtype=torch.float64)
        for iterations in range(1, 4):
            weights = weights / (kernel @ weights)
            found = pipe_menon(coordinates, shape, iterations=iterations, eps=1e-12)
            torch.testing.assert_close(found[b], weights, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("shape", [(6, 9), (4, 5, 6)])
def test_one_cell_each_on_the_cartesian_grid(shape: tuple[int, ...]) -> None:
    grid = torch.cartesian_prod(*[torch.arange(size).float() - size // 2 for size in shape])
    torch.testing.assert_close(pipe_menon(grid, shape), torch.ones(len(grid)), atol=1e-4, rtol=0)


def test_radial_weights_are_the_ramp() -> None:
    shape, shots = (48, 48), 80
    coordinates = radial(shape, shots, angles="uniform").flatten(0, 1)
    found, exact = pipe_menon(coordinates, shape), ramp(coordinates, shape, shots)
    radius = torch.linalg.vector_norm(coordinates, dim=1)
    middle = (radius > 1) & (radius < 21)
    error = torch.linalg.vector_norm((found - exact)[middle]) / torch.linalg.vector_norm(exact[middle])
    assert float(error) < 0.03
    # The areas of the ramp tile the disc.
    assert float(exact.sum()) == pytest.approx(math.pi * 24**2, rel=0.01)


@pytest.mark.parametrize("shots", [40, 600])
def test_spokes_in_space_are_the_ramp_and_capped_what_the_iteration_finds(shots: int) -> None:
    shape = (16, 16, 16)
    coordinates = kooshball(shape, shots).flatten(0, 1)
    areas = ramp(coordinates, shape, shots)
    radius = torch.linalg.vector_norm(coordinates, dim=1)
    # The areas tile the ball.
    assert float(areas.sum()) == pytest.approx(4 / 3 * math.pi * 8**3, rel=0.02)
    capped = ramp(coordinates, shape, shots, capped=True)
    assert float(capped.max()) <= 0.5 + 1e-6
    torch.testing.assert_close(capped, areas.clamp_max(0.5))
    found = pipe_menon(coordinates, shape)
    middle = (radius > 1) & (radius < 7)
    assert float(torch.linalg.vector_norm((capped - found)[middle]) / torch.linalg.vector_norm(found[middle])) < 0.3


def test_archimedean_spirals_are_even_away_from_centre_and_edge() -> None:
    coordinates = spiral((48, 48), 8, oversampling=2).flatten(0, 1)
    weights = pipe_menon(coordinates, (48, 48))
    radius = torch.linalg.vector_norm(coordinates, dim=1)
    middle = weights[(radius > 8) & (radius < 21)]
    # Arms one cycle apart, samples half a cycle apart: half a cell each, and some less off the axes.
    assert float(middle.mean()) == pytest.approx(0.48, abs=0.03)
    assert float(middle.std() / middle.mean()) < 0.08


def test_no_sample_stands_for_more_than_its_cell() -> None:
    shape = (16, 16, 16)
    assert float(pipe_menon(kooshball(shape, 40).flatten(0, 1), shape).max()) <= 1 + 1e-6


def test_the_adjoint_of_weighted_samples_is_an_image() -> None:
    shape = (64, 64)
    y, x = torch.meshgrid(torch.arange(64.0) - 32, torch.arange(64.0) - 32, indexing="ij")
    image = ((y / 20) ** 2 + (x / 26) ** 2 < 1).to(torch.complex64) * (1 + 0.5 * torch.cos(y / 5) * torch.sin(x / 4))
    coordinates = radial(shape, 101).flatten(0, 1)
    nufft = Nufft(coordinates, shape)
    samples = nufft.forward(image)

    def error(weights: Tensor) -> float:
        found = nufft.adjoint(weights * samples)
        found = found * torch.vdot(found.flatten(), image.flatten()) / torch.vdot(found.flatten(), found.flatten())
        return float(torch.linalg.vector_norm(found - image) / torch.linalg.vector_norm(image))

    compensated = error(pipe_menon(coordinates, shape))
    assert compensated < 0.2
    assert error(torch.ones(len(coordinates))) > 3 * compensated
    assert compensated == pytest.approx(error(ramp(coordinates, shape, 101)), abs=0.05)


def test_refuses_bad_input() -> None:
    with pytest.raises(InputError, match="iterations"):
        pipe_menon(radial((16, 16), 3).flatten(0, 1), (16, 16), iterations=0)
    with pytest.raises(InputError, match="radians"):
        pipe_menon(torch.rand(9, 2) * 3, (64, 64))
    with pytest.raises(InputError, match="of 7 spokes"):
        ramp(radial((16, 16), 3).flatten(0, 1), (16, 16), 7)
