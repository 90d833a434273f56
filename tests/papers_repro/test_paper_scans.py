"""Data sets of a script: real folders of either layout are split by name, prepared, and refused when too few."""

from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import DataKind, Given
from scans import Scans, data_sets

from convexrecon.data.dataset import PreparedSlices
from convexrecon.data.fastmri import read_kspace
from convexrecon.data.ismrmrd_writing import write_cartesian
from convexrecon.data.simulation import simulate_dataset
from convexrecon.errors import InputError
from convexrecon.physics.masks import MaskSettings

SCANS = Scans((1, 1, 1), 1, (40, 32), 2, (1, 1, 1), calibration=12)


def given(folder: Path, out: Path, kind: DataKind = "fastmri") -> Given:
    """Real data at the paper's size."""
    return Given(out, kind, folder, "full", 1, torch.device("cpu"), rest=None)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three scans in the fastMRI layout."""
    folder = tmp_path_factory.mktemp("scans")
    simulate_dataset(folder, volumes=3, slices=1, size=(40, 32), coils=2, anatomy="head", progress=False)
    return folder


def volumes(part: Path) -> list[str]:
    """Names of the prepared volumes."""
    return PreparedSlices(part, MaskSettings(kind="full")).volume_names


def test_a_real_folder_is_split_by_name(folder: Path, tmp_path: Path) -> None:
    data = data_sets(given(folder, tmp_path), SCANS, tmp_path / "data")
    assert [volumes(part) for part in (data.train, data.validation, data.test)] == [
        ["head_000"],
        ["head_001"],
        ["head_002"],
    ]
    assert "fastmri" in data.words


def test_too_few_scans_are_refused(folder: Path, tmp_path: Path) -> None:
    many = Scans((1, 1, 1), 1, (40, 32), 2, (5, 1, 1), calibration=12)
    with pytest.raises(InputError, match=r"3 scans; expected at least 7 \(5 for train"):
        data_sets(given(folder, tmp_path), many, tmp_path / "data")


def test_ismrmrd_scans_are_converted(folder: Path, tmp_path: Path) -> None:
    for path in sorted(folder.glob("*.h5")):
        write_cartesian(tmp_path / "raw" / path.name, read_kspace(path, 0)[None], "yx")
    data = data_sets(given(tmp_path / "raw", tmp_path, "mridata"), SCANS, tmp_path / "data")
    assert volumes(data.test) == ["head_002"]
    batch = PreparedSlices(data.test, MaskSettings(kind="full")).load(0)
    assert np.isfinite(batch.target.numpy()).all()
