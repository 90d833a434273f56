"""Random head and knee anatomies as continuous functions of space, evaluated on any grid.

Nothing here lives on a grid: tissues are painted from distances to analytic boundaries, texture and folding
are random fields with finitely many Fourier modes, so that k-space can be computed on a finer grid than the
one that is reconstructed (no inverse crime: Guerquin-Kern et al., IEEE Trans Med Imaging 31:626, 2012).

Coordinates: y points down (head: anterior is up; knee, sagittal: superior is up), x right, in units in which
the object is about 2 tall; the slice position z in [0, 1] moves smoothly through the volume.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from convexrecon.errors import InputError
from convexrecon.seeding import generator

AnatomyKind = Literal["head", "knee"]
Array = NDArray[Any]  # float32; products with draws may be float64

_EDGE = 0.004  # width of a tissue boundary, a third of a pixel at 160 pixels
HALF_SIZE = {"head": (1.05, 0.9), "knee": (1.0, 0.98)}  # (y, x) of the smallest field of view
_TISSUES: dict[str, tuple[str, ...]] = {
    "head": ("skin", "fat", "muscle", "bone", "marrow", "csf", "grey", "white", "deep", "vessel", "lesion"),
    "knee": ("skin", "fat", "muscle", "bone", "marrow", "fluid", "cartilage", "meniscus", "tendon", "vessel"),
}
_CONTRASTS: dict[str, dict[str, tuple[float, ...]]] = {
    "head": {
        "t1": (0.6, 1.0, 0.42, 0.05, 0.62, 0.14, 0.5, 0.78, 0.56, 0.2, 0.45),
        "t2": (0.35, 0.6, 0.2, 0.04, 0.35, 1.0, 0.58, 0.4, 0.51, 0.06, 0.75),
        "flair": (0.5, 0.85, 0.35, 0.05, 0.5, 0.1, 0.72, 0.55, 0.66, 0.12, 1.0),
    },
    "knee": {
        "pd": (0.5, 0.95, 0.45, 0.05, 0.8, 0.75, 0.62, 0.1, 0.07, 0.12),
        "t1": (0.5, 1.0, 0.36, 0.04, 0.88, 0.25, 0.48, 0.09, 0.06, 0.12),
        "pdfs": (0.35, 0.22, 0.45, 0.05, 0.2, 1.0, 0.72, 0.1, 0.08, 0.7),
    },
}


@dataclass(frozen=True)
class Anatomy:
    """One subject: everything random about it follows from these parameters.

    Attributes:
        kind: "head" (axial slices) or "knee" (sagittal slices).
        contrast: "t1", "t2" or "flair" for a head; "pd", "t1" or "pdfs" for a knee.
        seed: of the subject's shape, tissues and phase.

    Raises:
        InputError: an unknown kind, or a contrast that this kind does not have.

    >>> subject = random_anatomy("head", seed=3)
    >>> subject.render((40, 36), supersampling=2).shape
    (80, 72)
    """

    kind: AnatomyKind
    contrast: str
    seed: int

    def __post_init__(self) -> None:
        if self.kind not in _CONTRASTS:
            raise InputError(f"anatomy: {self.kind!r}; expected one of {get_args(AnatomyKind)}")
        if self.contrast not in _CONTRASTS[self.kind]:
            known = tuple(_CONTRASTS[self.kind])
            raise InputError(f"contrast of a {self.kind}: {self.contrast!r}; expected one of {known}")

    def render(self, shape: tuple[int, int], *, position: float = 0.5, supersampling: int = 3) -> NDArray[np.complex64]:
        """The complex image on a grid, magnitude about 0 to 1; nothing of it lies outside the field of view.

        Args:
            shape: (y, x) pixels; the object is scaled to fit their field of view.
            position: slice position in [0, 1] through the volume.
            supersampling: samples per pixel along each axis.

        Returns:
            (y * supersampling, x * supersampling) complex64 at `coordinates`.
        """
        y, x = self.coordinates(shape, supersampling)
        draw = _Draws(generator(self.seed, "anatomy", self.kind))
        levels = zip(_TISSUES[self.kind], _CONTRASTS[self.kind][self.contrast], strict=True)
        tissue = {name: level * draw.uniform(0.9, 1.1) for name, level in levels}
        paint = _head if self.kind == "head" else _knee
        magnitude = paint(draw, y, x, position, tissue)
        return np.asarray(magnitude * np.exp(1j * smooth_phase(self.seed, y, x, position)), np.complex64)

    def coordinates(self, shape: tuple[int, int], supersampling: int = 1) -> tuple[Array, Array]:
        """Where `render` samples: y (Ny, 1) and x (1, Nx), the origin at index N//2."""
        pixel = max(2 * half / n for half, n in zip(HALF_SIZE[self.kind], shape, strict=True))
        return grid_coordinates((shape[0] * supersampling, shape[1] * supersampling), pixel / supersampling)


