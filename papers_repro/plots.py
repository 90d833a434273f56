"""Plots of measured numbers with their spread over seeds, in the house style of `report.figures`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from statistics import fmean
from typing import Any

from matplotlib.figure import Figure

from convexrecon.report.figures import COLOURS, MARKERS, clean_axes, plain_ticks


@dataclass(frozen=True)
class Series:
    """One line: its x, and for every seed its values there."""

    x: Sequence[float]
    runs: Sequence[Sequence[float]]
    dashed: bool = False
    markers: bool = True


@dataclass(frozen=True)
class Panel:
    """One pair of axes: lines by name, what the axes mean, and whether y begins at zero."""

    title: str
    lines: Mapping[str, Series]
    x_label: str
    y_label: str
    log_x: bool = False
    log_y: bool = False
    from_zero: bool = False


def line_panels(panels: Sequence[Panel], *, columns: int = 3) -> Figure:
    """Panels of lines; the mean over seeds, and their range as a band. A name has one colour in all panels."""
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(3.9 * columns + 0.4, 3.1 * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    names = list(dict.fromkeys(name for panel in panels for name in panel.lines))
    looks = dict(zip(names, zip(cycle(COLOURS), cycle(MARKERS), strict=False), strict=False))
    for ax, panel in zip(axes, panels, strict=False):
        for name, series in panel.lines.items():
            _draw(ax, name, series, *looks[name])
        _dress(ax, panel)
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    handles = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    if len(handles) > 1:
        figure.legend(
            list(handles.values()),
            list(handles),
            frameon=False,
            loc="outside upper left",
            ncols=min(2 * columns, len(handles)),
            fontsize=9.5,
        )
    return figure


def bar_panels(panels: Mapping[str, Mapping[str, Sequence[float]]], labels: Sequence[str]) -> Figure:
    """Panels of horizontal bars from zero, a bar a name: the mean, printed, and every seed as a point.

    Args:
        panels: title -> name -> values, one a seed.
        labels: of the x axes.
    """
    figure, axes, colours = _rows(panels, labels)
    for ax, bars in zip(axes, panels.values(), strict=True):
        means = [fmean(values) for values in bars.values()]
        ax.barh(range(len(bars)), means, height=0.62, color=[colours[name] for name in bars])
        for position, (mean, values) in enumerate(zip(means, bars.values(), strict=True)):
            if len(values) > 1:
                ax.plot(values, [position] * len(values), "o", color="#222222", markersize=3.5, alpha=0.8)
            edge = max([mean, *values])
            ax.annotate(f"{mean:.3g}", (edge, position), (5, 0), textcoords="offset points", va="center", fontsize=9.5)
        ax.margins(x=0.18)
    return figure


def point_panels(panels: Mapping[str, Mapping[str, Sequence[float]]], labels: Sequence[str]) -> Figure:
    """Panels of points, a row a name, for quantities whose zero means nothing: the mean, printed, and every seed."""
    figure, axes, colours = _rows(panels, labels)
    for ax, rows in zip(axes, panels.values(), strict=True):
        for position, (name, values) in enumerate(rows.items()):
            mean = fmean(values)
            ax.plot(values, [position] * len(values), "o", color=colours[name], markersize=6, alpha=0.6)
            ax.plot([mean, mean], [position - 0.25, position + 0.25], color=colours[name], linewidth=2.2)
            place = (max(values), position)
            ax.annotate(f"{mean:.2f}", place, (8, 0), textcoords="offset points", va="center", fontsize=9.5)
        ax.set_ylim(len(rows) - 0.5, -0.5)
        ax.margins(x=0.25)
    return figure


def _rows(
    panels: Mapping[str, Mapping[str, Sequence[float]]], labels: Sequence[str]
) -> tuple[Figure, Sequence[Any], dict[str, str]]:
    """Axes with a row a name, and a colour for each name, the same in all panels."""
    most = max(len(rows) for rows in panels.values())
    figure = Figure(figsize=(4.6 * len(panels) + 0.6, 0.42 * most + 1.2), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    names = list(dict.fromkeys(name for rows in panels.values() for name in rows))
    for ax, (title, rows), label in zip(axes, panels.items(), labels, strict=True):
        ax.set_yticks(range(len(rows)), list(rows))
        ax.invert_yaxis()
        ax.set_title(title)
        ax.set_xlabel(label)
        clean_axes(ax)
        ax.grid(axis="y", visible=False)
    return figure, axes, dict(zip(names, cycle(COLOURS), strict=False))


def _draw(ax: Any, name: str, series: Series, colour: str, marker: str) -> None:
    columns = list(zip(*series.runs, strict=True))
    every = max(1, len(series.x) // 10)
    ax.plot(
        series.x,
        [fmean(column) for column in columns],
        color=colour,
        linestyle="--" if series.dashed else "-",
        marker=marker if series.markers else None,
        markersize=5,
        markevery=every,
        label=name,
    )
    if len(series.runs) > 1:
        ax.fill_between(series.x, [*map(min, columns)], [*map(max, columns)], color=colour, alpha=0.18, linewidth=0)


def _dress(ax: Any, panel: Panel) -> None:
    for log, axis, scale, limits in (
        (panel.log_x, ax.xaxis, ax.set_xscale, ax.get_xlim),
        (panel.log_y, ax.yaxis, ax.set_yscale, ax.get_ylim),
    ):
        if log:
            scale("log")
            low, high = limits()
            # Plain numbers, unless they would be too many or too long.
            if high < 200 * low and low > 1e-3:
                plain_ticks(axis)
    if panel.from_zero:
        ax.set_ylim(bottom=0)
    ax.set_title(panel.title)
    ax.set_xlabel(panel.x_label)
    ax.set_ylabel(panel.y_label)
    clean_axes(ax)
