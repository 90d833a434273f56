import re
from pathlib import Path
from typing import Any

import numpy as np

from convexrecon.evaluate.metrics import DEFINITIONS, SliceScore
from convexrecon.evaluate.tables import summarize
from convexrecon.report.run_report import Example, build_report

BLOCKS: list[dict[str, Any]] = [
    {
        "objective": 0.02,
        "relative_gap": 5e-5,
        "active_gates": 12,
        "gates": 16,
        "lam": 0.1,
        "seconds": 4.0,
        "peak_memory_mb": 500.0,
        "psnr_train": 31.0,
        "psnr_validation": 30.0,
    },
    {
        "objective": 0.01,
        "relative_gap": 2e-4,
        "active_gates": 11,
        "gates": 16,
        "lam": None,
        "seconds": 6.0,
        "peak_memory_mb": 800.0,
        "psnr_train": 32.0,
        "psnr_validation": None,
    },
]
CURVE = [{"epoch": i, "seconds": 20.0 * i, "loss": 0.1, "psnr_validation": 28.0 + i} for i in range(1, 4)]
NOTHING: dict[str, Any] = {
    "settings": {},
    "blocks": {},
    "evaluation": {},
    "scores": [],
    "examples": [],
    "curves": {},
}


def _content() -> Any:
    rng = np.random.default_rng(0)
    reference = rng.standard_normal((20, 16)) + 1j
    scores = [
        SliceScore(method, "scan_1", index, psnr + index, psnr, 0.9, 0.01, 0.2)
        for method, psnr in (("zero-filled", 25.0), ("convex", 33.0))
        for index in range(2)
    ]
    example = Example("scan_1", 1, reference, {"zero-filled": 0.8 * reference, "convex": 0.9 * reference})
    return {
        "settings": {"Settings of convex": {"gates": "16", "penalty": "nuclear"}},
        "blocks": {"convex": BLOCKS},
        "evaluation": summarize(scores),
        "scores": scores,
        "examples": [example],
        "curves": {"end-to-end": CURVE},
    }


def _headings(page: str) -> Any:
    return re.findall(r"<h2>(.*?)</h2>", page)


def test_the_report_reads_in_order(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    build_report(path, title="two runs", subtitle="a data set", **_content())
    page = path.read_text(encoding="utf-8")
    assert _headings(page) == [
        "Results",
        "Reconstructions",
        "Certificates",
        "Training cost",
        "Settings of convex",
    ]
    assert page.index("<table") < page.index("<img")
    assert page.count("data:image/png") == 4
    assert "convex, 33.50 dB" in page
    assert DEFINITIONS["nmse"] in page
    assert "convex: 1 of 2 blocks are certified" in page
    assert "the largest gap is 2.0e-04" in page
    assert "12 of 16" in page


def test_a_block_that_fell_short_is_named(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    short = "block 2: not solved to the tolerance asked for"
    build_report(
        path, title="short", **(NOTHING | {"blocks": {"convex": [BLOCKS[0], BLOCKS[1] | {"shortfall": short}]}})
    )
    page = path.read_text(encoding="utf-8")
    assert page.count(f"convex, {short}.") == 1
    assert "block 1: not solved" not in page


def test_training_cost_adds_up_blocks(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    build_report(path, title="cost", **_content())
    page = path.read_text(encoding="utf-8")
    assert "<tr><th>convex</th><td>10.0</td><td>800</td><td>30.00</td></tr>" in page
    assert "<tr><th>end-to-end</th><td>60.0</td><td>–</td><td>31.00</td></tr>" in page


def test_what_is_empty_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    build_report(path, title="empty", **NOTHING)
    assert _headings(path.read_text()) == []
    build_report(path, title="blocks", **{**NOTHING, "blocks": {"convex": BLOCKS, "none": []}})
    assert _headings(path.read_text()) == ["Certificates", "Training cost"]


def test_scores_are_summarized_when_no_evaluation_is_given(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    build_report(path, title="scores", **{**NOTHING, "scores": _content()["scores"]})
    assert "33.50 ± 0.50" in path.read_text()
