"""Scores per slice to CSV and back, and their mean and spread as a table: terminal, Markdown, HTML."""

import csv
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from html import escape
from pathlib import Path
from statistics import fmean, pstdev
from typing import Literal

from convexrecon.atomic_write import atomic_path
from convexrecon.errors import InputError
from convexrecon.evaluate.metrics import DEFINITIONS, SliceScore

Summary = dict[str, dict[str, float | int | None]]
"""Per method: psnr, psnr_magnitude, ssim, nmse, seconds_per_slice, each with its *_std; slices, volumes. Of volumes or
series scored as wholes, seconds_per_volume or seconds_per_series, and no slices."""

# What a score is of, and several of them.
Scored = Literal["slice", "volume", "series"]
_PLURALS: dict[Scored, str] = {"slice": "slices", "volume": "volumes", "series": "series"}

_TYPES: dict[str, type] = {"method": str, "volume": str, "slice_index": int}
_COLUMNS = tuple(field.name for field in fields(SliceScore))
_MEASURES = ("psnr", "psnr_magnitude", "ssim", "nmse", "seconds")

# Key in the summary, heading, digits, definition, and whether larger is better (None: no best).
_SHOWN: tuple[tuple[str, str, str, str, bool | None], ...] = (
    ("psnr", "PSNR (dB)", ".2f", "psnr", True),
    ("psnr_magnitude", "PSNR of |x| (dB)", ".2f", "psnr_magnitude", True),
    ("ssim", "SSIM", ".4f", "ssim", True),
    ("nmse", "NMSE", ".2e", "nmse", False),
    *((f"seconds_per_{one}", f"seconds per {one}", ".3g", "seconds", None) for one in _PLURALS),
)


def write_scores(path: str | os.PathLike[str], scores: Sequence[SliceScore]) -> None:
    """Write one row per slice as CSV, atomically; numbers in full precision, as `read_scores` returns."""
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, _COLUMNS)
        writer.writeheader()
        writer.writerows(asdict(score) for score in scores)


def read_scores(path: str | os.PathLike[str]) -> list[SliceScore]:
    """Read what `write_scores` wrote.

    Raises:
        InputError: no such file, other columns, or a cell that is not a number; names the file and line.
    """
    source = Path(path)
    if not source.is_file():
        raise InputError(f"{source}: no such file, expected a CSV of scores")
    with open(source, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != _COLUMNS:
            raise InputError(f"{source}: found columns {reader.fieldnames}, expected {list(_COLUMNS)}")
        return [_read_row(row, f"{source}, line {reader.line_num}") for row in reader]


def _read_row(row: dict[str, str], place: str) -> SliceScore:
    try:
        return SliceScore(**{key: _TYPES.get(key, float)(row[key]) for key in _COLUMNS})
    except (TypeError, ValueError) as error:
        raise InputError(f"{place}: {error}") from error


def summarize(scores: Sequence[SliceScore], of: Scored = "slice") -> Summary:
    """Mean and population standard deviation over slices of every measure per method, in order of appearance.

    Ready for JSON: a mean that is not finite, such as the PSNR of an exact reconstruction, is None.
    `slices` counts the slices and `volumes` the volumes behind each mean. Where each score is `of` a volume or a
    series, the mean is over these.
    """
    summary: Summary = {}
    for method in dict.fromkeys(score.method for score in scores):
        mine = [score for score in scores if score.method == method]
        row: dict[str, float | int | None] = {}
        for measure in _MEASURES:
            values = [float(getattr(score, measure)) for score in mine]
            name = f"seconds_per_{of}" if measure == "seconds" else measure
            finite = all(map(math.isfinite, values))
            row[name] = fmean(values) if finite else None
            row[f"{name}_std"] = pstdev(values) if finite else None
        if of == "slice":
            row["slices"] = len(mine)
        row["volumes"] = len({score.volume for score in mine})
        summary[method] = row
    return summary


def text_table(summary: Mapping[str, Mapping[str, float | int | None]]) -> str:
    """The summary as aligned text for the terminal, definitions below.

    >>> print(text_table({"zero-filled": {"psnr": 27.5, "psnr_std": 1.0}}).splitlines()[2])
    zero-filled  27.50 ± 1.00
    """
    headings, rows = _cells(summary)
    return "\n".join([*aligned([headings, *rows]), "", *definition_lines(summary)])


def aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table for the terminal, a rule under the first row, which holds the headings."""
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]

    def line(row: Sequence[str]) -> str:
        return "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()

    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    return [line(table[0]), rule, *map(line, table[1:])]


def markdown_table(summary: Mapping[str, Mapping[str, float | int | None]]) -> str:
    """The summary as a Markdown table, definitions below as a list."""
    headings, rows = _cells(summary)
    notes = [f"- {line}" for line in definition_lines(summary)]
    return "\n".join([*markdown_rows([headings, *rows]), "", *notes])


def markdown_rows(table: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table whose first row holds the headings."""
    align = ["---", *["---:"] * (len(table[0]) - 1)]
    rows = (table[0], align, *table[1:])
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]


