"""What anatomies are drawn with: random fields, and tissues painted from distances to analytic boundaries.

Fields are sums of finitely many Fourier modes and shapes are signed distances: continuous functions of space,
evaluated on whatever grid is asked for. Axes and units are those of `anatomy`.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[Any]  # float32; products with draws may be float64

_EDGE = 0.004  # width of a tissue boundary, a third of a pixel at 160 pixels


@dataclass(frozen=True)
class Field:
    """A real random field of unit variance, sum of Fourier modes that turn with the slice position."""

    ky: Array
    kx: Array
    amplitude: NDArray[np.complex64]
    turn: Array

    def __call__(self, y: Array, x: Array, z: float) -> Array:
        rows = np.exp(np.complex64(1j) * (y.reshape(-1, 1) * self.ky))
        modes = self.amplitude * np.exp(np.complex64(1j) * (self.turn * np.float32(z)))
        left = rows @ modes
        # Re(ab) in one real product: half the work of the complex product.
        angle = self.kx[:, None] * x.reshape(1, -1)
        right = np.concatenate([np.cos(angle), -np.sin(angle)])
        return np.asarray(np.concatenate([left.real, left.imag], axis=1) @ right)


@dataclass(frozen=True)
class Draws:
    """Random numbers and fields of one subject, always drawn in the same order whatever the grid."""

    generator: torch.Generator

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=self.generator))

    def uniforms(self, count: int, low: float, high: float) -> Array:
        return np.asarray(low + (high - low) * torch.rand(count, generator=self.generator))

    def field(
        self, shortest: float, longest: float, power: float = 0.0, angle: float = 0.0, stretch: float = 1.0
    ) -> Field:
        """Wavelengths from shortest to longest, amplitude |k|^-power, `stretch`ed along `angle`."""
        step = 2 * math.pi / max(2.7, longest)
        count = math.ceil(2 * math.pi / shortest / step)
        ky = step * np.arange(-count, count + 1, dtype=np.float32)
        kx = step * np.arange(count + 1, dtype=np.float32)
        along = kx * math.cos(angle) + ky[:, None] * math.sin(angle)
        across = ky[:, None] * math.cos(angle) - kx * math.sin(angle)
        k = np.hypot(along * stretch, across)
        weight = np.where((k <= 2 * math.pi / shortest) & (k >= 2 * math.pi / longest), 1.0, 0.0)
        weight *= np.maximum(k, step) ** -power
        noise = torch.randn(*weight.shape, 2, generator=self.generator).numpy()
        turn = torch.randn(*weight.shape, generator=self.generator).numpy()
        amplitude = weight * (noise[..., 0] + 1j * noise[..., 1])
        amplitude /= math.sqrt(float(np.sum(np.abs(amplitude) ** 2)) / 2)
        rows, columns = weight.any(1), weight.any(0)
        used = np.ix_(rows, columns)
        return Field(ky[rows], kx[columns], amplitude[used].astype(np.complex64), turn[used])


def inside(distance: Array, edge: float = _EDGE) -> Array:
    """1 where the signed distance is positive, 0 where negative, linear over `edge`."""
    return np.clip(distance / np.float32(edge) + np.float32(0.5), 0, 1)


def paint(image: Array, cover: Array, value: float | Array) -> None:
    """Lay `value` over the image, in place, as opaque as `cover`."""
    image += cover * (value - image)


def ellipse(y: Array, x: Array, centre: tuple[float, float], axes: tuple[float, float], angle: float) -> Array:
    """Approximate signed distance, positive inside, to an ellipse of half-axes (along y, along x)."""
    dy, dx = y - centre[0], x - centre[1]
    v = (dy * math.cos(angle) - dx * math.sin(angle)) / axes[0]
    u = (dy * math.sin(angle) + dx * math.cos(angle)) / axes[1]
    return (1 - length(v, u)) * min(axes)


def tube(y: Array, x: Array, points: list[tuple[float, float, float]]) -> Array:
    """Signed distance, positive inside, to a polyline of points (y, x, radius)."""
    best = np.full(np.broadcast_shapes(y.shape, x.shape), -np.inf, dtype=np.float32)
    for (y0, x0, r0), (y1, x1, r1) in pairwise(points):
        ey, ex = y1 - y0, x1 - x0
        scale = 1 / max(ey**2 + ex**2, 1e-9)
        t = np.clip((y - y0) * (ey * scale) + (x - x0) * (ex * scale), 0, 1)
        distance = r0 + t * (r1 - r0) - length(y - y0 - t * ey, x - x0 - t * ex)
        np.maximum(best, distance, out=best)
    return best


def length(a: Array, b: Array) -> Array:
    """Length of the vectors (a, b)."""
    return np.asarray(np.sqrt(a * a + b * b))  # several times as fast as np.hypot


def smooth_step(value: float, width: float) -> float:
    """0 below 0, 1 above `width`, smooth between."""
    t = min(max(value / width, 0.0), 1.0)
    return t * t * (3 - 2 * t)


@dataclass(frozen=True)
class Space:
    """Where a slice is painted: the grid's y, x, the subject's own Y, X (warped) and its position z."""

    draw: Draws
    y: Array
    x: Array
    Y: Array
    X: Array
    z: float

    @staticmethod
    def warped(draw: Draws, y: Array, x: Array, z: float, tilt: float, shift: float, warp: float) -> "Space":
        angle, dy, dx = draw.uniform(-tilt, tilt), draw.uniform(-shift, shift), draw.uniform(-shift, shift)
        Y = math.cos(angle) * y + math.sin(angle) * x + dy + warp * draw.field(0.8, 2.7)(y, x, z)
        X = math.cos(angle) * x - math.sin(angle) * y + dx + warp * draw.field(0.8, 2.7)(y, x, z)
        return Space(draw, y, x, Y, X, z)

    def field(self, shortest: float, longest: float, power: float = 0.0, turns: float = 1.0, **fibre: float) -> Array:
        """A new random field of unit variance on the grid; `turns` says how fast it changes with z."""
        return self.draw.field(shortest, longest, power, **fibre)(self.y, self.x, turns * self.z)

    def slope(self, values: Array) -> Array:
        """Length of the gradient of a function sampled on the grid."""
        step = float(self.y[1, 0] - self.y[0, 0])
        gy = np.empty_like(values)
        gx = np.empty_like(values)
        gy[1:-1] = values[2:] - values[:-2]
        gx[:, 1:-1] = values[:, 2:] - values[:, :-2]
        gy[[0, -1]], gx[:, [0, -1]] = gy[[1, -2]], gx[:, [1, -2]]
        return length(gy, gx) / np.float32(2 * step)


def ellipse_window(
    at: Space, centre: tuple[float, float], axes: tuple[float, float], angle: float
) -> tuple[tuple[slice, slice], Array]:
    """A small ellipse, unwarped: the window of the grid that holds it, and its distance there."""
    reach = max(axes) + 0.02
    y0, y1 = np.searchsorted(at.y[:, 0], [centre[0] - reach, centre[0] + reach])
    x0, x1 = np.searchsorted(at.x[0], [centre[1] - reach, centre[1] + reach])
    window = slice(int(y0), int(y1)), slice(int(x0), int(x1))
    return window, ellipse(at.y[window[0]], at.x[:, window[1]], centre, axes, angle)