def random_anatomy(kind: AnatomyKind, seed: int) -> Anatomy:
    """A random subject of a kind, with a random contrast, determined by the seed."""
    if kind not in _CONTRASTS:
        raise InputError(f"anatomy: {kind!r}; expected one of {get_args(AnatomyKind)}")
    names = list(_CONTRASTS[kind])
    pick = int(torch.randint(len(names), (1,), generator=generator(seed, "contrast", kind)))
    return Anatomy(kind, names[pick], seed)


def grid_coordinates(size: tuple[int, int], pixel: float) -> tuple[Array, Array]:
    """Coordinates y (Ny, 1) and x (1, Nx) of a grid of square pixels with its origin at index N//2."""
    y, x = ((np.arange(n) - n // 2).astype(np.float32) * np.float32(pixel) for n in size)
    return y[:, None], x[None, :]


def smooth_phase(seed: int, y: Array, x: Array, position: float = 0.5) -> Array:
    """A smooth image phase in radians: low-order polynomial, slow waves and a susceptibility dipole."""
    draw = _Draws(generator(seed, "phase"))
    a, b, c, d, offset = (draw.uniform(-1, 1) for _ in range(5))
    polynomial = 3 * offset + a * y + b * x + 0.8 * c * x * y + 0.8 * d * (x**2 - y**2)
    waves = 0.5 * draw.field(0.8, 2.6, power=2)(y, x, position)
    cy, cx = draw.uniform(-0.9, -0.5), draw.uniform(-0.2, 0.2)
    dy, dx = y - cy, x - cx
    radius2 = dy**2 + dx**2 + 0.12**2
    dipole = draw.uniform(0.5, 1.5) * (1 - position / 2) * 0.12**2 * (dy**2 - dx**2) / radius2**2 * 4
    return np.asarray(polynomial + waves + dipole, dtype=np.float32)


@dataclass(frozen=True)
class _Field:
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
class _Draws:
    """Random numbers and fields of one subject, always drawn in the same order whatever the grid."""

    generator: torch.Generator

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=self.generator))

    def uniforms(self, count: int, low: float, high: float) -> Array:
        return np.asarray(low + (high - low) * torch.rand(count, generator=self.generator))

    def field(
        self, shortest: float, longest: float, power: float = 0.0, angle: float = 0.0, stretch: float = 1.0
    ) -> _Field:
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
        return _Field(ky[rows], kx[columns], amplitude[used].astype(np.complex64), turn[used])


def _inside(distance: Array, edge: float = _EDGE) -> Array:
    """1 where the signed distance is positive, 0 where negative, linear over `edge`."""
    return np.clip(distance / np.float32(edge) + np.float32(0.5), 0, 1)


def _paint(image: Array, cover: Array, value: float | Array) -> None:
    """Lay `value` over the image, in place, as opaque as `cover`."""
    image += cover * (value - image)


def _ellipse(y: Array, x: Array, centre: tuple[float, float], axes: tuple[float, float], angle: float) -> Array:
    """Approximate signed distance, positive inside, to an ellipse of half-axes (along y, along x)."""
    dy, dx = y - centre[0], x - centre[1]
    v = (dy * math.cos(angle) - dx * math.sin(angle)) / axes[0]
    u = (dy * math.sin(angle) + dx * math.cos(angle)) / axes[1]
    return (1 - _length(v, u)) * min(axes)


