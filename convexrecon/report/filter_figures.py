"""Figures of filters: frequency responses, the strongest of a block, their ranking, their life along the path."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from convexrecon.interpret.filters import FilterSummary, PathPoint, complex_parts, frequency_response
from convexrecon.report.figures import COLOURS, MARKERS
from convexrecon.report.planes import Array, axes_of, plane_of, signed_colours, tiled


def response(gain: Array, *, limit: float | None = None, title: str = "", ax: Axes | None = None) -> Any:
    """The magnitude of a frequency response, zero frequency in the middle, axes in cycles a pixel.

    Args:
        gain: |H|, (*size), as `filters.frequency_response` orders it; of three axes the plane of zero frequency along
            the first is shown.
        limit: of the colour scale, the same for all that are compared; the largest gain if None.
        title: above it.
        ax: where to draw; a figure of its own if None.
    """
    alone = ax is None
    figure, ax = axes_of(ax, (3.4, 2.9))
    limit = (float(np.max(gain)) if limit is None else limit) or 1.0
    shown = plane_of(gain) if np.ndim(gain) > 1 else np.asarray(gain)[None]
    drawn = ax.imshow(
        shown, cmap="magma", vmin=0, vmax=limit, extent=(-0.5, 0.5, 0.5, -0.5), aspect="auto", interpolation="nearest"
    )
    ax.set_box_aspect(1)
    ax.set_xticks([-0.5, 0, 0.5], ["−½", "0", "½"], fontsize=8)
    ax.set_yticks([-0.5, 0, 0.5], ["−½", "0", "½"], fontsize=8)
    ax.set_title(title, fontsize=10)
    if alone:
        figure.colorbar(drawn, ax=ax, label="gain |H|")
        ax.set_xlabel("cycles a pixel along x", fontsize=9)
        ax.set_ylabel("along y", fontsize=9)
    return figure


def filter_gallery(summary: FilterSummary, *, count: int = 8, frequencies: int = 32) -> Figure:
    """A block's strongest filters, a column each: taps of real and imaginary part, and the gain of all frequencies.

    A filter of two real outputs acts on complex images as ``z -> a * z + b * conj(z)``; a is shown, and how large b is
    beside it. One colour scale for all taps, one for all gains.

    Args:
        summary: of the block.
        count: filters, at most.
        frequencies: a side of the responses.
    """
    order = [int(gate) for gate in summary.order[:count] if not bool(summary.null[gate])]
    linear, conjugate = (part[:, 0] for part in complex_parts(summary.filters.taps[:, :, :2]))
    size = [max(frequencies, extent) for extent in linear.shape[1:]]
    gains = {gate: frequency_response(linear[gate], size).abs().numpy() for gate in order}
    figure = Figure(figsize=(1.5 * max(len(order), 1) + 1.1, 4.6), layout="constrained")
    if not order:
        figure.text(0.5, 0.5, "all filters are null", ha="center")
        return figure
    axes = figure.subplots(3, len(order), squeeze=False)
    limit = max(float(np.abs(linear[gate].numpy()).max()) for gate in order)
    largest = max(float(gain.max()) for gain in gains.values())
    for column, gate in enumerate(order):
        taps = linear[gate].numpy()
        for ax, part in zip(axes[:2, column], (taps.real, taps.imag), strict=True):
            ax.imshow(tiled(part), cmap=signed_colours(), vmin=-limit, vmax=limit, interpolation="nearest")
            ax.set_xticks([])
            ax.set_yticks([])
        response(gains[gate], limit=largest, ax=axes[2, column])
        ratio = float(conjugate[gate].norm() / linear[gate].norm().clamp_min(1e-30))
        axes[0, column].set_title(f"gate {gate}\n{float(summary.norms[gate]):.2g}", fontsize=9)
        axes[2, column].set_xlabel(f"|b|/|a| {ratio:.2f}", fontsize=8.5)
    for ax, label in zip(axes[:, 0], ("real taps", "imaginary taps", "gain |H|"), strict=True):
        ax.set_ylabel(label, fontsize=10)
    figure.colorbar(axes[0, 0].images[0], ax=axes[:2].ravel().tolist(), pad=0.01, aspect=30)
    figure.colorbar(axes[2, 0].images[0], ax=axes[2].tolist(), pad=0.01, aspect=15)
    return figure


def norm_ranking(blocks: Mapping[str, FilterSummary], *, ax: Axes | None = None) -> Any:
    """Norms of all filters, from the largest, a line a block; how many are null, and the effective rank, in the legend.

    Args:
        blocks: name -> summary.
        ax: where to draw; a figure of its own if None.
    """
    figure, ax = axes_of(ax, (6.2, 3.6))
    for (name, summary), colour, marker in zip(blocks.items(), cycle(COLOURS), cycle(MARKERS), strict=False):
        alive = [float(summary.norms[gate]) for gate in summary.order if not bool(summary.null[gate])]
        text = f"{name}: {int(summary.null.sum())} null, effective rank {summary.effective_rank:.1f}"
        ax.plot(range(1, len(alive) + 1), alive, color=colour, marker=marker, markersize=4, label=text)
    ax.set_yscale("log")
    ax.set_xlabel("filter, by norm")
    ax.set_ylabel("norm ‖V_i‖")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    _clean(ax)
    ax.legend(frameon=False, fontsize=8.5)
    return figure


def life_along_path(points: Sequence[PathPoint], *, ax: Axes | None = None) -> Any:
    """Active gates and effective rank over the strength beta, from weak to strong on a log axis.

    Args:
        points: as `filters.path_life` gives them.
        ax: where to draw; a figure of its own if None.
    """
    figure, ax = axes_of(ax, (5.6, 3.4))
    shares = [point.share for point in points]
    ax.step(shares, [point.active for point in points], where="mid", color=COLOURS[0], label="active gates")
    ax.plot(
        shares, [point.effective_rank for point in points], color=COLOURS[1], marker="s", markersize=4,
        linestyle="--", label="effective rank of their filters",
    )  # fmt: skip
    ax.set_xscale("log")
    ax.invert_xaxis()
    ax.set_ylim(bottom=0)
    ax.set_xlabel("β, as a share of the path's largest (regularization falls to the right)")
    ax.set_ylabel("number")
    _clean(ax)
    ax.legend(frameon=False, fontsize=9, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)
    return figure


def _clean(ax: Axes) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(color="#e6e6e6", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.tick_params(labelsize=9)
