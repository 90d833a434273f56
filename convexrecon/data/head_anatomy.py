"""A head in axial slices: scalp and skull, the folded cortex, deep grey matter and ventricles, vessels, lesions."""

import math

import numpy as np

from convexrecon.data.tissue_drawing import (
    Array,
    Draws,
    Space,
    ellipse,
    ellipse_window,
    inside,
    length,
    paint,
    smooth_step,
    tube,
)


def paint_head(draw: Draws, y: Array, x: Array, z: float, tissue: dict[str, float]) -> Array:
    """Axial slices from the basal ganglia (z = 0) to high above the ventricles (z = 1)."""
    at = Space.warped(draw, y, x, z, tilt=0.12, shift=0.025, warp=0.009)
    texture = at.field(0.02, 0.3, power=1.0, turns=6)
    top = 1 - 0.14 * z**2
    axis_y, axis_x = 0.9 * top * draw.uniform(0.95, 1.02), 0.73 * top * draw.uniform(0.95, 1.03)
    rho = length(at.Y / axis_y, at.X / (axis_x * (1 + 0.08 * at.Y))) + np.float32(1e-6)
    depth = length(at.Y, at.X) * (1 / rho - 1)
    image = np.zeros(depth.shape, dtype=np.float32)
    skull = _scalp(image, at, depth, texture, tissue)
    paint(image, inside(depth - skull), tissue["csf"] * (1 + 0.03 * texture))
    pial, brain = _cortex(at, depth - skull, np.arctan2(at.X / axis_x, -at.Y / axis_y))
    thickness = draw.uniform(0.026, 0.033) * (1 + 0.12 * at.field(0.2, 1.0, turns=2))
    white = inside(pial - thickness, 0.014)
    matter = tissue["grey"] + white * (tissue["white"] - tissue["grey"])
    paint(image, brain, matter * (1 + 0.05 * texture))
    _deep_structures(image, at, texture, tissue)
    _fine_structures(image, at, depth - skull, white * brain, tissue)
    return np.maximum(image, 0) * np.exp(0.12 * at.field(0.9, 2.7))


def _scalp(image: Array, at: Space, depth: Array, texture: Array, tissue: dict[str, float]) -> Array:
    """Paint skin, fat, temporal muscle, skull and marrow; return the depth of the skull's inner table."""
    slow = at.field(0.5, 2.7)
    fat = at.draw.uniform(0.03, 0.055) * (1 + 0.2 * slow) + 0.025 * np.maximum(at.Y, 0)
    side = np.exp(-(((at.Y + 0.25) / 0.22) ** 2)) * inside(np.abs(at.X) - 0.4, 0.3)
    temple = at.draw.uniform(0.03, 0.055) * (1 - at.z) * side
    bone = at.draw.uniform(0.06, 0.08) * (1 + 0.15 * at.field(0.4, 2.0))
    paint(image, inside(depth), tissue["skin"])
    paint(image, inside(depth - 0.013), tissue["fat"] * (1 + 0.12 * texture))
    paint(image, inside(depth - fat), tissue["muscle"] * (1 + 0.15 * texture))
    outer = fat + 0.008 + temple
    paint(image, inside(depth - outer), tissue["bone"])
    diploe = np.minimum(depth - outer, outer + bone - depth) - 0.017
    paint(image, inside(diploe, 0.012), tissue["marrow"] * (1 + 0.25 * texture))
    return np.asarray(outer + bone)


def _cortex(at: Space, depth: Array, angle: Array) -> tuple[Array, Array]:
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
    joined = 0.5 * smooth_step(0.75 - z, 0.5) - np.abs(at.Y + 0.02)
    falx = length(middle, np.maximum(joined, 0))
    offset = 2.0 * np.sign(middle)
    medial = _sulci(at, 2 * math.pi * at.Y / 0.17 + 1.3 * bend + offset, falx, (0.02, 0.2), 12)
    sylvian = (1 - z) * 0.012 * draw.uniform(0.7, 1.3)
    side = np.abs(at.X) + 0.02 * at.field(0.2, 0.8, turns=2)
    opercula = tube(at.Y, side, [(-0.12, 0.7, 2 * sylvian), (-0.06, 0.46, sylvian), (0.12, 0.43, 0.5 * sylvian)])
    if z > 0.5:
        opercula -= 1
    fissure = falx - 0.006 - 0.012 * inside(0.12 - hull, 0.2)
    pial = np.minimum(np.minimum(hull, fissure), np.minimum(np.minimum(lateral, medial), -opercula))
    return pial, inside(pial)


def _sulci(at: Space, phase: Array, depth: Array, depths: tuple[float, float], count: int) -> Array:
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
    return length(across, np.maximum(depth - reach, 0)) - width


