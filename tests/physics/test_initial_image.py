"""What a reconstruction starts from: against solutions of the normal equations, and on a series that stands still."""

import pytest
import torch
from torch import Tensor

from convexrecon.errors import InputError
from convexrecon.physics.initial_image import INITIAL_IMAGES, WAVELET_ITERATIONS, around_average, initial_image
from convexrecon.physics.l1_wavelet import l1_wavelet
from convexrecon.physics.sense import Sense


def still_scan() -> tuple[Sense, Tensor, Tensor]:
    """A series of six equal frames, each sampled at other places: operator, A^H y, the image."""
    rng = torch.Generator().manual_seed(0)
    maps = torch.randn(1, 3, 1, 8, 10, dtype=torch.complex64, generator=rng).expand(1, 3, 6, 8, 10)
    maps = maps / maps.abs().square().sum(1, keepdim=True).sqrt()
    sense = Sense(maps, (torch.rand(1, 1, 6, 8, 10, generator=rng) < 0.3).float(), axes=2)
    image = torch.randn(1, 1, 8, 10, dtype=torch.complex64, generator=rng).expand(1, 6, 8, 10)
    return sense, sense.adjoint(sense.forward(image)), image


def flat_scan(sense: Sense) -> Sense:
    """Of the first frame alone, as a slice."""
    return Sense(sense.maps[:, :, 0], sense.mask[:, :, 0])


def test_what_stands_still_is_found_from_all_frames() -> None:
    sense, adjoint, image = still_scan()
    errors = {name: float((make(sense, adjoint) - image).norm()) for name, make in INITIAL_IMAGES.items()}
    assert errors["time_average"] < 0.05 * errors["cg_sense"] < 0.05 * errors["zero_filled"]


def test_sharper_is_nearer_to_the_samples_and_solves_its_own_normal_equations() -> None:
    sense, adjoint, _ = still_scan()
    residuals = {}
    for name in ("cg_sense", "cg_sense_sharp"):
        residuals[name] = float((sense.normal(INITIAL_IMAGES[name](sense, adjoint)) - adjoint).norm())
    assert residuals["cg_sense_sharp"] < 0.5 * residuals["cg_sense"]
    x = INITIAL_IMAGES["cg_sense_sharp"](sense, adjoint)
    assert float((sense.normal(x) + 0.001 * x - adjoint).norm()) < 0.02 * float(adjoint.norm())


def test_what_moves_is_looked_for_around_the_average() -> None:
    sense, _, image = still_scan()
    moving = image.clone()
    moving[:, 3, 2:5, 2:5] *= -1
    found = around_average(sense, sense.adjoint(sense.forward(moving)))
    # Without a penalty on the difference the frames would be those of CG-SENSE; without the difference all the same.
    assert float((found - moving).norm()) < float((found.mean(1, keepdim=True) - moving).norm())
    assert float((found[:, 3] - found[:, 0])[:, 2:5, 2:5].norm()) > float((found[:, 1] - found[:, 0]).norm())


@pytest.mark.parametrize("frames", [1, 6])
def test_compressed_sensing_of_slices_and_of_series_is_that_of_the_baseline(frames: int) -> None:
    sense, _, _ = still_scan()
    sense = Sense(sense.maps[:, :, :frames], sense.mask[:, :, :frames], axes=2) if frames > 1 else flat_scan(sense)
    kspace = sense.forward(torch.randn(sense.image_shape, dtype=torch.complex64, generator=torch.Generator()))
    found = initial_image("l1_wavelet", 0.05)(sense, sense.adjoint(kspace))
    assert torch.equal(found, l1_wavelet(sense, kspace, 0.05, iterations=WAVELET_ITERATIONS))
    # The larger the weight, the further from the samples.
    errors = [
        float((sense.forward(initial_image("l1_wavelet", weight)(sense, sense.adjoint(kspace))) - kspace).norm())
        for weight in (0.01, 0.05, 0.25)
    ]
    assert errors == sorted(errors)
    assert errors[0] < 0.5 * errors[2]


def test_a_slice_has_no_time_to_average_over() -> None:
    sense, adjoint, _ = still_scan()
    flat = flat_scan(sense)
    with pytest.raises(InputError, match=r"expects series .* found images of 2 axes"):
        around_average(flat, adjoint[:, 0])
