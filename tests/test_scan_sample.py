"""Samples of files: what the network is given here is what it is given where images are made."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from denoisers import denoiser

from convexrecon.cascade import Block, Cascade
from convexrecon.data.noncartesian_simulation import simulate_trajectories
from convexrecon.data.preparation import PreparationSettings, is_prepared, prepare
from convexrecon.data.simulation import simulate_dataset
from convexrecon.errors import InputError
from convexrecon.physics.data_consistency import ProximalDataConsistency
from convexrecon.physics.fourier import crop_centre
from convexrecon.physics.masks import MaskSettings
from convexrecon.reconstruct import reconstruct_file
from convexrecon.report.pixel_page import explain_pixel
from convexrecon.scan_sample import pixel_size, sample_of_file
from convexrecon.training.config import RunSettings
from convexrecon.training.run_folder import RunFolder, open_run
from convexrecon.weights import save_cascade

POISSON = MaskSettings(kind="poisson", acceleration=3.0, calibration=10)


def run_of(folder: Path, kernel: tuple[int, ...], mask: MaskSettings = POISSON) -> Path:
    """A run folder of an untrained cascade."""
    run = open_run(folder, RunSettings(mask=mask))
    save_cascade(run.weights, Cascade([Block(denoiser("relu", kernel=kernel), ProximalDataConsistency(0.1))]))
    return folder


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scan of a volume; its prepared form is beside it in "prepared"."""
    folder = tmp_path_factory.mktemp("volume")
    simulate_dataset(
        folder / "scans", volumes=1, slices=6, size=(36, 32), coils=3, layout="volume", anatomy="head", progress=False
    )
    prepare(folder / "scans", folder / "prepared", PreparationSettings(calibration=10), progress=False)
    return next((folder / "scans").glob("*.h5"))


def test_a_whole_volume_is_one_sample(volume: Path, tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", (3, 3, 3))
    batch, reference = sample_of_file(run, volume, 3)
    assert reference is not None
    assert batch.target.shape == (1, 6, 36, 32)
    assert torch.equal(batch.target[0], reference)
    reconstruct_file(run, volume, tmp_path / "r.h5", progress=False)
    found = explain_pixel(run, volume, tmp_path / "p.html", slice_index=3, pixel=(15, 12), grid=4, progress=False)
    assert found.explanation.pixel == (3, 15, 12)
    with h5py.File(tmp_path / "r.h5") as file:
        written = complex(file["reconstruction_complex"][3, 15, 12]) / float(batch.scale)
        target = np.asarray(file["target_complex"]) / float(batch.scale)
    assert found.explanation.values[-1] == pytest.approx(written, abs=1e-5)
    assert torch.allclose(reference, torch.from_numpy(target), atol=1e-5)
    prepared = volume.parents[1] / "prepared" / volume.name
    assert sample_of_file(run, prepared, 0)[0].target.shape == (1, 6, 36, 32)
    with pytest.raises(InputError, match="no slice 6; expected 0 to 5"):
        sample_of_file(run, prepared, 6)


def test_networks_of_two_axes_see_its_slices(volume: Path, tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", (3, 3))
    batch, _ = sample_of_file(run, volume, 2)
    assert batch.target.shape == (1, 36, 32)
    with pytest.raises(InputError, match="holds samples of 3 axes; expected 2"):
        sample_of_file(run, volume.parents[1] / "prepared" / volume.name, 2)


@pytest.mark.parametrize(("trajectory", "room"), [("radial", 1.0), ("radial", 1.5), ("kooshball", 1.5)])
def test_scans_along_trajectories_are_samples(trajectory: Any, room: float, tmp_path: Path) -> None:
    axes = 2 if trajectory == "radial" else 3
    (scan,) = simulate_trajectories(
        tmp_path, trajectory, volumes=1, slices=2 if axes == 2 else 4, size=(36, 32), coils=3, anatomy="head",
        progress=False,
    )  # fmt: skip
    run = run_of(tmp_path / "run", (3,) * axes, MaskSettings("shots", 2))
    RunFolder(run).summary.write_text(f'{{"field_of_view": {room}}}')
    batch, reference = sample_of_file(run, scan, 1)
    assert reference is not None
    assert torch.equal(batch.target[0], reference)
    result = reconstruct_file(run, scan, tmp_path / "r.h5", progress=False)
    assert batch.shots is not None
    assert batch.shots.acceleration == pytest.approx(result.acceleration)
    found = explain_pixel(run, scan, tmp_path / "p.html", slice_index=1, pixel=(9, 7), grid=4, progress=False)
    with h5py.File(tmp_path / "r.h5") as file:
        written = complex(file["reconstruction_complex"][1, 9, 7]) / float(batch.scale)
        target = np.asarray(file["target_complex"])[1] / float(batch.scale)
    assert found.explanation.values[-1] == pytest.approx(written, abs=1e-4)
    cropped = crop_centre(reference, batch.recon_size)
    assert torch.allclose(cropped[1] if axes == 3 else cropped, torch.from_numpy(target), atol=1e-4)
    with pytest.raises(InputError, match=r"no slice 8; expected 0 to [13]$"):
        sample_of_file(run, scan, 8)


def test_files_are_told_apart(volume: Path, scans: Path, tmp_path: Path) -> None:
    assert not is_prepared(volume)
    assert is_prepared(volume.parents[1] / "prepared" / volume.name)
    assert not is_prepared(tmp_path / "missing.h5")
    assert pixel_size(volume) is None  # simulated scans state no size
    run = run_of(tmp_path / "run", (3, 3, 3))
    with pytest.raises(InputError, match="is of volumes or series"):
        sample_of_file(run, sorted(scans.glob("*.h5"))[0], 0)
    with pytest.raises(InputError, match="is a folder; expected one scan"):
        sample_of_file(run, scans, 0)
    with pytest.raises(InputError, match="no such file"):
        sample_of_file(run, tmp_path / "missing.h5", 0)