def _tube(y: Array, x: Array, points: list[tuple[float, float, float]]) -> Array:
    """Signed distance, positive inside, to a polyline of points (y, x, radius)."""
    best = np.full(np.broadcast_shapes(y.shape, x.shape), -np.inf, dtype=np.float32)
    for (y0, x0, r0), (y1, x1, r1) in pairwise(points):
        ey, ex = y1 - y0, x1 - x0
        scale = 1 / max(ey**2 + ex**2, 1e-9)
        t = np.clip((y - y0) * (ey * scale) + (x - x0) * (ex * scale), 0, 1)
        distance = r0 + t * (r1 - r0) - _length(y - y0 - t * ey, x - x0 - t * ex)
        np.maximum(best, distance, out=best)
    return best


def _length(a: Array, b: Array) -> Array:
    return np.asarray(np.sqrt(a * a + b * b))  # several times as fast as np.hypot


def _smooth_step(value: float, width: float) -> float:
    """0 below 0, 1 above `width`, smooth between."""
    t = min(max(value / width, 0.0), 1.0)
    return t * t * (3 - 2 * t)


@dataclass(frozen=True)
class _Space:
    """Where a slice is painted: the grid's y, x, the subject's own Y, X (warped) and its position z."""

    draw: _Draws
    y: Array
    x: Array
    Y: Array
    X: Array
    z: float

    @staticmethod
    def warped(draw: _Draws, y: Array, x: Array, z: float, tilt: float, shift: float, warp: float) -> "_Space":
        angle, dy, dx = draw.uniform(-tilt, tilt), draw.uniform(-shift, shift), draw.uniform(-shift, shift)
        Y = math.cos(angle) * y + math.sin(angle) * x + dy + warp * draw.field(0.8, 2.7)(y, x, z)
        X = math.cos(angle) * x - math.sin(angle) * y + dx + warp * draw.field(0.8, 2.7)(y, x, z)
        return _Space(draw, y, x, Y, X, z)

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
        return _length(gy, gx) / np.float32(2 * step)


def _spot(
    at: _Space, centre: tuple[float, float], axes: tuple[float, float], angle: float
) -> tuple[tuple[slice, slice], Array]:
    """A small ellipse, unwarped: the window of the grid that holds it, and its distance there."""
    reach = max(axes) + 0.02
    y0, y1 = np.searchsorted(at.y[:, 0], [centre[0] - reach, centre[0] + reach])
    x0, x1 = np.searchsorted(at.x[0], [centre[1] - reach, centre[1] + reach])
    window = slice(int(y0), int(y1)), slice(int(x0), int(x1))
    return window, _ellipse(at.y[window[0]], at.x[:, window[1]], centre, axes, angle)


def _head(draw: _Draws, y: Array, x: Array, z: float, tissue: dict[str, float]) -> Array:
    """Axial slices from the basal ganglia (z = 0) to high above the ventricles (z = 1)."""
    at = _Space.warped(draw, y, x, z, tilt=0.12, shift=0.025, warp=0.009)
    texture = at.field(0.02, 0.3, power=1.0, turns=6)
    top = 1 - 0.14 * z**2
    axis_y, axis_x = 0.9 * top * draw.uniform(0.95, 1.02), 0.73 * top * draw.uniform(0.95, 1.03)
    rho = _length(at.Y / axis_y, at.X / (axis_x * (1 + 0.08 * at.Y))) + np.float32(1e-6)
    depth = _length(at.Y, at.X) * (1 / rho - 1)
    image = np.zeros(depth.shape, dtype=np.float32)
    skull = _scalp(image, at, depth, texture, tissue)
    _paint(image, _inside(depth - skull), tissue["csf"] * (1 + 0.03 * texture))
    pial, brain = _cortex(at, depth - skull, np.arctan2(at.X / axis_x, -at.Y / axis_y))
    thickness = draw.uniform(0.026, 0.033) * (1 + 0.12 * at.field(0.2, 1.0, turns=2))
    white = _inside(pial - thickness, 0.014)
    matter = tissue["grey"] + white * (tissue["white"] - tissue["grey"])
    _paint(image, brain, matter * (1 + 0.05 * texture))
    _deep_structures(image, at, texture, tissue)
    _fine_structures(image, at, depth - skull, white * brain, tissue)
    return np.maximum(image, 0) * np.exp(0.12 * at.field(0.9, 2.7))


