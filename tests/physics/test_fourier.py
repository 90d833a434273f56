"""The orthonormal transforms and the change between centred and uncentred k-space."""

import numpy as np
import pytest
import torch
from torch import Tensor

from convexrecon.physics.fourier import centred_fft, centred_ifft, crop_centre, fft, ifft, recentre, uncentre

SHAPES = [(7, 12), (8, 5), (6, 10), (9, 11), (4, 5, 6), (3, 8, 7), (1, 6)]


def random_complex(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))


def slow_centred_fft(image: Tensor) -> Tensor:
    """sum_r x[r] exp(-2 pi i (k - N//2)(r - N//2) / N) / sqrt(N) along every axis but the first."""
    for axis in range(1, image.ndim):
        n = image.shape[axis]
        position = np.arange(n) - n // 2
        matrix = np.exp(-2j * np.pi * np.outer(position, position) / n) / np.sqrt(n)
        image = torch.tensordot(torch.from_numpy(matrix), image, dims=([1], [axis])).movedim(0, axis)
    return image


@pytest.mark.parametrize("shape", SHAPES)
def test_centred_transform_is_the_sum_with_the_origin_in_the_middle(shape: tuple[int, ...]) -> None:
    image = random_complex(3, *shape)
    torch.testing.assert_close(centred_fft(image, len(shape)), slow_centred_fft(image), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("pair", [(fft, ifft), (centred_fft, centred_ifft), (uncentre, recentre)])
def test_pairs_are_inverse_and_adjoint(shape: tuple[int, ...], pair: tuple) -> None:
    forward, backward = pair
    x, y = random_complex(2, *shape), random_complex(2, *shape, seed=1)
    torch.testing.assert_close(backward(forward(x, len(shape)), len(shape)), x, atol=1e-12, rtol=1e-12)
    left, right = (
        torch.vdot(y.flatten(), forward(x, len(shape)).flatten()),
        torch.vdot(backward(y, len(shape)).flatten(), x.flatten()),
    )
    assert abs(left - right) <= 1e-10 * abs(left)


@pytest.mark.parametrize("shape", SHAPES)
def test_uncentre_is_the_uncentred_transform_of_the_same_image(shape: tuple[int, ...]) -> None:
    image = random_complex(2, *shape)
    n = len(shape)
    torch.testing.assert_close(uncentre(centred_fft(image, n), n), fft(image, n), atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(recentre(fft(image, n), n), centred_fft(image, n), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("shape", [(7, 12), (4, 5, 6)])
def test_uncentre_matches_its_explicit_formula(shape: tuple[int, ...]) -> None:
    kspace = random_complex(*shape)
    expected = np.empty(shape, complex)
    for index in np.ndindex(*shape):
        # Frequency f sits at f in uncentred order and at (f + N//2) mod N in centred order.
        source = tuple((f + n // 2) % n for f, n in zip(index, shape, strict=True))
        turns = sum(f * (n // 2) / n for f, n in zip(index, shape, strict=True))
        expected[index] = kspace[source].item() * np.exp(-2j * np.pi * turns)
    np.testing.assert_allclose(uncentre(kspace, len(shape)).numpy(), expected, atol=1e-12)


def test_uncentre_keeps_zeros_and_magnitudes_in_single_precision() -> None:
    kspace = random_complex(2, 301, 257).to(torch.complex64)
    kspace[:, ::2] = 0
    moved = uncentre(kspace, 2)
    assert int((moved == 0).sum()) == int((kspace == 0).sum())
    magnitudes = torch.fft.ifftshift(kspace, dim=(-2, -1)).abs()
    torch.testing.assert_close(moved.abs(), magnitudes, rtol=1e-6, atol=0)
    image = torch.randn(1, 301, 257, dtype=torch.complex64, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(uncentre(centred_fft(image, 2), 2), fft(image, 2), rtol=0, atol=2e-5)


@pytest.mark.parametrize(("have", "want"), [(7, 4), (8, 5), (9, 3), (6, 6), (5, 9)])
def test_crop_centre_keeps_the_origin_at_half(have: int, want: int) -> None:
    cropped = crop_centre(torch.arange(have), (want,))
    assert cropped.shape == (min(have, want),)
    assert cropped[len(cropped) // 2] == have // 2
