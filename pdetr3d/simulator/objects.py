"""Builds the shapes of objects and clutter of the simulated world from frusta, whose sizes are shares of the box.

Vehicles are in ``vehicles.py``. The shapes show the heading: people wear open jackets and carry backpacks behind, and
hold their hands ahead or swing them; barriers have their stripes and their foot in front.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pdetr3d.simulator import constants as const
from pdetr3d.simulator import vehicles as vehicles
from pdetr3d.simulator.shapes import LEAVES, WINDOWS, Color, Frustum, Shape
from pdetr3d.simulator.vehicles import RED, RUBBER, WHITE

SKIN: Color = (212, 160, 128)
CLOTHES: tuple[Color, ...] = (
    (200, 60, 60), (50, 70, 150), (40, 40, 44), (220, 200, 60), (70, 110, 120), (60, 130, 80),
    (140, 80, 150), (120, 90, 60),
)  # fmt: skip
GRAY: Color = (150, 150, 148)  # backs of barriers


def _barrier(s: Shape, rng: np.random.Generator, subtype: str, attribute: str) -> None:
    """A barrier: the front is upright, has stripes, and stands on a foot that reaches forward; the back slopes."""
    color: Color = RED if subtype == "fence" else (226, 96, 24)
    body: Color = (182, 180, 172) if subtype == "concrete" else GRAY
    s.add((-1, 1), (-1, 1), (0.0, 0.16), body)
    low, thin = (0.16, 0.25) if subtype == "concrete" else (0.16, 0.6)
    for i in range(4):
        y0 = -1 + 0.5 * i
        front = {"front": color if i % 2 else WHITE}
        s.add((-1 + thin / 2, 0.2), (y0, y0 + 0.5), (low, 1.0), body, top_x=(-0.3, 0.2), reflectivity=0.3, faces=front)


def _rider(s: Shape, rng: np.random.Generator, seat: float, helmet: Color) -> None:
    """A rider, leaning forward with the arms at the handlebar."""
    shirt = CLOTHES[rng.integers(len(CLOTHES))]
    s.pair((-0.2, 0.15), (0.25, 0.55), (seat - 0.28, seat), (40, 44, 60))
    s.add((-0.36, -0.02), (-0.6, 0.6), (seat, 0.86), shirt, top_x=(-0.22, 0.1))
    s.add((-0.12, 0.12), (-0.26, 0.26), (0.86, 1.0), helmet, faces={"front": SKIN})


def _motorcycle(s: Shape, rng: np.random.Generator, subtype: str, attribute: str) -> None:
    """Scooter (small wheels, a shield before the knees) or motorcycle (large wheels, a tank)."""
    paint: Color = ((190, 30, 30), (30, 60, 150), (40, 40, 40), (220, 140, 30))[rng.integers(4)]
    rider = attribute == "cycle.with_rider"
    z = 0.62 if rider else 0.85  # height of the machine as a share of the box
    wheel = 0.34 if subtype == "scooter" else 0.5
    s.add((1.0 - wheel, 1.0), (-0.16, 0.16), (0.0, wheel * z), RUBBER)
    s.add((-1.0, wheel - 1.0), (-0.18, 0.18), (0.0, wheel * z), RUBBER)
    if subtype == "scooter":
        s.add((-0.9, 0.1), (-0.36, 0.36), (0.3 * z, 0.85 * z), paint, top_x=(-0.95, -0.15))
        s.add((0.1, 0.6), (-0.36, 0.36), (0.2 * z, 0.32 * z), paint)
        s.add((0.5, 0.62), (-0.55, 0.55), (0.25 * z, 0.9 * z), paint, top_x=(0.3, 0.4))
    else:
        s.add((-0.75, 0.55), (-0.34, 0.34), (0.28 * z, 0.85 * z), paint, top_x=(-0.8, 0.3))
    s.add((0.28, 0.42), (-1.0, 1.0), (0.9 * z, 1.0 * z), (60, 60, 60))
    s.add((0.46, 0.6), (-0.3, 0.3), (0.66 * z, 0.86 * z), (255, 250, 230), reflectivity=0.8)
    s.add((-0.98, -0.84), (-0.22, 0.22), (0.55 * z, 0.68 * z), RED, reflectivity=0.8)
    if rider:
        _rider(s, rng, 0.55, (30, 30, 34))
    else:
        s.add((0.3, 0.4), (-0.2, 0.2), (z, 1.0), (60, 60, 60))


def _bicycle(s: Shape, rng: np.random.Generator, subtype: str, attribute: str) -> None:
    paint: Color = ((40, 150, 160), (210, 210, 40), (200, 60, 140), (90, 200, 90))[rng.integers(4)]
    rider = attribute == "cycle.with_rider"
    z = 0.64 if rider else 0.95
    s.add((0.32, 1.0), (-0.08, 0.08), (0.0, 0.62 * z), RUBBER)
    s.add((-1.0, -0.32), (-0.08, 0.08), (0.0, 0.62 * z), RUBBER)
    s.add((-0.55, 0.5), (-0.12, 0.12), (0.45 * z, 0.72 * z), paint)
    s.add((0.34, 0.46), (-1.0, 1.0), (0.92 * z, z), (70, 70, 70))
    s.add((0.36, 0.44), (-0.1, 0.1), (0.6 * z, 1.0 if not rider else z), paint)
    s.add((0.44, 0.6), (-0.5, 0.5), (0.7 * z, 0.9 * z), (150, 120, 80))  # a basket
    s.add((-0.6, -0.5), (-0.2, 0.2), (0.5 * z, 0.7 * z), RED, reflectivity=0.8)
    s.add((-0.5, -0.2), (-0.25, 0.25), (0.8 * z, 0.9 * z), (30, 30, 30))
    if rider:
        _rider(s, rng, 0.58, ((240, 240, 240), (40, 160, 70), (200, 40, 40))[rng.integers(3)])


def _pedestrian(s: Shape, rng: np.random.Generator, subtype: str, attribute: str) -> None:
    """Bright shirt and face ahead, jacket (and often a backpack) behind; hands ahead when standing."""
    jacket, pants = CLOTHES[rng.integers(len(CLOTHES))], ((40, 44, 70), (30, 30, 32), (120, 110, 90))[rng.integers(3)]
    shirt = ((244, 244, 240), (236, 224, 180), (190, 220, 240))[rng.integers(3)]
    moving = attribute == "pedestrian.moving"
    step = rng.uniform(0.35, 0.7) if moving else 0.0
    side = rng.choice([-1.0, 1.0])  # the leg ahead; the arm of the other side swings ahead

    def mirrored(y0: float, y1: float, flip: float) -> tuple[float, float]:
        return (y0, y1) if flip > 0 else (-y1, -y0)

    for flip, shift in ((side, step), (-side, -step)):
        x = (-0.25 + shift, 0.2 + shift)
        s.add(x, mirrored(0.06, 0.5, flip), (0.0, 0.48), pants, top_x=(-0.2, 0.25), reflectivity=0.15)
        s.add((x[0], min(x[1] + 0.3, 1.0)), mirrored(0.06, 0.5, flip), (0.0, 0.06), (200, 200, 200))  # a shoe
        y = mirrored(0.66, 1.0, flip)
        if moving:
            hand = -0.9 * shift
            s.add((hand - 0.15, hand + 0.2), y, (0.42, 0.8), jacket, top_x=(-0.15, 0.2), faces={"bottom": SKIN})
        else:
            s.add((-0.18, 0.18), y, (0.56, 0.8), jacket)
            s.add((-0.1, 0.95), y, (0.54, 0.62), jacket, faces={"front": SKIN})
    s.add((-0.32, 0.32), (-0.62, 0.62), (0.46, 0.83), jacket, top_y=(-0.72, 0.72), faces={"front": shirt})
    hair: Color = ((40, 28, 20), (90, 60, 30), (20, 20, 20))[rng.integers(3)]
    s.add((-0.26, 0.3), (-0.25, 0.25), (0.85, 1.0), hair, faces={"front": SKIN})
    if rng.random() < 0.6:  # a backpack
        s.add((-1.0, -0.32), (-0.5, 0.5), (0.5, 0.8), CLOTHES[rng.integers(len(CLOTHES))])


def _traffic_cone(s: Shape, rng: np.random.Generator, subtype: str, attribute: str) -> None:
    """A cone tapers; a tube hardly does."""
    orange: Color = (238, 92, 16)
    s.add((-1, 1), (-1, 1), (0.0, 0.08), orange)
    radii = (0.8, 0.58, 0.42, 0.22) if subtype == "cone" else (0.5, 0.46, 0.43, 0.4)
    levels = ((0.08, 0.45, orange), (0.45, 0.7, WHITE), (0.7, 1.0, orange))
    for (z0, z1, color), r0, r1 in zip(levels, radii, radii[1:], strict=False):
        s.add((-r0, r0), (-r0, r0), (z0, z1), color, top_x=(-r1, r1), top_y=(-r1, r1),
              reflectivity=0.8 if color is WHITE else 0.35)  # fmt: skip


def _building(s: Shape, rng: np.random.Generator, subtype: str, attribute: str) -> None:
    wall: Color = ((168, 120, 100), (190, 184, 170), (140, 146, 152), (206, 190, 150), (120, 104, 96))[rng.integers(5)]
    s.add((-1, 1), (-1, 1), (0, 1), wall, texture=WINDOWS)


def _pole(s: Shape, rng: np.random.Generator, subtype: str, attribute: str) -> None:
    s.add((-0.3, 0.3), (-0.3, 0.3), (0, 1), (110, 112, 114))
    if rng.random() < 0.5:  # a sign plate
        s.add(
            (-0.3, 0.3),
            (-1, 1),
            (0.55, 0.72),
            ((30, 90, 170), (220, 220, 220), (200, 40, 40))[rng.integers(3)],
            reflectivity=0.9,
        )


def _bush(s: Shape, rng: np.random.Generator, subtype: str, attribute: str) -> None:
    green: Color = (int(rng.integers(40, 80)), int(rng.integers(90, 130)), int(rng.integers(36, 60)))
    s.add((-0.8, 0.8), (-0.8, 0.8), (0, 0.55), green, top_x=(-1, 1), top_y=(-1, 1), texture=LEAVES)
    s.add((-1, 1), (-1, 1), (0.55, 1), green, top_x=(-0.5, 0.5), top_y=(-0.5, 0.5), texture=LEAVES)


def _tree(s: Shape, rng: np.random.Generator, subtype: str, attribute: str) -> None:
    green: Color = (int(rng.integers(40, 80)), int(rng.integers(90, 130)), int(rng.integers(36, 60)))
    s.add((-0.1, 0.1), (-0.1, 0.1), (0, 0.5), (88, 66, 48))
    s.add((-0.7, 0.7), (-0.7, 0.7), (0.42, 0.7), green, top_x=(-1, 1), top_y=(-1, 1), texture=LEAVES)
    s.add((-1, 1), (-1, 1), (0.7, 1), green, top_x=(-0.4, 0.4), top_y=(-0.4, 0.4), texture=LEAVES)


def _crate(s: Shape, rng: np.random.Generator, subtype: str, attribute: str) -> None:
    color: Color = ((50, 96, 70), (110, 110, 114), (150, 60, 44), (70, 84, 110))[rng.integers(4)]
    s.add((-1, 1), (-1, 1), (0, 1), color, top_x=(-0.92, 0.92))


_BUILDERS: dict[str, Callable[[Shape, np.random.Generator, str, str], None]] = {
    "car": vehicles.car, "truck": vehicles.truck, "construction_vehicle": vehicles.construction_vehicle,
    "bus": vehicles.bus, "trailer": vehicles.trailer,
    "barrier": _barrier, "motorcycle": _motorcycle, "bicycle": _bicycle, "pedestrian": _pedestrian,
    "traffic_cone": _traffic_cone,
    "building": _building, "pole": _pole, "bush": _bush, "tree": _tree, "crate": _crate,
}  # fmt: skip
CLUTTER = ("building", "pole", "bush", "tree", "crate")


def build_shape(
    kind: str, size_m: tuple[float, float, float], rng: np.random.Generator, subtype: str = "", attribute: str = ""
) -> list[Frustum]:
    """Build the frusta of an object or piece of clutter.

    Objects stand BOX_BASE_M above the ground and fill their box up to BOX_MARGIN_M per side; clutter fills its box.

    Args:
        kind: a class of schema.CLASSES, or one of CLUTTER. size_m: (l, w, h). rng: draws colors and details.
        subtype: of the class (``subtypes.SUBTYPES``).
        attribute: nuScenes' attribute name, which decides on riders and postures.

    Returns:
        The frusta [m] in the object frame (see ``shapes.py``).
    """
    if kind in CLUTTER:
        shape = Shape(size_m, 0.0, 0.0)
    else:
        shape = Shape(size_m, const.BOX_MARGIN_M, const.BOX_BASE_M)
    _BUILDERS[kind](shape, rng, subtype, attribute)
    return shape.frusta
