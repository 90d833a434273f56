"""Figures of patterns: maps of clusters, block by block, and what the clusters receive.

Clusters are coloured from dark to light by how bright the image is where they are: an order that can be read, and told
apart by colour-blind readers, as twelve hues cannot.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from convexrecon.errors import InputError
from convexrecon.interpret.filters import complex_parts, frequency_response
from convexrecon.interpret.patterns import PatternMap, agreement
from convexrecon.report.filter_figures import response
from convexrecon.report.planes import Array, axes_of, show

_OUTSIDE = "#dddddd"


def brightness_order(found: PatternMap, image: Array) -> list[int]:
    """Clusters from the darkest to the brightest, by the mean magnitude of an image (B, *N) where they are."""
    labels, magnitude = found.labels.numpy(), np.abs(image)
    means = [
        float(magnitude[labels == label].mean()) if (labels == label).any() else 0.0
        for label in range(len(found.sizes))
    ]
    return [int(label) for label in np.argsort(means, kind="stable")]


def label_map(
    found: PatternMap,
    order: Sequence[int],
    *,
    sample: int = 0,
    plane: Sequence[int] | int | None = None,
    spacing: Sequence[float] | None = None,
    title: str = "",
    ax: Axes | None = None,
) -> Any:
    """A map of clusters, in colours of the given order; grey where pixels were left out.

    Args:
        found: the map.
        order: labels from dark to light, as `brightness_order` gives them.
        sample: which of B.
        plane: of images of three axes.
        spacing: pixel size in mm along y and x.
        title: above it.
        ax: where to draw; a figure of its own if None.
    """
    figure, ax = axes_of(ax)
    rank = np.zeros(len(order) + 1, dtype=int)
    rank[list(order)] = np.arange(len(order))
    labels = found.labels[sample].numpy()
    shown = np.ma.masked_array(rank[labels], labels < 0)
    show(ax, shown, plane=plane, spacing=spacing, cmap=_colours(len(order)), vmin=-0.5, vmax=len(order) - 0.5)
    ax.set_title(title, fontsize=10.5)
    return figure


def pattern_blocks(
    maps: Sequence[PatternMap],
    images: Sequence[Array],
    *,
    sample: int = 0,
    plane: Sequence[int] | int | None = None,
    spacing: Sequence[float] | None = None,
) -> Figure:
    """Every block's input beside its map, cluster colours and grey window the same for all.

    Args:
        maps: of all blocks, labels matched, as `patterns.pattern_maps` gives them.
        images: (B, *N) each, what the block sees.
        sample: which of B.
        plane: of images of three axes.
        spacing: pixel size in mm along y and x.

    Raises:
        InputError: not as many images as maps.
    """
    if len(maps) != len(images) or not maps:
        raise InputError(f"pattern_blocks: expected an image for each of the maps, found {len(images)} for {len(maps)}")
    count = max(len(found.sizes) for found in maps)
    order = brightness_order(max(maps[:1], key=lambda found: len(found.sizes)), images[0])
    order += [label for label in range(count) if label not in order]
    figure = Figure(figsize=(2.4 * len(maps) + 0.9, 5.0), layout="constrained")
    axes = figure.subplots(2, len(maps), squeeze=False)
    white = float(np.percentile(np.abs(images[-1]), 99.8)) or 1.0
    for column, (found, image) in enumerate(zip(maps, images, strict=True)):
        show(axes[0, column], np.abs(image[sample]), plane=plane, spacing=spacing, cmap="gray", vmin=0, vmax=white)
        axes[0, column].set_title(f"block {column + 1}", fontsize=10.5)
        label_map(found, order, sample=sample, plane=plane, ax=axes[1, column])
        text = f"{found.distinct} codes"
        if column:
            text += f"\nagreement {agreement(maps[column - 1].labels, found.labels):.2f}"
        axes[1, column].set_xlabel(text, fontsize=9)
    axes[0, 0].set_ylabel("input", fontsize=10)
    axes[1, 0].set_ylabel(f"clusters by {maps[0].by}", fontsize=10)
    bar = figure.colorbar(axes[1, 0].images[0], ax=axes[1].tolist(), pad=0.01, ticks=[0, count - 1])
    bar.set_ticklabels(["dark", "bright"])
    bar.set_label("clusters, by the image's brightness\nin block 1", fontsize=9)
    return figure


def cluster_filters(found: PatternMap, order: Sequence[int], *, frequencies: int = 32) -> Figure:
    """The filter that each cluster receives on average, with the skip, as a frequency response |H|, one scale for all.

    Of the image's own channels, as a filter of complex images; of three axes the middle plane of frequencies.

    Args:
        found: the map, of two outputs.
        order: the clusters, in which they are shown.
        frequencies: a side of the responses.
    """
    taps = found.taps[:, :, :2].clone()
    for output in range(2):
        own = taps[:, output, output].flatten(1)
        own[:, own.shape[1] // 2] += 1
        taps[:, output, output] = own.view_as(taps[:, output, output])
    linear = complex_parts(taps)[0][:, 0]
    size = [max(frequencies, extent) for extent in linear.shape[1:]]
    responses = frequency_response(linear, size).abs()
    limit = float(responses.max())
    columns = min(6, len(order))
    rows = -(-len(order) // columns)
    figure = Figure(figsize=(1.75 * columns + 0.8, 2.05 * rows + 0.4), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    colours = _colours(len(order))
    share = found.sizes / found.sizes.sum()
    for position, (ax, label) in enumerate(zip(axes.flat, order, strict=False)):
        response(responses[label].numpy(), limit=limit, ax=ax)
        ax.set_title(f"{100 * float(share[label]):.1f} % of pixels", fontsize=9)
        for spine in ax.spines.values():
            spine.set_color(colours(position))
            spine.set_linewidth(3)
    for ax in list(axes.flat)[len(order) :]:
        ax.set_axis_off()
    bar = figure.colorbar(axes[0, 0].images[0], ax=axes.ravel().tolist(), pad=0.01)
    bar.set_label("gain |H|", fontsize=9)
    return figure


def _colours(count: int) -> Any:
    found = ListedColormap(colormaps["viridis"](torch.linspace(0, 1, max(count, 2)).numpy())[:count])
    return found.with_extremes(bad=_OUTSIDE)
