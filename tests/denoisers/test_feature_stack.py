"""Stacked features: what a stack computes, and channels carried through it."""

import pytest
import torch

from convexrecon.convex.arrangements import Gates, with_open_gate
from convexrecon.convex.recovery import gated_network, weights_of
from convexrecon.denoisers.feature_stack import FeatureStack
from convexrecon.denoisers.gated_network import GatedNetwork
from convexrecon.errors import InputError

rng = torch.Generator().manual_seed(0)
IMAGE = torch.randn(2, 2, 9, 8, generator=rng)


def network(channels: int, *, constant: bool = True) -> GatedNetwork:
    drawn = Gates(torch.randn(3, channels, 3, 3, generator=rng), torch.randn(3, generator=rng))
    weights = torch.randn(4, 9 * channels + int(constant), 2, generator=rng)
    return gated_network(with_open_gate(drawn), weights, constant=constant)


def test_layers_add_to_those_before_or_replace_them() -> None:
    first, second = network(2), network(8)
    hidden = first.hidden(IMAGE)
    residual, published = (FeatureStack([first, second], residual=residual) for residual in (True, False))
    assert torch.allclose(published(IMAGE), IMAGE + second(hidden), atol=1e-5)
    assert torch.allclose(residual(IMAGE), IMAGE + first(IMAGE) + second(hidden), atol=1e-5)
    assert torch.equal(residual.features(IMAGE, 1), hidden)
    seen, estimate = residual.seen(IMAGE, 1)
    assert torch.equal(seen, hidden)
    assert torch.equal(estimate, FeatureStack([first], residual=True)(IMAGE))
    assert torch.equal(published.seen(IMAGE, 1)[1], IMAGE)


@pytest.mark.parametrize("constant", [True, False])
def test_carried_channels_change_nothing_and_are_the_input(constant: bool) -> None:
    plain = network(3, constant=constant)
    carrying = plain.carrying([1, 2])
    image = torch.randn(1, 3, 9, 8, generator=rng)
    assert torch.allclose(carrying(image), plain(image), atol=1e-5)
    assert torch.equal(carrying.hidden(image)[:, -2:], image[:, 1:])
    assert torch.equal(weights_of(carrying), weights_of(plain))


def test_a_later_layer_can_make_of_its_channels_what_the_one_before_made() -> None:
    first = network(2).carrying([0, 1])
    copies = torch.zeros(1, 10 * 9, 2)
    copies[0, 4::9] = first.outputs
    drawn = Gates(torch.zeros(1, 10, 3, 3), torch.full((1,), -1.0))
    again = FeatureStack([first, gated_network(drawn, copies, constant=False)])
    assert torch.allclose(again(IMAGE), FeatureStack([first])(IMAGE), atol=1e-4)


def test_carrying_needs_a_gate_that_is_always_open() -> None:
    gates = Gates(torch.randn(3, 2, 3, 3, generator=rng), torch.zeros(3))
    assert gates.always_open() is None
    with pytest.raises(InputError, match="expected a gate that is always open"):
        gated_network(gates, torch.randn(3, 19, 2, generator=rng), constant=True).carrying([0])
