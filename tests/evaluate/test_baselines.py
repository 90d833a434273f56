import math
from typing import Any

import numpy as np
import pytest
import torch

from convexrecon.errors import InputError
from convexrecon.evaluate.baselines import cg_sense, tune, zero_filled
from convexrecon.evaluate.metrics import psnr
from convexrecon.physics.forward_model import ForwardModel
from convexrecon.physics.noncartesian_sense import NonCartesianSense
from convexrecon.physics.sense import Sense


def _problem(batch: int = 2, coils: int = 3, shape: tuple[int, ...] = (9, 7), seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(batch, coils, *shape, dtype=torch.complex128, generator=generator)
    maps = maps / maps.abs().square().sum(1, keepdim=True).sqrt()
    mask = (torch.rand(1, 1, *shape, generator=generator) < 0.6).double()
    sense = Sense(maps, mask)
    image = torch.randn(batch, *shape, dtype=torch.complex128, generator=generator)
    noise = torch.randn(maps.shape, dtype=torch.complex128, generator=generator)
    return sense, mask * (sense.forward(image) + 0.05 * noise), image


def _dense(sense: Any) -> Any:
    """A of one slice as a matrix, one column per pixel, from explicit DFT matrices."""
    _, coils, height, width = sense.maps.shape
    dft = [np.exp(-2j * np.pi * np.outer(np.arange(n), np.arange(n)) / n) / np.sqrt(n) for n in (height, width)]
    fourier = np.kron(dft[0], dft[1])
    mask = sense.mask[0, 0].numpy().ravel()
    return np.concatenate([mask[:, None] * fourier * sense.maps[0, c].numpy().ravel() for c in range(coils)])


def test_cg_sense_solves_the_regularized_least_squares_problem() -> None:
    sense, kspace, _ = _problem(batch=1)
    lam = 0.03
    matrix = _dense(sense)
    stacked = np.concatenate([matrix, np.sqrt(lam) * np.eye(matrix.shape[1])])
    rhs = np.concatenate([kspace[0].numpy().ravel(), np.zeros(matrix.shape[1])])
    expected = np.linalg.lstsq(stacked, rhs, rcond=None)[0]
    found = cg_sense(sense, kspace, lam, iterations=200, tolerance=1e-12)[0].numpy().ravel()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


def test_zero_filled_is_the_adjoint() -> None:
    sense, kspace, _ = _problem(batch=1)
    expected = _dense(sense).conj().T @ kspace[0].numpy().ravel()
    np.testing.assert_allclose(zero_filled(sense, kspace)[0].numpy().ravel(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("model", ["volume", "series", "off the grid"])
def test_linear_methods_take_any_forward_model(model: str) -> None:
    rng = torch.Generator().manual_seed(1)
    maps = torch.randn(2, 3, 4, 6, dtype=torch.complex128, generator=rng) / 2
    shape: tuple[int, ...] = (5, 4, 6)
    sense: ForwardModel
    if model == "volume":
        sense = Sense(maps.unsqueeze(2).repeat(1, 1, 5, 1, 1), torch.rand(1, 1, *shape, generator=rng).round().double())
    elif model == "series":
        sense = Sense(maps.unsqueeze(2), torch.rand(1, 1, *shape, generator=rng).round().double(), 2)
    else:
        pytest.importorskip("finufft")
        shape = (4, 6)
        coordinates = (torch.rand(30, 2, generator=rng, dtype=torch.float64) - 0.5) * torch.tensor(shape)
        sense = NonCartesianSense.along(coordinates, maps, eps=1e-12)
    image = torch.randn(2, *shape, dtype=torch.complex128, generator=rng)
    kspace = sense.forward(image)
    assert torch.equal(zero_filled(sense, kspace), sense.adjoint(kspace))
    found = cg_sense(sense, kspace, 0.01, iterations=300, tolerance=1e-12)
    torch.testing.assert_close(sense.normal(found) + 0.01 * found, sense.adjoint(kspace), rtol=0, atol=1e-9)
    with pytest.raises(InputError, match="kspace: expected"):
        zero_filled(sense, kspace[..., 1:])


def test_a_slice_does_not_depend_on_its_batch() -> None:
    sense, kspace, _ = _problem(batch=2)
    kspace[1] *= 1e-3
    both = cg_sense(sense, kspace, 0.01)
    alone = cg_sense(Sense(sense.maps[1:], sense.mask), kspace[1:], 0.01)
    torch.testing.assert_close(both[1:], alone, rtol=1e-12, atol=0)


def test_bad_arguments_are_refused() -> None:
    sense, kspace, _ = _problem()
    with pytest.raises(InputError, match="lam >= 0"):
        cg_sense(sense, kspace, -1.0)
    with pytest.raises(InputError, match="kspace"):
        zero_filled(sense, kspace[:, :2])


def _toy(best: float) -> Any:
    """A reconstruction whose error grows with |log lam - log best|, and its samples."""
    sense, kspace, image = _problem()

    def reconstruct(_sense: Any, _kspace: Any, lam: Any) -> Any:
        return image + 0.1 + 0.2 * abs(math.log(lam / best))

    return reconstruct, [(sense, kspace, image)]


@pytest.mark.parametrize("best", [0.004, 3e-5, 7.0])
def test_tune_finds_the_best_lam_even_outside_its_grid(best: float) -> None:
    reconstruct, samples = _toy(best)
    tuning = tune(reconstruct, samples, low=1e-3, high=1e-1, points=5, refinements=8)
    assert abs(math.log(tuning.lam / best)) < 0.1
    assert tuning.psnr == max(value for _, value in tuning.curve)
    lams = [lam for lam, _ in tuning.curve]
    assert lams == sorted(lams)


def test_tune_reports_the_mean_over_slices_and_helps_cg_sense() -> None:
    sense, kspace, image = _problem()
    samples = [(sense, kspace, image)]
    tuning = tune(cg_sense, samples, low=1e-4, high=1.0, points=5, refinements=4)
    found = cg_sense(sense, kspace, tuning.lam)
    mean = sum(psnr(x, truth) for x, truth in zip(found, image, strict=True)) / 2
    assert tuning.psnr == pytest.approx(mean, rel=1e-12)
    for lam in (1e-4, 1.0):
        other = cg_sense(sense, kspace, lam)
        assert sum(psnr(x, truth) for x, truth in zip(other, image, strict=True)) / 2 < mean


@pytest.mark.parametrize("arguments", [{"low": 0.0}, {"high": 1e-9}, {"points": 2}])
def test_tune_refuses_a_bad_grid(arguments: Any) -> None:
    reconstruct, samples = _toy(1.0)
    with pytest.raises(InputError, match="tune"):
        tune(reconstruct, samples, **{"low": 1e-3, "high": 1e-1, **arguments})
    with pytest.raises(InputError, match="0 samples"):
        tune(reconstruct, [], low=1e-3, high=1e-1)
