"""Variable-density Poisson disc sampling of a grid, with an exact number of samples, in bounded time."""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

# A random sequential packing of discs of diameter d holds about 0.7 / d^2 of them per unit area. The search
# starts with a slope well above what that predicts; each pass then fills what the smaller radius allows.
_PACKING = 0.7
_FIRST_SLOPE = 2.5
_SHRINK = 0.92
_PASSES = 50
# Distances between grid points take few values near 1, so an exact radius makes the density fall in steps: from
# full to a checkerboard just outside the calibration square. A radius drawn from [r - 1/2, r] makes it fall
# smoothly, which gains up to 1 dB in CG-SENSE images at acceleration 4.
_DITHER = 0.5


def poisson_disc(shape: tuple[int, int], count: int, calibration: int, generator: torch.Generator) -> NDArray[np.bool_]:
    """Variable-density Poisson disc: exactly `count` samples, no two closer than a local radius.

    ``r(k) = max(1, 1 + slope * rho(k) - u(k))``, u uniform in [0, 1/2]; rho is the distance from the fully
    sampled square, 1 where an axis meets the edge of the grid. The slope is the largest that leaves room for
    `count` samples, approached from above: darts are thrown in random order until none fits, the slope shrinks by
    8 %, the gaps that opened are filled, and so on until `count` is reached. The corners, rho > 1, are left out
    (as by sigpy's `poisson`, whose law of r this is) unless `count` exceeds what is within. At slope 0
    every grid point fits, so a bounded number of passes suffices for any `count`.
    Bridson, ACM SIGGRAPH sketches (2007); Vasanawala et al., Proc. IEEE ISBI 1039 (2011).

    Args:
        shape: (y, x).
        count: number of samples, the calibration square included; at most y * x.
        calibration: side of the fully sampled square around (y//2, x//2), in samples. The central sample is
            always taken, so 0 acts as 1.
        generator: source of the random order and of u.

    Returns:
        (y, x) bool, DC at (y//2, x//2).
    """
    samples, rho = _calibration_square(shape, max(calibration, 1))
    order = torch.randperm(samples.size, generator=generator).numpy()
    dither = _DITHER * torch.rand(shape, generator=generator, dtype=torch.float64).numpy()
    first = _FIRST_SLOPE * _predicted_slope(rho, count)
    slopes = [*(first * _SHRINK**k for k in range(_PASSES)), 0.0]
    for slope, allowed in [*((s, rho <= 1) for s in slopes), (0.0, rho >= 0)]:
        missing = count - int(samples.sum())
        if missing <= 0:
            break
        radius = np.clip(1.0 + slope * rho - dither, 1.0, 1.0 + max(shape))
        fits = allowed & (distance_transform_edt(~samples) >= radius)
        _throw_darts(samples, radius, order[fits.reshape(-1)[order]], missing)
    return samples


def _calibration_square(shape: tuple[int, int], size: int) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """The fully sampled square, and the normalised distance rho from it, both (y, x)."""
    inside = []
    squared = np.zeros(shape)
    for axis, n in enumerate(shape):
        index = np.arange(n)
        start = n // 2 - size // 2
        inside.append((index >= start) & (index < start + size))
        outside = np.maximum(np.maximum(start - index, index - (start + size - 1)), 0).astype(float)
        outside /= max(outside.max(), 1.0)
        squared += np.expand_dims(outside**2, 1 - axis)
    return inside[0][:, None] & inside[1][None, :], np.sqrt(squared)


def _predicted_slope(rho: NDArray[np.float64], count: int) -> float:
    """The slope at which about `count` samples fit, by bisection on the packing density."""
    low, high = 0.0, 4.0 * max(rho.shape)
    for _ in range(30):
        middle = 0.5 * (low + high)
        fitting = np.minimum(1.0, _PACKING / (1.0 + middle * rho) ** 2)[rho <= 1].sum()
        low, high = (middle, high) if fitting > count else (low, middle)
    return high


def _throw_darts(
    samples: NDArray[np.bool_], radius: NDArray[np.float64], candidates: NDArray[np.int64], missing: int
) -> None:
    """Add to `samples`, in place, up to `missing` of the candidates, none within the radius of one before it."""
    reach = int(np.ceil(radius.max()))
    height, width = (n + 2 * reach for n in samples.shape)
    rows, columns = np.divmod(candidates, samples.shape[1])
    # Whole numbers decide: d^2 < r^2 is d^2 < ceil(r^2), so that few distinct discs serve every radius.
    limits = np.ceil(radius.reshape(-1)[candidates] ** 2 - 1e-9).astype(int)
    blocked = bytearray(height * width)  # read one by one much faster than an array; written through `grid`
    grid = np.frombuffer(blocked, dtype=np.uint8).reshape(height, width)
    discs: dict[int, NDArray[np.uint8]] = {}
    for row, column, limit in zip(rows.tolist(), columns.tolist(), limits.tolist(), strict=True):
        if blocked[(row + reach) * width + column + reach]:
            continue
        samples[row, column] = True
        missing -= 1
        if missing == 0:
            return
        disc = discs.get(limit)
        if disc is None:
            disc = discs[limit] = _disc(limit)
        r = len(disc) // 2
        window = grid[row + reach - r : row + reach + r + 1, column + reach - r : column + reach + r + 1]
        np.bitwise_or(window, disc, out=window)


def _disc(limit: int) -> NDArray[np.uint8]:
    """Ones where d^2 < limit, on the smallest odd square that holds them."""
    r = int(np.ceil(np.sqrt(limit))) - 1
    d = np.arange(-r, r + 1) ** 2
    return (d[:, None] + d[None, :] < limit).astype(np.uint8)
