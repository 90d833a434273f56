"""Figures that show numbers: certificates of blocks, training curves, scores per method.

Only `Figure` objects, never pyplot, so that nothing is global. Colours are those of Okabe and Ito (2008),
told apart by colour-blind readers, and never alone: a series also has its marker or its name beside it.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from convexrecon.evaluate.metrics import SliceScore

Row = Mapping[str, Any]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#555555")
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
TARGET_GAP = 1e-4
# A gap of exactly zero (an empty block) has no place on a log axis; it is drawn here, as "at most".
_SMALLEST_GAP = 1e-16


def certificates(blocks: Sequence[Row]) -> Figure:
    """What is known of every block of a cascade, one panel a quantity, one position a block.

    Panels: certified relative gap on a log axis with the 1e-4 line; objective; train and validation PSNR;
    active gates of all gates; lam; seconds. A panel whose every value is None is left out.

    Args:
        blocks: mappings with keys objective, relative_gap, active_gates, gates, lam, seconds, psnr_train,
            psnr_validation; a missing key counts as None.
    """
    panels: list[tuple[Callable[[Any, Sequence[Row]], None], tuple[str, ...]]] = [
        (_gap_panel, ("relative_gap",)),
        (_objective_panel, ("objective",)),
        (_psnr_panel, ("psnr_train", "psnr_validation")),
        (_gates_panel, ("active_gates",)),
        (_lam_panel, ("lam",)),
        (_seconds_panel, ("seconds",)),
    ]
    shown = [draw for draw, keys in panels if any(block.get(key) is not None for key in keys for block in blocks)]
    columns = min(3, max(1, len(shown)))
    rows = max(1, -(-len(shown) // columns))
    figure = Figure(figsize=(3.7 * columns, 2.7 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, draw in zip(axes, shown, strict=False):
        draw(ax, blocks)
        clean_axes(ax)
        ax.set_xlim(0.5, max(len(blocks), 1) + 0.5)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10))
        ax.set_xlabel("block")
    for ax in axes[len(shown) :]:
        ax.set_axis_off()
    return figure


def training_curve(curves: Mapping[str, Sequence[Row]], levels: Mapping[str, float | None] | None = None) -> Figure:
    """Validation PSNR against seconds of training, one line a run, with horizontal lines for other methods.

    Args:
        curves: run -> rows with `seconds` (since the start of its training) and `psnr_validation`; rows
            without either are skipped.
        levels: method -> PSNR in dB, drawn as a dashed line with its name; None is skipped.
    """
    figure = Figure(figsize=(7.4, 4.0), layout="constrained")
    ax = figure.subplots()
    _draw_curves(ax, curves)
    for method, level in (levels or {}).items():
        if level is not None:
            ax.axhline(level, color="#777777", linestyle="--", linewidth=1)
            ax.annotate(
                f"{method}  {level:.2f} dB",
                (1, level),
                xycoords=("axes fraction", "data"),
                xytext=(-4, 2),
                textcoords="offset points",
                ha="right",
                va="bottom",
                fontsize=9,
                color="#444444",
            )
    clean_axes(ax)
    if curves:
        # Above the axes: inside, it would meet a curve or a level sooner or later.
        ax.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.2)
    return figure


def quality_and_cost(curves: Mapping[str, Sequence[Row]], costs: Mapping[str, Row]) -> Figure:
    """Validation PSNR against seconds of training, and what was reached against the memory of a step.

    Args:
        curves: run -> rows, as `training_curve` takes them.
        costs: run -> a mapping with `activations_mb` and `psnr_validation`; one without either has no point.
    """
    figure = Figure(figsize=(11.0, 4.2), layout="constrained")
    over_time, over_memory = figure.subplots(1, 2, sharey=True)
    _draw_curves(over_time, curves)
    spans: list[float] = []
    for (run, cost), colour, marker in zip(costs.items(), cycle(COLOURS), cycle(MARKERS), strict=False):
        memory, quality = cost.get("activations_mb"), cost.get("psnr_validation")
        if memory and quality is not None:
            over_memory.plot([memory], [quality], color=colour, marker=marker, markersize=9, linestyle="", label=run)
            spans.append(float(memory))
    if spans and max(spans) > 5 * min(spans):
        over_memory.set_xscale("log")
        plain_ticks(over_memory.xaxis)
    over_memory.margins(x=0.12)
    over_memory.set_xlabel("memory of the tensors of a training step (MB)")
    for ax in (over_time, over_memory):
        clean_axes(ax)
    handles, labels = over_time.get_legend_handles_labels()
    if labels:
        figure.legend(handles, labels, frameon=False, loc="outside upper left", ncols=min(6, len(labels)))
    return figure


def method_summary(scores: Sequence[SliceScore]) -> Figure:
    """PSNR and SSIM of every slice, a row a method: points, quartile box, median."""
    methods = list(dict.fromkeys(score.method for score in scores))
    figure = Figure(figsize=(9.6, 0.55 * len(methods) + 1.1), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for ax, measure, label in zip(axes, ("psnr", "ssim"), ("PSNR (dB)", "SSIM"), strict=True):
        for position, method in enumerate(methods):
            values = np.array([getattr(score, measure) for score in scores if score.method == method])
            values = values[np.isfinite(values)]
            if not len(values):
                continue
            colour = COLOURS[position % len(COLOURS)]
            # A fixed spread of the points, so that the same scores give the same picture.
            offsets = 0.28 * (np.modf(np.arange(len(values)) * 0.618034)[0] - 0.5)
            ax.plot(values, position + offsets, "o", color=colour, alpha=0.55, markersize=4, markeredgewidth=0)
            low, median, high = np.percentile(values, (25, 50, 75))
            ax.barh(position, high - low, left=low, height=0.5, fill=False, edgecolor="#444444")
            ax.plot([median, median], [position - 0.25, position + 0.25], color="black", linewidth=2)
        ax.set_xlabel(label)
        clean_axes(ax)
        ax.grid(axis="y", visible=False)
    axes[0].set_yticks(range(len(methods)), methods)
    axes[0].set_ylim(len(methods) - 0.5, -0.5)
    return figure


def _draw_curves(ax: Any, curves: Mapping[str, Sequence[Row]]) -> None:
    """Lines of validation PSNR over seconds, one a run, on a log axis where they span much."""
    spans: list[float] = []
    for (run, rows), colour, marker in zip(curves.items(), cycle(COLOURS), cycle(MARKERS), strict=False):
        points = [
            (float(row["seconds"]), float(row["psnr_validation"]))
            for row in rows
            if row.get("seconds") is not None and row.get("psnr_validation") is not None
        ]
        if points:
            seconds, values = zip(*points, strict=True)
            every = max(1, len(points) // 12)
            ax.plot(seconds, values, color=colour, marker=marker, markersize=5, markevery=every, label=run)
            spans += [value for value in seconds if value > 0]
    if spans and max(spans) > 20 * min(spans):
        ax.set_xscale("log")
        plain_ticks(ax.xaxis)
    ax.set_xlabel("seconds of training")
    ax.set_ylabel("validation PSNR (dB)")


def _gap_panel(ax: Any, blocks: Sequence[Row]) -> None:
    positions, gaps = _series(blocks, "relative_gap")
    gaps = [max(gap, _SMALLEST_GAP) for gap in gaps]
    ax.set_yscale("log")
    ax.plot(positions, gaps, "o-", color=COLOURS[0])
    ax.axhline(TARGET_GAP, color=COLOURS[1], linestyle="--", linewidth=1.2)
    ax.annotate(
        "target 1e-4",
        (1, TARGET_GAP),
        xycoords=("axes fraction", "data"),
        xytext=(-3, 3),
        textcoords="offset points",
        ha="right",
        fontsize=9,
        color=COLOURS[1],
    )
    ax.set_ylim(min([*gaps, TARGET_GAP]) / 5, max([*gaps, TARGET_GAP]) * 8)
    ax.set_title("certified relative gap")


def _objective_panel(ax: Any, blocks: Sequence[Row]) -> None:
    positions, values = _series(blocks, "objective")
    ax.plot(positions, values, "o-", color=COLOURS[0])
    if values and min(values) > 0 and max(values) > 20 * min(values):
        ax.set_yscale("log")
    else:
        ax.set_ylim(bottom=0)
    ax.set_title("objective at the optimum")


def _psnr_panel(ax: Any, blocks: Sequence[Row]) -> None:
    for key, name, colour, style in (
        ("psnr_train", "training", COLOURS[0], "o-"),
        ("psnr_validation", "validation", COLOURS[1], "s--"),
    ):
        positions, values = _series(blocks, key)
        if values:
            ax.plot(positions, values, style, color=colour, label=name)
    ax.legend(frameon=False, fontsize=9, loc="lower right")
    ax.set_title("PSNR after the block (dB)")


def _gates_panel(ax: Any, blocks: Sequence[Row]) -> None:
    positions, total = _series(blocks, "gates")
    ax.bar(positions, total, width=0.6, color="#dddddd")
    positions, active = _series(blocks, "active_gates")
    ax.bar(positions, active, width=0.6, color=COLOURS[2])
    if len(blocks) <= 12:
        for position, count in zip(positions, active, strict=True):
            ax.annotate(f"{count:.0f}", (position, count), (0, 2), textcoords="offset points", ha="center", fontsize=9)
    ax.margins(y=0.15)
    ax.set_title("active gates (grey: all gates)" if total else "active gates")


def _lam_panel(ax: Any, blocks: Sequence[Row]) -> None:
    positions, values = _series(blocks, "lam")
    ax.plot(positions, values, "D-", color=COLOURS[3])
    if min(values) > 0:
        ax.set_yscale("log")
        ax.set_ylim(min(values) / 2, max(values) * 2)
        plain_ticks(ax.yaxis)
    ax.set_title("λ of data consistency")


def _seconds_panel(ax: Any, blocks: Sequence[Row]) -> None:
    positions, values = _series(blocks, "seconds")
    ax.bar(positions, values, width=0.6, color=COLOURS[6])
    ax.set_title("seconds of training")


def _series(blocks: Sequence[Row], key: str) -> tuple[list[int], list[float]]:
    """Positions (from 1) and values of the blocks that have a value for `key`."""
    pairs = [(index, float(block[key])) for index, block in enumerate(blocks, 1) if block.get(key) is not None]
    return [index for index, _ in pairs], [value for _, value in pairs]


def plain_ticks(axis: Any) -> None:
    """Ticks of a log axis at 1, 2, 5 times powers of ten, as plain numbers."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def clean_axes(ax: Any) -> None:
    """The house style of axes: no frame at the top and right, a light grid behind, small titles and ticks."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(color="#e6e6e6", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.title.set_fontsize(10.5)
    ax.tick_params(labelsize=9.5)
