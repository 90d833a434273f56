"""Masks: the acceleration reached, the pattern, the refusals, and finding a mask in k-space."""

import math
import time
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from convexrecon.errors import InputError
from convexrecon.physics.masks import (
    MaskSettings,
    acceleration_of,
    calibration_extent,
    detect_mask,
    is_fully_sampled,
    missing_samples,
    sampling_mask,
)
from convexrecon.seeding import generator

KINDS = ["poisson", "random", "equispaced", "full"]


def draw(shape: tuple[int, int], *args: Any, seed: int = 0, **kwargs: Any) -> torch.Tensor:
    return sampling_mask(shape, MaskSettings(*args, **kwargs), generator(seed, "test"))


@settings(max_examples=200, deadline=None)
@given(
    rows=st.integers(0, 70),
    columns=st.integers(0, 90),
    kind=st.sampled_from(KINDS),
    acceleration=st.one_of(st.floats(1, 2), st.floats(1, 12), st.floats(1, 40), st.floats()),
    calibration=st.one_of(st.integers(0, 9), st.integers(-1, 40)),
    fraction=st.one_of(st.floats(0.02, 0.1), st.floats(-0.1, 1.1)),
)
@example(rows=64, columns=64, kind="poisson", acceleration=64.0, calibration=8, fraction=0.1)
@example(rows=1, columns=90, kind="poisson", acceleration=1.3, calibration=0, fraction=0.1)
@example(rows=70, columns=90, kind="poisson", acceleration=1.001, calibration=0, fraction=0.1)
def test_any_parameters_give_the_acceleration_or_a_refusal(
    rows: int, columns: int, kind: str, acceleration: float, calibration: int, fraction: float
) -> None:
    started = time.process_time()
    try:
        mask = draw((rows, columns), kind, acceleration, calibration, fraction)
    except InputError:
        return
    finally:
        assert time.process_time() - started < 2
    assert mask.shape == (rows, columns)
    assert mask.dtype == torch.float32
    assert set(mask.unique().tolist()) <= {0.0, 1.0}
    wanted = 1.0 if kind == "full" else acceleration
    assert abs(rows * columns / float(mask.sum()) / wanted - 1) <= 0.02


