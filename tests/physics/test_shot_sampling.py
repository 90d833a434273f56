"""Which shots are kept: as many as asked for, spread as their ordering needs it."""

import pytest
import torch
from torch import Tensor

from convexrecon.errors import InputError
from convexrecon.physics.masks import MaskKind, MaskSettings, sampling_mask
from convexrecon.physics.shot_sampling import covered_cells, covered_region, covered_share, dense_extent, kept_shots
from convexrecon.physics.trajectories import radial, spiral, stack_of_stars


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


TRAJECTORIES = {
    "golden": radial((48, 40), 80),
    "uniform": radial((48, 40), 80, angles="uniform"),
    "spiral": spiral((48, 48), 16),
    "partitions": stack_of_stars((6, 16, 16), 10, angles="uniform"),
}


@pytest.mark.parametrize("name", TRAJECTORIES)
@pytest.mark.parametrize("acceleration", [1.0, 2.0, 3.3, 8.0])
def test_as_many_are_kept_as_asked_for(name: str, acceleration: float) -> None:
    coordinates = TRAJECTORIES[name]
    kept = kept_shots(coordinates, MaskSettings("shots", acceleration), rng())
    assert len(kept) == round(len(coordinates) / acceleration)
    assert bool((kept.diff() > 0).all())
    assert 0 <= int(kept.min()) <= int(kept.max()) < len(coordinates)


@pytest.mark.parametrize("name", TRAJECTORIES)
def test_what_is_kept_covers_no_less_than_either_rule(name: str) -> None:
    coordinates = TRAJECTORIES[name]
    kept = kept_shots(coordinates, MaskSettings("shots", 8), rng(3))
    count = len(kept)
    for rule in (torch.arange(count), torch.arange(count) * len(coordinates) // count):
        # A turned trajectory covers a few cells more or fewer.
        assert covered_cells(coordinates[kept]) > 0.97 * covered_cells(coordinates[rule])


def test_golden_angles_are_kept_in_a_run_and_interleaves_evenly() -> None:
    assert set(kept_shots(TRAJECTORIES["golden"], MaskSettings("shots", 8), rng()).diff().tolist()) == {1}
    assert set(kept_shots(TRAJECTORIES["uniform"], MaskSettings("shots", 8), rng()).diff().tolist()) == {8}
    assert set(kept_shots(TRAJECTORIES["spiral"], MaskSettings("shots", 4), rng()).diff().tolist()) == {4}


@pytest.mark.parametrize("name", ["golden", "uniform"])
def test_there_are_few_sets_and_more_than_one(name: str) -> None:
    settings = MaskSettings("shots", 5)
    found = {tuple(kept_shots(TRAJECTORIES[name], settings, rng(seed)).tolist()) for seed in range(40)}
    assert 1 < len(found) <= 5


def test_full_keeps_all_of_them() -> None:
    assert len(kept_shots(TRAJECTORIES["golden"], MaskSettings("full", 8), rng())) == 80


@pytest.mark.parametrize("kind", ["poisson", "equispaced"])
def test_masks_of_a_grid_are_refused(kind: MaskKind) -> None:
    with pytest.raises(InputError, match=f"mask kind: '{kind}' picks points of a grid"):
        kept_shots(TRAJECTORIES["golden"], MaskSettings(kind), rng())


def test_shots_are_refused_on_a_grid() -> None:
    with pytest.raises(InputError, match="'shots' is of data along a trajectory"):
        sampling_mask((32, 32), MaskSettings("shots"), rng())


def test_an_acceleration_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="leaves none"):
        kept_shots(TRAJECTORIES["spiral"], MaskSettings("shots", 40), rng())


def test_cells_are_counted_once() -> None:
    points: Tensor = torch.tensor([[[0.1, 0.2], [-0.3, 0.4]], [[1.2, 0.0], [-7.0, 3.0]]])
    assert covered_cells(points) == 3


def test_half_the_shots_cover_visibly_less() -> None:
    full, half = (covered_share(radial((96, 96), shots)) for shots in (151, 75))
    assert 0.9 < full < 1.1
    assert half < 0.88


def test_the_dense_centre_ends_where_shots_part() -> None:
    assert dense_extent(radial((64, 64), 100), 24) == 24
    assert dense_extent(radial((64, 64), 101), 15) == 14
    # Spokes are a cycle apart at radius shots / pi.
    assert 10 <= dense_extent(radial((64, 64), 20), 40) <= 22
    assert 4 <= dense_extent(spiral((64, 64), 16, density=2)[::4], 24) <= 8
    assert dense_extent(radial((64, 64), 2), 24) == 0


def test_the_region_is_what_shots_reach() -> None:
    disc = covered_region(radial((48, 40), 80), (48, 40))
    assert bool(disc[0, 0])
    assert bool(disc[24, 0])
    assert not bool(disc[20, 17])
    assert float(disc.float().mean()) == pytest.approx(torch.pi / 4, rel=0.03)
    half = covered_region(radial((48, 40), 80) / 2, (48, 40))
    assert float(half.float().mean()) == pytest.approx(torch.pi / 16, rel=0.06)
    cylinder = covered_region(TRAJECTORIES["partitions"], (6, 16, 16))
    assert torch.equal(cylinder, cylinder[:1].expand(6, -1, -1))
    assert not bool(cylinder[0, 7, 7])
    corners = torch.cartesian_prod(torch.arange(-8.0, 8), torch.arange(-8.0, 8))
    assert bool(covered_region(corners, (16, 16)).all())
