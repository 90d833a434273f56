from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convexrecon.errors import InputError
from convexrecon.evaluate.metrics import SliceScore
from convexrecon.evaluate.pictured_shots import PicturedShots
from convexrecon.report.pictures import acceleration, coil_maps, comparison, sampling_mask, zoom_box


def _images(shape: tuple[int, ...] = (40, 28), seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    reference = rng.standard_normal(shape) + 1j * rng.standard_normal(shape)
    images = {
        name: reference + size * (rng.standard_normal(shape) + 1j * rng.standard_normal(shape))
        for name, size in (("zero-filled", 0.3), ("convex", 0.03))
    }
    return reference, images


def _texts(figure: Any) -> Any:
    return " ".join(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))


def test_errors_share_one_scale_and_magnitudes_one_window() -> None:
    reference, images = _images()
    figure = comparison(reference, images)
    rows = np.array(figure.axes[:9]).reshape(3, 3)
    windows = {ax.images[0].get_clim() for ax in [*rows[0], *rows[2]]}
    scales = {ax.images[0].get_clim() for ax in rows[1, 1:]}
    assert len(windows) == len(scales) == 1
    np.testing.assert_array_equal(rows[1, 2].images[0].get_array(), np.abs(images["convex"] - reference))
    (white,), (limit,) = ([high for _, high in pairs] for pairs in (windows, scales))
    assert f"÷ {white / limit:g}" in _texts(figure)


def test_shots_are_drawn_where_a_mask_would_be() -> None:
    reference, images = _images()
    along = np.linspace(-14, 14, 9, dtype=np.float32)
    shots = np.stack([np.stack([along * np.sin(t), along * np.cos(t)], -1) for t in (0, 0.5, 1)])
    sampling = PicturedShots(shots, (40, 28), 5.5)
    figure = comparison(reference, images, mask=sampling)
    drawn = np.array(figure.axes[:9]).reshape(3, 3)[1, 0]
    assert len(drawn.lines) == 3
    np.testing.assert_allclose(drawn.lines[1].get_xydata(), shots[1][:, ::-1], atol=1e-6)
    # As in images, y points down; and k-space ends at half of the pixels.
    assert (drawn.get_xlim(), drawn.get_ylim()) == ((-14, 14), (20, -20))
    assert "R = 5.50" in _texts(figure)


def test_zooms_show_the_box() -> None:
    reference, images = _images()
    figure = comparison(reference, images, box=(5, 7, 12))
    zoom = figure.axes[8].images[0].get_array()
    np.testing.assert_array_equal(zoom, np.abs(images["convex"])[5:17, 7:19])


def test_titles_carry_the_scores_and_the_mask_its_acceleration() -> None:
    reference, images = _images()
    score = SliceScore("convex", "scan", 0, 31.237, 32.0, 0.9146, 0.01, 0.1)
    mask = np.zeros((40, 28))
    mask[:, ::4] = 1
    text = _texts(comparison(reference, images, scores={"convex": score}, mask=mask))
    assert "31.24 dB   SSIM 0.915" in text
    assert "R = 4.00" in text


def test_the_zoom_finds_the_place_where_methods_disagree_on_detail() -> None:
    rng = np.random.default_rng(1)
    reference = np.ones((64, 48))
    for top, left in ((4, 4), (44, 30)):
        reference[top : top + 14, left : left + 14] += rng.standard_normal((14, 14)) * 0.3
    first, second = reference.copy(), reference.copy()
    second[44:58, 30:44] += 0.2 * rng.standard_normal((14, 14))
    second[4:18, 30:44] += 0.2  # they disagree here too, where nothing is to be seen
    top, left, side = zoom_box(reference, [first, second])
    assert side == 14
    assert abs(top - 44) <= 2
    assert abs(left - 30) <= 2


@pytest.mark.parametrize("corner", [(0, 0), (50, 34), (0, 34)])
def test_the_zoom_stays_inside(corner: Any) -> None:
    rng = np.random.default_rng(2)
    reference = np.zeros((64, 48))
    reference[corner[0] : corner[0] + 14, corner[1] : corner[1] + 14] = rng.standard_normal((14, 14))
    top, left, side = zoom_box(reference, [0.9 * reference])
    assert (abs(top - corner[0]) <= 2, abs(left - corner[1]) <= 2) == (True, True)
    assert top + side <= 64
    assert left + side <= 48


def test_identical_images_still_draw(tmp_path: Path) -> None:
    reference, _ = _images()
    comparison(reference, {"same": reference}).savefig(tmp_path / "same.png")
    assert (tmp_path / "same.png").stat().st_size > 1000


def test_shapes_that_differ_are_refused() -> None:
    reference, images = _images()
    with pytest.raises(InputError, match=r"convex has shape \(28, 40\)"):
        comparison(reference, {"convex": images["convex"].T})
    with pytest.raises(InputError, match="at least one"):
        comparison(reference, {})


def test_masks_and_maps_have_a_panel_each() -> None:
    rng = np.random.default_rng(3)
    mask = (rng.uniform(size=(20, 30)) < 0.3).astype(np.float32)
    figure = sampling_mask({"random": mask, "full": np.ones((20, 30))})
    assert f"R = {600 / mask.sum():.2f}" in figure.axes[0].get_title()
    assert "R = 1.00" in figure.axes[1].get_title()
    maps = rng.standard_normal((5, 20, 30)) + 1j * rng.standard_normal((5, 20, 30))
    maps[:, :4] = 0
    figure = coil_maps(maps)
    phase: Any = figure.axes[5].images[0].get_array()
    np.testing.assert_allclose(phase[4:], np.angle(maps[0, 4:]))
    assert np.ma.getmaskarray(phase)[:4].all() or np.isnan(np.asarray(phase)[:4]).all()


def test_acceleration_of_nothing_is_infinite() -> None:
    assert acceleration(np.zeros((3, 3))) == float("inf")
    assert acceleration(np.eye(4)) == 4.0
