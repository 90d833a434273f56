import math
from typing import Any

import cvxpy
import numpy as np
import pytest
import torch
from torch import Tensor

from convexrecon.errors import InputError
from convexrecon.evaluate.baselines import cg_sense, tune
from convexrecon.evaluate.casorati import shrink_singular_values
from convexrecon.evaluate.low_rank import (
    low_rank,
    low_rank_plus_sparse,
    noise_singular_value,
    solve_low_rank,
    solve_low_rank_plus_sparse,
)
from convexrecon.evaluate.metrics import psnr
from convexrecon.physics.sense import Sense


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))


def _tiny(batch: int = 1, coils: int = 2, frames: int = 3, shape: tuple[int, ...] = (4, 4)) -> tuple[Sense, Tensor]:
    maps = _random(batch, coils, 1, *shape, seed=1)
    rng = torch.Generator().manual_seed(5)
    mask = (torch.rand(1, 1, frames, *shape, generator=rng) < 0.5).double()
    cine = Sense(maps / torch.linalg.vector_norm(maps, dim=1, keepdim=True), mask, len(shape))
    series = torch.einsum("br,brt->bt", _random(1, 1), _random(1, 1, frames)).view(1, frames, 1, 1) + 0.3 * _random(
        batch, frames, *shape, seed=2
    )
    return cine, cine.mask * (cine.forward(series) + 0.1 * _random(batch, coils, frames, *shape, seed=3))


def _heart(dtype: Any = torch.complex64) -> tuple[Sense, Tensor, Tensor]:
    """A bright disc that beats in a still body; four coils, other lines in every frame."""
    size, frames = 32, 12
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, size, dtype=torch.float64)] * 2, indexing="ij")
    body = ((y / 0.9) ** 2 + (x / 0.8) ** 2 < 1).double() * (0.6 + 0.2 * torch.sin(5 * x) * torch.cos(4 * y))
    radii = [0.35 + 0.1 * math.cos(2 * math.pi * t / frames) for t in range(frames)]
    series = torch.stack([body + 0.4 * torch.sigmoid((r - (y**2 + x**2).sqrt()) / 0.04) for r in radii])
    angles = [2 * math.pi * c / 4 for c in range(4)]
    maps = torch.stack([torch.exp(-((y - math.sin(a)) ** 2 + (x - math.cos(a)) ** 2) + 1j * (a + x)) for a in angles])
    maps = maps * (body > 0) / torch.linalg.vector_norm(maps, dim=0)
    rng = torch.Generator().manual_seed(0)
    mask = torch.zeros(1, 1, frames, size, size, dtype=torch.float64)
    for t in range(frames):
        mask[0, 0, t, :, torch.randperm(size, generator=rng)[:5]] = 1
        mask[0, 0, t, :, [0, 1, -1]] = 1
    image = (series * (body > 0) * torch.exp(1j * y))[None]
    cine = Sense(maps[None, :, None].to(dtype), mask.to(dtype.to_real()), 2)
    kspace = cine.forward(image.to(dtype))
    return cine, kspace + cine.mask * (0.02 * _random(*kspace.shape, seed=4)).to(dtype), image.to(dtype)


def _matrix(cine: Sense) -> np.ndarray:
    """A of one series, from its columns."""
    shape = cine.mask.shape[2:]
    identity = torch.eye(math.prod(shape), dtype=torch.complex128).reshape(-1, 1, *shape)
    return torch.stack([cine.forward(column).flatten() for column in identity], 1).numpy()


def _casorati(series: Tensor, size: int) -> list[Tensor]:
    """Blocks (pixels, t) of one series (t, y, x)."""
    tiles = series.unfold(1, size, size).unfold(2, size, size)
    return [m.T for m in tiles.flatten(3).permute(1, 2, 0, 3).flatten(0, 1)]


