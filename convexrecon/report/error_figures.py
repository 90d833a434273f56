"""Figures of errors attributed: after every step of a cascade, by frequency and cause, by cluster of pixels."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from convexrecon.interpret.block_errors import StageError, band_edges
from convexrecon.interpret.pattern_errors import ClusterErrors
from convexrecon.report.figures import COLOURS
from convexrecon.report.planes import axes_of, plane_of, show


def error_causes(stages: Sequence[StageError], *, ax: Axes | None = None) -> Any:
    """The relative error after every step: all of it, what is measured of it and what not, and what noise does.

    Args:
        stages: as `block_errors.block_errors` gives them.
        ax: where to draw; a figure of its own if None.
    """
    figure, ax = axes_of(ax, (6.4, 3.6))
    series = (
        ("all", [float(stage.energy.sum()) for stage in stages], COLOURS[6], "o", "-"),
        ("not measured: aliasing", [float(stage.unmeasured.sum()) for stage in stages], COLOURS[0], "s", "-"),
        ("measured", [float(stage.measured.sum()) for stage in stages], COLOURS[1], "D", "-"),
        ("of noise", [stage.noise for stage in stages], COLOURS[2], "^", "--"),
    )
    for name, energies, colour, marker, line in series:
        values = 100 * np.sqrt(np.maximum(energies, 0))
        ax.plot(range(len(stages)), values, color=colour, marker=marker, markersize=5, linestyle=line, label=name)
    _step_axis(ax, stages)
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.set_ylabel("error, % of ‖x*‖")
    ax.legend(frameon=False, fontsize=9, ncols=2)
    return figure


def error_bands(stages: Sequence[StageError], *, axes: int = 2, ax: Axes | None = None) -> Any:
    """The energy that every step leaves in each band of frequency, what was not measured of it, dark low to light high.

    Args:
        stages: as `block_errors.block_errors` gives them.
        axes: how many axes have frequencies, as there.
        ax: where to draw; a figure of its own if None.
    """
    figure, ax = axes_of(ax, (6.4, 3.6))
    count = len(stages[0].energy)
    edges = band_edges(count, axes)
    colours = colormaps["viridis"](np.linspace(0, 0.9, count))
    bottom = np.zeros(len(stages))
    for band in range(count):
        heights = 100 * np.array([max(float(stage.unmeasured[band]), 0.0) for stage in stages])
        label = f"{edges[band]:.2f}–{edges[band + 1]:.2f}"
        ax.bar(range(len(stages)), heights, 0.75, bottom=bottom, color=colours[band], label=label)
        bottom += heights
    _step_axis(ax, stages)
    ax.set_ylabel("unmeasured error energy,\n% of ‖x*‖²")
    ax.legend(title="cycles a pixel", frameon=False, fontsize=8.5, title_fontsize=9, reverse=True)
    return figure


def error_maps(
    stages: Sequence[StageError],
    peak: float,
    *,
    sample: int = 0,
    plane: Sequence[int] | int | None = None,
    spacing: Sequence[float] | None = None,
) -> Figure:
    """|e| after every step, all on one colour scale, in % of a peak magnitude.

    The scale is that of the last step, times two: what later steps remove is beyond its end before.

    Args:
        stages: as `block_errors.block_errors` gives them.
        peak: max|x*|.
        sample: which of B.
        plane: of images of three axes.
        spacing: pixel size in mm along y and x.
    """
    shown = [100 / peak * np.abs(plane_of(stage.error[sample].cpu().numpy(), plane)) for stage in stages]
    limit = 2 * float(np.percentile(shown[-1], 99.5)) or 1.0
    columns = min(5, len(shown))
    rows = -(-len(shown) // columns)
    height, width = shown[0].shape
    figure = Figure(figsize=(1.95 * columns + 0.9, (1.95 * height / width + 0.35) * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax, stage, error in zip(axes.flat, stages, shown, strict=False):
        drawn = show(ax, error, spacing=spacing, cmap="inferno", vmin=0, vmax=limit)
        ax.set_title(f"{stage.name}\n{100 * float(stage.energy.sum()) ** 0.5:.1f} % of ‖x*‖", fontsize=9)
    for ax in list(axes.flat)[len(shown) :]:
        ax.set_axis_off()
    figure.colorbar(drawn, ax=axes.ravel().tolist(), label="|e|, % of max|x*|", extend="max", pad=0.01, shrink=0.8)
    return figure


def cluster_errors(shares: ClusterErrors, order: Sequence[int], *, ax: Axes | None = None) -> Any:
    """Each cluster's share of the pixels, and of the energy of each error: where it has more, the cluster errs more.

    Args:
        shares: as `pattern_errors.errors_by_cluster` gives them.
        order: the clusters from left to right, e.g. by brightness.
        ax: where to draw; a figure of its own if None.
    """
    figure, ax = axes_of(ax, (7.0, 3.2))
    rows = {"pixels": shares.pixels, **{f"error, {name}": share for name, share in shares.energy.items()}}
    width = 0.84 / len(rows)
    colours = ("#bbbbbb", *COLOURS)
    for index, (name, share) in enumerate(rows.items()):
        places = np.arange(len(order)) + (index - (len(rows) - 1) / 2) * width
        ax.bar(places, [100 * float(share[label]) for label in order], width, color=colours[index], label=name)
    ax.set_xticks(range(len(order)), [str(position + 1) for position in range(len(order))])
    ax.set_xlabel("cluster, from dark to bright")
    ax.set_ylabel("share (%)")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=9)
    return figure


def _step_axis(ax: Axes, stages: Sequence[StageError]) -> None:
    names = {"initial": "start", "denoiser": "D", "consistency": "C"}
    short = [names[stage.name.split()[0]] + (str(stage.block) if stage.block else "") for stage in stages]
    ax.set_xticks(range(len(stages)), short)
    ax.set_xlabel("step: D denoiser, C data consistency")
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    ax.set_axisbelow(True)
