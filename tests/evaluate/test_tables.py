import csv
import json
from html.parser import HTMLParser
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

from convexrecon.errors import InputError
from convexrecon.evaluate.metrics import DEFINITIONS, SliceScore
from convexrecon.evaluate.tables import (
    html_table,
    markdown_table,
    read_scores,
    summarize,
    text_table,
    write_scores,
)


def _score(method: str, index: int, psnr: float, **other: Any) -> Any:
    values = {"psnr_magnitude": psnr + 1, "ssim": 0.9, "nmse": 0.01, "seconds": 0.25, **other}
    return SliceScore(method=method, volume=f"scan, {index % 2}", slice_index=index, psnr=psnr, **values)


SCORES = [
    _score("zero-filled", 0, 25.1),
    _score("zero-filled", 1, 27.3),
    _score("a <b> | c", 0, 1 / 3 + 30, seconds=1.5),
    _score("a <b> | c", 1, 33.0, ssim=0.95),
]


def test_scores_survive_the_csv_exactly(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "scores.csv"
    write_scores(path, SCORES)
    assert read_scores(path) == SCORES
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[2]["method"] == "a <b> | c"
    assert [entry.name for entry in path.parent.iterdir()] == ["scores.csv"]


def test_reading_refuses_what_is_no_score_table(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_scores(tmp_path / "none.csv")
    path = tmp_path / "other.csv"
    path.write_text("method,volume\nx,y\n")
    with pytest.raises(InputError, match=r"other\.csv.*expected"):
        read_scores(path)
    write_scores(path, SCORES)
    path.write_text(path.read_text().replace("25.1", "much"))
    with pytest.raises(InputError, match=r"line 2.*much"):
        read_scores(path)


def test_the_summary_is_mean_and_spread_and_goes_into_json() -> None:
    summary = json.loads(json.dumps(summarize(SCORES), allow_nan=False))
    assert list(summary) == ["zero-filled", "a <b> | c"]
    row = summary["zero-filled"]
    assert row["psnr"] == pytest.approx(mean([25.1, 27.3]))
    assert row["psnr_std"] == pytest.approx(1.1)
    assert row["seconds_per_slice"] == 0.25
    assert row["seconds_per_slice_std"] == 0.0
    assert (row["slices"], row["volumes"]) == (2, 2)
    assert {"ssim", "ssim_std", "nmse", "nmse_std"} <= set(row)


def test_an_exact_reconstruction_has_no_mean_psnr() -> None:
    summary = summarize([_score("exact", 0, float("inf"), nmse=0.0)])
    assert summary["exact"]["psnr"] is None
    json.dumps(summary, allow_nan=False)
    assert "–" in text_table(summary)


@pytest.mark.parametrize("render", [text_table, markdown_table, html_table])
def test_every_table_shows_numbers_and_definitions(render: Any) -> None:
    table = render(summarize(SCORES))
    assert "26.20 ± 1.10" in table
    assert "2 slices" in table
    for key in ("psnr", "nmse", "seconds"):
        assert DEFINITIONS[key].split(":")[0][:20] in table


def test_columns_of_the_text_table_are_aligned() -> None:
    heading, rule, *rows = text_table(summarize(SCORES)).split("\n\n")[0].splitlines()
    column = heading.index("SSIM")
    assert [row[column - 2 : column] for row in rows] == ["  ", "  "]
    assert all(row[column] == "0" for row in rows)
    assert set(rule) == {"-"}


def test_markdown_keeps_one_row_a_method() -> None:
    lines = markdown_table(summarize(SCORES)).splitlines()
    assert lines[1].startswith("| --- | ---:")
    assert lines[3].startswith("| a <b> \\| c |")
    assert {line.replace("\\|", "").count("|") for line in lines[:4]} == {7}  # six columns


def test_html_is_escaped_and_marks_the_best() -> None:
    table = html_table(summarize(SCORES))
    assert "a &lt;b&gt; | c" in table
    assert '<td class="best">31.67' in table
    assert '<td class="best">26.20' not in table
    _Balanced().feed(table)


class _Balanced(HTMLParser):
    """Fails on a tag that closes another than the last one opened."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_missing_columns_are_left_out() -> None:
    table = text_table({"method": {"psnr": 30.0}})
    assert "30.00" in table
    assert "SSIM" not in table
