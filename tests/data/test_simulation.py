"""Simulated scans: the physics against independent transforms, and the bookkeeping of files."""

import json
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from convexrecon.data.anatomy import HALF_SIZE, random_anatomy
from convexrecon.data.coils import random_coils
from convexrecon.data.fastmri import read_kspace, read_scan_info, recon_size_from_header
from convexrecon.data.fastmri_writing import write_scan
from convexrecon.data.kspace_simulation import simulate_slice
from convexrecon.data.simulation import simulate_dataset
from convexrecon.errors import InputError
from convexrecon.physics.fourier import centred_ifft, crop_centre

SMALL: dict[str, Any] = {"slices": 2, "size": (36, 33), "coils": 3, "progress": False}


def combine(kspace: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    return (maps.conj() * crop_centre(centred_ifft(kspace, 2), maps.shape[-2:])).sum(-3)


@pytest.mark.parametrize("oversampling", [1, 2, 3])
@pytest.mark.parametrize("size", [(64, 56), (47, 52)])
def test_noise_free_kspace_is_that_of_the_image_seen_by_the_coils(size: tuple[int, int], oversampling: int) -> None:
    scan = simulate_slice(size, coils=5, noise=0, readout_oversampling=oversampling)
    assert scan.kspace.shape == (5, size[0] * oversampling, size[1])
    assert scan.kspace.dtype == scan.image.dtype == scan.maps.dtype == torch.complex64
    # Equal but for the truncation of k-space, which acts on the product with the coils.
    error = torch.linalg.norm(combine(scan.kspace, scan.maps) - scan.image) / torch.linalg.norm(scan.image)
    assert error < 0.05


@pytest.mark.parametrize("oversampling", [1, 2])
def test_kspace_is_the_fourier_integral_of_the_continuous_object(oversampling: int) -> None:
    """Against slow sums over a far finer grid, in physical coordinates y, x from the origin at N//2."""
    rows, columns, coils, seed, position = 64, 51, 2, 4, 0.4
    scan = simulate_slice(
        (rows, columns), coils=coils, noise=0, seed=seed, position=position, readout_oversampling=oversampling
    )
    anatomy = random_anatomy("head", seed)
    y, x = anatomy.coordinates((rows, columns), 9)
    pixel = 9 * float(y[1, 0] - y[0, 0])
    seen = anatomy.render((rows, columns), position=position, supersampling=9)
    seen = seen * random_coils(coils, seed, HALF_SIZE["head"]).sensitivities(y, x, position)
    ky, kx = np.meshgrid(np.arange(-5, 6), np.arange(-4, 5), indexing="ij")
    waves_y = np.exp(-2j * np.pi * ky[:, :1] * y.T / (pixel * rows * oversampling))
    waves_x = np.exp(-2j * np.pi * kx[:1].T * x / (pixel * columns))
    expected = waves_y @ seen @ waves_x.T
    found = scan.kspace[:, rows * oversampling // 2 + ky, columns // 2 + kx].numpy()
    scale = np.linalg.norm(found) / np.linalg.norm(expected)  # the scanner's units
    assert np.abs(found - scale * expected).max() < 0.01 * np.abs(found).max()


def test_noise_is_white_complex_and_as_strong_as_asked() -> None:
    quiet, noisy = (simulate_slice((96, 80), coils=6, noise=level, seed=2) for level in (0.0, 0.05))
    noise = noisy.kspace - quiet.kspace
    bright = np.percentile(np.abs(random_anatomy("head", 2).render((96, 80), position=0.3)), 95)
    unit = float(torch.linalg.norm(quiet.image)) / np.linalg.norm(
        np.abs(random_anatomy("head", 2).render((96, 80), position=0.3, supersampling=1))
    )
    assert float(noise.abs().square().mean().sqrt()) == pytest.approx(0.05 * bright * unit, rel=0.05)
    assert float(noise.real.var() / noise.imag.var()) == pytest.approx(1, abs=0.05)
    flat = noise.reshape(6, -1)
    correlation = (flat @ flat.mH / flat.shape[1]).abs() / noise.abs().square().mean()
    assert torch.allclose(correlation, torch.eye(6), atol=0.06)
    shifted = (noise[..., 1:].conj() * noise[..., :-1]).mean().abs() / noise.abs().square().mean()
    assert shifted < 0.02


def test_units_are_not_one() -> None:
    image = simulate_slice((48, 44)).image.abs()
    assert 2e-5 < float(image.max()) < 5e-3


def test_simulated_files_have_the_fastmri_layout(tmp_path: Path) -> None:
    paths = simulate_dataset(tmp_path / "new" / "data", volumes=3, seed=5, **SMALL)
    assert [path.name for path in paths] == ["head_000.h5", "knee_001.h5", "head_002.h5"]
    for path in paths:
        info = read_scan_info(path)
        assert info.shape == (2, 3, 72, 33)
        assert info.recon_size == (36, 33)
        assert info.mask is None
        assert info.header is not None
        assert recon_size_from_header(info.header) == (36, 33)
        assert b"<x>72</x><y>33</y>" in info.header
        assert info.attributes["simulated"] == 1
        assert info.attributes["seed"] == 5
        assert json.loads(str(info.attributes["simulation"]))["size"] == [36, 33]
        with h5py.File(path) as file:
            rss = file["reconstruction_rss"][()]
            assert file.attrs["max"] == pytest.approx(rss.max())
        image = crop_centre(centred_ifft(torch.from_numpy(read_kspace(path, 1)), 2), (36, 33))
        np.testing.assert_allclose(rss[1], torch.linalg.vector_norm(image, dim=0), rtol=1e-4, atol=1e-9)
    kspace = [read_kspace(paths[0], index) for index in (0, 1)]
    assert np.linalg.norm(kspace[0] - kspace[1]) > 0.1 * np.linalg.norm(kspace[0])


def test_volumes_depend_on_the_seed_and_their_name_alone(tmp_path: Path) -> None:
    many = simulate_dataset(tmp_path / "many", volumes=3, anatomy="head", **SMALL)
    few = simulate_dataset(tmp_path / "few", volumes=2, anatomy="head", **SMALL)
    other = simulate_dataset(tmp_path / "other", volumes=1, anatomy="head", seed=1, **SMALL)
    assert np.array_equal(read_kspace(many[1], 1), read_kspace(few[1], 1))
    assert not np.array_equal(read_kspace(many[0], 1), read_kspace(other[0], 1))
    assert not np.array_equal(read_kspace(many[0], 1), read_kspace(many[1], 1))


def test_made_files_are_kept_others_refused_or_overwritten(tmp_path: Path) -> None:
    paths = simulate_dataset(tmp_path, volumes=2, **SMALL)
    times = [path.stat().st_mtime_ns for path in paths]
    again = simulate_dataset(tmp_path, volumes=3, **SMALL)
    assert again[:2] == paths
    assert [path.stat().st_mtime_ns for path in paths] == times
    with pytest.raises(InputError, match=r"head_000\.h5: exists, made with other settings") as caught:
        simulate_dataset(tmp_path, volumes=2, noise=0.02, **SMALL)
    assert '"noise": 0.02' in str(caught.value)
    assert [path.stat().st_mtime_ns for path in paths] == times
    simulate_dataset(tmp_path, volumes=1, noise=0.02, overwrite=True, **SMALL)
    assert json.loads(str(read_scan_info(paths[0]).attributes["simulation"]))["noise"] == 0.02
    assert paths[1].stat().st_mtime_ns == times[1]


def test_scans_and_damaged_files_are_never_replaced_unasked(tmp_path: Path) -> None:
    path = tmp_path / "head_000.h5"
    write_scan(path, np.ones((1, 1, 4, 4), np.complex64))
    with pytest.raises(InputError, match="not simulated"):
        simulate_dataset(tmp_path, volumes=1, **SMALL)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(InputError, match="not a readable scan"):
        simulate_dataset(tmp_path, volumes=1, **SMALL)
    simulate_dataset(tmp_path, volumes=1, overwrite=True, **SMALL)
    assert read_scan_info(path).shape == (2, 3, 72, 33)
    assert os.listdir(tmp_path) == ["head_000.h5"]


def test_vary_size_mixes_shapes_and_coil_counts(tmp_path: Path) -> None:
    settings = SMALL | {"size": (48, 44), "slices": 1, "readout_oversampling": 1}
    paths = simulate_dataset(tmp_path, volumes=6, vary_size=True, **settings)
    shapes = [read_scan_info(path).shape for path in paths]
    assert len({shape[2:] for shape in shapes}) > 2
    assert {shape[1] for shape in shapes} <= {2, 3, 4}
    assert len({shape[1] for shape in shapes}) > 1
    assert all(40 <= shape[2] <= 48 and 37 <= shape[3] <= 44 for shape in shapes)


def bands(count: int, rows: int, columns: int) -> np.ndarray:
    """Smooth complex test images, zero at the borders."""
    y = np.linspace(-1, 1, rows)[None, :, None]
    x = np.linspace(-1, 1, columns)[None, None]
    which = np.arange(count)[:, None, None]
    window = np.clip(1 - y**2, 0, 1) ** 2 * np.clip(1 - x**2, 0, 1) ** 2
    return np.asarray(100 * window * np.exp(1j * (1 + which) * y) * (1.2 + np.cos(3 * x + which)), np.complex64)


def test_own_complex_images_come_back(tmp_path: Path) -> None:
    images = bands(5, 48, 41)
    np.save(tmp_path / "mine.npy", images)
    paths = simulate_dataset(tmp_path / "out", images=tmp_path / "mine.npy", slices=2, coils=4, noise=0, progress=False)
    assert [path.name for path in paths] == ["mine_000.h5", "mine_001.h5", "mine_002.h5"]
    assert [read_scan_info(path).shape for path in paths] == [(2, 4, 96, 41), (2, 4, 96, 41), (1, 4, 96, 41)]
    for number, index in ((0, 1), (2, 0)):
        coil_images = crop_centre(
            centred_ifft(torch.from_numpy(read_kspace(paths[number], index)), 2), (48, 41)
        ).numpy()
        expected = images[2 * number + index]
        rss = np.sqrt((np.abs(coil_images) ** 2).sum(0))
        scale = rss.sum() / np.abs(expected).sum()
        np.testing.assert_allclose(rss, scale * np.abs(expected), atol=0.01 * rss.max())
        # Coils add smooth phases only; the difference of two images' phases survives in every coil.
    first, second = (
        crop_centre(centred_ifft(torch.from_numpy(read_kspace(paths[0], index)), 2), (48, 41)).numpy()
        for index in (0, 1)
    )
    found = np.angle(second * first.conj())[:, 14:28, 14:28]
    expected = np.angle(images[1] * images[0].conj())[14:28, 14:28]
    assert np.abs(np.angle(np.exp(1j * (found - expected)))).max() < 0.3


def test_own_magnitude_images_get_a_smooth_phase_and_blank_ones_are_passed_over(tmp_path: Path) -> None:
    images = np.abs(bands(4, 40, 36))
    images[[0, 3]] = 0
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file["image"] = images.astype(np.uint8)
        file["weights"] = images
    settings: dict[str, Any] = {"images": tmp_path / "m.h5", "coils": 1, "noise": 0, "progress": False}
    (path,) = simulate_dataset(tmp_path / "out", readout_oversampling=1, size=(40, 33), **settings)
    assert read_scan_info(path).shape == (2, 1, 40, 33)
    image = centred_ifft(torch.from_numpy(read_kspace(path, 0)), 2)[0].numpy()
    inside = np.abs(image) > 0.3 * np.abs(image).max()
    assert np.ptp(np.angle(image[inside])) > 0.3
    neighbours = (inside[1:] & inside[:-1]) * np.angle(image[1:] * image[:-1].conj())
    assert np.abs(neighbours).max() < 1.0
    (other,) = simulate_dataset(tmp_path / "other", images_key="weights", **settings)
    assert read_scan_info(other).shape == (2, 1, 80, 36)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"volumes": 2}, "expected enough for 2"),
        ({"size": (64, 64)}, "no more than the images have"),
    ],
)
def test_images_that_do_not_suffice_are_refused(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    np.save(tmp_path / "a.npy", bands(3, 40, 36))
    with pytest.raises(InputError, match=said):
        simulate_dataset(tmp_path / "out", images=tmp_path / "a.npy", progress=False, **settings)
    np.save(tmp_path / "b.npy", np.zeros((2, 40, 36)))
    with pytest.raises(InputError, match=r"b\.npy: 0 images that are not blank"):
        simulate_dataset(tmp_path / "out", images=tmp_path / "b.npy", progress=False)
    np.save(tmp_path / "c.npy", bands(1, 20, 36))
    with pytest.raises(InputError, match="expected at least 32"):
        simulate_dataset(tmp_path / "out", images=tmp_path / "c.npy", progress=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"volumes": 0}, "volumes: 0"),
        ({"slices": 0}, "slices: 0"),
        ({"coils": 0}, "coils: 0"),
        ({"size": (31, 40)}, r"size: \(31, 40\); expected"),
        ({"size": (40,)}, "size"),
        ({"noise": -0.1}, "noise: -0.1"),
        ({"noise": float("nan")}, "noise: nan"),
        ({"anatomy": "heart"}, "anatomy: 'heart'; expected one of"),
        ({"readout_oversampling": 0}, "readout_oversampling: 0"),
        ({"images": "missing.npy"}, "missing.npy: no such file"),
    ],
)
def test_arguments_are_checked_before_anything_is_written(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        simulate_dataset(tmp_path / "out", progress=False, **settings)
    assert not (tmp_path / "out").exists()
