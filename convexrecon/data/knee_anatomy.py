"""A knee in sagittal slices: bones, cartilage, menisci and fluid, ligaments and tendons, muscles in fat."""

import math

import numpy as np

from convexrecon.data.tissue_drawing import Array, Draws, Space, ellipse, inside, paint, smooth_step, tube


def paint_knee(draw: Draws, y: Array, x: Array, z: float, tissue: dict[str, float]) -> Array:
    """Sagittal slices, anterior to the left, from the lateral (z = 0) to the medial (z = 1) compartment."""
    at = Space.warped(draw, y, x, z, tilt=0.1, shift=0.03, warp=0.012)
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


def _knee_bones(at: Space, centre: float) -> tuple[dict[str, Array], Array]:
    """Signed distances, positive inside, to the outer surfaces of the bones, and to the notch."""
    draw, Y, X = at.draw, at.Y, at.X
    condyle = draw.uniform(0.29, 0.33) * (1 - 0.12 * centre)
    lean = draw.uniform(-0.04, 0.04)
    shaft = tube(Y, X, [(-1.1, -0.12 + lean, 0.145), (-0.55, -0.1, 0.16), (-0.2, -0.04, 0.26)])
    round_part = np.maximum(
        ellipse(Y, X, (-0.12, -0.08), (condyle * 0.93, condyle), 0.0),
        ellipse(Y, X, (-0.13, 0.1 - 0.05 * centre), (condyle * 0.87, condyle * 0.85), 0.0),
    )
    # In the notch between the condyles the femur ends higher, and leaves room for the cruciate ligaments.
    notch = ellipse(Y, X, (0.12, 0.12), (0.22, 0.26), 0.5) + 0.3 * (smooth_step(centre - 0.6, 0.35) - 1)
    femur = np.minimum(_blend(shaft, round_part, 0.08), -notch)
    plateau = (
        0.235 + 0.012 * np.cos(9 * X + draw.uniform(-1, 1)) * (1 - centre) - 0.05 * centre * np.exp(-((X / 0.08) ** 2))
    )
    head = ellipse(Y, X, (0.4, 0.0), (0.26, 0.335), 0.0)
    stem = tube(Y, X, [(0.35, -0.02, 0.24), (0.62, -0.1, 0.17), (1.1, -0.1 - lean, 0.15)])
    tibia = np.minimum(_blend(head, stem, 0.08), Y - plateau)
    kneecap = ellipse(
        Y, X, (draw.uniform(-0.34, -0.26), -0.5), (0.18 * (0.6 + 0.4 * centre), 0.08), draw.uniform(0.0, 0.2)
    )
    bones = {"femur": femur, "tibia": tibia, "patella": kneecap}
    if at.z < 0.35:
        fade = at.z / 0.35
        bones["fibula"] = tube(Y, X, [(0.48, 0.33, 0.07), (0.62, 0.31, 0.06), (1.1, 0.28, 0.05)]) - 0.08 * fade
    return bones, notch


def _blend(a: Array, b: Array, width: float) -> Array:
    """Smooth union of two shapes given by signed distances that are positive inside."""
    h = np.maximum(width - np.abs(a - b), 0) / np.float32(width)
    return np.asarray(np.maximum(a, b) + h * h * np.float32(width / 4))


def _soft_tissue(image: Array, at: Space, skin: Array, texture: Array, tissue: dict[str, float]) -> None:
    """Skin, subcutaneous fat with septa, muscles with fibres in sheaths of fat, popliteal vessels."""
    draw, Y, X = at.draw, at.Y, at.X
    lobes = at.field(0.07, 0.25, turns=2)
    septa = inside(0.003 - np.abs(lobes) / (at.slope(lobes) + 1)) * inside(at.field(0.2, 0.8) - 0.2, 0.6)
    paint(image, inside(skin), tissue["skin"])
    fat = tissue["fat"] * (1 + 0.06 * texture) * (1 - 0.45 * septa)
    paint(image, inside(skin - 0.014), fat)
    fascia = skin - 0.09 * (1 + 0.25 * at.field(0.6, 2.7))
    wiggle = 0.012 * at.field(0.2, 0.8)
    bundles = [
        at.field(0.03, 0.25, power=0.5, turns=3, angle=tilt + draw.uniform(-0.1, 0.1), stretch=7.0)
        for tilt in (1.45, 1.7)
    ]
    strands = [inside(fibres - 1.5, 0.8) for fibres in bundles]
    for points, bundle in (
        ([(-1.1, -0.36, 0.13), (-0.75, -0.38, 0.11), (-0.5, -0.36, 0.03)], 0),  # vastus and rectus femoris
        ([(-1.1, 0.2, 0.15), (-0.6, 0.26, 0.14), (-0.3, 0.33, 0.05)], 0),  # hamstrings, deep
        ([(-1.1, 0.5, 0.12), (-0.5, 0.5, 0.1), (0.0, 0.55, 0.04)], 1),  # hamstrings, superficial
        ([(-0.12, 0.42, 0.03), (0.15, 0.46, 0.12), (0.6, 0.44, 0.17), (1.1, 0.42, 0.17)], 1),  # gastrocnemius
        ([(0.3, 0.28, 0.03), (0.5, 0.24, 0.09), (1.1, 0.16, 0.12)], 1),  # popliteus and soleus
        ([(0.55, -0.33, 0.02), (0.8, -0.36, 0.09), (1.1, -0.36, 0.11)], 0),  # tibialis anterior
    ):
        moved = [(py, px + draw.uniform(-0.02, 0.02), pr * draw.uniform(0.85, 1.1)) for py, px, pr in points]
        belly = np.minimum(tube(Y, X, moved) + wiggle, fascia)
        value = tissue["muscle"] * (1 + 0.1 * bundles[bundle] + 0.06 * texture)
        paint(image, inside(belly), value + 0.5 * strands[bundle] * (tissue["fat"] - value))
        paint(image, 0.6 * inside(0.004 - np.abs(belly)), tissue["tendon"])
    bend = 0.35 + 0.05 * np.sin(3 * Y + draw.uniform(-1, 1)) + 0.15 * (at.z - 0.5)
    for offset, radius, level in ((0.0, 0.02, 0.3), (0.06, 0.026, 1.0)):
        wall = radius - np.abs(X - bend - offset)
        present = math.exp(-(((at.z - 0.5) / 0.2) ** 2))
        paint(image, present * inside(wall) * inside(skin), tissue["vessel"] * level)
        paint(image, 0.5 * present * inside(0.004 - np.abs(wall)) * inside(skin), tissue["tendon"])


