"""Pictures of what has three axes: planes through a volume, profiles and animations of a series."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from PIL import Image

from convexrecon.errors import InputError

Array = npt.NDArray[Any]

_CELL = 1.9
# Pixels that the shorter side of an animated image has at least, and milliseconds a frame is shown.
_SMALLEST_SIDE = 160
_FRAME_MS = 80


def orthogonal_planes(images: Mapping[str, Array]) -> Figure:
    """The three planes through the middle of a volume, a column for each method, in one grey window.

    Args:
        images: name -> (z, y, x), complex or real, the first one the reference.

    Raises:
        InputError: no images, or of different shapes.
    """
    depth, height, width = _common_shape(images)
    cuts = {
        f"z = {depth // 2}": lambda volume: volume[depth // 2],
        f"y = {height // 2}": lambda volume: volume[:, height // 2],
        f"x = {width // 2}": lambda volume: volume[:, :, width // 2],
    }
    ratios = (height / width, depth / width, depth / height)
    return _grid(images, cuts, ratios, _white(images))


def time_profiles(images: Mapping[str, Array]) -> Figure:
    """The middle row of every frame, time downwards, and its error: a column for each method.

    Args:
        images: name -> (t, y, x), complex or real, the first one the reference.

    Raises:
        InputError: no images, or of different shapes.
    """
    frames, height, width = _common_shape(images)
    reference = next(iter(images.values()))
    white, row = _white(images), height // 2
    ratio = max(0.3, frames / width)
    figure = Figure(figsize=(_CELL * len(images) + 0.6, 2 * _CELL * ratio + 0.7), layout="constrained")
    axes = figure.subplots(2, len(images), squeeze=False)
    for column, (name, image) in enumerate(images.items()):
        profile, error = (np.abs(part[:, row]) for part in (image, image - reference))
        axes[0, column].imshow(profile, cmap="gray", vmin=0, vmax=white, aspect="auto")
        axes[1, column].imshow(error, cmap="inferno", vmin=0, vmax=white / 5, aspect="auto")
        axes[0, column].set_title(name, fontsize=11, fontweight="bold")
    axes[0, 0].set_ylabel("time", fontsize=10)
    axes[1, 0].set_ylabel("error x 5", fontsize=10)
    for ax in axes.flat:
        ax.set_xticks([])
        ax.set_yticks([])
    return figure


def animation(images: Mapping[str, Array]) -> bytes:
    """The frames of a series as an endless GIF: the methods side by side, magnitudes in one grey window.

    Args:
        images: name -> (t, y, x), complex or real, shown from left to right.

    Raises:
        InputError: no images, or of different shapes.
    """
    frames, height, width = _common_shape(images)
    white = _white(images)
    scale = max(1, -(-_SMALLEST_SIDE // min(height, width)))
    beside = np.concatenate([np.abs(image) for image in images.values()], axis=2)
    grey = np.round(255 * np.clip(beside / white, 0, 1)).astype(np.uint8)
    large = grey.repeat(scale, axis=1).repeat(scale, axis=2)
    pictures = [Image.fromarray(large[t]) for t in range(frames)]
    buffer = io.BytesIO()
    pictures[0].save(buffer, "GIF", save_all=True, append_images=pictures[1:], duration=_FRAME_MS, loop=0)
    return buffer.getvalue()


def _grid(images: Mapping[str, Array], cuts: Mapping[str, Any], ratios: tuple[float, ...], white: float) -> Figure:
    size = (_CELL * len(images) + 0.4, _CELL * sum(ratios) + 0.6)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(cuts), len(images), height_ratios=ratios, squeeze=False)
    for column, (name, image) in enumerate(images.items()):
        axes[0, column].set_title(name, fontsize=11, fontweight="bold")
        for ax, cut in zip(axes[:, column], cuts.values(), strict=True):
            ax.imshow(np.abs(cut(image)), cmap="gray", vmin=0, vmax=white)
            ax.set_xticks([])
            ax.set_yticks([])
    for ax, label in zip(axes[:, 0], cuts, strict=True):
        ax.set_ylabel(label, fontsize=10)
    return figure


def _common_shape(images: Mapping[str, Array]) -> tuple[int, int, int]:
    shapes = {np.shape(image) for image in images.values()}
    if len(shapes) != 1 or len(next(iter(shapes))) != 3:
        raise InputError(f"pictures: expected images of one shape of three axes, found {sorted(shapes) or 'none'}")
    first, second, third = next(iter(shapes))
    return first, second, third


def _white(images: Mapping[str, Array]) -> float:
    return float(np.percentile(np.abs(next(iter(images.values()))), 99.8)) or 1.0
