"""Simulated receive arrays: normalized, smooth, alike on every grid, and different from one another."""

import numpy as np
import pytest

from convexrecon.data.anatomy import grid_coordinates
from convexrecon.data.coils import random_coils
from convexrecon.errors import InputError


@pytest.mark.parametrize("count", [1, 2, 5, 8, 13, 16])
@pytest.mark.parametrize("half_size", [(1.0, 0.86), (0.6, 1.0)])
def test_normalized_and_smooth_over_the_whole_field_of_view(count: int, half_size: tuple[float, float]) -> None:
    pixel = 1 / 40
    y, x = grid_coordinates((int(2 * half_size[0] / pixel), int(2 * half_size[1] / pixel)), pixel)
    for seed in range(3):
        maps = random_coils(count, seed, half_size).sensitivities(y, x)
        assert maps.shape == (count, y.size, x.size)
        assert maps.dtype == np.complex64
        np.testing.assert_allclose((np.abs(maps) ** 2).sum(0), 1, rtol=1e-5)
        steps = max(float(np.abs(np.diff(maps, axis=axis)).max()) for axis in (1, 2))
        assert steps < 0.35  # in units of the largest possible value, from one of 80 pixels to the next


def test_a_finer_grid_samples_the_same_function() -> None:
    coils = random_coils(6, seed=4)
    y, x = grid_coordinates((24, 20), 0.08)
    fine_y, fine_x = grid_coordinates((72, 60), 0.08 / 3)
    coarse, fine = coils.sensitivities(y, x), coils.sensitivities(fine_y, fine_x)
    # The origin of both is at N//2.
    np.testing.assert_allclose(fine[:, ::3, ::3], coarse, atol=1e-5)


def test_each_coil_sees_its_own_region_with_its_own_phase() -> None:
    y, x = grid_coordinates((40, 40), 0.05)
    maps = random_coils(8, seed=1).sensitivities(y, x)
    places = [np.unravel_index(np.abs(one).argmax(), one.shape) for one in maps]
    assert len(set(places)) == 8
    gram = np.abs(np.einsum("cyx,dyx->cd", maps, maps.conj()))
    norms = np.sqrt(np.diag(gram))
    correlation = gram / norms[:, None] / norms - np.eye(8)
    assert correlation.max() < 0.9
    assert np.ptp(np.angle(maps[:, 20, 20])) > 1


def test_determined_by_the_seed_and_smooth_from_slice_to_slice() -> None:
    y, x = grid_coordinates((20, 18), 0.1)
    maps = random_coils(4, seed=7).sensitivities(y, x, 0.4)
    assert np.array_equal(maps, random_coils(4, seed=7).sensitivities(y, x, 0.4))
    other = random_coils(4, seed=8).sensitivities(y, x, 0.4)
    assert np.abs(maps - other).max() > 0.3
    neighbour = random_coils(4, seed=7).sensitivities(y, x, 0.5)
    assert 0 < np.abs(maps - neighbour).max() < 0.1


@pytest.mark.parametrize("count", [0, -2])
def test_no_coils_are_refused(count: int) -> None:
    with pytest.raises(InputError, match=r"coils: .*expected at least 1"):
        random_coils(count, seed=0)
