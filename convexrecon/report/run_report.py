"""The report of one or several runs: the table first, then pictures, certificates, cost, settings."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import numpy.typing as npt

from convexrecon.evaluate.metrics import SliceScore
from convexrecon.evaluate.pictured_shots import PicturedShots
from convexrecon.evaluate.tables import html_table, summarize
from convexrecon.report.figures import TARGET_GAP, certificates, method_summary, training_curve
from convexrecon.report.html import Animation, Picture, Section, rows_table, settings_table, write_report
from convexrecon.report.pictures import acceleration, comparison
from convexrecon.report.volume_pictures import animation, orthogonal_planes, time_profiles

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Example:
    """One slice to look at.

    Attributes:
        volume: name of its volume.
        slice_index: its index in the volume.
        reference: (y, x) complex.
        images: method -> (y, x) complex, same units, in the order to be shown.
        mask: (y, x) zeros and ones, DC in the middle, or the shots of a trajectory, or None.
        layout: of the data, see `data.prepared_files`.
        whole: of a volume or a series, all of it: name -> (z or t, y, x), the reference first; else empty.
    """

    volume: str
    slice_index: int
    reference: npt.NDArray[Any]
    images: Mapping[str, npt.NDArray[Any]]
    mask: npt.NDArray[Any] | PicturedShots | None = field(default=None)
    layout: str = "slices"
    whole: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)


def build_report(
    path: str | os.PathLike[str],
    *,
    title: str,
    settings: Mapping[str, Mapping[str, str]],
    blocks: Mapping[str, Sequence[Row]],
    evaluation: Mapping[str, Mapping[str, float | int | None]],
    scores: Sequence[SliceScore],
    examples: Sequence[Example],
    curves: Mapping[str, Sequence[Row]],
    subtitle: str = "",
    figures: str | os.PathLike[str] | None = None,
    comparison: Section | None = None,
) -> None:
    """Write the HTML report. Every part that has nothing to show is left out.

    Args:
        path: the HTML file.
        title: heading of the page.
        settings: heading -> name -> value, printed at the end.
        blocks: layer-wise run -> its blocks, as in `summary.json`: the keys of `figures.certificates`, and
            `peak_memory_mb`.
        evaluation: method -> means, as `tables.summarize` makes them; computed from `scores` if empty.
        scores: scores of single slices; may be empty.
        examples: slices to look at; may be empty.
        curves: run trained by gradient descent -> rows with `seconds` since its start and `psnr_validation`,
            and optionally `peak_memory_mb`.
        subtitle: one line under the title, e.g. data and date.
        figures: folder for the figures as files of their own, or None.
        comparison: a section to begin with, in place of the one on the cost of training.
    """
    summary = evaluation or summarize(scores)
    sections = [
        *([comparison] if comparison else []),
        *_results(summary, scores),
        *_pictures(examples, scores),
        *_certificates(blocks),
        *(_training(blocks, curves) if comparison is None else []),
        *_settings(settings),
    ]
    write_report(path, title, sections, subtitle=subtitle, figures=figures)


def _results(summary: Mapping[str, Mapping[str, float | int | None]], scores: Sequence[SliceScore]) -> list[Section]:
    if not summary:
        return []
    paragraphs = []
    best = _best_method(summary)
    if best is not None:
        method, value = best
        paragraphs.append(f"Highest mean PSNR on the evaluated slices: {method}, {value:.2f} dB.")
    pictures = []
    if len({(score.volume, score.slice_index) for score in scores}) > 1:
        caption = "Every slice as a point; the box spans the quartiles, the bar is the median."
        pictures.append(Picture(method_summary(scores), caption))
    return [Section("Results", paragraphs, [html_table(summary)], pictures)]


def _best_method(summary: Mapping[str, Mapping[str, float | int | None]]) -> tuple[str, float] | None:
    means = {method: value for method, row in summary.items() if (value := row.get("psnr")) is not None}
    if len(means) < 2:
        return None
    return max(means.items(), key=lambda item: item[1])


def _pictures(examples: Sequence[Example], scores: Sequence[SliceScore]) -> list[Section]:
    if not examples:
        return []
    found = {(score.volume, score.slice_index, score.method): score for score in scores}
    pictures: list[Picture | Animation] = []
    for example in examples:
        # A volume has one score, under its first slice.
        place = example.volume, 0 if example.whole else example.slice_index
        mine = {name: found[(*place, name)] for name in example.images if (*place, name) in found}
        figure = comparison(example.reference, example.images, scores=mine, mask=example.mask)
        sampling = f", R = {acceleration(example.mask):.2f}" if example.mask is not None else ""
        pictures.append(Picture(figure, f"{example.volume}, slice {example.slice_index}{sampling}."))
        pictures += _of_three_axes(example)
    text = (
        "Top: magnitudes in one grey window. Middle: complex errors |x − x*| on one colour scale for all "
        "methods; errors beyond its end take its last colour. Bottom: the yellow square, chosen where the "
        "reference has detail and the better methods disagree."
    )
    return [Section("Reconstructions", [text], [], pictures)]


def _of_three_axes(example: Example) -> list[Picture | Animation]:
    """What shows a volume or a series as a whole."""
    if example.layout in ("volume", "noncartesian-volume"):
        caption = f"{example.volume}: the planes through its middle."
        return [Picture(orthogonal_planes(example.whole), caption)]
    if example.layout == "cine":
        profiles = (
            f"{example.volume}: the middle row of every frame, time downwards, and errors in five times the window."
        )
        names = ", ".join(example.whole)
        return [
            Picture(time_profiles(example.whole), profiles),
            Animation(animation(example.whole), f"{example.volume}, from left to right: {names}."),
        ]
    return []


def _certificates(blocks: Mapping[str, Sequence[Row]]) -> list[Section]:
    shown = {run: rows for run, rows in blocks.items() if rows}
    if not shown:
        return []
    text = (
        "Each block is trained as a convex problem, and its duality gap, measured on the training data, "
        "bounds how far its objective can lie above the global minimum: no other weights on the same gates "
        "do better by more than the gap. The gap is given relative to the objective of the empty block, whose "
        "weights are all zero."
    )
    paragraphs = [text, *(_gap_sentence(run, rows) for run, rows in shown.items())]
    paragraphs += [f"{run}, {row['shortfall']}." for run, rows in shown.items() for row in rows if row.get("shortfall")]
    pictures = [Picture(certificates(rows), f"Blocks of {run}.") for run, rows in shown.items()]
    return [Section("Certificates", paragraphs, [_block_table(shown)], pictures)]


def _gap_sentence(run: str, rows: Sequence[Row]) -> str:
    gaps = [float(row["relative_gap"]) for row in rows if row.get("relative_gap") is not None]
    if not gaps:
        return f"{run}: no block has a certificate."
    within = sum(gap <= TARGET_GAP for gap in gaps)
    return (
        f"{run}: {within} of {len(rows)} blocks are certified to a relative gap of {TARGET_GAP:g} or better; "
        f"the largest gap is {max(gaps):.1e}."
    )


def _block_table(blocks: Mapping[str, Sequence[Row]]) -> str:
    headings = [
        "block",
        "objective",
        "relative gap",
        "active gates",
        "λ",
        "PSNR train (dB)",
        "PSNR validation (dB)",
    ]
    rows = []
    for run, mine in blocks.items():
        for number, block in enumerate(mine, 1):
            gates = _number(block, "active_gates", "d")
            if block.get("gates") is not None:
                gates += f" of {block['gates']}"
            rows.append(
                [
                    f"{run}, {number}" if len(blocks) > 1 else str(number),
                    _number(block, "objective", ".4e"),
                    _number(block, "relative_gap", ".1e"),
                    gates,
                    _number(block, "lam", ".3g"),
                    _number(block, "psnr_train", ".2f"),
                    _number(block, "psnr_validation", ".2f"),
                ]
            )
    return rows_table(headings, rows)


def _training(blocks: Mapping[str, Sequence[Row]], curves: Mapping[str, Sequence[Row]]) -> list[Section]:
    runs: dict[str, Sequence[Row]] = {run: _cumulative(rows) for run, rows in blocks.items() if rows}
    runs |= {run: rows for run, rows in curves.items() if rows}
    if not runs:
        return []
    table = rows_table(
        ["run", "seconds of training", "peak memory (MB)", "final validation PSNR (dB)"],
        [
            [
                run,
                _last(rows, "seconds", ".1f"),
                _peak(row.get("peak_memory_mb") for row in rows),
                _last(rows, "psnr_validation", ".2f"),
            ]
            for run, rows in runs.items()
        ],
    )
    pictures = []
    if any(row.get("psnr_validation") is not None for rows in runs.values() for row in rows):
        caption = (
            "Validation PSNR against training time. A layer-wise run gains a point with every block it "
            "finishes; a run trained by gradient descent with every pass over the data that was validated."
        )
        pictures.append(Picture(training_curve(runs), caption))
    return [Section("Training cost", [], [table], pictures)]


def _cumulative(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Blocks as points of a training curve: seconds since the start of the run, not of the block."""
    elapsed = accumulate(float(row.get("seconds") or 0.0) for row in rows)
    return [{**row, "seconds": seconds} for row, seconds in zip(rows, elapsed, strict=True)]


def _settings(settings: Mapping[str, Mapping[str, str]]) -> list[Section]:
    return [Section(name, (), [settings_table(values)]) for name, values in settings.items() if values]


def _number(row: Row, key: str, form: str) -> str:
    value = row.get(key)
    return "–" if value is None else format(value, form)


def _last(rows: Sequence[Row], key: str, form: str) -> str:
    return next((_number(row, key, form) for row in reversed(rows) if row.get(key) is not None), "–")


def _peak(values: Iterable[float | None]) -> str:
    known = [float(value) for value in values if value is not None]
    return f"{max(known):,.0f}" if known else "–"
