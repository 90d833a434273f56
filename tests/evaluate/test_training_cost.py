"""The table of trained runs: the same columns for every method, seconds from the start of a run."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from convexrecon.errors import InputError
from convexrecon.evaluate.training_cost import (
    cost_cells,
    cost_markdown,
    cost_notes,
    cost_text,
    training_cost,
    training_costs,
    training_rows,
    write_costs,
)
from convexrecon.training.config import RunSettings
from convexrecon.training.descent_settings import DescentSettings
from convexrecon.training.run_folder import RunFolder
from convexrecon.training.train import train


@pytest.fixture(scope="module")
def runs(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunFolder]:
    folder = tmp_path_factory.mktemp("runs")
    base = RunSettings(validation_fraction=0.34, descent=DescentSettings(epochs=2))
    base = replace(base, model=replace(base.model, blocks=2, kernel=3, units=4))
    base = replace(base, mask=replace(base.mask, acceleration=3.0, calibration=10))
    for method in ("convex", "gleam", "layerwise"):
        train(replace(base, method=method), prepared, folder / method, progress=False)
    return {name: RunFolder(folder / name) for name in ("convex", "gleam", "layerwise")}


def test_every_method_has_the_same_numbers(runs: dict[str, RunFolder]) -> None:
    for name, run in runs.items():
        cost = training_cost(name, run, {"psnr": 30.0, "ssim": 0.9})
        assert (cost.method, cost.blocks, cost.psnr_test, cost.ssim_test) == (name, 2, 30.0, 0.9)
        assert cost.psnr_validation is not None
        assert cost.activations_mb is not None
        assert min(cost.training_seconds, cost.peak_memory_mb, cost.activations_mb, cost.psnr_validation) > 0
        assert (cost.step_forward is None) == (name == "convex")
        assert cost.epochs == {"convex": None, "gleam": 2, "layerwise": 4}[name]


def test_seconds_are_counted_from_the_start_of_the_run(runs: dict[str, RunFolder]) -> None:
    for name, run in runs.items():
        seconds = [row["seconds"] for row in training_rows(run)]
        assert seconds == sorted(seconds)
        assert seconds[-1] == pytest.approx(training_cost(name, run).training_seconds)


def test_what_no_run_has_is_left_out(runs: dict[str, RunFolder], tmp_path: Path) -> None:
    costs, notes = training_costs(runs), cost_notes(runs)
    headings, *rows = cost_cells(costs)
    assert "test (dB)" not in headings
    assert "run" not in headings
    assert [row[0] for row in rows] == list(runs)
    assert rows[0][headings.index("forward (s)")] == "–"
    assert "run" in cost_cells([replace(costs[0], name="other")])[0]
    assert any("seconds of a block" in note and "solving" in note for note in notes)
    assert "| convex |" in cost_markdown(costs, notes)
    assert notes[-1] in cost_text(costs, notes)
    write_costs(tmp_path / "costs.csv", costs)
    with open(tmp_path / "costs.csv", newline="", encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    assert float(read[1]["training_seconds"]) == costs[1].training_seconds
    assert read[0]["psnr_test"] == ""


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a run folder"):
        training_cost("none", RunFolder(tmp_path))
