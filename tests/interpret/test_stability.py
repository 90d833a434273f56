"""Bounds that nothing exceeds, and perturbations that are worse than noise."""

import math

import pytest
import torch
from cascades import cascade, consistency, measurement, rng
from denoisers import KINDS, denoiser

from convexrecon.denoisers.feature_stack import FeatureStack
from convexrecon.errors import InputError
from convexrecon.interpret.lipschitz_bounds import (
    cascade_bounds,
    consistency_bounds,
    denoiser_bound,
    two_layer_bound,
)
from convexrecon.interpret.local_map import local_map
from convexrecon.interpret.operator_norm import operator_norm
from convexrecon.interpret.stability import compare_stability
from convexrecon.interpret.worst_case import worst_case
from convexrecon.physics.data_consistency import NoDataConsistency, remaining_error


def test_no_pattern_of_a_small_denoiser_exceeds_its_bound() -> None:
    taps = 0.3 * torch.randn(3, 2, 2, 3, 3, generator=rng(), dtype=torch.float64)
    bound = two_layer_bound(taps)
    worst = 0.0
    # Every pixel its own pattern, many times, and all pixels the same one.
    for trial in range(60):
        shape = (3, 8, 8) if trial < 40 else (3, 1, 1)
        open_ = (torch.rand(shape, generator=rng(trial)) > 0.5).double().expand(3, 8, 8)
        unit = torch.eye(128, dtype=torch.float64).view(128, 2, 8, 8)
        moved = torch.stack([torch.nn.functional.conv2d(unit, v, padding=1) for v in taps], 1)
        matrix = (unit + (moved * open_[None, :, None]).sum(1)).flatten(1)
        worst = max(worst, float(torch.linalg.matrix_norm(matrix, 2)))
    assert worst <= bound
    naive = 1 + sum(float(torch.linalg.matrix_norm(torch.fft.fft2(v, s=(64, 64)).movedim((0, 1), (-2, -1)), 2).max())
                    for v in taps)  # fmt: skip
    assert bound < naive
    assert two_layer_bound(torch.zeros_like(taps)) == pytest.approx(1, rel=0.08)


@pytest.mark.parametrize("kind", KINDS)
def test_local_maps_keep_to_their_certificates(kind: str) -> None:
    sense, kspace = measurement((10, 9))
    network = cascade((kind, kind))
    certified = cascade_bounds(network)
    assert certified.kspace is not None
    image = operator_norm(local_map(network, sense, kspace), rng(), max_iterations=12)
    data = operator_norm(local_map(network, sense, kspace, of="kspace"), rng(), max_iterations=12)
    assert image.value <= certified.image
    assert data.value <= certified.kspace
    assert [block.continuous for block in certified.blocks] == [kind != "gated"] * 2


def test_consistency_passes_no_more_than_stated() -> None:
    sense, _ = measurement()
    for kind in ("proximal", "gradient", "none"):
        step = consistency(kind)
        passed, data = consistency_bounds(step)
        error = torch.randn(1, 16, 14, dtype=torch.complex128, generator=rng()) * (sense.maps[:, 0].abs() > 0)
        left = remaining_error(step, error, sense, tolerance=1e-12, max_iterations=300)
        assert float(left.norm()) <= passed * float(error.norm())
        noise = sense.forward(error)
        moved = step(torch.zeros_like(error), sense, sense.adjoint(noise))
        assert float(moved.norm()) <= data * float(noise.norm()) + 1e-12
    assert consistency_bounds(consistency("proximal"), 1.0) == pytest.approx((0.3 / 1.3, 1 / 1.3))
    assert consistency_bounds(NoDataConsistency()) == (1.0, 0.0)
    with pytest.raises(InputError, match="smallest: expected an eigenvalue"):
        consistency_bounds(consistency("proximal"), 2.0)


def test_bounds_follow_what_is_known_of_networks() -> None:
    assert cascade_bounds(cascade(("relu",), initial="cg_sense")).kspace is None
    alone = cascade_bounds(cascade(("relu",), step="none"))
    assert alone.image == alone.blocks[0].denoiser == alone.blocks[0].block
    both = cascade_bounds(cascade(("relu",), step="none", inputs=("image", "initial")))
    assert both.image == pytest.approx(both.blocks[0].denoiser * math.sqrt(2))
    with pytest.raises(InputError, match="no bound is known of a FeatureStack"):
        denoiser_bound(FeatureStack([]))


def test_the_ascent_finds_worse_than_noise_and_stays_in_its_ball() -> None:
    network, (sense, kspace) = cascade(("relu", "modl"), step="gradient"), measurement()
    found = worst_case(network, sense, kspace, rng(), radius=0.02, steps=30, starts=2)
    assert float(found.perturbation.norm()) == pytest.approx(0.02 * float(kspace.norm()))
    assert bool((found.perturbation[sense.mask.expand_as(kspace) == 0] == 0).all())
    assert found.amplification == max(found.history) > 1.05 * found.random
    certified = cascade_bounds(network).kspace
    assert certified is not None
    assert found.amplification <= certified  # continuous: the bound holds for changes of any size
    moved = network(sense, kspace + found.perturbation) - network(sense, kspace)
    assert torch.allclose(moved.detach(), found.change, atol=1e-12)
    again = worst_case(network, sense, kspace, rng(), radius=0.02, steps=30, starts=2)
    assert again.amplification == found.amplification
    with pytest.raises(InputError, match="radius: expected a positive number"):
        worst_case(network, sense, kspace, rng(), radius=0)


def test_small_perturbations_are_amplified_by_the_norm_of_the_local_map() -> None:
    network, (sense, kspace) = cascade(("relu",), step="gradient"), measurement()
    norm = operator_norm(local_map(network, sense, kspace, of="kspace"), rng(), tolerance=1e-6)
    found = worst_case(network, sense, kspace, rng(), radius=1e-7, steps=60, step=1.0)
    assert found.amplification == pytest.approx(norm.value, rel=0.03)


def test_networks_stand_side_by_side() -> None:
    sense, kspace = measurement((10, 9))
    target = torch.randn(1, 10, 9, dtype=torch.complex128, generator=rng(2))
    networks = {"convex": cascade(("gated",)), "end to end": cascade(("modl",))}
    found = compare_stability(networks, sense, kspace, steps=5, target=target)
    assert list(found) == ["convex", "end to end"]
    for one in found.values():
        assert one.worst_psnr_drop is not None
        assert one.certified.kspace is not None
        assert one.local.value <= one.certified.kspace
    assert compare_stability({"e": networks["end to end"]}, sense, kspace, steps=5)["e"].worst_psnr_drop is None
    assert denoiser_bound(denoiser("gated")) > 1
