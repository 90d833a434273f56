"""Simulated volumes and series, and what preparing them makes: maps that go on smoothly, or stay."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from convexrecon.data.coils import VOLUME_DEPTH, random_coils
from convexrecon.data.dataset import PreparedSlices
from convexrecon.data.fastmri import read_scan_info
from convexrecon.data.preparation import PreparationSettings, prepare
from convexrecon.data.simulation import simulate_dataset
from convexrecon.errors import InputError
from convexrecon.physics.masks import MaskSettings

SETTINGS = PreparationSettings(calibration=12)


def make(folder: Path, **options: Any) -> Path:
    """Simulate and prepare."""
    defaults: dict[str, Any] = {"volumes": 1, "size": (32, 36), "coils": 4, "anatomy": "head", "progress": False}
    options = defaults | options
    simulate_dataset(folder / "scans", **options)
    prepare(folder / "scans", folder / "prepared", SETTINGS, progress=False)
    return folder / "prepared"


def arrays_of(folder: Path) -> dict[str, Any]:
    (path,) = sorted(folder.glob("*.h5"))
    with h5py.File(path) as file:
        return {name: file[name][()] for name in ("kspace", "maps", "target")} | dict(file.attrs)


def agreement(first: Any, second: Any) -> float:
    """1 where the phases of two images are alike at every pixel."""
    product = first * second.conj()
    return float(abs(product.sum().real / abs(product).sum()))


def test_a_volume_has_maps_and_a_phase_that_go_on_from_slice_to_slice(tmp_path: Path) -> None:
    found = arrays_of(make(tmp_path, layout="volume", slices=10))
    assert found["layout"] == "volume"
    assert found["kspace"].shape == found["maps"].shape == (10, 4, 32, 36)
    power = (abs(found["maps"]) ** 2).sum(1)
    assert np.all((abs(power - 1) < 1e-5) | (power == 0))
    for z in range(9):
        assert agreement(found["target"][z], found["target"][z + 1]) > 0.97
        overlap = (found["maps"][z] * found["maps"][z + 1].conj()).sum(0).real
        both = (power[z] > 0) & (power[z + 1] > 0)
        assert np.median(overlap[both]) > 0.95
    batch = PreparedSlices(tmp_path / "prepared", MaskSettings("poisson", 3, 8)).load(0)
    full = batch.sense.forward(batch.target)
    assert float((full - batch.kspace).abs().square().sum() / batch.kspace.abs().square().sum()) < 0.02


def test_a_series_has_the_maps_of_its_mean_once(tmp_path: Path) -> None:
    found = arrays_of(make(tmp_path, layout="cine", slices=6))
    assert found["maps"].shape == (4, 32, 36)
    assert found["kspace"].shape == (6, 4, 32, 36)
    # A beat: it moves, and comes back.
    apart = [float(np.abs(abs(found["target"][t]) - abs(found["target"][0])).mean()) for t in range(1, 6)]
    assert min(apart[:4]) > 0
    assert agreement(found["target"][0], found["target"][3]) > 0.95
    images = np.fft.fftshift(
        np.fft.ifft2(np.fft.ifftshift(found["kspace"], axes=(-2, -1)), norm="ortho"), axes=(-2, -1)
    )
    np.testing.assert_allclose((found["maps"].conj() * images).sum(1), found["target"], atol=1e-7)


def test_slices_beside_the_object_have_no_maps_and_no_slab(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y, x = np.meshgrid(np.linspace(-1, 1, 32), np.linspace(-1, 1, 36), indexing="ij")
    volume = np.zeros((9, 32, 36), np.float32)
    volume[2:7] = ((y**2 + x**2) < 0.7) * (1 + 0.3 * rng.standard_normal((5, 32, 36)))
    np.save(tmp_path / "ball.npy", volume)
    folder = make(tmp_path, layout="volume", images=tmp_path / "ball.npy", size=None, volumes=None)
    found = arrays_of(folder)
    assert found["occupied"].tolist() == [2, 7]
    assert not found["maps"][[0, 1, 7, 8]].any()
    assert all(found["maps"][z].any() for z in range(2, 7))
    starts = [key.slice_index for key in PreparedSlices(folder, MaskSettings("poisson", 3, 8), slab=3).slices]
    assert starts == [2, 4]


def test_images_of_a_series_are_its_frames(tmp_path: Path) -> None:
    images = np.random.default_rng(0).random((2, 5, 32, 36)).astype(np.float32)
    np.savez(tmp_path / "heart.npz", image=images)
    paths = simulate_dataset(
        tmp_path / "scans", images=tmp_path / "heart.npz", layout="cine", coils=3, noise=0, progress=False
    )
    infos = [read_scan_info(path) for path in paths]
    assert [info.shape[0] for info in infos] == [5, 5]
    assert {info.attributes["layout"] for info in infos} == {"cine"}
    with h5py.File(paths[1]) as file:
        shown = file["reconstruction_rss"][()]
    ratio = shown.mean((1, 2)) / images[1].mean((1, 2))
    np.testing.assert_allclose(ratio, ratio[0], rtol=0.02)


def test_a_folder_is_prepared_anew_for_another_layout(tmp_path: Path) -> None:
    folder = make(tmp_path, slices=3)
    assert arrays_of(folder)["layout"] == "slices"
    again = prepare(tmp_path / "scans", folder, SETTINGS, layout="cine", progress=False)
    assert again.renewed == ("head_000",)
    assert arrays_of(folder)["maps"].ndim == 3
    assert prepare(tmp_path / "scans", folder, SETTINGS, layout="cine", progress=False).skipped == ("head_000",)


def test_images_that_do_not_suit_the_layout_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "flat.npy", np.ones((32, 36), np.float32))
    np.save(tmp_path / "deep.npy", np.ones((5, 32, 36), np.float32))
    with pytest.raises(InputError, match=r"flat.npy: .*layout 'volume'; expected an array \(z, y, x\)"):
        simulate_dataset(tmp_path / "a", images=tmp_path / "flat.npy", layout="volume", progress=False)
    with pytest.raises(InputError, match="slices = 3 for layout 'cine' of 5; expected 5, or none given"):
        simulate_dataset(tmp_path / "a", images=tmp_path / "deep.npy", layout="cine", slices=3, progress=False)


def test_coils_of_a_deep_volume_see_its_ends_differently() -> None:
    y, x = np.linspace(-1, 1, 9)[:, None], np.linspace(-1, 1, 8)[None]

    def likeness(depth: float) -> float:
        ends = (random_coils(6, 0, depth=depth).sensitivities(y, x, place) for place in (0.05, 0.95))
        first, last = (torch.from_numpy(abs(part)) for part in ends)
        return float((first * last).sum(0).mean())

    assert likeness(VOLUME_DEPTH) < likeness(0.2) - 0.05
