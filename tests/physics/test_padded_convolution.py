"""The padded convolution against the doubled grid held at once, its derivatives, and its memory."""

import pytest
import torch
from torch import Tensor

from convexrecon.physics import padded_convolution as module
from convexrecon.physics.padded_convolution import padded_convolution
from convexrecon.training.live_memory import LiveMemory


def example(shape: tuple[int, ...], batch: int) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    image = torch.randn(2, 3, *shape, generator=rng, dtype=torch.complex128)
    spectrum = torch.randn(batch, *[2 * size for size in shape], generator=rng, dtype=torch.float64)
    return image, spectrum


@pytest.mark.parametrize("shape", [(5, 6), (3, 4, 5)])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("elements", [1, 500, 1 << 18])
def test_it_is_that_of_the_doubled_grid(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], batch: int, elements: int
) -> None:
    monkeypatch.setitem(module._ELEMENTS_AT_ONCE, "cpu", elements)
    image, spectrum = example(shape, batch)
    axes = tuple(range(2, 2 + len(shape)))
    padded = torch.fft.fftn(image, s=[2 * size for size in shape], dim=axes)
    whole = torch.fft.ifftn(padded * spectrum.unsqueeze(1), dim=axes)
    expected = whole[(slice(None), slice(None), *map(slice, shape))]
    torch.testing.assert_close(padded_convolution(image, spectrum), expected, rtol=1e-10, atol=1e-12)


def test_it_is_differentiable_twice() -> None:
    image, spectrum = example((3, 2, 4), 2)
    image.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: padded_convolution(x, spectrum), image)
    assert torch.autograd.gradgradcheck(lambda x: padded_convolution(x, spectrum).abs().square().sum(), image)


def test_a_volume_takes_a_few_of_itself() -> None:
    image = torch.randn(1, 1, 40, 40, 40, dtype=torch.complex64)
    spectrum = torch.rand(1, 80, 80, 80)
    with LiveMemory(torch.device("cpu")) as memory:
        padded_convolution(image, spectrum)
    # The doubled grid alone would be eight.
    assert memory.peak_mb < 1e-6 * 8 * image.numel() * 6.5 + 7
