"""What a step takes at another batch or depth is what two small steps predict, for every trainer."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from convexrecon.data.dataset import PreparedSlices
from convexrecon.errors import InputError
from convexrecon.training.config import RunSettings
from convexrecon.training.descent_settings import DescentSettings, GleamSettings
from convexrecon.training.layerwise import train_layerwise
from convexrecon.training.live_memory import LiveMemory
from convexrecon.training.measured_step import step_memory, step_seconds
from convexrecon.training.memory_model import memory_model, varied
from convexrecon.training.run_folder import RunFolder, open_run
from convexrecon.training.train import train
from convexrecon.training.train_descent import TRAINERS

CPU = torch.device("cpu")
DESCENDING = [*sorted(TRAINERS), "layerwise"]


@pytest.fixture
def slices(prepared: Path, small_run: RunSettings) -> PreparedSlices:
    return PreparedSlices(prepared, small_run.mask)


def of(small_run: RunSettings, method: Any) -> RunSettings:
    return replace(small_run, method=method, model=replace(small_run.model, units=12))


@pytest.mark.parametrize("method", DESCENDING)
@pytest.mark.parametrize(("vary", "value"), [("batch", 5), ("blocks", 7)])
def test_a_larger_step_takes_what_is_predicted(
    slices: PreparedSlices, small_run: RunSettings, method: str, vary: Any, value: int
) -> None:
    settings = of(small_run, method)
    predicted = memory_model(settings, slices, vary, CPU).at(value)
    measured = step_memory(varied(settings, vary, value), slices, CPU)
    assert predicted.activations_mb == pytest.approx(measured.activations_mb, rel=0.1)
    assert predicted.weights_mb == pytest.approx(measured.weights_mb, rel=0.01)
    assert predicted.optimizer_mb == pytest.approx(measured.optimizer_mb, rel=0.01)


@pytest.mark.parametrize("method", DESCENDING)
def test_a_run_records_what_is_predicted(
    prepared: Path, slices: PreparedSlices, small_run: RunSettings, tmp_path: Path, method: str
) -> None:
    settings = replace(of(small_run, method), batch_size=2, descent=DescentSettings(epochs=1))
    train(settings, prepared, tmp_path / "run", progress=False)
    recorded = RunFolder(tmp_path / "run").read_summary()["activations_mb"]
    assert memory_model(settings, slices, "batch", CPU).at(2).activations_mb == pytest.approx(recorded, rel=0.1)


def test_the_largest_module_decides(slices: PreparedSlices, small_run: RunSettings) -> None:
    settings = replace(of(small_run, "gleam"), descent=DescentSettings(gleam=GleamSettings(2)))
    model = memory_model(settings, slices, "blocks", CPU)
    for blocks in (5, 6):
        measured = step_memory(varied(settings, "blocks", blocks), slices, CPU)
        assert model.at(blocks).activations_mb == pytest.approx(measured.activations_mb, rel=0.1)
        assert model.at(blocks).weights_mb == pytest.approx(measured.weights_mb, rel=0.01)


def test_a_convex_fit_takes_what_is_predicted_however_many_blocks_and_slices(
    slices: PreparedSlices, small_run: RunSettings, tmp_path: Path
) -> None:
    settings = replace(small_run, model=replace(small_run.model, units=8, blocks=1))
    predicted = memory_model(settings, slices, "batch", CPU).at(5).activations_mb
    with LiveMemory(CPU) as whole:
        train_layerwise(settings, slices, None, open_run(tmp_path / "run", settings), progress=False)
    assert predicted == pytest.approx(whole.peak_mb, rel=0.1)
    summary = RunFolder(tmp_path / "run").read_summary()
    assert summary["activations_mb"] == pytest.approx(predicted, rel=1e-2)
    assert {"training_seconds", "peak_memory_mb", "psnr_validation"} <= set(summary)


def test_the_largest_value_fits_and_the_next_does_not(slices: PreparedSlices, small_run: RunSettings) -> None:
    model = memory_model(of(small_run, "end_to_end"), slices, "batch", CPU)
    allowed = model.at(11).activations_mb * 1.001
    assert model.largest(allowed, 100) == 11
    assert model.largest(allowed, 6) == 6
    assert model.largest(0.9 * model.at(1).activations_mb, 100) == 0
    assert model.largest(allowed, 100, beside_mb=allowed / 2) == 5


def test_the_seconds_of_an_epoch_are_those_of_its_steps(slices: PreparedSlices, small_run: RunSettings) -> None:
    step = step_seconds(of(small_run, "end_to_end"), slices, CPU)
    assert step.steps == len(slices)
    assert step.epoch == pytest.approx(step.steps * (step.data + step.forward + step.backward))
    assert min(step.data, step.forward, step.backward) > 0


def test_only_batch_and_blocks_are_varied(slices: PreparedSlices, small_run: RunSettings) -> None:
    with pytest.raises(InputError, match="vary: expected batch or blocks, found 'units'"):
        memory_model(small_run, slices, "units", CPU)  # type: ignore[arg-type]
