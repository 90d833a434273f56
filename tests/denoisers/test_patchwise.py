"""Patch by patch: the output and gradients of the whole image whatever the denoiser, its border and the patch."""

import math
import warnings
from collections.abc import Callable

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from convexrecon.convex.arrangements import Gates
from convexrecon.convex.recovery import gated_network
from convexrecon.denoisers.building import new_denoiser
from convexrecon.denoisers.feature_stack import FeatureStack
from convexrecon.denoisers.gated import GatedDenoiser
from convexrecon.denoisers.modl_cnn import ModlDenoiser
from convexrecon.denoisers.patchwise import Patching, patching, receptive_field
from convexrecon.denoisers.relu import ReluDenoiser
from convexrecon.denoisers.resnet import ResNetDenoiser
from convexrecon.errors import InputError
from convexrecon.training.live_memory import LiveMemory

KINDS = ("relu", "modl", "resnet", "bounded", "circular", "frames", "gated", "gated_frames", "features")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def eighths(*shape: int, generator: torch.Generator) -> Tensor:
    """Multiples of 1/8, whose sums of products are exact in float32: gates on their borders decide alike."""
    return (8 * torch.randn(shape, generator=generator)).round() / 8


def gates(count: int, channels: int, kernel: tuple[int, ...], rng: torch.Generator, *, periodic: bool = False) -> Gates:
    return Gates(eighths(count, channels, *kernel, generator=rng), eighths(count, generator=rng), periodic)


def made(kind: str, dimensions: int, seed: int) -> nn.Module:
    """A small denoiser in float64, its kernel another for every axis, its weights far from the identity."""
    rng = seeded(seed)
    kernel = ((3, 5) if dimensions == 2 else (3, 5, 1)) if dimensions > 1 else (3,)
    if kind in ("gated", "gated_frames"):
        weights = torch.randn(4, 2 * math.prod(kernel) + 1, 2, generator=rng)
        return GatedDenoiser(gates(4, 2, kernel, rng, periodic=kind == "gated_frames"), weights, constant=True)
    if kind == "features":
        first = gated_network(
            gates(3, 2, kernel, rng), eighths(3, 2 * math.prod(kernel), 2, generator=rng), constant=False
        )
        # The second layer's gates see hidden channels: rounded, so that their sums are exact too.
        first.filters.copy_(eighths(*first.filters.shape, generator=rng))
        hidden, small = first.filters.shape[0], (3,) * dimensions
        weights = torch.randn(2, hidden * math.prod(small) + 1, 2, generator=rng)
        second = gated_network(gates(2, hidden, small, rng), weights, constant=True)
        return FeatureStack([first, second], residual=bool(seed % 2)).double()
    denoisers: dict[str, Callable[[], nn.Module]] = {
        "relu": lambda: ReluDenoiser(3, kernel, dimensions=dimensions, generator=rng),
        "modl": lambda: ModlDenoiser(3, kernel, dimensions=dimensions, layers=3, generator=rng),
        "resnet": lambda: ResNetDenoiser(3, kernel, dimensions=dimensions, blocks=1, generator=rng),
        "bounded": lambda: ModlDenoiser(3, kernel, dimensions=dimensions, layers=2, spectral=0.5, generator=rng),
        "circular": lambda: ModlDenoiser(3, kernel, dimensions=dimensions, layers=2, padding="circular", generator=rng),
        "frames": lambda: ModlDenoiser(3, kernel, dimensions=dimensions, layers=2, periodic=True, generator=rng),
    }
    return denoisers[kind]().double()


def output_and_gradients(run: Callable[[Tensor], Tensor], denoiser: nn.Module, image: Tensor) -> list[Tensor]:
    image = image.clone().requires_grad_()
    output = run(image)
    learned = [parameter for parameter in denoiser.parameters() if parameter.requires_grad]
    weights = torch.randn(output.shape, generator=seeded(9), dtype=output.dtype)
    return [output.detach(), *torch.autograd.grad((output * weights).sum(), [image, *learned])]