@pytest.mark.parametrize("shape", [(96, 80), (75, 90)])
@pytest.mark.parametrize(("acceleration", "calibration"), [(2.0, 10), (4.0, 16), (8.0, 9), (12.0, 0)])
def test_poisson_has_exactly_the_samples_and_its_square(
    shape: tuple[int, int], acceleration: float, calibration: int
) -> None:
    mask = draw(shape, "poisson", acceleration, calibration)
    assert int(mask.sum()) == round(shape[0] * shape[1] / acceleration)
    top, left = shape[0] // 2 - calibration // 2, shape[1] // 2 - calibration // 2
    assert bool((mask[top : top + calibration, left : left + calibration] == 1).all())
    assert mask[shape[0] // 2, shape[1] // 2] == 1


def radius_from_centre(shape: tuple[int, int]) -> NDArray[np.float64]:
    y, x = np.ogrid[: shape[0], : shape[1]]
    return np.hypot((y - shape[0] // 2) / (shape[0] / 2), (x - shape[1] // 2) / (shape[1] / 2))


def test_poisson_density_falls_from_the_centre_without_directions_preferred() -> None:
    shape = (128, 112)
    masks = np.mean([draw(shape, "poisson", 6.0, 8, seed=seed).numpy() for seed in range(4)], axis=0)
    rho = radius_from_centre(shape)
    rings = [masks[(rho > low) & (rho <= low + 0.16)].mean() for low in np.arange(0.1, 0.9, 0.16)]
    assert all(inner > outer for inner, outer in pairwise(rings)), rings
    assert rings[0] > 3 * rings[-1]
    ring = (rho > 0.4) & (rho < 0.9)
    quadrants = [masks[half][:, side][ring[half][:, side]].mean() for half in (slice(0, 64), slice(64, None))
                 for side in (slice(0, 56), slice(56, None))]  # fmt: skip
    assert max(quadrants) / min(quadrants) < 1.15
    assert masks[rho > 1.1].sum() == 0  # corners, as sigpy's crop_corner


def test_poisson_samples_keep_their_distance() -> None:
    """Against as many samples thrown at random with the same density: no clumps and no holes."""
    shape = (128, 128)
    mask = draw(shape, "poisson", 8.0, 8).numpy() > 0
    rho = radius_from_centre(shape)
    ring = (rho > 0.5) & (rho < 0.95)
    points = np.argwhere(mask & ring)
    loose = np.random.default_rng(0).permutation(np.argwhere(ring))[: len(points)]
    nearest, random_nearest = (np.asarray(cKDTree(p).query(p, k=2)[0])[:, 1] for p in (points, loose))
    assert nearest.min() >= 2
    assert random_nearest.min() == 1
    assert np.median(nearest) > 1.5 * np.median(random_nearest)
    inner = np.argwhere((rho > 0.55) & (rho < 0.9))
    holes, random_holes = (np.asarray(cKDTree(p).query(inner)[0]).max() for p in (points, loose))
    assert holes < 0.7 * random_holes


@pytest.mark.parametrize("kind", ["poisson", "random", "equispaced"])
def test_masks_depend_on_the_generator_alone(kind: str) -> None:
    first, again, other = (draw((64, 60), kind, 4.0, 8, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("kind", ["random", "equispaced"])
@pytest.mark.parametrize(("columns", "acceleration", "fraction"), [(160, 4, 0.08), (368, 8, 0.04), (101, 3, 0.08)])
def test_column_masks(kind: str, columns: int, acceleration: float, fraction: float) -> None:
    mask = draw((5, columns), kind, acceleration, center_fraction=fraction)
    assert bool((mask == mask[0]).all())
    assert int(mask[0].sum()) == round(columns / acceleration)
    centre = round(columns * fraction)
    start = columns // 2 - centre // 2
    assert bool((mask[0, start : start + centre] == 1).all())


def test_equispaced_columns_are_evenly_spaced() -> None:
    line = draw((1, 368), "equispaced", 4.0, center_fraction=0.08)[0]
    for side in (line[:170], line[198:]):
        gaps = torch.diff(torch.nonzero(side).squeeze(1))
        assert int(gaps.max() - gaps.min()) <= 1
    offsets = {int(torch.nonzero(draw((1, 368), "equispaced", 4.0, seed=s)[0])[0]) for s in range(8)}
    assert len(offsets) > 1


def test_random_columns_are_spread_uniformly() -> None:
    lines = torch.stack([draw((1, 100), "random", 4.0, seed=seed)[0] for seed in range(400)]).mean(0)
    outer = torch.cat([lines[:45], lines[55:]])
    probability = (25 - 4) / 96
    assert float((outer - probability).abs().max()) < 5 * math.sqrt(probability * (1 - probability) / 400)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"kind": "spiral"}, "kind: found 'spiral'"),
        ({"acceleration": 0.5}, "at least 1"),
        ({"acceleration": math.nan}, "finite"),
        ({"acceleration": math.inf}, "finite"),
        ({"calibration": -1}, "calibration"),
        ({"center_fraction": 0.0}, "center_fraction"),
        ({"center_fraction": 1.5}, "center_fraction"),
        ({"calibration": 65}, "larger than the image"),
        ({"calibration": 40}, "the 40 x 40 square alone needs 1600 samples"),
        ({"kind": "random", "center_fraction": 0.5}, "center_fraction: 0.5 of 60 columns alone is 30"),
        ({"kind": "random", "acceleration": 7.0, "center_fraction": 0.01}, "6.6667 with 9 or 7.5 with 8"),
        ({"kind": "equispaced", "acceleration": 500.0}, "empty mask"),
        ({"acceleration": 1e9}, "empty mask"),
    ],
)
def test_refusals_say_why(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        draw((64, 60), **kwargs)


def test_refuses_an_empty_shape() -> None:
    with pytest.raises(InputError, match="empty"):
        draw((0, 5), "full")


@pytest.mark.parametrize("kind", ["poisson", "random", "equispaced"])
def test_a_mask_is_found_again_in_kspace(kind: str) -> None:
    mask = draw((48, 42), kind, 3.0, 8, 0.2)
    kspace = mask * torch.randn(2, 3, 48, 42, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    kspace[0, 1] = 0  # a dead coil hides nothing
    found = detect_mask(kspace)
    assert torch.equal(found, mask > 0)
    assert not is_fully_sampled(found)
    assert acceleration_of(found) == pytest.approx(3.0, rel=0.02)
    extent = calibration_extent(found)
    if kind == "poisson":
        assert min(extent) >= 8
    else:
        assert extent[0] == 48
        assert extent[1] >= 8


def test_borders_left_empty_by_the_scanner_are_no_undersampling() -> None:
    mask = torch.ones(20, 30)
    mask[:, :4] = 0
    mask[:, -2:] = 0
    assert is_fully_sampled(mask)
    ellipse = torch.from_numpy(radius_from_centre((20, 30)) <= 1)
    assert is_fully_sampled(ellipse)
    mask[:, 11] = 0
    assert missing_samples(mask) == 20
    assert not is_fully_sampled(mask)
    off_centre = torch.zeros(6, 6)
    off_centre[:, 4:] = 1
    assert not is_fully_sampled(off_centre)


def test_missing_samples_counts_gaps_along_rows_and_columns() -> None:
    mask = torch.ones(5, 6)
    mask[2, 3] = mask[0, 2] = 0  # the second lies on the border, but between samples of its row
    assert missing_samples(mask) == 2


@pytest.mark.parametrize("shape", [(6, 7), (5, 8), (1, 4), (9, 2)])
def test_calibration_extent_by_trying_every_rectangle(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(3)
    for _ in range(60):
        mask = rng.random(shape) < rng.uniform(0.6, 1)
        sizes = [
            (h, w)
            for h in range(1, shape[0] + 1)
            for w in range(1, shape[1] + 1)
            if mask[shape[0] // 2 - h // 2 :][:h, shape[1] // 2 - w // 2 :][:, :w].all()
        ]
        if not sizes:
            with pytest.raises(InputError, match="centre of k-space is not sampled"):
                calibration_extent(mask)
            continue
        found = calibration_extent(mask)
        assert found in sizes
        assert (min(found), math.prod(found)) == max((min(s), math.prod(s)) for s in sizes)


def test_empty_masks_are_refused() -> None:
    with pytest.raises(InputError, match="every sample is zero"):
        detect_mask(torch.zeros(2, 4, 4, dtype=torch.complex64))
    with pytest.raises(InputError, match="samples nothing"):
        acceleration_of(torch.zeros(4, 4))