def html_table(summary: Mapping[str, Mapping[str, float | int | None]]) -> str:
    """The summary as an HTML table, the best mean of every quality column in bold, definitions below."""
    headings, rows = _cells(summary)
    best = _best(summary)
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    body = []
    for method, (name, *cells) in zip(summary, rows, strict=True):
        marked = [
            f'<td class="best">{escape(cell)}</td>' if method in winners else f"<td>{escape(cell)}</td>"
            for cell, winners in zip(cells, best, strict=True)
        ]
        body.append(f"<tr><th>{escape(name)}</th>{''.join(marked)}</tr>")
    notes = "".join(f"<li>{escape(line)}</li>" for line in definition_lines(summary))
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
    return f'<div class="scroll">{table}</div><ul class="definitions">{notes}</ul>'


def definition_lines(summary: Mapping[str, Mapping[str, float | int | None]]) -> list[str]:
    """How many slices, or volumes, stand behind the means, and the definition of every column shown."""
    found = (name for name in _PLURALS if any(f"seconds_per_{name}" in row for row in summary.values()))
    one: Scored = next(found, "slice")
    counted = "slices" if one == "slice" else "volumes"
    counts = sorted({int(row.get(counted) or 0) for row in summary.values()} - {0})
    numbers = f"{' or '.join(map(str, counts))} " if counts else ""
    lines = [f"mean ± standard deviation over {numbers}{_PLURALS[one]}; x* is the reference"]
    return lines + [f"{heading}: {DEFINITIONS[key]}" for _, heading, _, key, _ in _shown(summary)]


def _shown(
    summary: Mapping[str, Mapping[str, float | int | None]],
) -> list[tuple[str, str, str, str, bool | None]]:
    return [column for column in _SHOWN if any(column[0] in row for row in summary.values())]


def _cells(summary: Mapping[str, Mapping[str, float | int | None]]) -> tuple[list[str], list[list[str]]]:
    shown = _shown(summary)
    rows = [
        [method, *(_cell(row.get(key), row.get(f"{key}_std"), digits) for key, _, digits, _, _ in shown)]
        for method, row in summary.items()
    ]
    return ["method", *(heading for _, heading, _, _, _ in shown)], rows


def _cell(mean: float | None, deviation: float | None, digits: str) -> str:
    if mean is None:
        return "–"
    return format(mean, digits) if deviation is None else f"{mean:{digits}} ± {deviation:{digits}}"


def _best(summary: Mapping[str, Mapping[str, float | int | None]]) -> list[set[str]]:
    """For every column shown, the methods whose printed mean is the best one."""
    winners: list[set[str]] = []
    for key, _, digits, _, larger in _shown(summary):
        means = {method: value for method, row in summary.items() if (value := row.get(key)) is not None}
        if larger is None or len(means) < 2:
            winners.append(set())
            continue
        top = (max if larger else min)(means.values())
        winners.append({method for method, value in means.items() if f"{value:{digits}}" == f"{top:{digits}}"})
    return winners
