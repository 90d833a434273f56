"""Linear baselines, zero-filled and CG-SENSE, and the tuning of any baseline's one parameter."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, log, sqrt

import torch
from torch import Tensor

from convexrecon.errors import InputError
from convexrecon.evaluate.metrics import psnr
from convexrecon.physics.conjugate_gradient import conjugate_gradient
from convexrecon.physics.forward_model import ForwardModel

Sample = tuple[ForwardModel, Tensor, Tensor]
"""Operator, its k-space and target (B, *N) of one or more slices, volumes or series."""

Reconstruction = Callable[[ForwardModel, Tensor, float], Tensor]
"""(operator, k-space, lam) -> image (B, *N)."""


@dataclass(frozen=True)
class Tuning:
    """What `tune` chose.

    Attributes:
        lam: the chosen parameter.
        psnr: its mean PSNR over the training slices, dB.
        curve: every (lam, mean PSNR) tried, by increasing lam.
    """

    lam: float
    psnr: float
    curve: tuple[tuple[float, float], ...]


def zero_filled(sense: ForwardModel, kspace: Tensor) -> Tensor:
    """A^H y: the missing samples taken as zero, coils combined by their maps; off the grid, gridding.

    Args:
        sense: the operator A.
        kspace: y, (B, C, *N) complex, uncentred, zero where not sampled; or (B, C, samples), weighted once by
            `NonCartesianSense.weigh`.

    Returns:
        (B, *N) complex, in the units of y.

    Raises:
        InputError: k-space of a shape that the operator does not have.
    """
    return sense.adjoint(kspace)


def cg_sense(
    sense: ForwardModel, kspace: Tensor, lam: float, iterations: int = 30, *, tolerance: float = 1e-5
) -> Tensor:
    """``argmin_x ||A x - y||^2 + lam ||x||^2`` by conjugate gradients on the normal equations.

    Pruessmann et al., Magn Reson Med 46:638 (2001), with Tikhonov regularization.

    Args:
        sense: the operator A.
        kspace: y, (B, C, *N) complex, uncentred, zero where not sampled; or (B, C, samples), weighted once by
            `NonCartesianSense.weigh`.
        lam: weight of the penalty, at least 0; relative to ``||A||^2 <= 1``.
        iterations: most CG steps.
        tolerance: relative residual at which a slice stops.

    Returns:
        (B, *N) complex, in the units of y.

    Raises:
        InputError: a negative `lam`, or k-space of a shape that the operator does not have.
    """
    if not lam >= 0:
        raise InputError(f"cg_sense: expected lam >= 0, found {lam}")
    return conjugate_gradient(
        lambda x: sense.normal(x) + lam * x,
        sense.adjoint(kspace),
        tolerance=tolerance,
        max_iterations=iterations,
    ).solution


def tune(
    reconstruct: Reconstruction,
    samples: Sequence[Sample],
    *,
    low: float,
    high: float,
    points: int = 7,
    refinements: int = 5,
) -> Tuning:
    """Choose lam by the mean PSNR over training images: a geometric grid, then golden section in log lam.

    A grid whose best point is at its edge is extended on that side (by at most `points` more), so the
    opponent does not lose to a badly chosen range.

    Args:
        reconstruct: the method, e.g. ``lambda sense, y, lam: cg_sense(sense, y, lam)``.
        samples: training slices; iterated once per lam, so a sequence that loads lazily is welcome.
        low: smallest lam of the grid, positive.
        high: largest lam of the grid.
        points: grid points, at least 3.
        refinements: golden-section steps inside the bracket of the best grid point.

    Raises:
        InputError: no samples, or a grid that is not one.
    """
    if len(samples) == 0:
        raise InputError("tune: expected samples, found 0 samples")
    return highest(
        lambda lam: _mean_psnr(reconstruct, samples, lam), low=low, high=high, points=points, refinements=refinements
    )


def highest(
    quality: Callable[[float], float], *, low: float, high: float, points: int = 7, refinements: int = 5
) -> Tuning:
    """The lam of the highest quality, looked for as `tune` does, which is this of a mean PSNR.

    Args:
        quality: of a lam, in dB; asked once for each.
        low: smallest lam of the grid, positive.
        high: largest lam of the grid.
        points: grid points, at least 3.
        refinements: golden-section steps inside the bracket of the best grid point.

    Raises:
        InputError: a grid that is not one.
    """
    if not 0 < low < high or points < 3:
        raise InputError(
            f"tune: expected 0 < low < high and points >= 3, found low={low}, high={high}, points={points}"
        )
    tried: dict[float, float] = {}

    def score(log_lam: float) -> float:
        if log_lam not in tried:
            tried[log_lam] = quality(exp(log_lam))
        return tried[log_lam]

    ratio = (log(high) - log(low)) / (points - 1)
    grid = [log(low) + ratio * i for i in range(points)]
    for _ in range(points):
        best = max(grid, key=score)
        if best == grid[0]:
            grid.insert(0, best - ratio)
        elif best == grid[-1]:
            grid.append(best + ratio)
        else:
            break
    _golden_section(score, best - ratio, best + ratio, refinements)
    chosen = max(tried, key=lambda log_lam: tried[log_lam])
    curve = tuple((exp(log_lam), value) for log_lam, value in sorted(tried.items()))
    return Tuning(exp(chosen), tried[chosen], curve)


def _golden_section(score: Callable[[float], float], left: float, right: float, steps: int) -> None:
    """Shrink [left, right] around the maximum of a unimodal `score`, which remembers what it is asked."""
    golden = (sqrt(5) - 1) / 2
    inner_left, inner_right = right - golden * (right - left), left + golden * (right - left)
    for _ in range(steps):
        if score(inner_left) >= score(inner_right):
            right, inner_right = inner_right, inner_left
            inner_left = right - golden * (right - left)
        else:
            left, inner_left = inner_left, inner_right
            inner_right = left + golden * (right - left)


def _mean_psnr(reconstruct: Reconstruction, samples: Sequence[Sample], lam: float) -> float:
    values = []
    for sense, kspace, target in samples:
        with torch.no_grad():
            images = reconstruct(sense, kspace, lam)
        values += [psnr(image, truth) for image, truth in zip(images, target, strict=True)]
    return sum(values) / len(values)