def _joint(
    image: Array, at: Space, bones: dict[str, Array], notch: Array, texture: Array, tissue: dict[str, float]
) -> None:
    """Synovial fluid, cartilage on the facing surfaces, and the wedges of the two menisci."""
    draw, Y, X = at.draw, at.Y, at.X
    femur, tibia, patella = bones["femur"], bones["tibia"], bones["patella"]
    recess = tube(Y, X, [(-0.62, -0.33, 0.012), (-0.42, -0.38, 0.02), (-0.12, -0.42, 0.012)])
    gap = np.minimum(np.minimum(femur + 0.1, tibia + 0.1), 0.4 - np.abs(X))
    paint(image, inside(np.maximum(recess, gap)), tissue["fluid"] * (1 + 0.05 * texture))
    paint(image, inside(np.minimum(notch, -tibia - 0.04), 0.02), 0.75 * tissue["fat"] * (1 + 0.1 * texture))
    # The meniscus fills the wedge between the curved condyle and the flat plateau, thick end outside.
    wedge = np.minimum(-femur - 0.03, -tibia - 0.024)
    rim = 0.33 * draw.uniform(0.92, 1.0) - 4.0 * (Y - 0.2) ** 2
    outside = np.abs(X + 0.02)
    horn = np.minimum(np.minimum(rim - outside, outside - 0.14), -notch - 0.02)
    streak = at.field(0.02, 0.1, turns=3)
    paint(image, inside(np.minimum(wedge, horn)), tissue["meniscus"] * (1 + 0.3 * streak))
    tear = tube(Y, X, [(0.215, draw.uniform(0.2, 0.26), 0.005), (0.2, 0.3, 0.005)])
    paint(image, draw.uniform(0, 0.9) * inside(tear) * inside(horn), tissue["fluid"])
    layers = tissue["cartilage"] * (1 + 0.06 * texture)
    thick = draw.uniform(0.026, 0.036) * (1 + 0.2 * at.field(0.2, 0.8))
    for surface, facing in (
        (femur, np.minimum(Y + 0.2, -notch - 0.04)),
        (tibia, np.minimum(0.3 - Y, 0.31 - np.abs(X))),
        (patella, X + 0.5),
    ):
        cover = np.minimum(surface + thick, 0.5 * facing)
        paint(image, inside(cover, 0.008), layers)


def _paint_bones(image: Array, at: Space, bones: dict[str, Array], texture: Array, tissue: dict[str, float]) -> None:
    """A dark cortex, thick on the shafts, around marrow crossed by trabeculae and growth-plate scars."""
    shaft = np.clip((np.abs(at.Y) - 0.45) / 0.4, 0, 1)
    cortex = 0.012 + 0.026 * shaft
    angle = at.draw.uniform(1.3, 1.8)
    along = at.field(0.025, 0.08, turns=4, angle=angle, stretch=3.0)
    across = at.field(0.025, 0.08, turns=4, angle=angle + 1.57, stretch=3.0)
    trabeculae = (1 - shaft) * inside(0.28 - np.minimum(np.abs(along), np.abs(across)), 0.3)
    patches = at.field(0.12, 0.7, power=0.5, turns=2)
    marrow = tissue["marrow"] * (1 + 0.05 * texture + 0.06 * patches - 0.22 * trabeculae)
    plate = np.where(at.Y < 0, np.float32(-0.36), np.float32(0.46))
    scar = at.Y - plate - 0.015 * at.field(0.2, 0.8)
    for bone in bones.values():
        paint(image, inside(bone), tissue["bone"])
        paint(image, inside(bone - cortex, 0.01), marrow)
        paint(image, 0.5 * inside(0.005 - np.abs(scar)) * inside(bone - cortex), tissue["bone"])


def _ligaments(image: Array, at: Space, centre: float, tissue: dict[str, float]) -> None:
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
            paint(image, presence * inside(tube(Y, X, points), 0.008), value)
