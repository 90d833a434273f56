"""Room around what a trajectory was planned for: objects that reach beyond the field of view, and how to tell.

On the grid signal from beyond folds, and sensitivities tell it apart. Off it, it leaves streaks over all of the image,
which an image without room for it cannot explain.
"""

import math
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from convexrecon.errors import InputError

# Simulated heads and knees within the field of view have at most 0.02 of their signal at its border; planned 1.3 times
# too small, at least 0.33.
BORDER_SHARE = 0.15
# Of an axis, on either side: what counts as border.
_BORDER = 1 / 32
_WHOLE_CYCLES = 1e-3


def check_field_of_view(factor: float) -> None:
    """InputError for a factor below 1, or not a number."""
    if not 1 <= factor < math.inf:
        raise InputError(
            f"field_of_view: found {factor}; expected a factor of at least 1, such as 1.5 for room around an object "
            "that reaches beyond the field of view"
        )


def widened(coordinates: Tensor, shape: tuple[int, ...], factor: float) -> tuple[Tensor, tuple[int, ...]]:
    """Coordinates and pixels of a larger field of view with the same resolution: ``k' = k N'/N``.

    N' is factor N rounded to an even number. An axis along which all samples lie on whole cycles, as the partitions of
    a stack do, stays as it is: there signal from beyond folds exactly, and more pixels would have no samples.

    Args:
        coordinates: (..., shots, S, d) real, cycles per field of view.
        shape: (y, x) or (z, y, x), in pixels.
        factor: at least 1, which changes nothing.

    Returns:
        coordinates in cycles per larger field of view, and its shape.

    Raises:
        InputError: a factor below 1.

    >>> coordinates, shape = widened(torch.tensor([[[-7.5, 2.2], [3.1, 8.0]]]), (16, 18), 1.5)
    >>> shape, coordinates[0, 1].round(decimals=2)
    ((24, 28), tensor([ 4.6500, 12.4400]))
    """
    check_field_of_view(factor)
    if factor == 1:
        return coordinates, shape
    stays = on_whole_cycles(coordinates)
    sizes = tuple(n if on_grid else 2 * round(factor * n / 2) for n, on_grid in zip(shape, stays, strict=True))
    ratio = coordinates.new_tensor([new / n for new, n in zip(sizes, shape, strict=True)])
    return coordinates * ratio, sizes


def on_whole_cycles(coordinates: Tensor) -> list[bool]:
    """Of each axis of coordinates (..., d), whether all are whole cycles per field of view, as on the grid."""
    return ((coordinates - coordinates.round()).abs() < _WHOLE_CYCLES).flatten(0, -2).all(0).tolist()


def border_share(image: Tensor, axes: Sequence[int] = (-2, -1)) -> float:
    """The root mean square of an image (*N) along the border of `axes`, over that inside the object.

    Inside is where the magnitude is at least a tenth of its 99th percentile, away from the border.
    """
    magnitude = image.abs().double()
    inner = torch.ones(magnitude.shape, dtype=torch.bool, device=image.device)
    for axis in axes:
        border = max(1, round(magnitude.shape[axis] * _BORDER))
        inner.movedim(axis, 0)[:border] = False
        inner.movedim(axis, 0)[-border:] = False
    inside = magnitude[inner & (magnitude > 0)]
    if inside.numel() == 0 or bool(inner.all()):
        return 0.0
    bright = inside.kthvalue(max(1, math.ceil(0.99 * inside.numel()))).values
    inside = inside[inside >= 0.1 * bright]
    return float(magnitude[~inner].square().mean().sqrt() / inside.square().mean().sqrt())


def warn_of_border(share: float, factor: float, where: str) -> None:
    """Warn where an image of all shots is not dark at its border.

    Args:
        share: the largest `border_share` of a scan's images.
        factor: what the field of view is already multiplied by.
        where: the scan, for the message.
    """
    if share > BORDER_SHARE:
        warnings.warn(
            f"{where}: the signal at the border of the field of view is {share:.2f} of that inside (expected at most "
            f"{BORDER_SHARE}): the object seems to reach beyond, which leaves streaks; try --field-of-view "
            f"{factor + 0.5:g}",
            stacklevel=2,
        )
