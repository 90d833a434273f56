"""Where filters come from: what each choice promises, and gates taken from trained networks."""

import pytest
import torch

from convexrecon.convex.arrangements import Gates, draw_gates, gaussian_filters
from convexrecon.convex.gate_sampling import (
    FILTER_DRAWS,
    mixed_filters,
    patch_difference_filters,
    patch_filters,
    zero_mean_filters,
)
from convexrecon.convex.patches import image_patches
from convexrecon.convex.trained_gates import trained_gates
from convexrecon.denoisers.gated import GatedDenoiser
from convexrecon.denoisers.relu import ReluDenoiser
from convexrecon.errors import InputError

KERNEL = (5, 3)


def samples() -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    image = torch.randn(2, 2, 9, 7, generator=rng)
    image[:, :, :4] = 0  # nothing there
    return [image, torch.zeros(1, 2, 9, 7)]


@pytest.mark.parametrize("choice", FILTER_DRAWS)
def test_every_choice_gives_distinct_open_gates_and_depends_on_the_generator_alone(choice: str) -> None:
    draw = FILTER_DRAWS[choice]
    gates, again, other = (
        draw_gates(samples(), 20, KERNEL, torch.Generator().manual_seed(seed), whitened=0.3, draw=draw)
        for seed in (1, 1, 2)
    )
    patterns = torch.cat([gates.patterns(s).transpose(0, 1).flatten(1) for s in samples()], 1)
    assert gates.filters.shape == (20, 2, *KERNEL)
    assert len(torch.unique(patterns, dim=0)) == 20
    assert bool(patterns.any(1).all())
    assert torch.equal(gates.filters, again.filters)
    assert not torch.equal(gates.filters, other.filters)


def test_zero_mean_gates_do_not_see_a_constant_image() -> None:
    filters = zero_mean_filters(samples(), 7, KERNEL, torch.Generator().manual_seed(0))
    response = torch.nn.functional.conv2d(torch.ones(1, 2, 9, 9), filters)
    assert float(response.abs().max()) < 1e-5
    with pytest.raises(InputError, match="more than one pixel"):
        zero_mean_filters(samples(), 7, (1, 1), torch.Generator())


def test_patch_gates_are_pieces_of_the_data() -> None:
    columns = torch.cat(
        [image_patches(s[i : i + 1].double(), KERNEL, False) for s in samples() for i in range(len(s))], 1
    )
    filters = patch_filters(samples(), 30, KERNEL, torch.Generator().manual_seed(0)).flatten(1).double()
    distance = torch.minimum(torch.cdist(filters, columns.T).amin(1), torch.cdist(-filters, columns.T).amin(1))
    assert float(distance.max()) < 1e-5
    assert bool((filters.norm(dim=1) > 0).all())
    pairs = patch_difference_filters(samples(), 6, KERNEL, torch.Generator().manual_seed(0)).flatten(1).double()
    signed = torch.cat([columns, -columns], 1).T
    sums = (signed.unsqueeze(0) + signed.unsqueeze(1)).flatten(0, 1)
    assert float(torch.cdist(pairs, sums).amin(1).max()) < 1e-4
    with pytest.raises(InputError, match="all zero"):
        patch_filters([torch.zeros(1, 2, 6, 6)], 3, KERNEL, torch.Generator())


def test_mixed_gates_are_of_all_kinds() -> None:
    filters = mixed_filters(samples(), 10, KERNEL, torch.Generator().manual_seed(0))
    assert filters.shape == (10, 2, *KERNEL)
    without_mean = filters.mean((2, 3)).abs().amax(1) < 1e-5
    assert 2 <= int(without_mean.sum()) < 10
    alone = mixed_filters(samples(), 1, KERNEL, torch.Generator().manual_seed(0))
    assert torch.equal(alone, gaussian_filters(samples(), 1, KERNEL, torch.Generator().manual_seed(0)))


def test_the_gates_of_a_relu_network_are_open_where_its_units_are_on() -> None:
    rng = torch.Generator().manual_seed(1)
    denoiser = ReluDenoiser(6, 3, generator=rng)
    layers = denoiser.network.state_dict()
    layers["2.weight"][:, 4] = 0  # a unit without output
    image = torch.randn(1, 2, 11, 10, generator=rng)
    gates = trained_gates(denoiser, 10)
    assert len(gates) == 5
    on = denoiser.network[:2](image)[0] > 0
    strength = layers["0.weight"].flatten(1).norm(dim=1) * layers["2.weight"].flatten(1).norm(dim=0)
    order = strength.argsort(descending=True)[:5]
    assert torch.equal(gates.patterns(image)[0], on[order])
    assert torch.equal(trained_gates(denoiser, 2).filters, gates.filters[:2])
    without_bias = trained_gates(ReluDenoiser(3, 3, bias=False, generator=rng), 3)
    assert not without_bias.offsets.any()


def test_the_gates_of_a_gated_denoiser_are_its_strongest() -> None:
    rng = torch.Generator().manual_seed(1)
    weights = torch.randn(4, 19, 2, generator=rng) * torch.tensor([1.0, 0.0, 3.0, 2.0]).view(-1, 1, 1)
    own = Gates(torch.randn(4, 2, 3, 3, generator=rng), torch.randn(4, generator=rng))
    found = trained_gates(GatedDenoiser(own, weights, constant=True), 8)
    assert torch.equal(found.offsets, own.offsets[[2, 3, 0]])
    with pytest.raises(InputError, match="all units of the trained denoiser are off"):
        trained_gates(GatedDenoiser(own, 0 * weights, constant=True), 8)
    with pytest.raises(InputError, match="found Identity"):
        trained_gates(torch.nn.Identity(), 8)
