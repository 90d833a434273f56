"""Planes of images of any number of axes on any axes of a figure, with a scale bar where the pixel size is known."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from convexrecon.errors import InputError

Array = npt.NDArray[Any]

CURSOR = "#F0E442"
# Lengths that a scale bar may have, in mm, and the share of the picture's width that it takes at most.
_LENGTHS = (1, 2, 5, 10, 20, 50, 100, 200)
_LONGEST_BAR = 0.3


def axes_of(ax: Axes | None, size: tuple[float, float] = (4.0, 3.6)) -> tuple[Any, Axes]:
    """The axes to draw on and their figure: those given, or a figure of their own."""
    if ax is not None:
        return ax.figure, ax
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots()


def plane_of(image: Array, plane: Sequence[int] | int | None = None) -> Array:
    """The last two axes of an image (*N), at index `plane` of those before; in the middle if None.

    Raises:
        InputError: fewer than two axes, or a plane that the image does not have.

    >>> plane_of(np.zeros((5, 4, 3)), 2).shape
    (4, 3)
    """
    image = np.asanyarray(image)  # a masked array stays one
    if image.ndim < 2:
        raise InputError(f"picture: expected an image of at least two axes, found shape {image.shape}")
    before = image.shape[:-2]
    if plane is None:
        index = tuple(size // 2 for size in before)
    else:
        index = (plane,) if isinstance(plane, int) else tuple(plane)
    if len(index) != len(before) or any(not 0 <= i < size for i, size in zip(index, before, strict=True)):
        raise InputError(f"plane: expected an index for each of the axes {before} before the last two, found {index}")
    return image[index]


def show(
    ax: Axes, image: Array, *, plane: Sequence[int] | int | None = None, spacing: Sequence[float] | None = None,
    **options: Any,
) -> Any:  # fmt: skip
    """Draw a plane of an image without ticks, pixels in their true shape, with a scale bar if `spacing` is known.

    Args:
        ax: where.
        image: (*N) real.
        plane: see `plane_of`.
        spacing: size of a pixel in mm, along y and x.
        options: of `imshow`.
    """
    shown = plane_of(image, plane)
    aspect = 1.0 if spacing is None else spacing[-2] / spacing[-1]
    drawn = ax.imshow(shown, aspect=aspect, **{"interpolation": "nearest", **options})
    ax.set_xticks([])
    ax.set_yticks([])
    if spacing is not None:
        scale_bar(ax, shown.shape, spacing[-1])
    return drawn


def scale_bar(ax: Axes, shape: Sequence[int], spacing: float) -> None:
    """A bar of a round length in mm, at the lower left of a picture of `shape` (y, x) with pixels of `spacing` mm."""
    fitting = [length for length in _LENGTHS if length / spacing <= _LONGEST_BAR * shape[1]]
    if not fitting:
        return
    length = fitting[-1]
    left, bottom = 0.05 * shape[1], 0.95 * shape[0]
    outline = [withStroke(linewidth=3.5, foreground="black")]
    ax.plot([left, left + length / spacing], [bottom, bottom], color="white", linewidth=2, path_effects=outline)
    label = f"{length // 10} cm" if length >= 10 else f"{length} mm"
    ax.text(
        left, bottom - 0.02 * shape[0], label, color="white", fontsize=8, va="bottom",
        path_effects=[withStroke(linewidth=2, foreground="black")],
    )  # fmt: skip


def mark(ax: Axes, pixel: Sequence[int], *, size: float = 9) -> None:
    """A ring around a pixel (.., y, x), to be seen on dark and light."""
    style: dict[str, Any] = {"fillstyle": "none", "linestyle": "", "marker": "o"}
    ax.plot([pixel[-1]], [pixel[-2]], color="black", markersize=size, markeredgewidth=2.6, **style)
    ax.plot([pixel[-1]], [pixel[-2]], color=CURSOR, markersize=size, markeredgewidth=1.3, **style)


def signed_colours() -> Any:
    """Red for positive, blue for negative, white for zero; grey between the planes of `tiled`."""
    return colormaps["RdBu_r"].with_extremes(bad="#888888")


def tiled(taps: Array) -> Array:
    """Taps (*k) as one picture: planes of three axes side by side, a column of NaN between them; a line as a row."""
    taps = np.asarray(taps)
    if taps.ndim == 1:
        return taps[None]
    if taps.ndim == 2:
        return taps
    gap = np.full((taps.shape[1], 1), np.nan)
    parts = [part for plane in taps for part in (plane, gap)]
    return np.concatenate(parts[:-1], axis=1)
