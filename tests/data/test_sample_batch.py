"""A batch of several samples is the samples side by side, whatever their forward model."""

import pytest
import torch
from torch import Tensor

from convexrecon.data.sample_batch import Batch, Shots, stack
from convexrecon.errors import InputError
from convexrecon.physics.forward_model import ForwardModel
from convexrecon.physics.noncartesian_fourier import NonCartesianFourier
from convexrecon.physics.noncartesian_sense import NonCartesianSense
from convexrecon.physics.sense import Sense
from convexrecon.physics.trajectories import radial

SHAPE = (20, 18)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(seed))


def maps(seed: int) -> Tensor:
    found = normal(1, 3, *SHAPE, seed=seed)
    return found / torch.linalg.vector_norm(found, dim=1, keepdim=True)


def fourier(first: int) -> NonCartesianFourier:
    coordinates = radial(SHAPE, 9, first=first).flatten(0, 1)
    return NonCartesianFourier(coordinates, SHAPE, 1 + coordinates.abs().sum(-1), eps=1e-5)


def mask(seed: int, *frames: int) -> Tensor:
    return (torch.rand(1, 1, *frames, *SHAPE, generator=torch.Generator().manual_seed(seed)) < 0.5).float()


FOURIER = fourier(0)
MODELS: dict[str, tuple[ForwardModel, ForwardModel]] = {
    "Cartesian": (Sense(maps(1), mask(1)), Sense(maps(2), mask(2))),
    "series": (Sense(maps(1).unsqueeze(2), mask(1, 4), 2), Sense(maps(2).unsqueeze(2), mask(2, 4), 2)),
    "one trajectory": (NonCartesianSense(maps(1), FOURIER), NonCartesianSense(maps(2), FOURIER)),
    "two trajectories": (NonCartesianSense(maps(1), FOURIER), NonCartesianSense(maps(2), fourier(7))),
}


def batch_of(sense: ForwardModel, name: str) -> Batch:
    image = normal(*sense.image_shape, seed=len(name))
    shots = Shots(9, 36) if isinstance(sense, NonCartesianSense) else None
    return Batch(sense.forward(image), sense, image, torch.ones(1), (name,), (0,), SHAPE, shots)


@pytest.mark.parametrize("kind", MODELS)
def test_the_joined_model_is_that_of_each(kind: str) -> None:
    parts = [batch_of(sense, name) for sense, name in zip(MODELS[kind], ("a", "bcd"), strict=True)]
    both = stack(parts)
    assert both.volume == ("a", "bcd")
    image = torch.cat([part.target for part in parts])
    for whole, alone in (
        (both.sense.forward(image), torch.cat([part.kspace for part in parts])),
        (both.sense.adjoint(both.kspace), torch.cat([part.sense.adjoint(part.kspace) for part in parts])),
        (both.sense.normal(image), torch.cat([part.sense.normal(part.target) for part in parts])),
    ):
        assert torch.allclose(whole, alone, atol=2e-5)


def test_slices_of_one_scan_share_what_is_computed_of_its_trajectory() -> None:
    joined = MODELS["one trajectory"][0].joined([MODELS["one trajectory"][1]])
    assert isinstance(joined, NonCartesianSense)
    assert joined.fourier is FOURIER


@pytest.mark.parametrize("kind", MODELS)
def test_precision_is_that_of_the_image(kind: str) -> None:
    sense = MODELS[kind][0]
    image = batch_of(sense, "a").target.to(torch.complex128)
    wide = sense.as_precise_as(image)
    assert wide.forward(image).dtype == torch.complex128
    assert torch.allclose(wide.normal(image), sense.normal(image.to(torch.complex64)).to(torch.complex128), atol=1e-4)


def test_samples_off_the_grid_have_no_mask() -> None:
    with pytest.raises(InputError, match="scan is off the grid"):
        _ = batch_of(MODELS["one trajectory"][0], "scan").mask


def test_trajectories_of_several_lengths_are_no_batch() -> None:
    other = NonCartesianFourier(radial(SHAPE, 5).flatten(0, 1), SHAPE)
    with pytest.raises(InputError, match="expected one of them in a batch"):
        MODELS["one trajectory"][0].joined([NonCartesianSense(maps(1), other)])
