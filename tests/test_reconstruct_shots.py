"""ISMRMRD files with trajectories through a trained run: as acquired, or undersampled and scored."""

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from convexrecon.data.ismrmrd_samples import read_samples
from convexrecon.data.ismrmrd_writing import write_samples
from convexrecon.errors import InputError
from convexrecon.physics.masks import MaskSettings
from convexrecon.reconstruct import reconstruct_file
from convexrecon.training.config import RunSettings
from convexrecon.training.model_settings import ModelSettings
from convexrecon.training.train import train


@pytest.fixture(scope="module")
def run(prepared_shots: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "shots"
    model = ModelSettings(blocks=1, kernel=3, units=6)
    train(RunSettings(mask=MaskSettings("shots", 4), model=model), prepared_shots, out, progress=False)
    return out


def test_a_full_scan_is_undersampled_and_scored(run: Path, shot_scans: Path, tmp_path: Path) -> None:
    result = reconstruct_file(run, shot_scans / "head_001.h5", tmp_path / "out.h5", progress=False)
    assert result.retrospective
    assert result.acceleration == pytest.approx(57 / 14)
    assert result.psnr is not None
    assert result.psnr > 20
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["reconstruction"].shape == file["target_complex"].shape == (2, 36, 32)
        assert len(file["shots"]) == len(file["coordinates"]) == 14
        error = np.linalg.norm(file["reconstruction_complex"][()] - file["target_complex"][()])
        assert error < 0.3 * np.linalg.norm(file["target_complex"][()])


def test_what_was_left_out_by_the_scanner_gives_the_same(run: Path, shot_scans: Path, tmp_path: Path) -> None:
    reconstruct_file(run, shot_scans / "head_001.h5", tmp_path / "here.h5", progress=False)
    scan = read_samples(shot_scans / "head_001.h5")
    with h5py.File(tmp_path / "here.h5") as file:
        kept, here = file["shots"][()], file["reconstruction_complex"][()]
    write_samples(
        tmp_path / "scan.h5", scan.samples[:, :, kept], scan.coordinates[kept], scan.encoding.encoded,
        trajectory="radial",
    )  # fmt: skip
    result = reconstruct_file(run, tmp_path / "scan.h5", tmp_path / "out.h5", progress=False)
    assert not result.retrospective
    assert result.psnr is None
    assert 1.3 < result.acceleration < 4
    with h5py.File(tmp_path / "out.h5") as file:
        assert "target_complex" not in file
        np.testing.assert_allclose(file["reconstruction_complex"], here, atol=1e-5 * np.abs(here).max())


def test_it_can_be_told_to_take_all_shots(run: Path, shot_scans: Path, tmp_path: Path) -> None:
    result = reconstruct_file(
        run, shot_scans / "head_000.h5", tmp_path / "out.h5", undersample_it=False, progress=False
    )
    assert not result.retrospective
    assert result.acceleration == 1


def test_one_slice_is_selected(run: Path, shot_scans: Path, tmp_path: Path) -> None:
    reconstruct_file(run, shot_scans / "head_001.h5", tmp_path / "all.h5", progress=False)
    reconstruct_file(run, shot_scans / "head_001.h5", tmp_path / "one.h5", select={"slice": 1}, progress=False)
    with h5py.File(tmp_path / "all.h5") as both, h5py.File(tmp_path / "one.h5") as one:
        expected = both["reconstruction"][1:]
        np.testing.assert_allclose(one["reconstruction"], expected, atol=1e-5 * expected.max())


def test_what_does_not_fit_is_refused(run: Path, shot_scans: Path, scans: Path, tmp_path: Path) -> None:
    scan = shot_scans / "head_000.h5"
    with pytest.raises(InputError, match="is the scan itself"):
        reconstruct_file(run, scan, scan, progress=False)
    with pytest.raises(InputError, match="asked for of a scan along a trajectory"):
        reconstruct_file(run, scan, tmp_path / "out.h5", layout="volume", progress=False)
    with pytest.raises(InputError, match="is on the grid"):
        reconstruct_file(run, scans / "head_000.h5", tmp_path / "out.h5", undersample_it=True, progress=False)
    solid = read_samples(scan)
    coordinates = np.concatenate([solid.coordinates[..., :1] * 0, solid.coordinates], -1)
    write_samples(tmp_path / "solid.h5", solid.samples, coordinates, (8, 36, 32))
    with pytest.raises(InputError, match="k-space in 3-D, the network is of 2-D images"):
        reconstruct_file(run, tmp_path / "solid.h5", tmp_path / "out.h5", progress=False)


def test_settings_of_a_grid_are_refused(run: Path, shot_scans: Path, prepared: Path, tmp_path: Path) -> None:
    settings = RunSettings(model=ModelSettings(blocks=1, kernel=3, units=2))
    settings = replace(settings, mask=replace(settings.mask, calibration=8))
    train(settings, prepared, tmp_path / "grid", progress=False)
    with pytest.raises(InputError, match="picks points of a grid"):
        reconstruct_file(tmp_path / "grid", shot_scans / "head_000.h5", tmp_path / "out.h5", progress=False)