def _scalp(image: Array, at: _Space, depth: Array, texture: Array, tissue: dict[str, float]) -> Array:
    """Paint skin, fat, temporal muscle, skull and marrow; return the depth of the skull's inner table."""
    slow = at.field(0.5, 2.7)
    fat = at.draw.uniform(0.03, 0.055) * (1 + 0.2 * slow) + 0.025 * np.maximum(at.Y, 0)
    side = np.exp(-(((at.Y + 0.25) / 0.22) ** 2)) * _inside(np.abs(at.X) - 0.4, 0.3)
    temple = at.draw.uniform(0.03, 0.055) * (1 - at.z) * side
    bone = at.draw.uniform(0.06, 0.08) * (1 + 0.15 * at.field(0.4, 2.0))
    _paint(image, _inside(depth), tissue["skin"])
    _paint(image, _inside(depth - 0.013), tissue["fat"] * (1 + 0.12 * texture))
    _paint(image, _inside(depth - fat), tissue["muscle"] * (1 + 0.15 * texture))
    outer = fat + 0.008 + temple
    _paint(image, _inside(depth - outer), tissue["bone"])
    diploe = np.minimum(depth - outer, outer + bone - depth) - 0.017
    _paint(image, _inside(diploe, 0.012), tissue["marrow"] * (1 + 0.25 * texture))
    return np.asarray(outer + bone)


def _cortex(at: _Space, depth: Array, angle: Array) -> tuple[Array, Array]:
    """Distance to the nearest pial surface, and the brain's cover: folded by sulci that meander inwards.

    A sulcus is a line where a phase along the surface, bent by a random field, passes a multiple of 2 pi.
    """
    draw, z = at.draw, at.z
    hull = depth - 0.012 - 0.012 * np.abs(at.field(0.3, 2.0))
    bend = 1.9 * at.field(0.3, 1.0, power=1.0, turns=2) + 0.45 * at.field(0.09, 0.25, turns=3)
    count = round(draw.uniform(27, 33))
    lateral = _sulci(at, count * angle + bend, hull, (0.06, 0.38), count)
    # The hemispheres part along the falx, except where the corpus callosum joins them, and fold there too.
    middle = at.X + 0.012 * at.field(0.25, 0.9, turns=2)
    joined = 0.5 * _smooth_step(0.75 - z, 0.5) - np.abs(at.Y + 0.02)
    falx = _length(middle, np.maximum(joined, 0))
    offset = 2.0 * np.sign(middle)
    medial = _sulci(at, 2 * math.pi * at.Y / 0.17 + 1.3 * bend + offset, falx, (0.02, 0.2), 12)
    sylvian = (1 - z) * 0.012 * draw.uniform(0.7, 1.3)
    side = np.abs(at.X) + 0.02 * at.field(0.2, 0.8, turns=2)
    opercula = _tube(at.Y, side, [(-0.12, 0.7, 2 * sylvian), (-0.06, 0.46, sylvian), (0.12, 0.43, 0.5 * sylvian)])
    if z > 0.5:
        opercula -= 1
    fissure = falx - 0.006 - 0.012 * _inside(0.12 - hull, 0.2)
    pial = np.minimum(np.minimum(hull, fissure), np.minimum(np.minimum(lateral, medial), -opercula))
    return pial, _inside(pial)


def _sulci(at: _Space, phase: Array, depth: Array, depths: tuple[float, float], count: int) -> Array:
    """Distance to the walls of the sulci of a phase, negative within; each has its own depth and opening."""
    draw = at.draw
    turns = np.round(phase / np.float32(2 * math.pi))
    index = turns.astype(np.int64) % count
    sway = draw.uniforms(count, 0, 2 * math.pi)
    reach = depths[0] + (depths[1] - depths[0]) * draw.uniforms(count, 0, 1) ** 1.7
    reach = (reach * (1 + 0.3 * np.sin(sway + 2.5 * at.z)))[index]
    opening = (0.002 + 0.008 * draw.uniforms(count, 0, 1) ** 2)[index]
    across = np.abs(phase - np.float32(2 * math.pi) * turns) / (at.slope(phase) + 1)
    width = opening * (1.2 + 0.8 * np.clip(1 - depth / reach, 0, 1))
    return _length(across, np.maximum(depth - reach, 0)) - width


