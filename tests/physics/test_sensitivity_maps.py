"""ESPIRiT and Walsh maps against simulated coils and against sigpy."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from convexrecon.errors import InputError
from convexrecon.physics.fourier import centred_fft, centred_ifft
from convexrecon.physics.sensitivity_maps import calibration_region, espirit, walsh

Estimator = Callable[[Tensor, tuple[int, int]], Tensor]


def scan(shape: tuple[int, int], coils: int = 6, noise: float = 1e-3, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """A head-like object under smooth coils: k-space (C, y, x), true unit-norm maps, object (y, x) complex."""
    rng = np.random.default_rng(seed)
    y, x = np.meshgrid(*(np.linspace(-1, 1, n, endpoint=False) for n in shape), indexing="ij")
    image = ((y / 0.75) ** 2 + (x / 0.6) ** 2 < 1).astype(complex)
    for _ in range(12):
        cy, cx, ry, rx = rng.uniform((-0.5, -0.4, 0.05, 0.05), (0.5, 0.4, 0.3, 0.25))
        image += rng.uniform(-0.3, 0.5) * (((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1) * (np.abs(image) > 0)
    image *= np.exp(1j * (0.7 * y - 0.9 * x * y))
    maps = np.empty((coils, *shape), complex)
    for c in range(coils):
        angle = 2 * np.pi * (c + 0.3) / coils
        dy, dx = y - 1.1 * np.sin(angle), x - 1.1 * np.cos(angle)
        maps[c] = np.exp(-(dy**2 + dx**2) / 1.2 + 1j * (angle + 1.2 * y * np.cos(angle) - 0.8 * x * np.sin(angle)))
    maps /= np.sqrt((np.abs(maps) ** 2).sum(0))
    images = torch.from_numpy(maps * image)
    kspace = centred_fft(images, 2)
    kspace = kspace + noise * torch.view_as_complex(torch.from_numpy(rng.standard_normal((*kspace.shape, 2))))
    return kspace.to(torch.complex64), torch.from_numpy(maps), torch.from_numpy(image)


def disagreement(maps: Tensor, truth: Tensor, where: Tensor) -> Tensor:
    """1 - |<maps, truth>| at the pixels `where`: the sine of the angle between them, squared, halved."""
    return 1 - (maps.to(truth.dtype).conj() * truth).sum(0).abs()[where]


@pytest.mark.parametrize("shape", [(64, 72), (81, 60), (63, 49)])
@pytest.mark.parametrize(("estimate", "tolerance"), [(espirit, 2e-3), (walsh, 2e-2)])
def test_finds_the_simulated_maps(shape: tuple[int, int], estimate: Estimator, tolerance: float) -> None:
    kspace, truth, image = scan(shape)
    maps = estimate(calibration_region(kspace, 20)[None], shape)[0]
    assert maps.dtype == torch.complex64
    inside = image.abs() > 0.3
    assert float(disagreement(maps, truth, inside).mean()) < tolerance
    assert float((maps != 0).any(0)[inside].float().mean()) > 0.995


@pytest.mark.parametrize("estimate", [espirit, walsh])
def test_unit_sum_of_squares_inside_and_zero_outside(estimate: Estimator) -> None:
    shape = (70, 61)
    kspace, _, image = scan(shape)
    maps = estimate(calibration_region(kspace, 16)[None], shape)[0]
    power = maps.abs().square().sum(0)
    outside = power == 0
    torch.testing.assert_close(power[~outside], torch.ones_like(power[~outside]), atol=1e-5, rtol=0)
    assert float(outside.float().mean()) > 0.2
    assert not bool(outside[image.abs() > 0.3].all())


@pytest.mark.parametrize(("width", "kernel", "crop"), [(24, 6, 0.9), (16, 5, 0.8), (17, 4, 0.95)])
def test_agrees_with_sigpy(width: int, kernel: int, crop: float) -> None:
    mri = pytest.importorskip("sigpy.mri")
    shape = (72, 63)
    kspace, _, _ = scan(shape, coils=5, noise=0.02)
    ours = espirit(calibration_region(kspace, width)[None], shape, kernel=kernel, crop=crop)[0].numpy()
    app = mri.app.EspiritCalib(
        kspace.numpy(), calib_width=width, thresh=0.02, kernel_width=kernel, crop=crop, max_iter=300, show_pbar=False
    )
    theirs = app.run()
    inside, theirs_inside = np.abs(ours).sum(0) > 0, np.abs(theirs).sum(0) > 0
    assert 0.2 < inside.mean() < 0.95
    assert (inside != theirs_inside).mean() < 0.005
    both = inside & theirs_inside
    overlap = np.abs((ours.conj() * theirs).sum(0))[both]
    np.testing.assert_allclose(overlap, 1, atol=2e-3)


def test_eigenvectors_are_those_of_the_definition() -> None:
    """At a few pixels, from the patches and their projection written out, in double."""
    shape, kernel, width = (21, 26), 3, 9
    kspace, _, _ = scan(shape, coils=3)
    region = calibration_region(kspace, width)
    maps = espirit(region[None], shape, kernel=kernel, threshold=0.05, crop=0.0)[0].numpy()
    data = np.asarray(region.numpy(), dtype=complex)
    patches: NDArray[np.complex128] = np.array(
        [
            data[:, i : i + kernel, j : j + kernel].ravel()
            for i in range(width - kernel + 1)
            for j in range(width - kernel + 1)
        ]
    )
    _, values, right = np.linalg.svd(patches)
    rows = right[: (values > 0.05 * values[0]).sum()]
    projection = rows.T @ rows.conj()  # P y = y for every patch y
    np.testing.assert_allclose(projection @ patches[7], patches[7], atol=0.2 * float(np.linalg.norm(patches[7])))
    offsets = np.arange(kernel)
    for pixel in [(0, 0), (10, 13), (4, 20), (20, 25)]:
        wave = [np.exp(-2j * np.pi * offsets * (p - n // 2) / n) for p, n in zip(pixel, shape, strict=True)]
        spread = np.kron(np.eye(3), np.outer(*wave).reshape(-1, 1))  # (3 k^2, 3): s -> the patch it would make
        matrix = spread.conj().T @ projection @ spread / kernel**2
        vector = maps[:, pixel[0], pixel[1]]
        assert np.vdot(vector, matrix @ vector).real == pytest.approx(np.linalg.eigvalsh(matrix)[-1], rel=1e-4)


@pytest.mark.parametrize("estimate", [espirit, walsh])
def test_phase_is_smooth_inside_the_object(estimate: Estimator) -> None:
    """No singularity: around every small loop in the object the phase of the SENSE image adds up to zero."""
    shape = (96, 80)
    kspace, truth, image = scan(shape, coils=8)
    maps = estimate(calibration_region(kspace, 16)[None], shape)[0]
    gauge = (maps.conj() * truth).sum(0)  # the phase our maps have beyond the true, smooth ones
    inside = image.abs() > 0.3
    steps_y, steps_x = (gauge[1:] * gauge[:-1].conj()).angle(), (gauge[:, 1:] * gauge[:, :-1].conj()).angle()
    turns = (steps_x[:-1] + steps_y[:, 1:] - steps_x[1:] - steps_y[:, :-1]) / (2 * torch.pi)
    loops = inside[1:, 1:] & inside[1:, :-1] & inside[:-1, 1:] & inside[:-1, :-1]
    assert int(loops.sum()) > 1000
    assert float(turns[loops].abs().max()) < 1e-6
    assert float(steps_y[inside[1:] & inside[:-1]].abs().max()) < 0.5


@pytest.mark.parametrize("estimate", [espirit, walsh])
def test_slices_of_a_batch_do_not_touch_each_other(estimate: Estimator) -> None:
    shape = (40, 47)
    regions = torch.stack([calibration_region(scan(shape, seed=seed)[0], 14) for seed in range(3)])
    regions[1] *= 1e-20  # units do not matter, nor do those of a neighbour
    regions[2] *= 1e15
    together = estimate(regions, shape)
    for index in range(3):
        torch.testing.assert_close(estimate(regions[index : index + 1], shape)[0], together[index], atol=1e-4, rtol=0)


@pytest.mark.parametrize("estimate", [espirit, walsh])
def test_scale_does_not_matter(estimate: Estimator) -> None:
    shape = (40, 47)
    region = calibration_region(scan(shape)[0], 14)[None]
    torch.testing.assert_close(estimate(5e7 * region, shape), estimate(region, shape), atol=1e-4, rtol=0)


@pytest.mark.parametrize("estimate", [espirit, walsh])
def test_one_coil(estimate: Estimator) -> None:
    shape = (48, 40)
    kspace, _, image = scan(shape, coils=1)
    maps = estimate(calibration_region(kspace, 12)[None], shape)[0]
    inside = image.abs() > 0.3
    torch.testing.assert_close(maps[0][inside].real, torch.ones(int(inside.sum())), atol=1e-5, rtol=0)
    target = (maps.conj() * centred_ifft(kspace, 2)).sum(0)
    assert float((target - centred_ifft(kspace, 2)[0]).abs()[inside].max()) < 1e-4


def test_dead_coil_gets_no_sensitivity() -> None:
    shape = (48, 40)
    kspace, _, _ = scan(shape)
    kspace[2] = 0
    for estimate in (espirit, walsh):
        maps = estimate(calibration_region(kspace, 14)[None], shape)[0]
        assert bool(torch.isfinite(torch.view_as_real(maps)).all())
        assert float(maps[2].abs().max()) < 1e-4


def test_calibration_region_is_centred() -> None:
    kspace = torch.arange(7 * 8).reshape(7, 8)
    assert calibration_region(kspace, (3, 4)).tolist() == [[18, 19, 20, 21], [26, 27, 28, 29], [34, 35, 36, 37]]
    for size in (0, 8, (3, 9)):
        with pytest.raises(InputError, match="7 x 8"):
            calibration_region(kspace, size)


def region_with(value: complex) -> Tensor:
    region = torch.ones(2, 3, 8, 8, dtype=torch.complex64)
    region[1, 2, 3, 4] = torch.tensor(value)
    return region


@pytest.mark.parametrize("estimate", [espirit, walsh])
@pytest.mark.parametrize(
    ("region", "message"),
    [
        (region_with(complex("nan")), "slice 1 of 2 holds NaN"),
        (region_with(complex("inf")), "slice 1 of 2 holds NaN or Inf"),
        (torch.zeros(1, 2, 8, 8, dtype=torch.complex64), "zero everywhere"),
        (torch.ones(1, 2, 21, 8, dtype=torch.complex64), "21 x 8 samples is larger than the image, 20 x 20"),
        (torch.ones(1, 2, 8, 8), "complex"),
        (torch.ones(2, 8, 8, dtype=torch.complex64), "complex .B, C, cy, cx."),
    ],
)
def test_bad_calibration_is_refused(estimate: Estimator, region: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        estimate(region, (20, 20))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel": 9}, "kernel: 9 asked for; expected 1 to 8"),
        ({"kernel": 0}, "kernel"),
        ({"threshold": 1.5}, "threshold"),
        ({"crop": -0.1}, "crop"),
        ({"crop": float("nan")}, "crop"),
    ],
)
def test_bad_espirit_arguments_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        espirit(region_with(1), (20, 20), **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(("arguments", "message"), [({"box": 0}, "box"), ({"threshold": 1.0}, "threshold")])
def test_bad_walsh_arguments_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        walsh(region_with(1), (20, 20), **arguments)  # type: ignore[arg-type]
