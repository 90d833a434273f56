"""Pictures of volumes and series: what they show, that they move, refusals."""

import io

import numpy as np
import pytest
from PIL import Image

from convexrecon.errors import InputError
from convexrecon.report.html import Animation, Section, render_report
from convexrecon.report.volume_pictures import animation, orthogonal_planes, time_profiles

DRAWS = np.random.default_rng(0)
SERIES = {name: DRAWS.random((5, 20, 16)) * np.exp(1j) for name in ("reference", "method")}


def test_planes_are_those_through_the_middle() -> None:
    axes = np.array(orthogonal_planes(SERIES).axes).reshape(3, 2)
    for column, image in enumerate(SERIES.values()):
        shown = [ax.get_images()[0].get_array() for ax in axes[:, column]]
        for found, expected in zip(shown, (image[2], image[:, 10], image[:, :, 8]), strict=True):
            np.testing.assert_allclose(found, abs(expected))


def test_profiles_are_rows_over_time_and_their_errors() -> None:
    axes = np.array(time_profiles(SERIES).axes).reshape(2, 2)
    first, second = SERIES.values()
    np.testing.assert_allclose(axes[0, 1].get_images()[0].get_array(), abs(second[:, 10]))
    np.testing.assert_allclose(axes[1, 1].get_images()[0].get_array(), abs((second - first)[:, 10]))
    assert not axes[1, 0].get_images()[0].get_array().any()


def test_an_animation_has_every_frame_and_plays_in_the_page() -> None:
    gif = animation(SERIES)
    with Image.open(io.BytesIO(gif)) as picture:
        assert (getattr(picture, "n_frames", 1), picture.size) == (5, (2 * 16 * 10, 20 * 10))
        picture.seek(3)
        shown = np.asarray(picture.convert("L"))[5::10, 5::10]
    expected = np.concatenate([abs(image[3]) for image in SERIES.values()], axis=1)
    assert np.corrcoef(shown.ravel(), expected.ravel())[0, 1] > 0.99
    page = render_report("t", [Section("s", pictures=[Animation(gif, "it beats")])])
    assert 'src="data:image/gif;base64,' in page
    assert "<figcaption>it beats</figcaption>" in page


@pytest.mark.parametrize("draw", [orthogonal_planes, time_profiles, animation])
def test_images_of_other_shapes_are_refused(draw: object) -> None:
    for images in ({}, {"a": np.ones((3, 4))}, {"a": np.ones((2, 3, 4)), "b": np.ones((2, 3, 5))}):
        with pytest.raises(InputError, match="expected images of one shape of three axes"):
            draw(images)  # type: ignore[operator]
