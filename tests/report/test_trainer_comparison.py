"""A comparison of trainers leaves a table, a plot and a page that say the same."""

from dataclasses import replace
from pathlib import Path

from convexrecon.report.figures import quality_and_cost
from convexrecon.report.trainer_comparison import compare_trainers
from convexrecon.training.budget import Budget
from convexrecon.training.config import RunSettings


def test_table_plot_and_page(prepared: Path, small_run: RunSettings, tmp_path: Path) -> None:
    runs = {"mine": small_run, "theirs": replace(small_run, method="gleam")}
    lines: list[str] = []
    costs, notes = compare_trainers(
        runs, prepared, tmp_path / "out", Budget(epochs=1), test=prepared, progress=False, say=lines.append
    )
    assert [cost.name for cost in costs] == ["mine", "theirs"]
    assert all(cost.psnr_test is not None and cost.ssim_test is not None for cost in costs)
    assert lines == ["mine: convex", "theirs: gleam, descent.epochs = 1"]
    assert notes[0] == "Budget: 1 epochs each."
    page = (tmp_path / "out" / "report.html").read_text()
    table = (tmp_path / "out" / "comparison.md").read_text()
    for cost in costs:
        assert f"{cost.psnr_test:.2f}" in page
        assert f"{cost.psnr_test:.2f}" in table
    assert "Certificates" in page
    assert "Training cost" not in page
    assert (tmp_path / "out" / "comparison.png").stat().st_size > 10_000
    assert (tmp_path / "out" / "comparison.csv").read_text().count("\n") == 3


def test_each_run_has_its_line_and_its_point() -> None:
    curves = {"a": [{"seconds": 1.0, "psnr_validation": 30.0}, {"seconds": 2.0, "psnr_validation": 31.0}], "b": []}
    costs: dict[str, dict[str, float | None]] = {
        "a": {"activations_mb": 5.0, "psnr_validation": 31.0},
        "b": {"activations_mb": None, "psnr_validation": 31.0},
        "c": {"activations_mb": 500.0, "psnr_validation": 29.0},
    }
    figure = quality_and_cost(curves, costs)
    time, memory = figure.axes
    assert [list(map(float, line.get_xdata())) for line in time.lines] == [[1.0, 2.0]]  # type: ignore[arg-type]
    assert [line.get_label() for line in memory.lines] == ["a", "c"]
    assert memory.get_xscale() == "log"
    assert "(MB)" in memory.get_xlabel()
    assert "(dB)" in time.get_ylabel()
    assert time.lines[0].get_color() == memory.lines[0].get_color()
    assert list(memory.lines[0].get_ydata()) == [31.0]  # type: ignore[arg-type]
