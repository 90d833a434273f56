"""The input of a block from its output, against the true input."""

from typing import Any

import pytest
import torch
from torch import Tensor

from convexrecon.cascade import Block, support
from convexrecon.denoisers.building import DenoiserKind, new_denoiser
from convexrecon.physics.data_consistency import ProximalDataConsistency
from convexrecon.physics.sense import Sense
from convexrecon.training.block_inversion import Scan, invert_block

SHAPE = (13, 22)


def scan(double: bool = True) -> tuple[Scan, Tensor]:
    """Three scans whose maps are zero in a corner, and images that are zero there."""
    rng = torch.Generator().manual_seed(2)
    kind = torch.complex128 if double else torch.complex64
    maps = torch.randn(3, 4, *SHAPE, dtype=kind, generator=rng)
    maps = maps / maps.abs().square().sum(1, keepdim=True).sqrt()
    maps[..., 8:, :5] = 0
    sense = Sense(maps, (torch.rand(3, 1, *SHAPE, generator=rng) < 0.4).to(maps.real.dtype))
    truth, image = (torch.randn(3, *SHAPE, dtype=kind, generator=rng) * support(sense) for _ in range(2))
    adjoint = sense.adjoint(sense.forward(truth))
    return Scan(sense, adjoint, adjoint), image


def block(kind: DenoiserKind, *, double: bool = True, gain: float = 1.0, **options: Any) -> Block:
    rng = torch.Generator().manual_seed(1)
    denoiser = new_denoiser(kind, width=6, generator=rng, **options)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.mul_(gain)
    inputs = ("image", "zero_filled")[: options.get("channels", 2) // 2]
    made = Block(
        denoiser, ProximalDataConsistency(0.5, iterations=200, tolerance=1e-13 if double else 1e-7), inputs=inputs
    )
    return made.double() if double else made


@pytest.mark.parametrize("kind", ["relu", "resnet", "modl"])
@pytest.mark.parametrize("double", [True, False])
def test_inversion_gives_the_input_back(kind: DenoiserKind, double: bool) -> None:
    given, image = scan(double)
    # Large weights: the bound is what makes the denoiser invertible.
    made = block(kind, double=double, gain=3.0, spectral=0.8)
    with torch.no_grad():
        output = given.through(made, image)
    found, left = invert_block(made, output, given, iterations=150)
    accuracy = 1e-10 if double else 2e-6
    assert float(left.max()) < accuracy
    assert float((found - image).norm()) < 5 * accuracy * float(image.norm())
    assert not bool((found * (1 - support(given.sense))).any())


def test_other_images_that_the_denoiser_sees_are_constants() -> None:
    given, image = scan()
    made = block("modl", channels=4, gain=2.0, spectral=0.8)
    with torch.no_grad():
        output = given.through(made, image)
    found, _ = invert_block(made, output, given, iterations=150)
    assert float((found - image).norm()) < 1e-9 * float(image.norm())


def test_a_sample_is_inverted_alike_in_any_batch() -> None:
    given, image = scan()
    image[1] *= 100
    made = block("relu", gain=2.0, spectral=0.8)
    with torch.no_grad():
        output = given.through(made, image)
    together, _ = invert_block(made, output, given, iterations=150)
    for index in range(3):
        one = slice(index, index + 1)
        assert isinstance(given.sense, Sense)
        sense = Sense(given.sense.maps[one], given.sense.mask[one])
        alone, _ = invert_block(made, output[one], Scan(sense, given.adjoint[one], given.initial[one]), iterations=150)
        assert float((alone[0] - together[index]).norm()) < 1e-12 * float(together[index].norm())


def test_iterations_that_do_not_converge_are_told() -> None:
    given, image = scan()
    made = block("relu", gain=6.0)
    with torch.no_grad():
        output = given.through(made, image)
    found, left = invert_block(made, output, given, iterations=50)
    assert float((found - image).norm()) > 0.1 * float(image.norm())
    assert float(left.min()) > 0.1
