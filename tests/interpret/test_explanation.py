"""Explanations: a pixel's values, filters and row are those of the reconstruction; grids lie in the object."""

import pytest
import torch
from cascades import cascade, measurement

from convexrecon.errors import InputError
from convexrecon.interpret.explanation import explainer


@pytest.mark.parametrize(("shape", "kernel", "pixel"), [((16, 14), (3, 3), (8, 9)), ((4, 7, 6), (3, 3, 3), (3, 2, 5))])
def test_values_filters_and_row(shape: tuple[int, ...], kernel: tuple[int, ...], pixel: tuple[int, ...]) -> None:
    network, (sense, kspace) = cascade(("gated", "modl"), kernel=kernel, step="gradient"), measurement(shape)
    reference = torch.randn(shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(4))
    asked = explainer(network, sense, kspace, reference=reference)
    found = asked.explain(pixel)
    with torch.no_grad():
        images = list(network.images(sense, kspace))
    place = (0, *pixel)
    assert found.values[::2] == pytest.approx([complex(image[place]) for image in images])
    assert found.reference == complex(reference[pixel])
    for number, read in enumerate(found.blocks):
        denoised = found.values[2 * number + 1]
        assert read.output.tolist() == pytest.approx([denoised.real, denoised.imag])
    out = found.values[-1]
    assert torch.allclose(found.row, asked.local.row(pixel, direction=out / abs(out))[0])
    assert found.row.shape == shape
    with pytest.raises(InputError, match="pixel: expected an index"):
        asked.explain(shape)


def test_a_grid_lies_in_the_object_and_is_no_larger_than_asked() -> None:
    network, (sense, kspace) = cascade(("gated",)), measurement()
    asked = explainer(network, sense, kspace)
    for count in (1, 5, 30, 1000):
        pixels = list(asked.grid(count))
        assert 0 < len(pixels) <= count
        assert all(bool(asked.inside[pixel]) for pixel in pixels)
        assert len(set(pixels)) == len(pixels)
    assert len(list(asked.grid(1000))) == int(asked.inside.sum())
    assert list(asked.grid(0)) == []
    volume = explainer(cascade(("relu",), kernel=(3, 3, 3)), *measurement((4, 7, 6)))
    assert all(pixel[0] == 2 for pixel in volume.grid(5, plane=(2,)))
