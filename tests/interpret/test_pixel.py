"""One pixel: what is read is what the denoiser does, and what it would do to other inputs of the same cell."""

import pytest
import torch
from denoisers import KINDS, channels_of, denoiser

from convexrecon.convex.arrangements import Gates
from convexrecon.denoisers.feature_stack import FeatureStack
from convexrecon.denoisers.gated_network import GatedNetwork
from convexrecon.errors import InputError
from convexrecon.interpret.pixel import pixel_filter
from convexrecon.interpret.two_layers import open_gates, switched_filters

CASES = [((3, 3), (14, 17), (0, 16)), ((3, 3), (14, 17), (7, 5)), ((3, 3, 3), (6, 9, 8), (5, 0, 4))]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("kernel", "shape", "pixel"), CASES)
def test_contributions_sum_to_the_output(
    kind: str, kernel: tuple[int, ...], shape: tuple[int, ...], pixel: tuple[int, ...]
) -> None:
    network, image = denoiser(kind, kernel=kernel, channels=4).double(), channels_of(shape, channels=4).double()
    read = pixel_filter(network, image, pixel)
    output = network(image)[(0, slice(None), *pixel)]
    total = read.contributions.flatten(1).sum(1) + read.constant + read.skip
    assert torch.allclose(total, output, atol=1e-12)
    assert torch.allclose(read.output, output, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_the_filter_is_the_derivative_inside_the_cell(kind: str) -> None:
    network, image, pixel = denoiser(kind).double(), channels_of((15, 13)).double(), (2, 12)
    read = pixel_filter(network, image, pixel)
    step = 1e-7 * channels_of((15, 13), seed=5).double()
    moved = pixel_filter(network, image + step, pixel)
    changed = moved.neighbourhood - read.neighbourhood
    found = (network(image + step) - network(image))[(0, slice(None), *pixel)]
    expected = (read.whole * changed).flatten(1).sum(1)
    assert torch.allclose(found, expected, atol=1e-14, rtol=1e-6)


def test_gates_and_their_filters_make_up_the_taps() -> None:
    for kind in ("gated", "relu"):
        network, image = denoiser(kind), channels_of((9, 9))
        read, filters = pixel_filter(network, image, (4, 4)), switched_filters(network)
        assert read.gates is not None
        assert 0 < int(read.gates.sum()) < len(read.gates)
        assert torch.equal(read.gates, open_gates(network, image)[0, :, 4, 4])
        assert torch.allclose(read.taps, filters.taps[read.gates].sum(0).float(), atol=1e-6)
    assert not bool(switched_filters(denoiser("gated")).live[1])


def test_networks_without_bias_have_no_constant() -> None:
    assert float(pixel_filter(denoiser("modl"), channels_of((16, 16)), (8, 8)).constant.abs().max()) < 1e-6


@pytest.mark.parametrize("kind", ["relu", "modl"])
@pytest.mark.parametrize("frames", [5, 13])
def test_time_goes_round(kind: str, frames: int) -> None:
    network = denoiser(kind, kernel=(3, 3, 3), periodic=True).double()
    image = channels_of((frames, 8, 8)).double()
    read = pixel_filter(network, image, (0, 3, 7))
    total = read.contributions.flatten(1).sum(1) + read.constant + read.skip
    assert torch.allclose(total, network(image)[0, :, 0, 3, 7], atol=1e-12)
    if kind == "modl":
        assert float(read.constant.abs().max()) < 1e-12


def test_a_feature_stack_is_read_too() -> None:
    rng = torch.Generator().manual_seed(3)
    layers = []
    for channels in (2, 5):
        gates = Gates(torch.randn(4, channels, 3, 3, generator=rng), torch.zeros(4))
        filters = torch.randn(5, channels, 3, 3, generator=rng)
        gate_of = torch.tensor([0, 1, 2, 3, 0])
        layers.append(GatedNetwork(gates, filters, None, gate_of, torch.randn(5, 2, generator=rng)))
    stack, image = FeatureStack(layers).double(), channels_of((12, 12)).double()
    read = pixel_filter(stack, image, (0, 11))
    assert read.taps.shape == (2, 2, 5, 5)
    assert torch.allclose(read.constant, torch.zeros(2, dtype=torch.float64), atol=1e-10)


def test_any_sample_of_a_batch_can_be_read() -> None:
    network, image = denoiser("relu"), channels_of((10, 10), batch=3)
    read = pixel_filter(network, image, (1, 2), sample=2)
    assert torch.allclose(read.output, network(image)[2, :, 1, 2], atol=1e-6)


@pytest.mark.parametrize("pixel", [(10, 0), (0, -1), (3,), (1, 2, 3)])
def test_pixels_outside_are_refused(pixel: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"pixel: expected an index for each image axis \(0 to 9, 0 to 9\)"):
        pixel_filter(denoiser("gated"), channels_of((10, 10)), pixel)


def test_gates_of_deep_networks_are_not_made_up() -> None:
    assert pixel_filter(denoiser("modl"), channels_of((12, 12)), (6, 6)).gates is None
    with pytest.raises(InputError, match="two layers"):
        switched_filters(denoiser("modl"))