def _deep_structures(image: Array, at: Space, texture: Array, tissue: dict[str, float]) -> None:
    """Ventricles, basal ganglia, thalamus and corpus callosum, shrinking towards the vertex."""
    draw, z = at.draw, at.z
    size = draw.uniform(0.7, 1.25)
    low = smooth_step(0.5 - z, 0.5)
    shrink = smooth_step(0.8 - z, 0.6)
    grain = 1 + 0.05 * texture
    X = np.abs(at.X + 0.012 * at.field(0.3, 1.5)) + 0.006 * at.field(0.15, 0.6)
    Y = at.Y + 0.006 * at.field(0.15, 0.6)
    paint(
        image,
        inside(ellipse(Y, X, (0.0, 0.0), (0.36, 0.28), 0) + 0.4 * (shrink - 1), 0.05),
        tissue["white"] * grain,
    )
    for centre, axes, angle, shade in (
        ((-0.02, 0.28), (0.19, 0.05), 0.22, 1.0),  # putamen
        ((0.0, 0.215), (0.1, 0.04), 0.35, 0.86),  # pallidum
        ((0.13, 0.1), (0.12, 0.075), -0.45, 1.0),  # thalamus
    ):
        nucleus = ellipse(Y, X, centre, axes, angle) + 0.08 * (low - 1)
        paint(image, inside(nucleus, 0.014), tissue["deep"] * shade * grain)
    # Negative radii are how a part that this level does not reach vanishes.
    lift = size * 0.035 * math.sin(math.pi * min(1.0, z / 0.7)) - 0.012
    caudate = [(-0.27, 0.125, 0.04 * low), (-0.17, 0.12, 0.045), (0.0, 0.15, 0.02), (0.12, 0.2, 0.01)]
    frontal = [(-0.34, 0.1, 0.01), (-0.26, 0.08, 0.034), (-0.16, 0.045, 0.022), (-0.08, 0.03, 0.008)]
    body = [(-0.16, 0.045, lift), (0.02, 0.055, 1.2 * lift), (0.2, 0.12, lift)]
    trigone = [(0.17, 0.14, 0.016), (0.26, 0.19, 0.036), (0.36, 0.2, 0.018), (0.45, 0.17, 0.002)]
    caudate_distance = tube(Y, X, caudate) + 0.06 * (shrink - 1)
    paint(image, inside(caudate_distance, 0.012), tissue["deep"] * grain)
    for part in (frontal, body, trigone):
        scaled = [(py, px, pr * size + 0.05 * (shrink - 1)) for py, px, pr in part]
        paint(image, inside(tube(Y, X, scaled)), tissue["csf"])
    plexus = tube(Y, X, [(0.2, 0.155, 0.006), (0.28, 0.19, 0.014)]) + 0.05 * (shrink - 1)
    paint(image, inside(plexus), tissue["grey"] * (1 + 0.4 * texture))
    third = tube(Y, X, [(-0.02, 0.0, 0.004), (0.1, 0.0, 0.012 * size), (0.2, 0.0, 0.006)]) + 0.03 * (low - 1)
    paint(image, inside(third), tissue["csf"])


def _fine_structures(image: Array, at: Space, hull: Array, white: Array, tissue: dict[str, float]) -> None:
    """Veins, perivascular spaces, lesions in the white matter, and vessels in the fissures."""
    draw = at.draw
    web = at.field(0.09, 0.3, power=0.5, turns=2)
    veins = np.abs(web) / (at.slope(web) + 1)
    gate = inside(at.field(0.2, 0.6, turns=2) - 0.6, 0.5)
    paint(image, 0.35 * inside(0.004 - veins) * gate * white, tissue["vessel"])
    spaces = at.field(0.025, 0.08, turns=3)
    paint(image, 0.5 * inside(spaces - 2.9, 0.5) * white, tissue["csf"])
    for _ in range(6):
        centre = draw.uniform(-0.45, 0.45), draw.uniform(-0.4, 0.4)
        axes = draw.uniform(0.008, 0.035), draw.uniform(0.008, 0.025)
        here = math.exp(-(((at.z - draw.uniform(0, 1)) / 0.15) ** 2))
        window, spot = ellipse_window(at, centre, axes, draw.uniform(0, 3))
        paint(image[window], here * inside(spot, 0.012) * white[window], tissue["lesion"])
    sinus = (
        np.minimum(0.5 * (0.05 - hull), 10 * hull)
        - np.abs(at.X)
        + np.where(at.Y > 0, np.float32(0.012), np.float32(-1))
    )
    paint(image, inside(sinus), tissue["vessel"])
    for _ in range(14):
        centre = draw.uniform(-0.6, 0.55), draw.uniform(-0.55, 0.55)
        window, spot = ellipse_window(at, centre, (0.008, 0.008), 0)
        paint(image[window], inside(spot) * (1 - white[window]), tissue["vessel"])
