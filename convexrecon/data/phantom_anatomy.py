"""A quality-assurance phantom: a filled container, inserts of other materials with sharp edges, fine combs.

Networks trained on heads alone blur such edges, and a phantom is what many trajectories are first tried on.
"""

import math

import numpy as np

from convexrecon.data.tissue_drawing import Array, Draws, Space, ellipse, inside, paint

_MATERIALS = ("bright", "air", "dark")
_INSERTS = 9
_COMBS = 3
# Thinnest and thickest teeth of combs: about one and five pixels at 128.
_TEETH = (0.012, 0.07)


def paint_phantom(draw: Draws, y: Array, x: Array, z: float, tissue: dict[str, float]) -> Array:
    """Axial slices of a cylinder whose inserts move and swell along it."""
    at = Space.warped(draw, y, x, z, tilt=math.pi, shift=0.02, warp=0.0)
    container = ellipse(at.Y, at.X, (0.0, 0.0), (draw.uniform(0.8, 0.95), draw.uniform(0.8, 0.95)), 0.0)
    image = np.zeros(container.shape, dtype=np.float32)
    paint(image, inside(container), tissue["fill"])
    within = container - 0.03
    for index in range(_INSERTS):
        along, across = _own_axes(at, reach=0.7)
        length, width = (size * (1 + 0.3 * (z - 0.5)) for size in draw.uniforms(2, 0.04, 0.3).tolist())
        is_round = draw.uniform(0, 1) < 0.6
        shape = ellipse(along, across, (0, 0), (length, width), 0) if is_round else _box(along, across, length, width)
        level = tissue[_MATERIALS[index % len(_MATERIALS)]] * draw.uniform(0.6, 1.2)
        paint(image, inside(np.minimum(shape, within)), level)
    for index in range(_COMBS):
        along, across = _own_axes(at, reach=0.55)
        tooth = draw.uniform(*_TEETH)
        teeth = tooth / 2 - np.abs(np.mod(across, 2 * tooth) - tooth)
        comb = np.minimum(teeth, _box(along, across, draw.uniform(0.06, 0.2), 6 * tooth))
        paint(image, inside(np.minimum(comb, within)), tissue[_MATERIALS[index % len(_MATERIALS)]])
    return np.maximum(image, 0) * np.exp(0.1 * at.field(0.9, 2.7))


def _own_axes(at: Space, reach: float) -> tuple[Array, Array]:
    """Coordinates around a random place within `reach`, at a random angle, that drifts along the cylinder."""
    draw = at.draw
    radius, turn = reach * math.sqrt(draw.uniform(0, 1)), draw.uniform(0, 2 * math.pi)
    drift, angle = draw.uniform(-0.15, 0.15) * (at.z - 0.5), draw.uniform(0, math.pi)
    dy = at.Y - (radius + drift) * math.sin(turn)
    dx = at.X - (radius + drift) * math.cos(turn)
    return dy * math.cos(angle) - dx * math.sin(angle), dy * math.sin(angle) + dx * math.cos(angle)


def _box(along: Array, across: Array, length: float, width: float) -> Array:
    """Distance, positive inside, to the sides of a rectangle of half-lengths (length, width)."""
    return np.minimum(length - np.abs(along), width - np.abs(across))
