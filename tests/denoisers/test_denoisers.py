"""The trained denoisers: sized as published, near the identity at first, of any dimension, seeded by the caller."""

from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F

from convexrecon.denoisers.building import DenoiserKind, new_denoiser
from convexrecon.denoisers.modl_cnn import ModlDenoiser
from convexrecon.denoisers.relu import ReluDenoiser
from convexrecon.denoisers.residual import ResidualDenoiser
from convexrecon.denoisers.resnet import ResNetDenoiser
from convexrecon.errors import InputError

KINDS: tuple[DenoiserKind, ...] = get_args(DenoiserKind)
SHAPES = {1: (11,), 2: (9, 13), 3: (5, 7, 4)}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small(kind: DenoiserKind, dimensions: int = 2, seed: int = 0, **more: Any) -> ResidualDenoiser:
    return new_denoiser(kind, width=6, kernel=3, dimensions=dimensions, generator=seeded(seed), **more)


@pytest.mark.parametrize(
    ("kind", "dimensions", "count"),
    [
        ("resnet", 2, 273_902),
        ("modl", 2, 134_820),
        ("modl", 3, 27 * (2 * 2 * 70 + 3 * 70**2)),
        ("relu", 2, 32 * (2 * 9 + 1 + 2)),
    ],
)
def test_the_number_of_weights_is_the_published_one(kind: DenoiserKind, dimensions: int, count: int) -> None:
    denoiser = new_denoiser(kind, dimensions=dimensions, generator=seeded())
    assert sum(p.numel() for p in denoiser.parameters() if p.requires_grad) == count


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_a_new_denoiser_is_near_the_identity_and_learns(kind: DenoiserKind, dimensions: int) -> None:
    denoiser = small(kind, dimensions, channels=4)
    image = torch.randn(2, 4, *SHAPES[dimensions], generator=seeded(1))
    found = denoiser(image)
    assert found.shape == (2, 2, *SHAPES[dimensions])
    torch.testing.assert_close(found, image[:, :2] + denoiser.residual(image))
    difference = float((found - image[:, :2]).detach().norm() / image[:, :2].norm())
    assert 0 < difference < 0.6
    found.square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in denoiser.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_the_weights_come_from_the_generator_alone(kind: DenoiserKind) -> None:
    state = torch.get_rng_state()
    one, same, other = (small(kind, seed=seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_does_not_depend_on_those_beside_it(kind: DenoiserKind) -> None:
    denoiser = small(kind, spectral=0.5)
    images = torch.randn(3, 2, 9, 13, generator=seeded(1))
    torch.testing.assert_close(denoiser(images)[1:2], denoiser(images[1:2]))


@pytest.mark.parametrize(("dimensions", "mode"), [(1, "reflect"), (2, "reflect"), (3, "replicate")])
def test_modl_pads_as_released_and_is_homogeneous(dimensions: int, mode: str) -> None:
    denoiser = small("modl", dimensions)
    assert isinstance(denoiser, ModlDenoiser)
    image = torch.randn(1, 2, *SHAPES[dimensions], generator=seeded(1))
    convolve = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[dimensions]
    hidden = image
    for index, layer in enumerate(denoiser.layers):
        hidden = torch.relu(hidden) if index else hidden
        hidden = convolve(F.pad(hidden, (1, 1) * dimensions, mode=mode), layer.get_parameter("weight"))
    torch.testing.assert_close(denoiser(image), image + hidden)
    torch.testing.assert_close(denoiser(3 * image), 3 * denoiser(image))


def test_the_resnet_is_two_pre_activation_blocks_and_a_convolution() -> None:
    denoiser = small("resnet")
    weights = denoiser.state_dict()
    with torch.no_grad():
        for name in ("blocks.0.projection.bias", "last.bias"):
            weights[name].copy_(torch.randn(weights[name].shape, generator=seeded(2)))
    image = torch.randn(1, 2, 9, 13, generator=seeded(1))

    def padded(hidden: torch.Tensor, name: str) -> torch.Tensor:
        return F.conv2d(F.pad(hidden, (1, 1, 1, 1), mode="reflect"), weights[f"{name}.weight"])

    hidden = F.conv2d(image, weights["blocks.0.projection.weight"], weights["blocks.0.projection.bias"])
    hidden = hidden + padded(padded(image.relu(), "blocks.0.first").relu(), "blocks.0.second")
    hidden = hidden + padded(padded(hidden.relu(), "blocks.1.first").relu(), "blocks.1.second")
    wanted = image + F.conv2d(hidden, weights["last.weight"], weights["last.bias"], padding=1)
    torch.testing.assert_close(denoiser(image), wanted)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("frames", [1, 4, 9])
def test_a_periodic_denoiser_does_not_know_when_the_first_frame_was(kind: DenoiserKind, frames: int) -> None:
    denoiser = small(kind, 3, periodic=True)
    image = torch.randn(1, 2, frames, 5, 6, generator=seeded(1))
    torch.testing.assert_close(denoiser(image.roll(3, 2)), denoiser(image).roll(3, 2))
    # Far from the ends of a long enough image, it is the denoiser that is not periodic.
    long = torch.randn(1, 2, 15, 5, 6, generator=seeded(2))
    aperiodic = small(kind, 3)
    torch.testing.assert_close(denoiser(long)[:, :, 5:-5], aperiodic(long)[:, :, 5:-5])
    assert not torch.allclose(denoiser(long)[:, :, 0], aperiodic(long)[:, :, 0])


def test_the_relu_denoiser_takes_a_kernel_of_its_own_for_every_axis() -> None:
    denoiser = ReluDenoiser(4, (3, 1, 5), dimensions=3, generator=seeded())
    assert denoiser.network[0].get_parameter("weight").shape == (4, 2, 3, 1, 5)
    assert denoiser(torch.zeros(1, 2, 4, 5, 6)).shape == (1, 2, 4, 5, 6)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"kind": "unet"}, "kind: expected one of relu, resnet, modl, found 'unet'"),
        ({"width": 0}, "width: expected at least 1"),
        ({"kernel": 4}, "kernel: expected an odd size.*found 4"),
        ({"kernel": -1}, "kernel: expected an odd size"),
        ({"channels": 1}, "channels: expected at least as many as outputs"),
        ({"dimensions": 4}, "dimensions: expected 1, 2 or 3, found 4"),
        ({"spectral": 1.0}, r"spectral: expected a bound between 0 and 1.*found 1\.0"),
        ({"spectral": 0.0}, "spectral: expected"),
        ({"spectral": float("nan")}, "spectral: expected"),
    ],
)
def test_bad_settings_are_refused(bad: dict[str, Any], message: str) -> None:
    settings: dict[str, Any] = {"kind": "modl", "width": 4, "generator": seeded()} | bad
    with pytest.raises(InputError, match=message):
        new_denoiser(settings.pop("kind"), **settings)


