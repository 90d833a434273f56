"""Figures of stability: bounds and norms side by side, worst perturbations, maps of sensitivity."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from convexrecon.errors import InputError
from convexrecon.interpret.stability import Stability
from convexrecon.report.figures import COLOURS
from convexrecon.report.planes import Array, axes_of, plane_of, show

_KINDS = (
    ("random noise", "o", COLOURS[6]),
    ("worst found", "s", COLOURS[1]),
    ("local map, exact", "D", COLOURS[0]),
    ("certified, all patterns", "|", "#000000"),
)


def amplification(networks: Mapping[str, Stability], *, ax: Axes | None = None) -> Any:
    """How much each network amplifies a change of the measurement, a row a network, on a log axis.

    Args:
        networks: name -> what `stability.compare_stability` found.
        ax: where to draw; a figure of its own if None.
    """
    figure, ax = axes_of(ax, (7.2, 0.75 * len(networks) + 1.5))
    for position, found in enumerate(networks.values()):
        values = (found.worst.random, found.worst.amplification, found.local.value, found.certified.kspace)
        known = [value for value in values if value is not None]
        ax.plot([min(known), max(known)], [position] * 2, color="#cccccc", linewidth=1.2, zorder=1)
        for (name, marker, colour), value in zip(_KINDS, values, strict=True):
            if value is not None:
                size = 16 if marker == "|" else 7
                label = name if position == 0 else None
                ax.plot([value], [position], marker, color=colour, markersize=size, markeredgewidth=1.8, label=label)
    ax.set_xscale("log")
    ax.set_yticks(range(len(networks)), list(networks))
    ax.set_ylim(len(networks) - 0.5, -0.5)
    ax.set_xlabel("‖change of the image‖ / ‖change of the measured k-space‖")
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="x", color="#e6e6e6", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.legend(frameon=False, fontsize=9, loc="lower left", bbox_to_anchor=(0, 1), ncols=4, borderaxespad=0.2)
    return figure


def worst_perturbations(
    images: Mapping[str, tuple[Array, Array, Array]],
    *,
    plane: Sequence[int] | int | None = None,
    spacing: Sequence[float] | None = None,
) -> Figure:
    """For each network: the image, the worst perturbation as A^H r, the changed image and the change.

    One grey window for images, one scale for perturbations, one for changes.

    Args:
        images: name -> image, A^H r, change of the image, (*N) complex each.
        plane: of images of three axes.
        spacing: pixel size in mm along y and x.

    Raises:
        InputError: no networks.
    """
    if not images:
        raise InputError("worst_perturbations: expected at least one network, found none")
    shown = {name: [plane_of(part, plane) for part in parts] for name, parts in images.items()}
    white = max(float(np.percentile(np.abs(parts[0]), 99.8)) for parts in shown.values()) or 1.0
    small = max(float(np.percentile(np.abs(parts[1]), 99.8)) for parts in shown.values()) or 1.0
    large = max(float(np.percentile(np.abs(parts[2]), 99.8)) for parts in shown.values()) or 1.0
    height, width = next(iter(shown.values()))[0].shape
    figure = Figure(figsize=(10.0, 1.95 * len(shown) * height / width + 0.5), layout="constrained")
    axes = figure.subplots(len(shown), 4, squeeze=False)
    for row, (name, (image, perturbation, change)) in enumerate(shown.items()):
        grey: dict[str, Any] = {"cmap": "gray", "vmin": 0, "vmax": white}
        show(axes[row, 0], np.abs(image), spacing=spacing, **grey)
        seen = show(axes[row, 1], np.abs(perturbation), cmap="inferno", vmin=0, vmax=small)
        show(axes[row, 2], np.abs(image + change), **grey)
        moved = show(axes[row, 3], np.abs(change), cmap="inferno", vmin=0, vmax=large)
        axes[row, 0].set_ylabel(name, fontsize=10.5, fontweight="bold")
    for ax, title in zip(axes[0], ("image", "perturbation |Aᴴr|", "perturbed image", "|change|"), strict=True):
        ax.set_title(title, fontsize=10)
    figure.colorbar(seen, ax=axes[:, 1].tolist(), pad=0.01, shrink=0.8, aspect=25)
    figure.colorbar(moved, ax=axes[:, 3].tolist(), pad=0.01, shrink=0.8, aspect=25)
    return figure


def sensitivity_maps(
    maps: Mapping[str, Array],
    *,
    label: str = "noise of the image, per unit of noise on the samples",
    plane: Sequence[int] | int | None = None,
    spacing: Sequence[float] | None = None,
) -> Figure:
    """Maps of noise sensitivity or influence side by side on one colour scale.

    Args:
        maps: name -> (*N) real.
        label: what the colours are.
        plane: of images of three axes.
        spacing: pixel size in mm along y and x.

    Raises:
        InputError: no maps.
    """
    if not maps:
        raise InputError("sensitivity_maps: expected at least one map, found none")
    limit = max(float(np.percentile(values, 99.8)) for values in maps.values()) or 1.0
    height, width = plane_of(next(iter(maps.values())), plane).shape
    figure = Figure(figsize=(2.9 * len(maps) + 1.0, 2.9 * height / width + 0.5), layout="constrained")
    axes = figure.subplots(1, len(maps), squeeze=False)[0]
    for ax, (name, values) in zip(axes, maps.items(), strict=True):
        drawn = show(ax, values, plane=plane, spacing=spacing, cmap="viridis", vmin=0, vmax=limit)
        ax.set_title(name, fontsize=10.5)
    figure.colorbar(drawn, ax=axes.tolist(), label=label, pad=0.02)
    return figure