def _deep_structures(image: Array, at: _Space, texture: Array, tissue: dict[str, float]) -> None:
    """Ventricles, basal ganglia, thalamus and corpus callosum, shrinking towards the vertex."""
    draw, z = at.draw, at.z
    size = draw.uniform(0.7, 1.25)
    low = _smooth_step(0.5 - z, 0.5)
    shrink = _smooth_step(0.8 - z, 0.6)
    grain = 1 + 0.05 * texture
    X = np.abs(at.X + 0.012 * at.field(0.3, 1.5)) + 0.006 * at.field(0.15, 0.6)
    Y = at.Y + 0.006 * at.field(0.15, 0.6)
    _paint(
        image,
        _inside(_ellipse(Y, X, (0.0, 0.0), (0.36, 0.28), 0) + 0.4 * (shrink - 1), 0.05),
        tissue["white"] * grain,
    )
    for centre, axes, angle, shade in (
        ((-0.02, 0.28), (0.19, 0.05), 0.22, 1.0),  # putamen
        ((0.0, 0.215), (0.1, 0.04), 0.35, 0.86),  # pallidum
        ((0.13, 0.1), (0.12, 0.075), -0.45, 1.0),  # thalamus
    ):
        nucleus = _ellipse(Y, X, centre, axes, angle) + 0.08 * (low - 1)
        _paint(image, _inside(nucleus, 0.014), tissue["deep"] * shade * grain)
    # Negative radii are how a part that this level does not reach vanishes.
    lift = size * 0.035 * math.sin(math.pi * min(1.0, z / 0.7)) - 0.012
    caudate = [(-0.27, 0.125, 0.04 * low), (-0.17, 0.12, 0.045), (0.0, 0.15, 0.02), (0.12, 0.2, 0.01)]
    frontal = [(-0.34, 0.1, 0.01), (-0.26, 0.08, 0.034), (-0.16, 0.045, 0.022), (-0.08, 0.03, 0.008)]
    body = [(-0.16, 0.045, lift), (0.02, 0.055, 1.2 * lift), (0.2, 0.12, lift)]
    trigone = [(0.17, 0.14, 0.016), (0.26, 0.19, 0.036), (0.36, 0.2, 0.018), (0.45, 0.17, 0.002)]
    caudate_distance = _tube(Y, X, caudate) + 0.06 * (shrink - 1)
    _paint(image, _inside(caudate_distance, 0.012), tissue["deep"] * grain)
    for part in (frontal, body, trigone):
        scaled = [(py, px, pr * size + 0.05 * (shrink - 1)) for py, px, pr in part]
        _paint(image, _inside(_tube(Y, X, scaled)), tissue["csf"])
    plexus = _tube(Y, X, [(0.2, 0.155, 0.006), (0.28, 0.19, 0.014)]) + 0.05 * (shrink - 1)
    _paint(image, _inside(plexus), tissue["grey"] * (1 + 0.4 * texture))
    third = _tube(Y, X, [(-0.02, 0.0, 0.004), (0.1, 0.0, 0.012 * size), (0.2, 0.0, 0.006)]) + 0.03 * (low - 1)
    _paint(image, _inside(third), tissue["csf"])


def _fine_structures(image: Array, at: _Space, hull: Array, white: Array, tissue: dict[str, float]) -> None:
    """Veins, perivascular spaces, lesions in the white matter, and vessels in the fissures."""
    draw = at.draw
    web = at.field(0.09, 0.3, power=0.5, turns=2)
    veins = np.abs(web) / (at.slope(web) + 1)
    gate = _inside(at.field(0.2, 0.6, turns=2) - 0.6, 0.5)
    _paint(image, 0.35 * _inside(0.004 - veins) * gate * white, tissue["vessel"])
    spaces = at.field(0.025, 0.08, turns=3)
    _paint(image, 0.5 * _inside(spaces - 2.9, 0.5) * white, tissue["csf"])
    for _ in range(6):
        centre = draw.uniform(-0.45, 0.45), draw.uniform(-0.4, 0.4)
        axes = draw.uniform(0.008, 0.035), draw.uniform(0.008, 0.025)
        here = math.exp(-(((at.z - draw.uniform(0, 1)) / 0.15) ** 2))
        window, spot = _spot(at, centre, axes, draw.uniform(0, 3))
        _paint(image[window], here * _inside(spot, 0.012) * white[window], tissue["lesion"])
    sinus = (
        np.minimum(0.5 * (0.05 - hull), 10 * hull)
        - np.abs(at.X)
        + np.where(at.Y > 0, np.float32(0.012), np.float32(-1))
    )
    _paint(image, _inside(sinus), tissue["vessel"])
    for _ in range(14):
        centre = draw.uniform(-0.6, 0.55), draw.uniform(-0.55, 0.55)
        window, spot = _spot(at, centre, (0.008, 0.008), 0)
        _paint(image[window], _inside(spot) * (1 - white[window]), tissue["vessel"])


