"""Settings that keep to a budget, and budgets that nothing keeps to."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from convexrecon.data.dataset import PreparedSlices
from convexrecon.errors import InputError
from convexrecon.training.budget import Budget, plan_for
from convexrecon.training.config import RunSettings
from convexrecon.training.descent_settings import DescentSettings, GleamSettings
from convexrecon.training.measured_step import StepSeconds, step_memory

CPU = torch.device("cpu")


@pytest.fixture
def slices(prepared: Path, small_run: RunSettings) -> PreparedSlices:
    return PreparedSlices(prepared, small_run.mask)


def by(small_run: RunSettings, method: Any, blocks: int = 4) -> RunSettings:
    return replace(small_run, method=method, model=replace(small_run.model, blocks=blocks, units=12))


def test_epochs_are_the_same_for_all_that_descend(slices: PreparedSlices, small_run: RunSettings) -> None:
    for method in ("end_to_end", "layerwise"):
        plan = plan_for(by(small_run, method), Budget(epochs=3), slices, None, CPU)
        assert plan.applied(small_run).descent.epochs == 3
    assert plan_for(small_run, Budget(epochs=3), slices, None, CPU).changes == {}
    assert plan_for(by(small_run, "gleam"), Budget(), slices, None, CPU).changes == {}


def test_seconds_are_shared_out_over_epochs_and_blocks(
    slices: PreparedSlices, small_run: RunSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = StepSeconds(data=0.25, forward=0.25, backward=0.5, steps=6)
    monkeypatch.setattr("convexrecon.training.budget.step_seconds", lambda *_: timed)
    plan = plan_for(by(small_run, "gleam"), Budget(seconds=63), slices, None, CPU)
    assert plan.changes == {"descent.epochs": 10}
    assert plan.measured["seconds_epoch"] == 6
    # Four blocks; before each, a pass of half a second a slice: (132 - 4 * 3) / (4 * 6).
    assert plan_for(by(small_run, "layerwise"), Budget(seconds=132), slices, None, CPU).changes == {"descent.epochs": 5}
    with pytest.raises(InputError, match=r"seconds = 5: one epoch of gleam takes about 6 s here"):
        plan_for(by(small_run, "gleam"), Budget(seconds=5), slices, None, CPU)
    with pytest.raises(InputError, match=r"one epoch of every block of layerwise takes about 36 s here"):
        plan_for(by(small_run, "layerwise"), Budget(seconds=5), slices, None, CPU)


def test_as_many_blocks_are_trained_as_fit(slices: PreparedSlices, small_run: RunSettings) -> None:
    deep = by(small_run, "end_to_end", blocks=12)
    allowed = 1.02 * step_memory(by(small_run, "end_to_end", blocks=7), slices, CPU).activations_mb
    assert plan_for(deep, Budget(memory_mb=allowed), slices, None, CPU).changes == {"model.blocks": 7}
    assert plan_for(by(small_run, "gleam", 12), Budget(memory_mb=allowed), slices, None, CPU).changes == {
        "model.blocks": 12
    }
    for method in ("end_to_end", "convex"):
        with pytest.raises(InputError, match=rf"memory_mb = 0.01: a block of {method} takes .* MB at batch_size = 1"):
            plan_for(by(small_run, method), Budget(memory_mb=0.01), slices, None, CPU)


def test_or_as_many_slices_a_step(slices: PreparedSlices, small_run: RunSettings) -> None:
    settings = by(small_run, "end_to_end")
    allowed = 1.02 * step_memory(replace(settings, batch_size=4), slices, CPU).activations_mb
    plan = plan_for(settings, Budget(memory_mb=allowed, vary="batch"), slices, None, CPU)
    assert plan.applied(settings) == replace(settings, batch_size=4)
    assert plan_for(small_run, Budget(memory_mb=500, vary="batch"), slices, None, CPU).changes == {}


def test_modules_are_not_split_by_a_budget(slices: PreparedSlices, small_run: RunSettings) -> None:
    settings = replace(by(small_run, "gleam", 8), descent=DescentSettings(gleam=GleamSettings(2)))
    allowed = 1.02 * step_memory(replace(settings, model=replace(settings.model, blocks=6)), slices, CPU).activations_mb
    assert plan_for(settings, Budget(memory_mb=allowed), slices, None, CPU).changes == {"model.blocks": 6}


def test_one_budget_at_a_time_and_a_positive_one() -> None:
    with pytest.raises(InputError, match=r"expected one of epochs, .* found epochs = 3, seconds = 5"):
        Budget(epochs=3, seconds=5)
    with pytest.raises(InputError, match="expected seconds > 0, found -1"):
        Budget(seconds=-1)
    with pytest.raises(InputError, match="'batch' with memory_mb, found 'batch' with memory_mb = None"):
        Budget(epochs=1, vary="batch")