def _objective(cine: Sense, kspace: Tensor, image: Tensor, lam: float, size: int) -> float:
    fit = (cine.forward(image) - kspace).abs().square().sum() / 2
    ranks = sum(float(torch.linalg.svdvals(block).sum()) for block in _casorati(image[0], size))
    return float(fit) + lam * noise_singular_value((size, size), image.shape[1]) * ranks


def _split_objective(cine: Sense, kspace: Tensor, low: Tensor, sparse: Tensor, lam: float, ratio: float) -> float:
    fit = (cine.forward(low + sparse) - kspace).abs().square().sum() / 2
    weight = ratio * noise_singular_value(tuple(low.shape[2:]), low.shape[1])
    rank = torch.linalg.svdvals(low[0].flatten(1)).sum()
    return float(fit + lam * weight * rank + lam * torch.fft.fft(sparse, dim=1, norm="ortho").abs().sum())


def test_low_rank_is_the_minimiser_that_cvxpy_finds() -> None:
    cine, kspace = _tiny()
    lam, size = 0.05, 2
    found = solve_low_rank(cine, kspace, lam, block=size, grids=1, iterations=3000, tolerance=1e-12).image
    x = cvxpy.Variable((3, 16), complex=True)
    pixels = np.arange(16).reshape(2, 2, 2, 2).transpose(0, 2, 1, 3).reshape(4, 4)
    weight = lam * noise_singular_value((size, size), 3)
    fit = cvxpy.sum_squares(_matrix(cine) @ cvxpy.vec(x, order="C") - kspace.flatten().numpy()) / 2
    problem = cvxpy.Problem(cvxpy.Minimize(fit + weight * sum(cvxpy.normNuc(x[:, block]) for block in pixels)))
    problem.solve(solver=cvxpy.CLARABEL)
    value = _objective(cine, kspace, found, lam, size)
    assert value == pytest.approx(problem.value, rel=1e-6)
    np.testing.assert_allclose(found[0].flatten(1).numpy(), x.value, atol=2e-3)


def test_low_rank_plus_sparse_is_the_minimiser_that_cvxpy_finds() -> None:
    cine, kspace = _tiny()
    lam, ratio = 0.06, 0.7
    result = solve_low_rank_plus_sparse(cine, kspace, lam, ratio=ratio, iterations=6000, tolerance=1e-12)
    low, sparse = cvxpy.Variable((3, 16), complex=True), cvxpy.Variable((3, 16), complex=True)
    fourier = np.exp(-2j * np.pi * np.outer(np.arange(3), np.arange(3)) / 3) / np.sqrt(3)
    fit = cvxpy.sum_squares(_matrix(cine) @ cvxpy.vec(low + sparse, order="C") - kspace.flatten().numpy()) / 2
    weight = lam * ratio * noise_singular_value((4, 4), 3)
    penalty = weight * cvxpy.normNuc(low) + lam * cvxpy.sum(cvxpy.abs(fourier @ sparse))
    problem = cvxpy.Problem(cvxpy.Minimize(fit + penalty))
    problem.solve(solver=cvxpy.CLARABEL)
    value = _split_objective(cine, kspace, result.low_rank, result.image - result.low_rank, lam, ratio)
    assert value == pytest.approx(problem.value, rel=1e-6)


def test_objectives_fall_with_the_iterations() -> None:
    cine, kspace, _ = _heart(torch.complex128)
    steps = (1, 3, 10, 30, 100)
    blocks = [solve_low_rank(cine, kspace, 0.01, grids=1, iterations=n, tolerance=0).image for n in steps]
    values = [_objective(cine, kspace, image, 0.01, 8) for image in blocks]
    assert values == sorted(values, reverse=True)
    assert values[-2] - values[-1] < 1e-3 * (values[0] - values[-1])
    splits = [solve_low_rank_plus_sparse(cine, kspace, 0.01, iterations=n, tolerance=0) for n in steps]
    values = [_split_objective(cine, kspace, r.low_rank, r.image - r.low_rank, 0.01, 0.3) for r in splits]
    assert values == sorted(values, reverse=True)


