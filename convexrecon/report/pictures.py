"""Figures that show images: reconstructions beside their errors, sampling masks, coil maps.

Only `Figure` objects, never pyplot, so that nothing is global.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from scipy.ndimage import uniform_filter

from convexrecon.errors import InputError
from convexrecon.evaluate.metrics import SliceScore
from convexrecon.evaluate.pictured_shots import PicturedShots

Array = npt.NDArray[Any]

# More of them are a grey disc.
_MOST_SHOTS = 200
_BOX_COLOUR = "#F0E442"
_GAINS = (1, 2, 3, 4, 5, 8, 10, 15, 20, 30, 40, 50, 80, 100, 200, 500, 1000)
_CELL = 1.95


def comparison(
    reference: Array,
    images: Mapping[str, Array],
    *,
    scores: Mapping[str, SliceScore] | None = None,
    mask: Array | PicturedShots | None = None,
    box: tuple[int, int, int] | None = None,
) -> Figure:
    """Magnitudes, complex error maps and a zoomed region of several reconstructions of one slice.

    One grey window for all magnitudes, one colour scale for all errors, one box for all zooms.

    Args:
        reference: x*, (y, x) complex or real.
        images: method -> x, (y, x), same units.
        scores: method -> the scores of this slice, printed above its image.
        mask: (y, x) sampling mask, DC in the middle, or the shots of a trajectory, shown beside the error maps.
        box: (top, left, side) of the zoom, in pixels; by default `zoom_box`.

    Raises:
        InputError: no images, or an image whose shape is not that of the reference.
    """
    for name, image in images.items():
        if image.shape != reference.shape or reference.ndim != 2:
            raise InputError(
                f"comparison: {name} has shape {image.shape}, the reference {reference.shape}; expected the same (y, x)"
            )
    if not images:
        raise InputError("comparison: expected at least one reconstruction, found none")
    height, width = reference.shape
    top, left, side = box or zoom_box(reference, list(images.values()))
    window = slice(top, top + side), slice(left, left + side)
    white = float(np.percentile(np.abs(reference), 99.8)) or 1.0
    errors = {name: np.abs(image - reference) for name, image in images.items()}
    gain = _gain(list(errors.values()), white)

    ratio = height / width
    figure = Figure(figsize=(_CELL * (1 + len(images)) + 0.9, _CELL * (2 * ratio + 1) + 0.75), layout="constrained")
    axes = figure.subplots(3, 1 + len(images), height_ratios=(ratio, ratio, 1), squeeze=False)
    shown = {"reference": reference, **images}
    for column, (name, image) in enumerate(shown.items()):
        magnitude, error, zoom = axes[:, column]
        grey = {"cmap": "gray", "vmin": 0, "vmax": white}
        magnitude.imshow(np.abs(image), **grey)
        magnitude.add_patch(
            Rectangle((left - 0.5, top - 0.5), side, side, fill=False, edgecolor=_BOX_COLOUR, linewidth=1.3)
        )
        score = (scores or {}).get(name)
        numbers = f"{score.psnr:.2f} dB   SSIM {score.ssim:.3f}" if score else ""
        magnitude.set_title(name, fontsize=11, fontweight="bold", pad=18 if scores else 5)
        magnitude.text(0.5, 1.02, numbers, transform=magnitude.transAxes, ha="center", va="bottom", fontsize=9.5)
        zoom.imshow(np.abs(image[window]), **grey)
        _frame(zoom)
        if name in errors and column:
            drawn = error.imshow(errors[name], cmap="inferno", vmin=0, vmax=white / gain)
        elif mask is not None:
            _sampling(error, mask)
            error.set_xlabel(f"sampling, R = {acceleration(mask):.2f}", fontsize=9.5)
        else:
            error.set_axis_off()
    for ax in axes.flat:
        ax.set_xticks([])
        ax.set_yticks([])
    for ax, label in ((axes[0, 0], "magnitude"), (axes[1, 1], "error |x − x*|"), (axes[2, 0], "zoom")):
        ax.set_ylabel(label, fontsize=10)
    _error_bar(figure, drawn, axes[1], float(np.abs(reference).max()), white / gain, gain)
    return figure


def zoom_box(reference: Array, images: Sequence[Array], *, fraction: float = 0.3) -> tuple[int, int, int]:
    """The square (top, left, side), in pixels, where the reference has detail and the better images differ.

    The product of two local sums: gradient of the reference, and spread of the magnitudes among the better
    half of the images (at least two; the worst, such as zero-filled, would decide alone). Both are clipped,
    so that an area of fine detail counts for more than one bright edge.

    Args:
        reference: (y, x).
        images: reconstructions (y, x); one is compared with the reference.
        fraction: side of the square relative to the shorter side of the image.
    """
    side = max(2, round(fraction * min(reference.shape)))
    truth = np.abs(reference).astype(np.float64)
    ranked = sorted((np.abs(image).astype(np.float64) for image in images), key=lambda m: _energy(m - truth))
    better = ranked[: max(2, (len(ranked) + 1) // 2)] if len(ranked) > 1 else [*ranked, truth]
    detail = _clip(np.hypot(*np.gradient(truth)))
    spread = _clip(np.ptp(np.stack(better), axis=0))
    score = uniform_filter(detail, side, mode="constant") * uniform_filter(spread, side, mode="constant")
    # The filter's window around index i starts at i - side // 2: only windows inside the image compete.
    start = side // 2
    stop = tuple(start + size - side + 1 for size in truth.shape)
    inside = score[start : stop[0], start : stop[1]]
    top, left = np.unravel_index(int(np.argmax(inside)), inside.shape)
    return int(top), int(left), side


def sampling_mask(masks: Mapping[str, Array]) -> Figure:
    """Sampling patterns with the acceleration each really reaches.

    Args:
        masks: name -> (y, x) zeros and ones, DC in the middle.
    """
    figure = Figure(figsize=(3.0 * len(masks) + 0.2, 3.5), layout="constrained")
    for ax, (name, mask) in zip(figure.subplots(1, len(masks), squeeze=False)[0], masks.items(), strict=True):
        ax.imshow(np.asarray(mask) > 0, cmap="gray", vmin=0, vmax=1)
        ax.set_title(f"{name}\nR = {acceleration(mask):.2f}", fontsize=10)
        ax.set_xlabel("phase encode x", fontsize=9)
        ax.set_ylabel("y", fontsize=9)
        ax.set_xticks([])
        ax.set_yticks([])
    return figure


def coil_maps(maps: Array) -> Figure:
    """Magnitude and phase of the sensitivity maps of one slice; the phase is blank outside the object.

    Args:
        maps: (C, y, x) complex.
    """
    coils, height, width = maps.shape
    cell = min(1.6, 12.0 / coils)
    figure = Figure(figsize=(cell * coils + 0.9, 2 * cell * height / width + 0.5), layout="constrained")
    axes = figure.subplots(2, coils, squeeze=False)
    for coil in range(coils):
        magnitude = np.abs(maps[coil])
        phase = np.where(magnitude > 0, np.angle(maps[coil]), np.nan)
        top = axes[0, coil].imshow(magnitude, cmap="viridis", vmin=0, vmax=1)
        bottom = axes[1, coil].imshow(phase, cmap="twilight", vmin=-np.pi, vmax=np.pi)
        axes[0, coil].set_title(f"coil {coil + 1}", fontsize=9)
    for ax in axes.flat:
        ax.set_xticks([])
        ax.set_yticks([])
    figure.colorbar(top, ax=axes[0].tolist(), label="|S|", pad=0.01, ticks=[0, 0.5, 1])
    bar = figure.colorbar(bottom, ax=axes[1].tolist(), label="phase of S", pad=0.01, ticks=[-np.pi, 0, np.pi])
    bar.set_ticklabels(["−π", "0", "π"])
    return figure


def acceleration(mask: Array | PicturedShots) -> float:
    """Points of k-space per sample taken, infinite for an empty mask; or shots acquired over shots kept."""
    if isinstance(mask, PicturedShots):
        return mask.acceleration
    taken = float(np.count_nonzero(mask))
    return np.size(mask) / taken if taken else float("inf")


def _sampling(ax: Any, mask: Array | PicturedShots) -> None:
    if not isinstance(mask, PicturedShots):
        ax.imshow(np.asarray(mask) > 0, cmap="gray", vmin=0, vmax=1)
        return
    step = -(-len(mask.coordinates) // _MOST_SHOTS)
    for shot in mask.coordinates[::step]:
        ax.plot(shot[:, 1], shot[:, 0], color="white", linewidth=0.5)
    rows, columns = mask.shape
    ax.set_xlim(-columns / 2, columns / 2)
    ax.set_ylim(rows / 2, -rows / 2)
    ax.set_aspect("equal")
    ax.set_facecolor("black")


def _gain(errors: Sequence[Array], white: float) -> float:
    """A round amplification that lets the median method nearly fill the colour scale of the errors."""
    typical = float(np.median([np.percentile(error, 99.5) for error in errors]))
    fitting = [gain for gain in _GAINS if typical * gain <= white]
    return fitting[-1] if fitting else _GAINS[0]


def _error_bar(figure: Figure, drawn: Any, row: Any, peak: float, limit: float, gain: float) -> None:
    bar = figure.colorbar(drawn, ax=row.tolist(), pad=0.01, aspect=18, extend="max")
    ticks = [limit * step / 3 for step in range(4)]
    bar.set_ticks(ticks)
    bar.set_ticklabels([f"{100 * tick / peak:.1f}" for tick in ticks])
    bar.ax.tick_params(labelsize=9)
    bar.set_label(f"% of max|x*|\n(grey window ÷ {gain:g})", fontsize=9)


def _clip(array: Array) -> Array:
    """At most twice the median of what is not negligible."""
    large = array[array > 0.01 * array.max()]
    return np.minimum(array, 2 * np.median(large)) if large.size else array


def _frame(ax: Any) -> None:
    for spine in ax.spines.values():
        spine.set_color(_BOX_COLOUR)
        spine.set_linewidth(1.3)


def _energy(array: Array) -> float:
    return float(np.sum(np.square(array)))
