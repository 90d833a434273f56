"""Events in the run folder where TensorBoard is installed; none, and no complaint, where it is not."""

import importlib
import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from convexrecon.training.config import RunSettings
from convexrecon.training.descent_settings import DescentSettings
from convexrecon.training.tensorboard_log import FOLDER, event_log
from convexrecon.training.train import train

installed = pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="needs the extra tensorboard")


def events(folder: Path) -> Any:
    reading = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    found = reading.EventAccumulator(str(folder))
    found.Reload()
    return found


@installed
@pytest.mark.parametrize("method", ["convex", "end_to_end"])
def test_a_run_leaves_its_curves_and_pictures(
    prepared: Path, small_run: RunSettings, tmp_path: Path, method: Any
) -> None:
    settings = replace(small_run, method=method, descent=DescentSettings(epochs=2))
    train(settings, prepared, tmp_path / "run", progress=False)
    found = events(tmp_path / "run" / FOLDER)
    assert {"psnr_validation", "seconds", "peak_memory_mb", "activations_mb"} <= set(found.Tags()["scalars"])
    assert [event.step for event in found.Scalars("psnr_validation")] == [1, 2]
    assert [event.step for event in found.Images("validation")] == [1, 2]
    assert ("learning_rate" in found.Tags()["scalars"]) == (method != "convex")


@installed
def test_a_resumed_run_continues_the_curve(tmp_path: Path) -> None:
    for done, steps in ((0, (1, 2, 3)), (1, (2, 3, 4))):
        with event_log(tmp_path, {}, done=done) as log:
            for step in steps:
                log.scalars({"loss": float(10 * done + step), "name": "not a number", "none": None}, step)
    curve = events(tmp_path / FOLDER).Scalars("loss")
    assert [(event.step, event.value) for event in curve] == [(1, 1.0), (2, 12.0), (3, 13.0), (4, 14.0)]


@installed
def test_each_stage_has_its_curve(tmp_path: Path) -> None:
    for block in (1, 2):
        with event_log(tmp_path, {"block": block}, done=0) as log:
            log.scalars({"loss": 1.0}, 1)
    assert sorted(path.name for path in (tmp_path / FOLDER).iterdir()) == ["block_1", "block_2"]


def test_without_it_nothing_is_written(
    prepared: Path, small_run: RunSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "tensorboard" else find(name))
    train(replace(small_run, model=replace(small_run.model, blocks=1)), prepared, tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / FOLDER).exists()
    with event_log(tmp_path, {}, done=0) as log:
        assert not log.writes