def _knee(draw: _Draws, y: Array, x: Array, z: float, tissue: dict[str, float]) -> Array:
    """Sagittal slices, anterior to the left, from the lateral (z = 0) to the medial (z = 1) compartment."""
    at = _Space.warped(draw, y, x, z, tilt=0.1, shift=0.03, warp=0.012)
    texture = at.field(0.02, 0.3, power=1.0, turns=6)
    centre = 1 - (2 * z - 1) ** 2  # 1 in the intercondylar notch, 0 at either side
    bones, notch = _knee_bones(at, centre)
    front = at.X + 0.62 - 0.1 * np.exp(-(((at.Y + 0.2) / 0.3) ** 2)) * 0.5 - 0.06 * at.Y
    back = 0.68 + 0.05 * np.cos(2.4 * at.Y + draw.uniform(-0.3, 0.3)) - at.X
    skin = np.minimum(front, back) + 0.015 * at.field(0.5, 2.7)
    image = np.zeros(skin.shape, dtype=np.float32)
    _soft_tissue(image, at, skin, texture, tissue)
    _joint(image, at, bones, notch, texture, tissue)
    _ligaments(image, at, centre, tissue)
    _paint_bones(image, at, bones, texture, tissue)
    # Both ends of the limb lie beyond the coils' reach.
    ends = np.clip((0.93 - np.abs(y)) / 0.3, 0, 1)
    return np.maximum(image, 0) * np.exp(0.12 * at.field(0.9, 2.7)) * ends**2 * (3 - 2 * ends)


def _knee_bones(at: _Space, centre: float) -> tuple[dict[str, Array], Array]:
    """Signed distances, positive inside, to the outer surfaces of the bones, and to the notch."""
    draw, Y, X = at.draw, at.Y, at.X
    condyle = draw.uniform(0.29, 0.33) * (1 - 0.12 * centre)
    lean = draw.uniform(-0.04, 0.04)
    shaft = _tube(Y, X, [(-1.1, -0.12 + lean, 0.145), (-0.55, -0.1, 0.16), (-0.2, -0.04, 0.26)])
    round_part = np.maximum(
        _ellipse(Y, X, (-0.12, -0.08), (condyle * 0.93, condyle), 0.0),
        _ellipse(Y, X, (-0.13, 0.1 - 0.05 * centre), (condyle * 0.87, condyle * 0.85), 0.0),
    )
    # In the notch between the condyles the femur ends higher, and leaves room for the cruciate ligaments.
    notch = _ellipse(Y, X, (0.12, 0.12), (0.22, 0.26), 0.5) + 0.3 * (_smooth_step(centre - 0.6, 0.35) - 1)
    femur = np.minimum(_blend(shaft, round_part, 0.08), -notch)
    plateau = (
        0.235 + 0.012 * np.cos(9 * X + draw.uniform(-1, 1)) * (1 - centre) - 0.05 * centre * np.exp(-((X / 0.08) ** 2))
    )
    head = _ellipse(Y, X, (0.4, 0.0), (0.26, 0.335), 0.0)
    stem = _tube(Y, X, [(0.35, -0.02, 0.24), (0.62, -0.1, 0.17), (1.1, -0.1 - lean, 0.15)])
    tibia = np.minimum(_blend(head, stem, 0.08), Y - plateau)
    kneecap = _ellipse(
        Y, X, (draw.uniform(-0.34, -0.26), -0.5), (0.18 * (0.6 + 0.4 * centre), 0.08), draw.uniform(0.0, 0.2)
    )
    bones = {"femur": femur, "tibia": tibia, "patella": kneecap}
    if at.z < 0.35:
        fade = at.z / 0.35
        bones["fibula"] = _tube(Y, X, [(0.48, 0.33, 0.07), (0.62, 0.31, 0.06), (1.1, 0.28, 0.05)]) - 0.08 * fade
    return bones, notch


