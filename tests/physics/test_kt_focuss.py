"""k-t FOCUSS: against dense solutions, on series of one temporal frequency a pixel, and against scale and batch."""

import math

import pytest
import torch
from torch import Tensor

from convexrecon.errors import InputError
from convexrecon.physics.initial_image import around_average
from convexrecon.physics.kt_focuss import kt_focuss
from convexrecon.physics.sense import Sense

FRAMES, SIZE = 8, (6, 7)


def scan(batch: int = 1, share: float = 0.35) -> tuple[Sense, Tensor]:
    """Operator of a random mask, another in each frame, and series with one temporal frequency beside the average."""
    rng = torch.Generator().manual_seed(1)
    maps = torch.randn(batch, 3, 1, *SIZE, dtype=torch.complex128, generator=rng).expand(-1, -1, FRAMES, -1, -1)
    maps = maps / maps.abs().square().sum(1, keepdim=True).sqrt()
    mask = (torch.rand(batch, 1, FRAMES, *SIZE, generator=rng) < share).double()
    still, moving = torch.randn(2, batch, 1, *SIZE, dtype=torch.complex128, generator=rng)
    frequency = torch.randint(-3, 4, (batch, 1, *SIZE), generator=rng)
    time = torch.arange(FRAMES).view(1, -1, 1, 1)
    return Sense(maps, mask, axes=2), still + moving * torch.exp(2j * math.pi * time * frequency / FRAMES)


def test_the_first_problem_is_solved() -> None:
    sense, series = scan()
    adjoint = sense.adjoint(sense.forward(series))
    unknowns = series.numel()
    units = torch.eye(unknowns, dtype=torch.complex128).view(unknowns, 1, *series.shape[1:])
    frequency = torch.fft.fftfreq(FRAMES, 1 / FRAMES).abs().view(1, -1, 1, 1)

    def normal(x: Tensor) -> Tensor:
        weighted = (0.001 + 0.1 * frequency) * torch.fft.fft(x, dim=1)
        return sense.normal(x) + torch.fft.ifft(weighted, dim=1)

    matrix = torch.stack([normal(unit).flatten() for unit in units], 1)
    expected = torch.linalg.solve(matrix, adjoint.flatten()).view_as(series)
    found = kt_focuss(sense, adjoint, rounds=0, iterations=400)
    assert float((found - expected).norm()) < 2e-3 * float(expected.norm())


def test_few_temporal_frequencies_a_pixel_are_found() -> None:
    sense, series = scan()
    adjoint = sense.adjoint(sense.forward(series))
    errors = [float((kt_focuss(sense, adjoint, rounds=rounds) - series).norm()) for rounds in (0, 1, 2)]
    assert errors[2] < errors[1] < 0.8 * errors[0]
    assert errors[2] < 0.5 * float((around_average(sense, adjoint) - series).norm())


def test_scale_and_phase_pass_through() -> None:
    sense, series = scan()
    adjoint = sense.adjoint(sense.forward(series))
    factor = 1e-6 * complex(math.cos(1.0), math.sin(1.0))
    torch.testing.assert_close(kt_focuss(sense, factor * adjoint), factor * kt_focuss(sense, adjoint))


def test_a_sample_does_not_depend_on_its_batch() -> None:
    sense, series = scan(batch=2)
    adjoint = sense.adjoint(sense.forward(series))
    alone = Sense(sense.maps[1:], sense.mask[1:], axes=2)
    torch.testing.assert_close(kt_focuss(sense, adjoint)[1:], kt_focuss(alone, adjoint[1:]))


def test_nothing_measured_gives_nothing() -> None:
    sense, series = scan()
    assert torch.equal(kt_focuss(sense, torch.zeros_like(series)), torch.zeros_like(series))


def test_a_slice_has_no_time() -> None:
    sense, series = scan()
    flat = Sense(sense.maps[:, :, 0], sense.mask[:, :, 0])
    with pytest.raises(InputError, match=r"'kt_focuss' expects series .* found images of 2 axes"):
        kt_focuss(flat, series[:, 0])
