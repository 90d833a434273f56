from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convexrecon.evaluate.metrics import SliceScore
from convexrecon.report.figures import TARGET_GAP, certificates, method_summary, training_curve


def _blocks(count: int = 3, **other: Any) -> Any:
    return [
        {
            "objective": 0.1 / block,
            "relative_gap": 10.0 ** -(4 + block),
            "active_gates": 30 - block,
            "gates": 32,
            "lam": 0.05 * block,
            "seconds": 2.0 * block,
            "psnr_train": 30.0 + block,
            "psnr_validation": 29.0 + block,
            **other,
        }
        for block in range(1, count + 1)
    ]


def _data(line: Any, axis: str) -> Any:
    return line.get_xdata() if axis == "x" else line.get_ydata()


def _panel(figure: Any, title: str) -> Any:
    (ax,) = [ax for ax in figure.axes if title in ax.get_title()]
    return ax


def test_every_quantity_of_a_block_has_its_panel() -> None:
    figure = certificates(_blocks())
    gap = _panel(figure, "relative gap")
    assert gap.get_yscale() == "log"
    np.testing.assert_allclose(_data(gap.lines[0], "y"), [1e-5, 1e-6, 1e-7])
    np.testing.assert_allclose(_data(gap.lines[1], "y"), TARGET_GAP)
    low, high = gap.get_ylim()
    assert low < 1e-7
    assert high > TARGET_GAP
    psnr = _panel(figure, "PSNR")
    assert [text.get_text() for text in psnr.get_legend().get_texts()] == ["training", "validation"]
    np.testing.assert_allclose(_data(psnr.lines[1], "y"), [30, 31, 32])
    np.testing.assert_allclose(_panel(figure, "λ").lines[0].get_ydata(), [0.05, 0.1, 0.15])
    heights = [bar.get_height() for bar in _panel(figure, "active gates").patches]
    assert heights == [32, 32, 32, 29, 28, 27]


def test_what_is_not_known_is_left_out(tmp_path: Path) -> None:
    figure = certificates(_blocks(lam=None, psnr_validation=None, gates=None))
    titles = [ax.get_title() for ax in figure.axes]
    assert not any("λ" in title for title in titles)
    assert len(_panel(figure, "PSNR").lines) == 1
    figure.savefig(tmp_path / "blocks.png")


@pytest.mark.parametrize("gap", [0.0, 1e-300, 0.3])
def test_any_gap_can_be_drawn(gap: float, tmp_path: Path) -> None:
    certificates(_blocks(1, relative_gap=gap, objective=0.0, active_gates=0, lam=0.0)).savefig(tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_no_blocks_draw_an_empty_figure(tmp_path: Path) -> None:
    certificates([]).savefig(tmp_path / "none.png")
    assert (tmp_path / "none.png").stat().st_size > 100


def test_the_training_curve_shows_what_was_validated() -> None:
    rows = [
        {"epoch": i, "seconds": 10.0 * (i + 1), "loss": 1.0, "psnr_validation": 30.0 + i if i % 2 else None}
        for i in range(6)
    ]
    figure = training_curve({"end-to-end": rows, "empty": []}, {"zero-filled": 25.0, "unknown": None})
    curve, level = figure.axes[0].lines
    np.testing.assert_allclose(_data(curve, "x"), [20, 40, 60])
    np.testing.assert_allclose(_data(curve, "y"), [31, 33, 35])
    np.testing.assert_allclose(_data(level, "y"), 25.0)
    assert figure.axes[0].get_xscale() == "linear"


def test_times_of_different_magnitude_get_a_log_axis(tmp_path: Path) -> None:
    figure = training_curve(
        {
            "fast": [{"seconds": 1.0, "psnr_validation": 30.0}],
            "slow": [{"seconds": 900.0, "psnr_validation": 31.0}],
        }
    )
    assert figure.axes[0].get_xscale() == "log"
    figure.savefig(tmp_path / "curve.png")


def test_the_summary_shows_every_slice_and_the_median() -> None:
    values = {"a": [30.0, 31.0, 35.0], "b": [28.0, float("inf"), 29.0]}
    scores = [
        SliceScore(method, "scan", index, value, value, 0.9, 0.01, 0.1)
        for method, mine in values.items()
        for index, value in enumerate(mine)
    ]
    psnr = method_summary(scores).axes[0]
    assert [label.get_text() for label in psnr.get_yticklabels()] == ["a", "b"]
    points, median = psnr.lines[:2]
    np.testing.assert_allclose(_data(points, "x"), values["a"])
    np.testing.assert_allclose(_data(median, "x"), 31.0)
    np.testing.assert_allclose(_data(psnr.lines[2], "x"), [28.0, 29.0])