def _blend(a: Array, b: Array, width: float) -> Array:
    """Smooth union of two shapes given by signed distances that are positive inside."""
    h = np.maximum(width - np.abs(a - b), 0) / np.float32(width)
    return np.asarray(np.maximum(a, b) + h * h * np.float32(width / 4))


def _soft_tissue(image: Array, at: _Space, skin: Array, texture: Array, tissue: dict[str, float]) -> None:
    """Skin, subcutaneous fat with septa, muscles with fibres in sheaths of fat, popliteal vessels."""
    draw, Y, X = at.draw, at.Y, at.X
    lobes = at.field(0.07, 0.25, turns=2)
    septa = _inside(0.003 - np.abs(lobes) / (at.slope(lobes) + 1)) * _inside(at.field(0.2, 0.8) - 0.2, 0.6)
    _paint(image, _inside(skin), tissue["skin"])
    fat = tissue["fat"] * (1 + 0.06 * texture) * (1 - 0.45 * septa)
    _paint(image, _inside(skin - 0.014), fat)
    fascia = skin - 0.09 * (1 + 0.25 * at.field(0.6, 2.7))
    wiggle = 0.012 * at.field(0.2, 0.8)
    bundles = [
        at.field(0.03, 0.25, power=0.5, turns=3, angle=tilt + draw.uniform(-0.1, 0.1), stretch=7.0)
        for tilt in (1.45, 1.7)
    ]
    strands = [_inside(fibres - 1.5, 0.8) for fibres in bundles]
    for points, bundle in (
        ([(-1.1, -0.36, 0.13), (-0.75, -0.38, 0.11), (-0.5, -0.36, 0.03)], 0),  # vastus and rectus femoris
        ([(-1.1, 0.2, 0.15), (-0.6, 0.26, 0.14), (-0.3, 0.33, 0.05)], 0),  # hamstrings, deep
        ([(-1.1, 0.5, 0.12), (-0.5, 0.5, 0.1), (0.0, 0.55, 0.04)], 1),  # hamstrings, superficial
        ([(-0.12, 0.42, 0.03), (0.15, 0.46, 0.12), (0.6, 0.44, 0.17), (1.1, 0.42, 0.17)], 1),  # gastrocnemius
        ([(0.3, 0.28, 0.03), (0.5, 0.24, 0.09), (1.1, 0.16, 0.12)], 1),  # popliteus and soleus
        ([(0.55, -0.33, 0.02), (0.8, -0.36, 0.09), (1.1, -0.36, 0.11)], 0),  # tibialis anterior
    ):
        moved = [(py, px + draw.uniform(-0.02, 0.02), pr * draw.uniform(0.85, 1.1)) for py, px, pr in points]
        belly = np.minimum(_tube(Y, X, moved) + wiggle, fascia)
        value = tissue["muscle"] * (1 + 0.1 * bundles[bundle] + 0.06 * texture)
        _paint(image, _inside(belly), value + 0.5 * strands[bundle] * (tissue["fat"] - value))
        _paint(image, 0.6 * _inside(0.004 - np.abs(belly)), tissue["tendon"])
    bend = 0.35 + 0.05 * np.sin(3 * Y + draw.uniform(-1, 1)) + 0.15 * (at.z - 0.5)
    for offset, radius, level in ((0.0, 0.02, 0.3), (0.06, 0.026, 1.0)):
        wall = radius - np.abs(X - bend - offset)
        present = math.exp(-(((at.z - 0.5) / 0.2) ** 2))
        _paint(image, present * _inside(wall) * _inside(skin), tissue["vessel"] * level)
        _paint(image, 0.5 * present * _inside(0.004 - np.abs(wall)) * _inside(skin), tissue["tendon"])


