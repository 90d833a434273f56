from typing import Any

import numpy as np
import pytest
import torch

from convexrecon.errors import InputError
from convexrecon.physics.wavelets import daubechies4, default_levels


def _image(batch: int, shape: tuple[int, ...], seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, *shape, dtype=torch.complex128, generator=generator)


@pytest.mark.parametrize(
    ("shape", "levels"),
    [
        ((2, 4), 1),
        ((16, 24), 3),
        ((48, 80), 4),
        ((12, 8), 2),
        ((40,), 3),
        ((8, 12, 16), 2),
        ((6, 16, 20), (1, 3, 2)),
        ((5, 8), (0, 2)),
    ],
)
def test_the_transform_is_unitary(shape: tuple[int, ...], levels: Any) -> None:
    wavelet = daubechies4(shape, levels, dtype=torch.float64, shift=(1, 3, 2)[: len(shape)])
    image, other = _image(2, shape), _image(2, shape, 1)
    torch.testing.assert_close(wavelet.inverse(wavelet.forward(image)), image, rtol=0, atol=1e-12)
    torch.testing.assert_close(wavelet.forward(wavelet.inverse(image)), image, rtol=0, atol=1e-12)
    left = torch.vdot(wavelet.forward(image).flatten(), other.flatten())
    right = torch.vdot(image.flatten(), wavelet.inverse(other).flatten())
    assert abs(left - right) < 1e-10 * abs(left)


def test_coefficients_equal_pywavelets() -> None:
    pywt = pytest.importorskip("pywt")
    shape, levels = (64, 56), 3
    image = _image(2, shape)
    ours = daubechies4(shape, levels, dtype=torch.float64).forward(image).numpy()
    for mine, picture in zip(ours, image.numpy(), strict=True):
        coefficients = pywt.wavedec2(picture, "db4", mode="periodization", level=levels)
        packed, _ = pywt.coeffs_to_array(coefficients)
        np.testing.assert_allclose(mine, packed, rtol=0, atol=1e-10)


@pytest.mark.filterwarnings("ignore:Level value")
@pytest.mark.parametrize(("shape", "levels"), [((64,), 3), ((16, 24, 40), 3)])
def test_coefficients_equal_pywavelets_in_any_dimension(shape: tuple[int, ...], levels: int) -> None:
    pywt = pytest.importorskip("pywt")
    image = _image(1, shape)
    ours = daubechies4(shape, levels, dtype=torch.float64).forward(image).numpy()
    packed, _ = pywt.coeffs_to_array(pywt.wavedecn(image[0].numpy(), "db4", mode="periodization", level=levels))
    np.testing.assert_allclose(ours[0], packed, rtol=0, atol=1e-10)


@pytest.mark.filterwarnings("ignore:Level value")
def test_a_short_axis_is_left_alone_at_deeper_levels() -> None:
    pywt = pytest.importorskip("pywt")
    shape = (6, 16, 24)
    image = _image(1, shape)
    first, _ = pywt.coeffs_to_array(pywt.wavedecn(image[0].numpy(), "db4", mode="periodization", level=1))
    corner = first[:3, :8, :12]
    second, _ = pywt.coeffs_to_array(
        pywt.wavedecn(corner, "db4", mode="periodization", level=1, axes=(1, 2)), axes=(1, 2)
    )
    first[:3, :8, :12] = second
    wavelet = daubechies4(shape, (1, 2, 2), dtype=torch.float64)
    np.testing.assert_allclose(wavelet.forward(image)[0].numpy(), first, rtol=0, atol=1e-10)
    assert wavelet.coarse == (slice(3), slice(4), slice(6))


def test_a_shift_transforms_the_moved_image() -> None:
    shape, levels, shift = (32, 48), 3, (5, 10)
    image = _image(1, shape)
    plain = daubechies4(shape, levels, dtype=torch.float64)
    shifted = daubechies4(shape, levels, shift=shift, dtype=torch.float64)
    moved = torch.roll(image, shift, (1, 2))
    torch.testing.assert_close(shifted.forward(image), plain.forward(moved), rtol=0, atol=1e-12)


def test_cubic_polynomials_have_no_details_away_from_the_wrap() -> None:
    size = 64
    y = torch.linspace(-1, 1, size, dtype=torch.float64)
    image = (y[:, None] ** 3 - y[None, :] ** 2 * y[:, None] + 2).to(torch.complex128)[None]
    details = daubechies4((size, size), 1, dtype=torch.float64).forward(image)[0].abs()
    half = size // 2
    assert details[half + 4 : -4, 4 : half - 4].max() < 1e-12
    assert details[half:, :half].max() > 1e-2


def test_shrink_details_keeps_the_coarse_part_and_shrinks_moduli() -> None:
    shape, levels = (16, 32), 2
    wavelet = daubechies4(shape, levels, dtype=torch.float64, shift=(3, 1))
    image = _image(2, shape)
    threshold = torch.tensor([0.5, 1.2], dtype=torch.float64).view(2, 1, 1)
    before = wavelet.forward(image).numpy()
    after = wavelet.forward(wavelet.shrink_details(image, threshold)).numpy()
    modulus = np.maximum(np.abs(before) - threshold.numpy(), 0)
    expected = modulus * np.exp(1j * np.angle(before))
    expected[:, : 16 >> levels, : 32 >> levels] = before[:, : 16 >> levels, : 32 >> levels]
    np.testing.assert_allclose(after, expected, rtol=0, atol=1e-10)


def test_shrinking_zero_gives_zero() -> None:
    wavelet = daubechies4((8, 8), 1)
    zero = torch.zeros(1, 8, 8, dtype=torch.complex64)
    assert torch.equal(wavelet.shrink_details(zero, torch.tensor(0.1)), zero)


@pytest.mark.parametrize(
    ("shape", "levels"), [((16, 20), 3), ((16, 16), 0), ((0, 16), 1), ((7, 8), 1), ((8, 6, 8), (1, 2, 1))]
)
def test_sizes_that_do_not_divide_are_refused(shape: tuple[int, ...], levels: Any) -> None:
    with pytest.raises(InputError, match="divisible"):
        daubechies4(shape, levels)


def test_levels_follow_each_side() -> None:
    assert default_levels((256, 256)) == (4, 4)
    assert default_levels((230, 180)) == (4, 3)
    assert default_levels((20, 500)) == (1, 4)


def test_other_numbers_of_axes_are_refused() -> None:
    for shape, levels, shift in (((8,) * 4, 1, None), ((8, 8), (1, 1, 1), None), ((8, 8), 1, (1, 2, 3))):
        with pytest.raises(InputError, match="one to three axes"):
            daubechies4(shape, levels, shift=shift)
