"""Samples of files: what the network is given here is what it is given where images are made."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from denoisers import denoiser

from convexrecon.cascade import Block, Cascade
from convexrecon.data.preparation import PreparationSettings, prepare
from convexrecon.data.simulation import simulate_dataset
from convexrecon.errors import InputError
from convexrecon.physics.data_consistency import ProximalDataConsistency
from convexrecon.physics.masks import MaskSettings
from convexrecon.reconstruct import reconstruct_file
from convexrecon.report.pixel_page import explain_pixel
from convexrecon.scan_sample import is_prepared, pixel_size, sample_of_file
from convexrecon.training.config import RunSettings
from convexrecon.training.run_folder import open_run
from convexrecon.weights import save_cascade


def run_of(folder: Path, kernel: tuple[int, ...]) -> Path:
    """A run folder of an untrained cascade."""
    mask = MaskSettings(kind="poisson", acceleration=3.0, calibration=10)
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