def _joint(
    image: Array, at: _Space, bones: dict[str, Array], notch: Array, texture: Array, tissue: dict[str, float]
) -> None:
    """Synovial fluid, cartilage on the facing surfaces, and the wedges of the two menisci."""
    draw, Y, X = at.draw, at.Y, at.X
    femur, tibia, patella = bones["femur"], bones["tibia"], bones["patella"]
    recess = _tube(Y, X, [(-0.62, -0.33, 0.012), (-0.42, -0.38, 0.02), (-0.12, -0.42, 0.012)])
    gap = np.minimum(np.minimum(femur + 0.1, tibia + 0.1), 0.4 - np.abs(X))
    _paint(image, _inside(np.maximum(recess, gap)), tissue["fluid"] * (1 + 0.05 * texture))
    _paint(image, _inside(np.minimum(notch, -tibia - 0.04), 0.02), 0.75 * tissue["fat"] * (1 + 0.1 * texture))
    # The meniscus fills the wedge between the curved condyle and the flat plateau, thick end outside.
    wedge = np.minimum(-femur - 0.03, -tibia - 0.024)
    rim = 0.33 * draw.uniform(0.92, 1.0) - 4.0 * (Y - 0.2) ** 2
    outside = np.abs(X + 0.02)
    horn = np.minimum(np.minimum(rim - outside, outside - 0.14), -notch - 0.02)
    streak = at.field(0.02, 0.1, turns=3)
    _paint(image, _inside(np.minimum(wedge, horn)), tissue["meniscus"] * (1 + 0.3 * streak))
    tear = _tube(Y, X, [(0.215, draw.uniform(0.2, 0.26), 0.005), (0.2, 0.3, 0.005)])
    _paint(image, draw.uniform(0, 0.9) * _inside(tear) * _inside(horn), tissue["fluid"])
    layers = tissue["cartilage"] * (1 + 0.06 * texture)
    thick = draw.uniform(0.026, 0.036) * (1 + 0.2 * at.field(0.2, 0.8))
    for surface, facing in (
        (femur, np.minimum(Y + 0.2, -notch - 0.04)),
        (tibia, np.minimum(0.3 - Y, 0.31 - np.abs(X))),
        (patella, X + 0.5),
    ):
        cover = np.minimum(surface + thick, 0.5 * facing)
        _paint(image, _inside(cover, 0.008), layers)


def _paint_bones(image: Array, at: _Space, bones: dict[str, Array], texture: Array, tissue: dict[str, float]) -> None:
    """A dark cortex, thick on the shafts, around marrow crossed by trabeculae and growth-plate scars."""
    shaft = np.clip((np.abs(at.Y) - 0.45) / 0.4, 0, 1)
    cortex = 0.012 + 0.026 * shaft
    angle = at.draw.uniform(1.3, 1.8)
    along = at.field(0.025, 0.08, turns=4, angle=angle, stretch=3.0)
    across = at.field(0.025, 0.08, turns=4, angle=angle + 1.57, stretch=3.0)
    trabeculae = (1 - shaft) * _inside(0.28 - np.minimum(np.abs(along), np.abs(across)), 0.3)
    patches = at.field(0.12, 0.7, power=0.5, turns=2)
    marrow = tissue["marrow"] * (1 + 0.05 * texture + 0.06 * patches - 0.22 * trabeculae)
    plate = np.where(at.Y < 0, np.float32(-0.36), np.float32(0.46))
    scar = at.Y - plate - 0.015 * at.field(0.2, 0.8)
    for bone in bones.values():
        _paint(image, _inside(bone), tissue["bone"])
        _paint(image, _inside(bone - cortex, 0.01), marrow)
        _paint(image, 0.5 * _inside(0.005 - np.abs(scar)) * _inside(bone - cortex), tissue["bone"])


def _ligaments(image: Array, at: _Space, centre: float, tissue: dict[str, float]) -> None:
    """Quadriceps and patellar tendons, and in the notch the two cruciate ligaments, with their strands."""
    Y, X = at.Y, at.X
    strands = at.field(0.02, 0.12, turns=3, angle=1.2, stretch=5.0)
    value = tissue["tendon"] * (1 + 0.5 * np.abs(strands))
    bands = [
        (1.0, [(-1.1, -0.5, 0.018), (-0.6, -0.52, 0.02), (-0.42, -0.53, 0.022)]),
        (1.0, [(-0.2, -0.53, 0.024), (0.2, -0.45, 0.02), (0.52, -0.3, 0.024)]),
        (centre**4, [(-0.1, 0.14, 0.035), (0.06, 0.02, 0.03), (0.24, -0.1, 0.035)]),
        (centre**4, [(-0.06, -0.02, 0.04), (0.06, 0.16, 0.035), (0.34, 0.29, 0.03)]),
    ]
    for presence, points in bands:
        if presence > 0.05:
            _paint(image, presence * _inside(_tube(Y, X, points), 0.008), value)
