"""Simulated anatomies: continuous in space and slice position, whole, rich in structure."""

from typing import Any, get_args

import numpy as np
import pytest
from numpy.typing import NDArray

from convexrecon.data.anatomy import Anatomy, AnatomyKind, random_anatomy, smooth_phase
from convexrecon.errors import InputError

KINDS: tuple[AnatomyKind, ...] = get_args(AnatomyKind)


def block_mean(image: NDArray[Any], factor: int) -> NDArray[Any]:
    rows, columns = image.shape[0] // factor, image.shape[1] // factor
    return np.asarray(image.reshape(rows, factor, columns, factor).mean((1, 3)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("position", [0.0, 0.3, 0.8, 1.0])
def test_magnitude_of_order_one_inside_the_field_of_view(kind: AnatomyKind, position: float) -> None:
    for seed in range(3):
        image = random_anatomy(kind, seed).render((48, 44), position=position, supersampling=2)
        assert image.shape == (96, 88)
        assert image.dtype == np.complex64
        assert np.isfinite(image).all()
        magnitude = np.abs(image)
        assert 0.3 < np.percentile(magnitude, 95) < 1.6
        for border in (magnitude[0], magnitude[-1], magnitude[:, 0], magnitude[:, -1]):
            assert np.all(border == 0)
        assert 0.2 < np.mean(magnitude > 0.02) < 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_every_grid_samples_the_same_continuous_function(kind: AnatomyKind) -> None:
    anatomy = random_anatomy(kind, 2)
    coarse = anatomy.render((60, 56), supersampling=2)
    fine = anatomy.render((60, 56), supersampling=6)
    # Every third fine sample is a coarse one, since origins are at N//2; only slopes are finite differences.
    difference = np.abs(fine[::3, ::3] - coarse)
    assert np.mean(difference) < 0.02 * np.mean(np.abs(coarse))
    # Pixels of another size over the same field of view: the same samples, hence the same object.
    np.testing.assert_allclose(anatomy.render((120, 112), supersampling=1), coarse, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_slices_change_smoothly(kind: AnatomyKind) -> None:
    anatomy = random_anatomy(kind, 5)
    at = {z: np.abs(anatomy.render((48, 44), position=z, supersampling=2)) for z in (0.4, 0.402, 0.45, 0.9)}
    change = {z: float(np.linalg.norm(at[z] - at[0.4]) / np.linalg.norm(at[0.4])) for z in at}
    assert 0 < change[0.402] < 0.05
    assert change[0.402] < change[0.45] < change[0.9]


@pytest.mark.parametrize("kind", KINDS)
def test_there_is_structure_beyond_any_reconstruction_grid(kind: AnatomyKind) -> None:
    """k-space of the continuous object does not end where that of the pixels does: no inverse crime."""
    image = random_anatomy(kind, 1).render((64, 60), supersampling=3)
    power = np.abs(np.fft.fftshift(np.fft.fft2(image))) ** 2
    inside = power[64:128, 60:120].sum()
    outside = power.sum() - inside
    assert outside > 1e-3 * inside
    # Nor is what lies inside a few smooth modes: edges and texture reach up to the border of k-space.
    assert power[64:128, 60:120].sum() - power[84:108, 78:102].sum() > 0.02 * inside


def test_subjects_follow_from_the_seed_and_differ() -> None:
    for kind in KINDS:
        one = random_anatomy(kind, 3)
        assert one == random_anatomy(kind, 3)
        image = one.render((40, 36), supersampling=1)
        assert np.array_equal(image, random_anatomy(kind, 3).render((40, 36), supersampling=1))
        other = Anatomy(kind, one.contrast, 4).render((40, 36), supersampling=1)
        assert np.linalg.norm(np.abs(other) - np.abs(image)) > 0.1 * np.linalg.norm(image)
        assert len({random_anatomy(kind, seed).contrast for seed in range(20)}) == 3


def test_phase_is_smooth_and_turns_the_image() -> None:
    y, x = random_anatomy("head", 0).coordinates((64, 60))
    for seed in range(4):
        phase = smooth_phase(seed, y, x)
        assert phase.shape == (64, 60)
        assert np.ptp(phase) > 0.5
        assert max(np.abs(np.diff(phase, axis=axis)).max() for axis in (0, 1)) < 1.0


@pytest.mark.parametrize("shape", [(32, 96), (97, 33)])
def test_any_aspect_ratio_holds_the_whole_object(shape: tuple[int, int]) -> None:
    for kind in KINDS:
        image = np.abs(random_anatomy(kind, 0).render(shape, supersampling=1))
        assert not image[[0, -1]].any()
        assert not image[:, [0, -1]].any()


def test_unknown_names_are_refused() -> None:
    with pytest.raises(InputError, match=r"'heart'; expected one of .*head.*knee"):
        random_anatomy("heart", 0)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="'heart'"):
        Anatomy("heart", "t1", 0)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"contrast of a knee: 't2'; expected one of .*pd"):
        Anatomy("knee", "t2", 0)
