"""Clusters of pixels: the right ones where they are known, the same for the same seed, matched over blocks."""

import pytest
import torch
from denoisers import channels_of, denoiser

from convexrecon.cascade import Block, Cascade
from convexrecon.convex.arrangements import Gates
from convexrecon.denoisers.gated import GatedDenoiser
from convexrecon.errors import InputError
from convexrecon.interpret.clusters import k_means
from convexrecon.interpret.patterns import agreement, matched, pattern_map, pattern_maps
from convexrecon.interpret.pixel import pixel_filter
from convexrecon.physics.data_consistency import ProximalDataConsistency
from convexrecon.physics.sense import Sense


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_clusters_that_are_apart_are_found() -> None:
    centres = torch.tensor([[0.0, 0], [10, 0], [0, 10], [10, 10]])
    truth = torch.arange(4).repeat_interleave(torch.tensor([40, 30, 20, 10]))
    points = centres[truth] + 0.3 * torch.randn(100, 2, generator=rng())
    found = k_means(points, 4, rng(1))
    assert torch.equal(found.labels, truth)
    assert found.sizes.tolist() == [40, 30, 20, 10]
    assert found.spread == pytest.approx(float((points - centres[truth]).square().sum(1).mean()), rel=0.1)
    again = k_means(points.repeat(3, 1), 4, rng(1))
    assert again.sizes.tolist() == [120, 90, 60, 30]
    assert torch.equal(k_means(points, 1, rng()).centres[0], points.double().mean(0))


def test_no_cluster_is_empty_and_there_are_no_more_than_points() -> None:
    points = torch.tensor([[0.0], [0.0], [1.0]])
    assert k_means(points, 7, rng()).sizes.tolist() == [2, 1]
    spread = [k_means(torch.randn(200, 3, generator=rng()), k, rng()).spread for k in (1, 4, 16)]
    assert spread[0] > spread[1] > spread[2]
    with pytest.raises(InputError, match="k: expected at least 1"):
        k_means(points, 0, rng())


def test_pixels_of_a_cluster_have_its_code_and_filter() -> None:
    network, image = denoiser("gated", width=3), channels_of((20, 18))
    found = pattern_map(network, image, rng(), k=8)
    # Of three gates one is null: the codes of two, so each of at most four clusters is one code.
    assert found.distinct == len(found.sizes) <= 4
    assert int(found.sizes.sum()) == 20 * 18
    for pixel in [(5, 5), (9, 11), (15, 3)]:
        read, label = pixel_filter(network, image, pixel), int(found.labels[(0, *pixel)])
        assert torch.allclose(found.taps[label].float(), read.taps, atol=1e-6)
        assert torch.allclose(found.constants[label].float(), read.constant, atol=1e-6)


def test_gates_of_equal_filters_are_one_to_the_filter() -> None:
    gates = Gates(torch.randn(2, 2, 3, 3, generator=rng()), torch.zeros(2))
    weights = torch.randn(1, 19, 2, generator=rng()).expand(2, -1, -1).clone()
    network, image = GatedDenoiser(gates, weights, constant=True), channels_of((16, 16))
    by_code, by_filter = pattern_map(network, image, rng(), by="code"), pattern_map(network, image, rng(), by="filter")
    assert (len(by_code.sizes), len(by_filter.sizes)) == (4, 3)


def test_volumes_are_clustered_and_what_is_outside_left_out() -> None:
    network, image = denoiser("relu", kernel=(3, 3, 3)), channels_of((5, 8, 9), batch=2)
    where = torch.zeros(2, 5, 8, 9)
    where[:, 1:4] = 1
    found = pattern_map(network, image, rng(), by="filter", k=5, where=where)
    assert torch.equal(found.labels >= 0, where > 0)
    assert int(found.sizes.sum()) == int(where.sum())
    with pytest.raises(InputError, match="leaves no pixel"):
        pattern_map(network, image, rng(), where=torch.zeros(2, 5, 8, 9))
    with pytest.raises(InputError, match="by: expected one of code, filter"):
        pattern_map(network, image, rng(), by="colour")  # type: ignore[arg-type]


def test_labels_follow_the_block_before() -> None:
    first = pattern_map(denoiser("gated"), channels_of((16, 16)), rng(), k=6)
    other = pattern_map(denoiser("gated"), channels_of((16, 16)), rng(9), k=6)
    one, two = matched([first, other])
    same = float((one.labels == two.labels).double().mean())
    assert same >= float((first.labels == other.labels).double().mean())
    assert torch.equal(torch.bincount(two.labels.flatten()), two.sizes)
    assert agreement(two.labels, other.labels) == 1.0
    shuffled = first.labels.flatten()[torch.randperm(256, generator=rng())].view_as(first.labels)
    assert abs(agreement(first.labels, shuffled)) < 0.1


def test_a_cascade_has_a_map_for_every_block() -> None:
    maps = torch.zeros(1, 1, 16, 14, dtype=torch.complex64)
    maps[..., 2:-2] = 1
    sense = Sense(maps, (torch.rand(1, 1, 16, 14, generator=rng()) > 0.5).float())
    kspace = sense.forward(torch.randn(1, 16, 14, dtype=torch.complex64, generator=rng()))
    cascade = Cascade(Block(denoiser("gated", seed=seed), ProximalDataConsistency()) for seed in range(3))
    found = pattern_maps(cascade, sense, kspace, rng())
    assert len(found) == 3
    assert all(torch.equal(one.labels >= 0, maps[:, 0].real > 0) for one in found)
    deep = Cascade([Block(denoiser("modl"), ProximalDataConsistency())])
    with pytest.raises(InputError, match="expected gated or ReLU denoisers, found ModlDenoiser"):
        pattern_maps(deep, sense, kspace, rng())
