"""The gated convolution at chosen pixels is the gated convolution there."""

import pytest
import torch

from convexrecon.convex import gated_pixels
from convexrecon.convex.arrangements import Gates
from convexrecon.convex.gated_convolution import GatedConvolution
from convexrecon.convex.gated_pixels import gated_at
from convexrecon.errors import InputError

CASES = [((9, 14), (3, 5), 2), ((5, 8, 7), (3, 3, 3), 4), ((6, 5, 9), (1, 5, 3), 2)]


def case(
    shape: tuple[int, ...], kernel: tuple[int, ...], channels: int, periodic: bool = False
) -> tuple[Gates, torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(4)
    return (
        Gates(torch.randn(6, channels, *kernel, generator=rng), torch.randn(6, generator=rng), periodic),
        torch.randn(2, channels, *shape, generator=rng),
        torch.rand(2, *shape, generator=rng) < 0.4,
        torch.randn(6, channels * torch.Size(kernel).numel() + 1, 3, generator=rng, dtype=torch.float64),
    )


@pytest.mark.parametrize(("shape", "kernel", "channels"), CASES)
@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("chunk", [7, 4096])
def test_it_is_the_gated_convolution_there_and_zero_elsewhere(
    shape: tuple[int, ...],
    kernel: tuple[int, ...],
    channels: int,
    constant: bool,
    chunk: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gated_pixels, "PIXELS_PER_CHUNK", chunk)
    gates, features, rows, weights = case(shape, kernel, channels)
    weights = weights if constant else weights[:, :-1]
    found = gated_at(gates, weights, features, rows, constant=constant)
    whole = GatedConvolution(gates, features, constant).forward(weights.float())
    torch.testing.assert_close(found, whole * rows.unsqueeze(1), atol=1e-4, rtol=1e-4)


def test_an_image_without_a_chosen_pixel_is_zero() -> None:
    gates, features, rows, weights = case(*CASES[0])
    rows[1] = False
    found = gated_at(gates, weights, features, rows, constant=True)
    assert bool(found[0].any())
    assert not bool(found[1].any())


def test_gates_that_go_round_are_refused() -> None:
    gates, features, rows, weights = case(*CASES[1], periodic=True)
    with pytest.raises(InputError, match="go round an axis"):
        gated_at(gates, weights, features, rows, constant=True)