def test_several_grids_converge_to_a_fixed_point_of_their_mean() -> None:
    cine, kspace, _ = _heart(torch.complex128)
    lam = 0.01
    result = solve_low_rank(cine, kspace, lam, block=(8, 8), grids=2, iterations=2000, tolerance=1e-9)
    assert int(result.iterations) < 2000
    x = result.image
    for length in (0.5, 0.98):
        moved = x - length * (cine.normal(x) - cine.adjoint(kspace))
        threshold = torch.tensor([length * lam * noise_singular_value((8, 8), 12)], dtype=torch.float64)
        offsets = ((0, 0), (4, 4))
        after = torch.stack([shrink_singular_values(moved, threshold, (8, 8), offset) for offset in offsets]).mean(0)
        # The proximal average depends on the step, by little; at the solver's own step the point is fixed.
        assert (after - x).abs().max() < (1e-6 if length == 0.98 else 2e-2)


def test_both_beat_the_linear_method_at_its_best() -> None:
    cine, kspace, image = _heart()
    linear = tune(cg_sense, [(cine, kspace, image)], low=1e-3, high=1e-1, points=3, refinements=2).psnr
    for method in (low_rank, low_rank_plus_sparse):
        tuned = tune(method, [(cine, kspace, image)], low=3e-3, high=3e-2, points=3, refinements=1)
        assert tuned.psnr > linear + 3


def test_random_offsets_come_from_the_generator_alone() -> None:
    cine, kspace, image = _heart()
    one, same, other = (
        solve_low_rank(cine, kspace, 0.01, grids=1, generator=torch.Generator().manual_seed(seed)).image
        for seed in (0, 0, 1)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    fixed = solve_low_rank(cine, kspace, 0.01, grids=1).image
    assert not torch.equal(one, fixed)
    assert psnr(one[0], image[0]) > psnr(fixed[0], image[0]) - 0.5


@pytest.mark.parametrize("solve", [solve_low_rank, solve_low_rank_plus_sparse])
def test_a_series_does_not_depend_on_its_batch(solve: Any) -> None:
    cine, kspace = _tiny(batch=2, shape=(6, 7))
    kspace[1] *= 0.1
    both = solve(cine, kspace, 0.02, block=3)
    alone = solve(Sense(cine.maps[1:], cine.mask, 2), kspace[1:], 0.02, block=3)
    torch.testing.assert_close(both.image[1:], alone.image, rtol=0, atol=1e-12)
    assert both.iterations[1] == alone.iterations[0]


@pytest.mark.parametrize("method", [low_rank, low_rank_plus_sparse])
def test_nothing_where_no_coil_sees_and_nothing_from_nothing(method: Any) -> None:
    cine, kspace, _ = _heart()
    unseen = cine.maps[0, :, 0].abs().sum(0) == 0
    assert unseen.any()
    assert not method(cine, kspace, 0.01, 5)[0][:, unseen].any()
    assert not method(cine, torch.zeros_like(kspace), 0.01, 5).any()


@pytest.mark.parametrize("solve", [solve_low_rank, solve_low_rank_plus_sparse])
def test_bad_arguments_are_refused(solve: Any) -> None:
    cine, kspace = _tiny()
    for bad in ({"lam": -1.0}, {"lam": 0.1, "iterations": 0}):
        with pytest.raises(InputError, match="low_rank"):
            solve(cine, kspace, **bad)
    with pytest.raises(InputError, match="block"):
        solve(cine, kspace, 0.1, block=(2, 2, 2))
    with pytest.raises(InputError, match="kspace"):
        solve(cine, kspace[:, :1], 0.1)
    with pytest.raises(InputError, match="grids"):
        solve_low_rank(cine, kspace, 0.1, grids=5)
    with pytest.raises(InputError, match="ratio"):
        solve_low_rank_plus_sparse(cine, kspace, 0.1, ratio=0.0)
