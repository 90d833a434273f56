"""A small simulated data set, made once, that whole-line tests share."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from convexrecon.data.noncartesian_simulation import simulate_trajectories
from convexrecon.data.preparation import PreparationSettings, prepare
from convexrecon.data.simulation import simulate_dataset
from convexrecon.physics.masks import MaskSettings
from convexrecon.training.config import RunSettings
from convexrecon.training.model_settings import ModelSettings


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Small problems run faster on one thread, and tests may run side by side."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three simulated scans of two slices, in the fastMRI layout."""
    folder = tmp_path_factory.mktemp("scans")
    simulate_dataset(folder, volumes=3, slices=2, size=(48, 40), coils=4, anatomy="head", progress=False)
    return folder


@pytest.fixture(scope="session")
def prepared(scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scans, prepared."""
    folder = tmp_path_factory.mktemp("prepared")
    prepare(scans, folder, PreparationSettings(), progress=False)
    return folder


@pytest.fixture
def small_run() -> RunSettings:
    """Settings of a run that takes about a second."""
    return RunSettings(
        mask=MaskSettings(kind="poisson", acceleration=3.0, calibration=10),
        model=ModelSettings(blocks=2, kernel=3, units=4),
        validation_fraction=0.34,
    )


@pytest.fixture(scope="session")
def shot_scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three simulated radial scans of two slices, as ISMRMRD files."""
    folder = tmp_path_factory.mktemp("shot_scans")
    simulate_trajectories(folder, "radial", volumes=3, slices=2, size=(36, 32), coils=4, anatomy="head", progress=False)
    return folder


@pytest.fixture(scope="session")
def prepared_shots(shot_scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The radial scans, prepared."""
    folder = tmp_path_factory.mktemp("prepared_shots")
    prepare(shot_scans, folder, PreparationSettings(), progress=False)
    return folder


@pytest.fixture
def shot_run(small_run: RunSettings) -> RunSettings:
    """Settings of a run on radial scans that takes about a second."""
    return replace(small_run, mask=MaskSettings(kind="shots", acceleration=4.0))