def test_bad_depths_and_paddings_are_refused() -> None:
    with pytest.raises(InputError, match="layers: expected at least 2, found 1"):
        ModlDenoiser(4, layers=1, generator=seeded())
    with pytest.raises(InputError, match="blocks: expected at least 1, found 0"):
        ResNetDenoiser(4, blocks=0, generator=seeded())
    with pytest.raises(InputError, match="padding: expected one of zeros"):
        ModlDenoiser(4, padding="mirror", generator=seeded())  # type: ignore[arg-type]


def test_images_that_do_not_fit_are_refused() -> None:
    denoiser = small("modl")
    with pytest.raises(InputError, match=r"expected an image \(B, 2, 2 axes\), found \(1, 3, 8, 8\)"):
        denoiser(torch.zeros(1, 3, 8, 8))
    with pytest.raises(InputError, match="expected an image"):
        denoiser(torch.zeros(1, 2, 8))
    assert denoiser(torch.zeros(1, 2, 2, 8)).shape == (1, 2, 2, 8)
    with pytest.raises(InputError, match=r"at least \(2, 2\), found \(1, 8\)"):
        denoiser(torch.zeros(1, 2, 1, 8))
    # The bound counts on mirrored strips that do not meet.
    bounded = ModlDenoiser(4, padding="reflect", spectral=0.5, generator=seeded())
    with pytest.raises(InputError, match=r"at least \(4, 4\), found \(3, 8\)"):
        bounded(torch.zeros(1, 2, 3, 8))
    assert small("resnet", 3)(torch.zeros(1, 2, 1, 1, 1)).shape == (1, 2, 1, 1, 1)