def largest_difference(found: list[Tensor], expected: list[Tensor]) -> float:
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_output_and_gradients_are_those_of_the_whole_image(kind: str, data: st.DataObject) -> None:
    dimensions = data.draw(st.sampled_from([1, 2, 2, 3]))
    most = {1: 40, 2: 24, 3: 12}[dimensions]
    shape = [data.draw(st.integers(4, most)) for _ in range(dimensions)]
    patch = [data.draw(st.integers(5, 9)) for _ in range(dimensions)]
    denoiser = made(kind, dimensions, data.draw(st.integers(0, 99)))
    image = eighths(2, 2, *shape, generator=seeded(1)).double()
    patches = patching(denoiser, patch)
    expected = output_and_gradients(denoiser, denoiser, image)
    found = output_and_gradients(lambda u: patches.apply(denoiser, u), denoiser, image)
    assert largest_difference(found, expected) < 1e-10
    with torch.no_grad():
        torch.testing.assert_close(patches.apply(denoiser, image), expected[0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_a_volume_cut_along_every_axis_is_put_together_again(kind: str) -> None:
    denoiser = made(kind, 3, 4)
    image = eighths(1, 2, 17, 26, 7, generator=seeded(2)).double()
    patches = patching(denoiser, (6, 5, 3))
    seen: list[tuple[int, ...]] = []

    def run(patch: Tensor) -> Tensor:
        seen.append(tuple(patch.shape[2:]))
        result: Tensor = denoiser(patch)
        return result

    expected = output_and_gradients(denoiser, denoiser, image)
    found = output_and_gradients(lambda u: patches.apply(run, u), denoiser, image)
    assert largest_difference(found, expected) < 1e-10
    reach = receptive_field(denoiser)
    # Each patch once forward and once again for its gradient, none larger than it has to be.
    assert len(seen) == 2 * 3 * 6 * 3
    assert all(
        size <= patch + 2 * halo for one in seen for size, patch, halo in zip(one, (6, 5, 3), reach, strict=True)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_receptive_field_is_what_a_pixel_sees(kind: str) -> None:
    denoiser = made(kind, 2, 3)
    image = torch.randn(1, 2, 29, 41, generator=seeded(3), dtype=torch.float64, requires_grad=True)
    output, reach = denoiser(image), [0, 0]
    # Of several pixels: at one alone, all that sees far may be switched off.
    for row, column in ((14, 20), (13, 19), (15, 22), (12, 18)):
        (seen,) = torch.autograd.grad(output[:, :, row, column].sum(), image, retain_graph=True)
        places = seen[0].abs().sum(0).nonzero() - torch.tensor([row, column])
        reach = [max(reach[axis], int(places[:, axis].abs().max())) for axis in range(2)]
    assert tuple(reach) == receptive_field(denoiser)


@example(halo=0)
@given(halo=st.integers(0, 5))
@settings(max_examples=6, deadline=None, derandomize=True, database=None)
def test_a_halo_too_small_changes_the_output_and_is_warned_of(halo: int) -> None:
    denoiser = new_denoiser("modl", width=4, kernel=3, generator=seeded(0)).double()
    image = torch.randn(1, 2, 20, 17, generator=seeded(1), dtype=torch.float64)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        patches = patching(denoiser, 7, halo)
    with torch.no_grad():
        difference = float((patches.apply(denoiser, image) - denoiser(image)).abs().max())
    if halo < 5:
        assert difference > 1e-6
        (warning,) = caught
        assert f"halo ({halo}, {halo}) is smaller than the receptive field (5, 5)" in str(warning.message)
        assert "with halo = (5, 5) or more it would not" in str(warning.message)
    else:
        assert difference < 1e-12
        assert not caught


@pytest.mark.parametrize(
    ("patch", "halo", "message"),
    [
        (4, None, r"patch: expected at least the kernel \(3, 5\), found \(4, 4\)"),
        ((5,), None, "patch: expected one number of pixels, or one for each of 2 axes, found"),
        ((5, 5, 5), None, "patch: expected one number of pixels, or one for each of 2 axes"),
        (0, None, "patch: expected at least 1 pixel along each axis"),
        (8, (3, 3, 3), r"halo: expected one number of pixels, or one for each of 2 axes, found \(3, 3, 3\)"),
        (8, -1, r"halo: expected at least 0 pixels, found \(-1, -1\)"),
    ],
)
def test_patches_that_do_not_suit_the_denoiser_are_refused(patch: object, halo: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        patching(made("modl", 2, 0), patch, halo)  # type: ignore[arg-type]


def test_images_and_denoisers_that_do_not_fit_are_refused() -> None:
    patches = patching(made("relu", 2, 0), 8)
    with pytest.raises(InputError, match=r"patch: \(8, 8\) expects images of 2 axes, found 3"):
        patches.apply(made("relu", 3, 0), torch.zeros(1, 2, 9, 9, 9).double())
    with pytest.raises(InputError, match="keeps the image size"):
        patches.apply(lambda u: u[:, :, 1:], torch.zeros(1, 2, 9, 9))
    foreign = nn.Conv2d(2, 2, 3, padding=1)
    with pytest.raises(InputError, match="receptive field of a Conv2d is not known; expected a halo"):
        patching(foreign, 8)
    with pytest.raises(InputError, match="patch: expected a size for each axis"):
        patching(foreign, 8, 1)
    image = torch.randn(1, 2, 20, 9, generator=seeded(1))
    torch.testing.assert_close(patching(foreign, (8, 4), 1).apply(foreign, image), foreign(image))


def test_activations_are_those_of_a_patch() -> None:
    denoiser = new_denoiser("resnet", width=32, kernel=3, generator=seeded(0))

    def taken(rows: int, patches: Patching | None) -> float:
        """Bytes of a gradient in units of the image's."""
        image = torch.randn(1, 2, rows, 32, generator=seeded(1)).requires_grad_()
        with LiveMemory(torch.device("cpu")) as memory:
            output = denoiser(image) if patches is None else patches.apply(denoiser, image)
            torch.autograd.grad(output.square().sum(), [image, *denoiser.parameters()])
        return memory.peak_mb * 1e6 / (32 * 2 * 4)

    def slope(patches: Patching | None) -> float:
        return (taken(256, patches) - taken(128, patches)) / 128

    whole, cut = slope(None), slope(patching(denoiser, 16))
    # Ten activations of 32 channels a pixel, against a few images.
    assert whole > 100
    assert cut < 0.05 * whole
    assert taken(256, patching(denoiser, 16)) < taken(256, patching(denoiser, 32)) < 0.5 * taken(256, None)
