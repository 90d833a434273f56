"""Maps and calibration regions from non-Cartesian samples of coils known in closed form."""

from typing import Any

import pytest
import torch
from torch import Tensor

from convexrecon.errors import InputError
from convexrecon.physics.conjugate_gradient import conjugate_gradient
from convexrecon.physics.density_compensation import pipe_menon
from convexrecon.physics.fourier import centred_fft
from convexrecon.physics.noncartesian_maps import gridded_calibration, noncartesian_maps
from convexrecon.physics.noncartesian_sense import NonCartesianSense
from convexrecon.physics.nufft import Nufft
from convexrecon.physics.sensitivity_maps import calibration_region
from convexrecon.physics.trajectories import kooshball, radial, spiral


def coils_and_image(shape: tuple[int, ...], coils: int = 4) -> tuple[Tensor, Tensor]:
    """Smooth coils around an ellipsoid, normalised, (1, C, *N), and what they see, (1, *N) complex64."""
    axes = torch.meshgrid(*[(torch.arange(n) - n // 2) / (n / 2) for n in shape], indexing="ij")
    turns = torch.arange(coils) * 2 * torch.pi / coils
    angles = turns.view(-1, *[1] * len(shape))
    distance = (axes[-2] - 1.3 * torch.sin(angles)) ** 2 + (axes[-1] - 1.3 * torch.cos(angles)) ** 2
    for axis in axes[:-2]:
        distance = distance + (axis - 0.2) ** 2
    maps = torch.polar(1 / (0.6 + distance), axes[-1] * torch.cos(angles) + angles)
    maps = maps / torch.linalg.vector_norm(maps, dim=0, keepdim=True)
    radius = sum((axis / 0.8) ** 2 for axis in axes)
    image = (radius < 1) * (1 + 0.4 * torch.cos(6 * axes[-2]) * torch.sin(5 * axes[-1] + 1))
    return maps.unsqueeze(0).to(torch.complex64), image.unsqueeze(0).to(torch.complex64)


def measure(coordinates: Tensor, maps: Tensor, image: Tensor) -> Tensor:
    return Nufft(coordinates, tuple(image.shape[1:]), 1e-6).forward(maps * image.unsqueeze(1))


def agreement(found: Tensor, maps: Tensor, image: Tensor) -> Tensor:
    """|<s, s'>| of unit vectors over coils, at the pixels of the object."""
    return (found.conj() * maps).sum(1).abs()[image.abs() > 0.2]


@pytest.mark.parametrize("shape", [(64, 60), (63, 58)])
@pytest.mark.parametrize("kind", ["radial", "spiral"])
def test_the_calibration_region_is_the_cartesian_one(shape: tuple[int, int], kind: str) -> None:
    maps, image = coils_and_image(shape)
    trajectory = radial(shape, 110) if kind == "radial" else spiral(shape, 12, oversampling=2)
    coordinates = trajectory.flatten(0, 1)
    found = gridded_calibration(1e-9 * measure(coordinates, maps, image), coordinates, shape, 20)
    exact = 1e-9 * calibration_region(centred_fft(maps * image.unsqueeze(1), 2), 20)
    assert float(torch.linalg.vector_norm(found - exact) / torch.linalg.vector_norm(exact)) < 0.02


@pytest.mark.parametrize("method", ["espirit", "walsh", "root-sum-of-squares"])
@pytest.mark.parametrize("shape", [(64, 60), (63, 58)])
def test_maps_are_those_of_the_coils(shape: tuple[int, int], method: Any) -> None:
    maps, image = coils_and_image(shape)
    coordinates = radial(shape, 110).flatten(0, 1)
    found = noncartesian_maps(measure(coordinates, maps, image), coordinates, shape, method=method, calibration=20)
    assert found.dtype == torch.complex64
    assert found.shape == maps.shape
    close = agreement(found, maps, image)
    assert float(close.quantile(0.05)) > 0.995
    assert float(close.max()) < 1 + 1e-4
    power = found.abs().square().sum(1)
    torch.testing.assert_close(power, (power > 0).to(power), atol=1e-4, rtol=0)


def test_maps_of_a_volume() -> None:
    shape = (20, 24, 22)
    maps, image = coils_and_image(shape)
    coordinates = kooshball(shape, 700).flatten(0, 1)
    samples = measure(coordinates, maps, image)
    found = noncartesian_maps(samples, coordinates, shape, method="root-sum-of-squares", calibration=12)
    assert float(agreement(found, maps, image).quantile(0.05)) > 0.95


def test_half_the_spokes_reconstruct_with_the_maps_found() -> None:
    shape = (64, 60)
    maps, image = coils_and_image(shape, 6)
    coordinates = radial(shape, 40).flatten(0, 1)
    samples = measure(coordinates, maps, image)
    found = noncartesian_maps(samples, coordinates, shape, calibration=20)
    sense = NonCartesianSense.along(coordinates, found, pipe_menon(coordinates, shape))
    adjoint = sense.adjoint(sense.weigh(samples))
    solved = conjugate_gradient(lambda x: sense.normal(x) + 1e-3 * x, adjoint, tolerance=1e-3).solution
    coil_images = found * solved.unsqueeze(1)
    error = torch.linalg.vector_norm(coil_images - maps * image.unsqueeze(1)) / torch.linalg.vector_norm(image)
    assert float(error) < 0.12


def test_each_slice_stands_alone() -> None:
    shape = (48, 40)
    maps, image = coils_and_image(shape)
    coordinates = radial(shape, 80).flatten(0, 1)
    one = measure(coordinates, maps, image)
    other = 100 * measure(coordinates, maps.flip(-1), image.flip(-2))
    both = gridded_calibration(torch.cat([one, other]), coordinates, shape, 16)
    alone = gridded_calibration(other, coordinates, shape, 16)
    torch.testing.assert_close(both[1:] / 100, alone / 100, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "sum"}, "espirit, walsh"),
        ({"calibration": 5}, "even"),
        ({"calibration": 2}, "at least 4"),
        ({"threshold": 1.5, "method": "walsh"}, "threshold"),
        ({"samples": torch.zeros(1, 2, 30, 10) * 1j}, "shots flattened"),
        ({"samples": torch.zeros(1, 2, 640)}, "complex"),
        ({"samples": torch.full((1, 2, 640), torch.nan) * 1j}, "NaN"),
        ({"samples": torch.zeros(1, 2, 640) * 1j, "method": "root-sum-of-squares"}, "zero"),
        ({"coordinates": torch.rand(640, 2) / 2}, "cycles per pixel"),
        ({"coordinates": torch.full((640, 2), 15.0)}, "0 samples in the central"),
        ({"shape": (32, 32, 32), "coordinates": torch.rand(640, 3) * 15}, "root-sum-of-squares"),
    ],
)
def test_refuses_bad_input(change: dict[str, Any], message: str) -> None:
    usual: dict[str, Any] = {
        "samples": torch.ones(1, 2, 640) * (1 + 1j),
        "coordinates": radial((32, 32), 10).flatten(0, 1),
        "shape": (32, 32),
        "calibration": 8,
    }
    with pytest.raises(InputError, match=message):
        noncartesian_maps(**{**usual, **change})
