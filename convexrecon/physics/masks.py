"""Sampling masks: made to an exact number of samples, or found in k-space that is already undersampled.

Masks here are centred, (y, x), DC at (y//2, x//2), as in files; of a series every frame has its own, (t, y, x).
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convexrecon.errors import InputError
from convexrecon.physics.poisson_disc import poisson_disc

MaskKind = Literal["poisson", "random", "equispaced", "variable", "full", "shots"]

# Density of the columns of kind "variable" at the edge of k-space, relative to the centre's; it falls as a square.
_EDGE_DENSITY = 0.05

# The acceleration reached may differ by this fraction from the one asked for; more is refused.
ACCELERATION_TOLERANCE = 0.02


@dataclass(frozen=True)
class MaskSettings:
    """What to sample.

    Attributes:
        kind: ``poisson``: 2-D variable-density Poisson disc; ``random`` and ``equispaced``: whole columns (the
            readout y is complete, x is undersampled) as fastMRI, arXiv:1811.08839, section 4.9; ``variable``: random
            columns, fewer of them the farther out, as suits series, whose frames are sampled differently;
            ``full``: everything, whatever the acceleration. Of a volume, whose readout is z, y and x are both
            undersampled, by ``poisson``. Off the grid ``shots``, whole ones, see `shot_sampling`, or ``full``.
        acceleration: number of grid points over number of samples, the calibration included; off the grid, shots
            acquired over shots kept; at least 1.
        calibration: side of the fully sampled central square of a Poisson disc, in samples.
        center_fraction: fraction of the columns that is fully sampled in the centre, for the column kinds.

    Raises:
        InputError: a value no image size could serve.
    """

    kind: MaskKind = "poisson"
    acceleration: float = 4.0
    calibration: int = 16
    center_fraction: float = 0.04

    def __post_init__(self) -> None:
        if self.kind not in get_args(MaskKind):
            raise InputError(f"mask kind: found {self.kind!r}; expected one of {', '.join(get_args(MaskKind))}")
        if not (math.isfinite(self.acceleration) and self.acceleration >= 1):
            raise InputError(f"acceleration: found {self.acceleration}; expected a finite number, at least 1")
        if self.calibration != int(self.calibration) or self.calibration < 0:
            raise InputError(f"calibration: found {self.calibration}; expected a whole number of samples, >= 0")
        if not 0 < self.center_fraction <= 1:
            raise InputError(
                f"center_fraction: found {self.center_fraction}; expected above 0 and at most 1, e.g. 0.04"
            )


def sampling_mask(shape: tuple[int, ...], settings: MaskSettings, generator: torch.Generator) -> Tensor:
    """Draw a mask whose acceleration is within 2 % of the one asked for.

    The number of samples (of columns, for the column kinds) is fixed beforehand, round(total / acceleration),
    so it does not depend on chance.

    Args:
        shape: (y, x), in samples; (t, y, x) for a mask that differs from frame to frame, each of them exact.
        settings: kind and amount.
        generator: source of randomness; see `convexrecon.seeding.generator`.

    Returns:
        float32 of that shape, zeros and ones, centred.

    Raises:
        InputError: an empty shape; a calibration region larger than the image or than the whole budget of
            samples; an acceleration that no whole number of samples or columns comes within 2 % of.

    >>> from convexrecon.seeding import generator
    >>> mask = sampling_mask((64, 60), MaskSettings("equispaced", 4, center_fraction=0.08), generator(0, "a"))
    >>> mask[0].sum(), bool((mask == mask[0]).all())
    (tensor(15.), True)
    """
    if len(shape) == 3 and shape[0] >= 1:
        return torch.stack([sampling_mask(shape[1:], settings, generator) for _ in range(shape[0])])
    if len(shape) != 2:
        raise InputError(f"mask: expected a shape (y, x) or (t, y, x), found {tuple(shape)}")
    rows, columns = shape
    if rows < 1 or columns < 1:
        raise InputError(f"mask: shape {tuple(shape)} is empty; expected at least 1 x 1")
    if settings.kind == "full":
        return torch.ones(shape)
    if settings.kind == "shots":
        raise InputError("mask kind: 'shots' is of data along a trajectory, these are on a grid; expected another one")
    if settings.kind == "poisson":
        count = _budget(rows * columns, settings.acceleration, f"samples of {rows} x {columns}")
        _check_calibration((rows, columns), settings, count)
        sampled = poisson_disc((rows, columns), count, int(settings.calibration), generator)
        return torch.from_numpy(sampled).float()
    count = _budget(columns, settings.acceleration, f"columns of {columns}")
    line = _columns(columns, count, settings, generator)
    return line.float().expand(rows, columns).clone()


def _budget(total: int, acceleration: float, what: str) -> int:
    """round(total / acceleration), refused where that misses the acceleration by more than the tolerance."""
    count = round(total / acceleration)
    if count < 1:
        raise InputError(f"acceleration: {acceleration:g} leaves an empty mask, none of the {what}")
    if abs(total / count / acceleration - 1) > ACCELERATION_TOLERANCE:
        below, above = math.floor(total / acceleration), math.ceil(total / acceleration)
        reachable = " or ".join(f"{total / n:.5g} with {n}" for n in (above, below) if n > 0)
        raise InputError(
            f"acceleration: {acceleration:g} cannot be reached within {ACCELERATION_TOLERANCE:.0%} by a whole "
            f"number of {what}; possible: {reachable}"
        )
    return count


def _check_calibration(shape: tuple[int, int], settings: MaskSettings, count: int) -> None:
    side = int(settings.calibration)
    if side > min(shape):
        raise InputError(
            f"calibration: {side} x {side} samples asked for, larger than the image, {shape[0]} x {shape[1]}"
        )
    if side**2 > count:
        raise InputError(
            f"calibration: the {side} x {side} square alone needs {side**2} samples; acceleration "
            f"{settings.acceleration:g} of {shape[0]} x {shape[1]} leaves {count} in all. "
            "Expected a smaller square or acceleration"
        )


def _columns(total: int, count: int, settings: MaskSettings, generator: torch.Generator) -> Tensor:
    """(x,) bool with `count` columns: the central ones, and the rest at random or evenly spaced."""
    centre = max(1, round(total * settings.center_fraction))
    if centre > count:
        raise InputError(
            f"center_fraction: {settings.center_fraction:g} of {total} columns alone is {centre}; acceleration "
            f"{settings.acceleration:g} leaves {count} in all. Expected a smaller fraction or acceleration"
        )
    line = torch.zeros(total, dtype=torch.bool)
    start = total // 2 - centre // 2
    line[start : start + centre] = True
    outer = torch.nonzero(~line).squeeze(1)
    wanted = count - centre
    if settings.kind == "random":
        chosen = torch.randperm(len(outer), generator=generator)[:wanted]
    elif settings.kind == "variable":
        distance = (outer - total // 2).abs().double() / max(total // 2, 1)
        density = _EDGE_DENSITY + (1 - _EDGE_DENSITY) * (1 - distance).square()
        chosen = torch.multinomial(density, wanted, generator=generator) if wanted else outer[:0]
    else:
        # Spaced over the outer columns alone, so that the total comes out exact: fastMRI's adjusted spacing.
        offset = torch.rand((), generator=generator, dtype=torch.float64)
        chosen = ((torch.arange(wanted) + offset) * (len(outer) / max(wanted, 1))).long()
    line[outer[chosen]] = True
    return line


def acceleration_of(mask: Tensor | NDArray) -> float:
    """Number of entries of a mask of zeros and ones over number of ones.

    Raises:
        InputError: the mask samples nothing.
    """
    entries = torch.as_tensor(mask)
    ones = int((entries != 0).sum())
    if ones == 0:
        raise InputError("mask: samples nothing (every entry is zero)")
    return entries.numel() / ones


def detect_mask(kspace: Tensor) -> Tensor:
    """The samples of k-space (..., y, x) that are not zero in every coil and slice: (y, x) bool.

    Raises:
        InputError: every sample is zero.
    """
    if kspace.ndim < 2:
        raise InputError(f"kspace: expected (..., y, x), found {tuple(kspace.shape)}")
    mask = (kspace != 0).reshape(-1, *kspace.shape[-2:]).any(0)
    if not bool(mask.any()):
        raise InputError("kspace: every sample is zero; expected measured k-space")
    return mask


def missing_samples(mask: Tensor | NDArray) -> int:
    """How many samples lie in gaps: not sampled, but between sampled ones of the same row or column.

    What a scanner leaves zero at the border (partial Fourier, zero filling to the matrix size, elliptical
    coverage) is no gap, since nothing can be undersampled there that was meant to be measured.

    >>> missing_samples(torch.tensor([[0, 1, 1, 1], [0, 1, 0, 1], [0, 1, 1, 0]]))
    1
    """
    sampled = torch.as_tensor(mask) != 0
    gaps = torch.zeros_like(sampled)
    for axis in (-2, -1):
        before = sampled.cumsum(axis) > 0
        after = sampled.flip(axis).cumsum(axis).flip(axis) > 0
        gaps |= before & after & ~sampled
    return int(gaps.sum())


def is_fully_sampled(mask: Tensor | NDArray) -> bool:
    """Whether a (y, x) mask has no gap, see `missing_samples`, and samples the centre."""
    sampled = torch.as_tensor(mask) != 0
    centre = sampled[sampled.shape[0] // 2, sampled.shape[1] // 2]
    return bool(centre) and missing_samples(sampled) == 0


def calibration_extent(mask: Tensor | NDArray) -> tuple[int, int]:
    """(cy, cx) of the largest fully sampled rectangle around index N//2, as `crop_centre` cuts it.

    Largest by its shorter side, then by its area: for a mask of columns, all of y and the central columns.

    Raises:
        InputError: the central sample is missing.

    >>> mask = torch.zeros(6, 9)
    >>> mask[:, 3:6] = 1
    >>> calibration_extent(mask)
    (6, 3)
    """
    sampled = np.asarray(torch.as_tensor(mask).cpu() != 0)
    rows, columns = sampled.shape
    best = (0, 0)
    common = np.ones(columns, dtype=bool)
    for height in range(1, rows + 1):
        # Growing by one adds a row above or below in turn, starting from N//2.
        common &= sampled[rows // 2 - height // 2 if height % 2 == 0 else rows // 2 + height // 2]
        width = _central_run(common)
        if width == 0:
            break
        best = max(best, (height, width), key=lambda size: (min(size), size[0] * size[1]))
    if best == (0, 0):
        raise InputError("mask: the centre of k-space is not sampled; expected a fully sampled central region")
    return best


def _central_run(line: NDArray[np.bool_]) -> int:
    """Length of the longest run of ones [N//2 - n//2, N//2 - n//2 + n)."""
    centre = len(line) // 2
    below = int(np.argmin(np.append(line[:centre][::-1], False)))  # ones directly below the centre
    above = int(np.argmin(np.append(line[centre:], False)))  # ones from the centre upwards
    # Length n needs n//2 below and n - n//2 from the centre on.
    return min(2 * below + 1, 2 * above) if above else 0
