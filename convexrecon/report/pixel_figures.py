"""Figures of one pixel: where it is, the gates, the filter's taps, the contributions, its row of the cascade's map."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from convexrecon.interpret.pixel import PixelFilter
from convexrecon.report.figures import COLOURS
from convexrecon.report.planes import Array, axes_of, mark, plane_of, show, signed_colours, tiled

# Decibels below its maximum that a row is shown down to.
_ROW_RANGE = 60


def location(
    image: Array,
    pixel: Sequence[int],
    *,
    spacing: Sequence[float] | None = None,
    title: str = "",
    ax: Axes | None = None,
) -> Any:
    """The magnitude of an image, in the pixel's plane, the pixel ringed.

    Args:
        image: (*N) complex or real.
        pixel: index along every axis.
        spacing: pixel size in mm along y and x, for a scale bar.
        title: above it.
        ax: where to draw; a figure of its own if None.
    """
    figure, ax = axes_of(ax)
    white = float(np.percentile(np.abs(image), 99.8)) or 1.0
    show(ax, np.abs(image), plane=tuple(pixel[:-2]), spacing=spacing, cmap="gray", vmin=0, vmax=white)
    mark(ax, pixel)
    ax.set_title(title, fontsize=10.5)
    return figure


def gate_code(read: PixelFilter, *, norms: Sequence[float] | None = None, ax: Axes | None = None) -> Any:
    """Which gates fire at the pixel: a bar a gate, filled if it is open, as high as its filter's norm.

    Args:
        read: of a gated or ReLU denoiser.
        norms: of all filters, as `filters.filter_summary` has them; bars of one height if None.
        ax: where to draw; a figure of its own if None.
    """
    assert read.gates is not None
    figure, ax = axes_of(ax, (6.0, 1.8))
    heights = np.ones(len(read.gates)) if norms is None else np.asarray(norms, dtype=float)
    open_ = read.gates.cpu().numpy()
    ax.bar(
        np.arange(len(open_)), heights, color=np.where(open_, COLOURS[0], "#ffffff"), edgecolor="#888888", linewidth=0.6
    )
    ax.set_xlim(-0.8, len(open_) - 0.2)
    ax.set_xlabel("gate")
    ax.set_ylabel("norm of its filter" if norms is not None else "")
    ax.set_yticks(ax.get_yticks() if norms is not None else [])
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_title(f"{int(open_.sum())} of {len(open_)} gates fire (filled)", fontsize=10.5)
    return figure


def signed(values: Array, *, limit: float | None = None, title: str = "", ax: Axes | None = None) -> Any:
    """Taps or contributions (*k), red positive and blue negative, zero white; planes of three axes side by side.

    Args:
        values: real.
        limit: of the colour scale, the same for all that are compared; the largest magnitude if None.
        title: above them.
        ax: where to draw; a figure of its own if None.
    """
    figure, ax = axes_of(ax, (2.4, 2.6))
    limit = (float(np.max(np.abs(values))) if limit is None else limit) or 1.0
    drawn = ax.imshow(tiled(values), cmap=signed_colours(), vmin=-limit, vmax=limit, interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_title(title, fontsize=10)
    if ax.get_subplotspec() is None or len(figure.axes) == 1:
        figure.colorbar(drawn, ax=ax, shrink=0.8)
    return figure


def balance(read: PixelFilter, *, outputs: Sequence[str] = ("real", "imaginary"), ax: Axes | None = None) -> Any:
    """What the output is made of: skip, window, constant, and their sum, bars for each output channel.

    Args:
        read: the pixel's filter.
        outputs: names of the output channels.
        ax: where to draw; a figure of its own if None.
    """
    figure, ax = axes_of(ax, (4.4, 2.6))
    names = ("skip", "window", "constant", "output")
    parts = (read.skip, read.contributions.flatten(1).sum(1), read.constant, read.output)
    width = 0.8 / len(outputs)
    for index, output in enumerate(outputs):
        places = np.arange(len(names)) + (index - (len(outputs) - 1) / 2) * width
        heights = [float(part[index]) for part in parts]
        ax.bar(places, heights, width, label=output, color=COLOURS[index % len(COLOURS)])
    ax.axhline(0, color="#444444", linewidth=0.8)
    ax.set_xticks(range(len(names)), names)
    ax.set_ylabel("image units")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=9)
    return figure


def pixel_reading(
    read: PixelFilter,
    image: Array,
    *,
    norms: Sequence[float] | None = None,
    spacing: Sequence[float] | None = None,
    channels: Sequence[str] = ("real", "imaginary"),
) -> Figure:
    """All of one pixel and one block: where, gates, taps with one scale, contributions with another, the balance.

    Args:
        read: the pixel's filter.
        image: (*N), the block's input.
        norms: of all filters, for the gates' bars.
        spacing: pixel size in mm along y and x.
        channels: names of the input channels.
    """
    outputs, inputs = read.taps.shape[:2]
    figure = Figure(figsize=(3.4 + 1.9 * inputs * outputs, 6.6), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=(1, 1.35))
    top, below = parts
    place, code, sums = top.subplots(1, 3, width_ratios=(1, 1.7, 1.3))
    location(image, read.pixel, spacing=spacing, title=f"pixel {_text(read.pixel)}", ax=place)
    if read.gates is None:
        code.set_axis_off()
    else:
        gate_code(read, norms=norms, ax=code)
    balance(read, ax=sums)
    grids = below.subplots(2, outputs * inputs, squeeze=False)
    names = [("real", "imaginary")[output % 2] for output in range(outputs)]
    for row, (values, label) in enumerate(((read.taps, "taps"), (read.contributions, "contributions"))):
        array = values.detach().cpu().numpy()
        limit = float(np.abs(array).max())
        for output in range(outputs):
            for channel in range(inputs):
                ax = grids[row, output * inputs + channel]
                title = f"{channels[channel % len(channels)]} → {names[output]}" if row == 0 else ""
                signed(array[output, channel], limit=limit, title=title, ax=ax)
        grids[row, 0].set_ylabel(label, fontsize=10)
        below.colorbar(grids[row, -1].images[0], ax=grids[row].tolist(), pad=0.01, aspect=14)
    return figure


def row_of_map(
    row: Array, pixel: Sequence[int], *, spacing: Sequence[float] | None = None, title: str = "", ax: Axes | None = None
) -> Any:
    """How strongly an output pixel depends on every input pixel: the magnitude of its row, in dB below the largest.

    Args:
        row: (*N) complex, as `LocalMap.row` gives it.
        pixel: the output pixel.
        spacing: pixel size in mm along y and x.
        title: above it.
        ax: where to draw; a figure of its own if None.
    """
    figure, ax = axes_of(ax, (4.6, 3.8))
    shown = np.abs(plane_of(row, tuple(pixel[:-2])))
    level = 20 * np.log10(np.maximum(shown / max(float(np.abs(row).max()), 1e-300), 10 ** (-_ROW_RANGE / 20)))
    drawn = show(ax, level, spacing=spacing, cmap="inferno", vmin=-_ROW_RANGE, vmax=0)
    mark(ax, pixel, size=14)
    figure.colorbar(drawn, ax=ax, label="dB of the largest weight", shrink=0.85)
    ax.set_title(title, fontsize=10.5)
    return figure


def _text(pixel: Sequence[int]) -> str:
    return ", ".join(f"{name} = {index}" for name, index in zip(("z", "y", "x")[-len(pixel) :], pixel, strict=True))
