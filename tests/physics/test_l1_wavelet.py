from typing import Any

import numpy as np
import pytest
import torch

from convexrecon.errors import InputError
from convexrecon.evaluate.baselines import cg_sense
from convexrecon.evaluate.metrics import psnr
from convexrecon.physics.fourier import fft
from convexrecon.physics.l1_wavelet import l1_wavelet, solve_l1_wavelet
from convexrecon.physics.noncartesian_sense import NonCartesianSense
from convexrecon.physics.sense import Sense
from convexrecon.physics.trajectories import kooshball, radial
from convexrecon.physics.wavelets import daubechies4


def _scene(shape: tuple[int, ...], coils: int = 4, seed: int = 0, dtype: Any = torch.complex128) -> Any:
    """Smooth ellipses with a smooth phase, coil maps with support, noisy undersampled k-space."""
    rng = np.random.default_rng(seed)
    y, x = (torch.linspace(-1, 1, n, dtype=torch.float64) for n in shape)
    y, x = y[:, None], x[None, :]
    image = torch.zeros(shape, dtype=torch.float64)
    for _ in range(6):
        cy, cx, ry, rx = *rng.uniform(-0.4, 0.4, 2), *rng.uniform(0.1, 0.5, 2)
        image = image + rng.uniform(0.2, 1) * ((((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2) < 1)
    support = (y**2 / 0.9 + x**2 / 0.8) < 1
    image = (image * support) * torch.exp(1j * (y + 0.5 * x))
    angles = 2 * np.pi * np.arange(coils) / coils
    maps = torch.stack([torch.exp(-((y - np.sin(a)) ** 2 + (x - np.cos(a)) ** 2) + 1j * (a + x * y)) for a in angles])
    maps = support * maps / maps.abs().square().sum(0).sqrt()
    frequency = torch.fft.fftfreq(shape[0])[:, None] ** 2 + torch.fft.fftfreq(shape[1])[None] ** 2
    chance = torch.from_numpy(rng.uniform(size=shape))
    mask = ((frequency < 0.01) | (chance < 0.25)).double()[None, None]
    noise = torch.from_numpy(rng.standard_normal((1, coils, *shape, 2))).contiguous()
    kspace = mask * (fft(maps[None] * image, 2) + 0.02 * torch.view_as_complex(noise))
    return Sense(maps[None].to(dtype), mask.to(dtype.to_real())), kspace.to(dtype), image[None].to(dtype)


@pytest.mark.filterwarnings("ignore:Level value")
@pytest.mark.parametrize("shape", [(32, 48), (8, 12, 20)])
def test_a_unitary_operator_has_a_closed_form(shape: tuple[int, ...]) -> None:
    pywt = pytest.importorskip("pywt")
    levels, lam = 2, 0.4
    rng = np.random.default_rng(1)
    image = rng.standard_normal((1, *shape)) + 1j * rng.standard_normal((1, *shape))
    sense = Sense(torch.ones(1, 1, *shape, dtype=torch.complex128), torch.ones(1, 1, *shape).double())
    kspace = sense.forward(torch.from_numpy(image))
    found = solve_l1_wavelet(sense, kspace, lam, tolerance=1e-13, levels=levels, shifts=1).image

    coarse, *details = pywt.wavedecn(image[0], "db4", mode="periodization", level=levels)
    shrunk = [{name: pywt.threshold(part, lam, "soft") for name, part in level.items()} for level in details]
    expected = pywt.waverecn([coarse, *shrunk], "db4", mode="periodization")
    np.testing.assert_allclose(found[0].numpy(), expected, rtol=0, atol=1e-9)


def test_the_optimality_condition_holds() -> None:
    lam, levels = 0.02, 2
    sense, kspace, _ = _scene((32, 48))
    # Full support, so that z = x and the subgradient can be read off the image.
    sense = Sense(sense.maps + 1e-3, sense.mask)
    result = solve_l1_wavelet(sense, kspace, lam, iterations=4000, tolerance=1e-12, levels=levels, shifts=1)
    wavelet = daubechies4((32, 48), levels, dtype=torch.float64)
    slope = wavelet.forward(sense.adjoint(kspace) - sense.normal(result.image))
    coefficients = wavelet.forward(result.image)
    penalized = torch.ones(32, 48, dtype=torch.bool)
    penalized[wavelet.coarse] = False
    assert slope[:, ~penalized].abs().max() < 1e-5
    assert slope[:, penalized].abs().max() < lam + 1e-5
    alive = penalized & (coefficients[0].abs() > 1e-3)
    assert alive.sum() > 20
    directions = coefficients[0][alive] / coefficients[0][alive].abs()
    assert (slope[0][alive] - lam * directions).abs().max() < 1e-4


@pytest.mark.parametrize("shape", [(48, 64), (45, 53)])
def test_it_beats_the_linear_method_at_its_best(shape: tuple[int, ...]) -> None:
    sense, kspace, image = _scene(shape, dtype=torch.complex64)
    linear = max(psnr(cg_sense(sense, kspace, lam), image) for lam in (0.003, 0.01, 0.03, 0.1, 0.3))
    found = l1_wavelet(sense, kspace, 0.02)
    assert found.shape == image.shape
    assert psnr(found, image) > linear + 1.0


def test_shifted_grids_help_and_converge() -> None:
    sense, kspace, image = _scene((48, 64))
    one = solve_l1_wavelet(sense, kspace, 0.02, iterations=400, shifts=1)
    four = solve_l1_wavelet(sense, kspace, 0.02, iterations=400, shifts=4, tolerance=1e-5)
    assert psnr(four.image, image) > psnr(one.image, image)
    assert float(four.change) <= 1e-5
    assert int(four.iterations) < 400


def test_it_converges_to_the_same_image_from_any_start() -> None:
    sense, kspace, _ = _scene((32, 48))
    usual = solve_l1_wavelet(sense, kspace, 0.02, iterations=2000, tolerance=1e-9).image
    zero = torch.zeros_like(usual)
    one_step = solve_l1_wavelet(sense, kspace, 0.02, iterations=1, initial=zero).image
    from_zero = solve_l1_wavelet(sense, kspace, 0.02, iterations=2000, tolerance=1e-9, initial=zero).image
    assert float((one_step - usual).norm()) > 0.1 * float(usual.norm())
    assert float((from_zero - usual).norm()) < 1e-4 * float(usual.norm())


def test_nothing_is_reconstructed_where_no_coil_sees() -> None:
    sense, kspace, _ = _scene((45, 53))
    unseen = sense.maps.abs().sum(1) == 0
    assert unseen.any()
    assert not l1_wavelet(sense, kspace, 0.02)[unseen].any()


def test_a_slice_does_not_depend_on_its_batch() -> None:
    first, y1, _ = _scene((32, 40), seed=1)
    second, y2, _ = _scene((32, 40), seed=2)
    both = Sense(torch.cat([first.maps, second.maps * 0.7]), torch.cat([first.mask, second.mask]))
    batch = solve_l1_wavelet(both, torch.cat([y1, 0.1 * y2]), 0.01)
    alone = solve_l1_wavelet(Sense(second.maps * 0.7, second.mask), 0.1 * y2, 0.01)
    torch.testing.assert_close(batch.image[1:], alone.image, rtol=0, atol=1e-12)
    assert batch.iterations[1] == alone.iterations[0]


def test_zero_kspace_gives_zero() -> None:
    sense, kspace, _ = _scene((32, 40))
    assert not l1_wavelet(sense, torch.zeros_like(kspace), 0.01).any()


def _volume(dtype: Any = torch.complex64) -> Any:
    """Two overlapping ellipsoids, four coils, a mask that undersamples two axes, as of a volume's phase encodes."""
    shape = (12, 30, 32)
    z, y, x = torch.meshgrid(*[torch.linspace(-1, 1, n, dtype=torch.float64) for n in shape], indexing="ij")
    body = ((z / 0.9) ** 2 + (y / 0.8) ** 2 + (x / 0.7) ** 2 < 1).double()
    image = (body + 0.7 * ((z**2 + (y / 0.3) ** 2 + ((x - 0.2) / 0.4) ** 2) < 1)) * torch.exp(1j * (z + y * x))
    angles = [2 * np.pi * c / 4 for c in range(4)]
    maps = torch.stack([torch.exp(-((y - np.sin(a)) ** 2 + (x - np.cos(a)) ** 2) + 1j * (a + z)) for a in angles])
    maps = maps * body / torch.linalg.vector_norm(maps, dim=0)
    return maps[None].to(dtype), (image * body)[None].to(dtype)


def test_volumes_are_reconstructed_as_volumes() -> None:
    maps, image = _volume()
    rng = torch.Generator().manual_seed(0)
    frequency = torch.fft.fftfreq(30)[:, None] ** 2 + torch.fft.fftfreq(32)[None] ** 2
    mask = ((frequency < 0.01) | (torch.rand(30, 32, generator=rng) < 0.2)).float().expand(1, 1, 12, 30, 32)
    sense = Sense(maps, mask)
    kspace = sense.forward(image)
    kspace = kspace + mask * 0.03 * torch.randn(kspace.shape, dtype=kspace.dtype, generator=rng)
    linear = max(psnr(cg_sense(sense, kspace, lam), image) for lam in (0.01, 0.03, 0.1, 0.3))
    found = l1_wavelet(sense, kspace, 0.02)
    assert psnr(found, image) > linear + 2
    assert not found[(maps == 0).all(1)].any()


@pytest.mark.parametrize("ndim", [2, 3])
def test_samples_off_the_grid_are_reconstructed(ndim: int) -> None:
    pytest.importorskip("finufft")
    maps, image = _volume()
    if ndim == 2:
        maps, image = maps[:, :, 6], image[:, 6]
        trajectory = radial((30, 32), 11).flatten(0, 1)
    else:
        trajectory = kooshball((12, 30, 32), 120).flatten(0, 1)
    weights = torch.linalg.vector_norm(trajectory, dim=1) ** (ndim - 1) + 0.1
    sense = NonCartesianSense.along(trajectory, maps, weights)
    rng = torch.Generator().manual_seed(0)
    measured = sense.fourier.nufft.forward(maps * image.unsqueeze(1))
    kspace = sense.weigh(measured + 0.02 * torch.randn(measured.shape, dtype=measured.dtype, generator=rng))
    linear = max(psnr(cg_sense(sense, kspace, lam), image) for lam in (0.003, 0.01, 0.03, 0.1))
    found = [l1_wavelet(sense, kspace, lam, 40) for lam in (0.004, 0.01)]
    assert found[0].shape == image.shape
    assert max(psnr(one, image) for one in found) > linear + 1
    with pytest.raises(InputError, match="shots flattened"):
        l1_wavelet(sense, kspace[..., :-1], 0.01)


def test_a_series_is_a_volume_of_time() -> None:
    maps, image = _volume()
    rng = torch.Generator().manual_seed(0)
    mask = (torch.rand(1, 1, 12, 30, 32, generator=rng) < 0.3).float()
    cine = Sense(maps[:, :, 6:7], mask, 2)
    kspace = cine.forward(image)
    assert psnr(l1_wavelet(cine, kspace, 0.01), image) > psnr(cg_sense(cine, kspace, 0.01), image) + 1


def test_levels_may_differ_between_axes() -> None:
    sense, kspace, _ = _scene((32, 40))
    both = solve_l1_wavelet(sense, kspace, 0.01, levels=2).image
    torch.testing.assert_close(solve_l1_wavelet(sense, kspace, 0.01, levels=(2, 2)).image, both)
    assert not torch.allclose(solve_l1_wavelet(sense, kspace, 0.01, levels=(2, 3)).image, both)
    with pytest.raises(InputError, match="levels"):
        solve_l1_wavelet(sense, kspace, 0.01, levels=(2, 2, 2))


@pytest.mark.parametrize("arguments", [{"lam": -1.0}, {"iterations": 0}, {"shifts": 0}, {"shifts": 9}])
def test_bad_arguments_are_refused(arguments: Any) -> None:
    sense, kspace, _ = _scene((32, 40))
    with pytest.raises(InputError, match="l1_wavelet"):
        solve_l1_wavelet(sense, kspace, **{"lam": 0.01, **arguments})
