"""Where k-space is sampled off the grid: radial, spiral, kooshball, stack of stars, cones.

All in cycles per field of view, axes as the image's, (shots, samples, d) float32; `.flatten(0, 1)` is what the
forward model takes. Along an axis of N pixels k-space ends at N/2, so trajectories of images that are not square
are ellipses. Neighbouring samples up to one cycle apart are Nyquist's limit for an object that fills the field of
view. Shapes are geometry alone: gradient and slew limits of a scanner are not considered.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from convexrecon.errors import InputError

Angles = Literal["golden", "uniform"]

# 111.246 degrees: Winkelmann et al., IEEE TMI 26:68 (2007).
GOLDEN_ANGLE = math.pi * (math.sqrt(5) - 1) / 2
# The roots of the three-dimensional golden section: Chan et al., Magn Reson Med 61:354 (2009).
GOLDEN_MEANS = (0.46557123187676802, 0.68232780382801933)


def radial(
    shape: tuple[int, int], shots: int, *, oversampling: float = 2.0, angles: Angles = "golden", first: int = 0
) -> Tensor:
    """Full-diameter spokes through the centre, 2-D.

    Sample i of S = round(oversampling max N) is at (i - S//2) / S of the diameter. Fully sampled with
    ``shots >= pi/2 N``, where spokes are one cycle apart at the edge.

    Args:
        shape: (y, x), in pixels.
        shots: number of spokes.
        oversampling: samples per cycle along the readout, at least 1.
        angles: ``golden``: spoke m at m times 111.246 degrees, near uniform for any number and any run of
            consecutive spokes; ``uniform``: at m pi / shots.
        first: m of the first spoke, for the frames of a golden series.

    Returns:
        (shots, S, 2) float32, (y, x), cycles per field of view.

    Raises:
        InputError: a shape, number or angles that make no sense.

    >>> radial((64, 64), shots=100).shape
    torch.Size([100, 128, 2])
    """
    _check(shape, 2, shots)
    if angles not in ("golden", "uniform"):
        raise InputError(f"angles: expected 'golden' or 'uniform', found {angles!r}")
    step = GOLDEN_ANGLE if angles == "golden" else math.pi / shots
    theta = (torch.arange(first, first + shots, dtype=torch.float64) * step)[:, None]
    along = _diameter(shape, oversampling)
    return _scaled([along * torch.sin(theta), along * torch.cos(theta)], shape)


def spiral(
    shape: tuple[int, int],
    shots: int,
    *,
    samples: int | None = None,
    turns: float | None = None,
    density: float = 1.0,
    oversampling: float = 1.0,
    angles: Angles = "uniform",
) -> Tensor:
    """Interleaved spirals from the centre outwards, 2-D: ``|k| = N/2 tau^density``, angle ``2 pi turns tau``.

    tau = t^(1 / (density + 1)), so that samples are nearly equally spaced along the arm. Fully sampled
    with the default turns, density N / (2 shots): neighbouring arms are one cycle apart at the edge.

    Args:
        shape: (y, x), in pixels.
        shots: number of interleaves.
        samples: of an interleaf; by default `oversampling` times its length in cycles.
        turns: of an interleaf about the centre; fewer than the default undersample, by their ratio.
        density: 1: Archimedean, equally spaced arms; above 1: denser in the centre, where spacing grows
            as ``|k|^((density - 1) / density)``.
        oversampling: samples per cycle along the arm, at least 1; unused if `samples` is given.
        angles: of the interleaves: ``uniform``, 2 pi / shots apart, or ``golden``, 2 pi 0.618 apart.

    Returns:
        (shots, samples, 2) float32, (y, x), cycles per field of view.

    Raises:
        InputError: a shape, number or angles that make no sense.
    """
    _check(shape, 2, shots)
    _check_oversampling(oversampling)
    if not (math.isfinite(density) and density >= 1):
        raise InputError(f"density: expected a finite number, at least 1 (Archimedean); found {density}")
    if angles not in ("golden", "uniform"):
        raise InputError(f"angles: expected 'golden' or 'uniform', found {angles!r}")
    full = density * max(shape) / (2 * shots)
    turns = _turns(full if turns is None else turns)
    length = max(shape) / 2 * math.hypot(1, 2 * math.pi * turns / (density + 1))
    count = _samples(math.ceil(oversampling * length) + 1 if samples is None else samples)
    tau = torch.linspace(0, 1, count, dtype=torch.float64) ** (1 / (density + 1))
    step = 2 * GOLDEN_ANGLE if angles == "golden" else 2 * math.pi / shots
    theta = 2 * math.pi * turns * tau + (torch.arange(shots, dtype=torch.float64) * step)[:, None]
    radius = tau**density / 2
    return _scaled([radius * torch.sin(theta), radius * torch.cos(theta)], shape)


def kooshball(shape: tuple[int, int, int], shots: int, *, oversampling: float = 2.0, first: int = 0) -> Tensor:
    """Full-diameter spokes through the centre, 3-D, in directions by the golden means.

    Spoke m points to z = frac(m 0.4656), azimuth 2 pi frac(m 0.6823), which covers the hemisphere evenly for any
    number of spokes. Fully sampled with ``shots >= pi/2 N^2``, far more than is ever measured.
    Chan et al., Magn Reson Med 61:354 (2009), eqs. 4 and 5.

    Args:
        shape: (z, y, x), in pixels.
        shots: number of spokes.
        oversampling: samples per cycle along the readout, at least 1.
        first: m of the first spoke.

    Returns:
        (shots, S, 3) float32, (z, y, x), cycles per field of view; S = round(oversampling max N).

    Raises:
        InputError: a shape or number that makes no sense.
    """
    _check(shape, 3, shots)
    z, azimuth = _golden_directions(shots, first)
    along = _diameter(shape, oversampling)
    across = along * (1 - z.square()).sqrt()
    return _scaled([along * z, across * torch.sin(azimuth), across * torch.cos(azimuth)], shape)


def stack_of_stars(
    shape: tuple[int, int, int],
    shots: int,
    *,
    oversampling: float = 2.0,
    angles: Angles = "golden",
    rotate: bool = False,
) -> Tensor:
    """The spokes of `radial` in (y, x), repeated at every whole k_z from -(N_z // 2).

    Args:
        shape: (z, y, x), in pixels.
        shots: spokes of one partition; fully sampled with pi/2 N.
        oversampling: samples per cycle along the readout, at least 1.
        angles: see `radial`.
        rotate: partitions continue the golden series instead of repeating the same angles, so that
            undersampling differs between them.

    Returns:
        (N_z shots, S, 3) float32, (z, y, x), cycles per field of view, partition by partition.

    Raises:
        InputError: a shape, number or angles that make no sense; rotate with uniform angles.
    """
    _check(shape, 3, shots)
    if rotate and angles != "golden":
        raise InputError("rotate: partitions continue a golden series; expected angles='golden', found 'uniform'")
    plane = (shape[1], shape[2])
    stars = []
    for partition in range(shape[0]):
        star = radial(plane, shots, oversampling=oversampling, angles=angles, first=partition * shots if rotate else 0)
        height = torch.full_like(star[..., :1], partition - shape[0] // 2)
        stars.append(torch.cat([height, star], -1))
    return torch.cat(stars)


def cones(
    shape: tuple[int, int, int], shots: int, *, samples: int | None = None, turns: float = 2.0, first: int = 0
) -> Tensor:
    """Spirals on cones about the z axis, from the centre outwards, 3-D, in directions by the golden means.

    ``k = N/2 tau (cos theta, sin theta sin(phi + 2 pi turns tau), sin theta cos(phi + 2 pi turns tau))``, and
    tau = sqrt(t), so that samples are nearly equally spaced far from the centre. With turns = 0 they are
    half-spokes, of which pi N^2 sample fully; each turn makes an arm longer, by up to 2 pi turns / 2, and so
    lowers the number needed in proportion, until neighbouring turns of a cone are a cycle apart (turns = N/2).
    The idea of Gurney et al., Magn Reson Med 55:575 (2006), without their design for gradient limits.

    Args:
        shape: (z, y, x), in pixels.
        shots: number of arms, each on a cone of its own.
        samples: of an arm; by default the length of the longest, in cycles.
        turns: about the axis, from the centre to the edge.
        first: number of the first arm in the golden series.

    Returns:
        (shots, samples, 3) float32, (z, y, x), cycles per field of view.

    Raises:
        InputError: a shape or number that makes no sense.
    """
    _check(shape, 3, shots)
    if turns != 0:
        _turns(turns)
    length = max(shape) / 2 * math.hypot(1, math.pi * turns)
    count = _samples(math.ceil(length) + 1 if samples is None else samples)
    z, azimuth = _golden_directions(shots, first)
    z = 2 * z - 1
    tau = torch.linspace(0, 1, count, dtype=torch.float64).sqrt()
    phi = azimuth + 2 * math.pi * turns * tau
    across = tau / 2 * (1 - z.square()).sqrt()
    return _scaled([tau / 2 * z, across * torch.sin(phi), across * torch.cos(phi)], shape)


def _golden_directions(shots: int, first: int) -> tuple[Tensor, Tensor]:
    """(shots, 1) float64 each: a height in [0, 1) and an azimuth in [0, 2 pi)."""
    index = torch.arange(first, first + shots, dtype=torch.float64)[:, None]
    return (index * GOLDEN_MEANS[0]) % 1, 2 * math.pi * ((index * GOLDEN_MEANS[1]) % 1)


def _diameter(shape: tuple[int, ...], oversampling: float) -> Tensor:
    """(S,) float64 from -1/2 to below 1/2, with the centre at index S//2."""
    _check_oversampling(oversampling)
    count = _samples(round(oversampling * max(shape)))
    return (torch.arange(count, dtype=torch.float64) - count // 2) / count


def _scaled(axes: list[Tensor], shape: tuple[int, ...]) -> Tensor:
    """From fractions of the extent of k-space to cycles per field of view."""
    return torch.stack([k * size for k, size in zip(axes, shape, strict=True)], -1).float()


def _check(shape: tuple[int, ...], ndim: int, shots: int) -> None:
    if len(shape) != ndim or any(size != int(size) or size < 2 for size in shape):
        axes = "(y, x)" if ndim == 2 else "(z, y, x)"
        raise InputError(f"shape: expected {axes}, at least 2 pixels each; found {tuple(shape)}")
    if shots != int(shots) or shots < 1:
        raise InputError(f"shots: expected a whole number, at least 1; found {shots}")


def _check_oversampling(oversampling: float) -> None:
    if not (math.isfinite(oversampling) and oversampling >= 1):
        raise InputError(
            f"oversampling: expected a finite number, at least 1 (below, readouts alias); found {oversampling}"
        )


def _samples(count: int) -> int:
    if count != int(count) or count < 2:
        raise InputError(f"samples: expected a whole number of samples per shot, at least 2; found {count}")
    return int(count)


def _turns(turns: float) -> float:
    if not (math.isfinite(turns) and turns > 0):
        raise InputError(f"turns: expected a finite number above 0; found {turns}")
    return turns
