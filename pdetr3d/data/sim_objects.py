"""What the objects and the clutter of the simulated world look like: class by class, frusta in shares of the box.

Heading shows in shape (hood below cabin, cab ahead of cargo) and in color (white lights ahead, red ones behind).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pdetr3d.data import sim_constants as const
from pdetr3d.data.sim_shapes import LEAVES, WINDOWS, Color, Frustum, Range, Shape

GLASS: Color = (38, 48, 60)
RUBBER: Color = (22, 22, 24)
WHITE: Color = (240, 240, 236)
RED: Color = (205, 18, 22)
SKIN: Color = (212, 160, 128)
PAINTS: tuple[Color, ...] = (
    (232, 232, 230), (182, 186, 190), (52, 54, 58), (112, 116, 120), (30, 52, 104), (148, 28, 30),
    (36, 78, 60), (176, 160, 124),
)  # fmt: skip
CLOTHES: tuple[Color, ...] = (
    (200, 60, 60), (50, 70, 150), (40, 40, 44), (220, 200, 60), (230, 230, 230), (60, 130, 80),
    (140, 80, 150), (120, 90, 60),
)  # fmt: skip


def _wheels(s: Shape, axles: tuple[float, ...], half_length: float, height: float) -> None:
    """Wheels left and right at each axle."""
    for axle in axles:
        s.pair((axle - half_length, axle + half_length), (0.68, 0.98), (0.0, height), RUBBER)


def _lights(s: Shape, front_z: Range, rear_z: Range) -> None:
    """White headlights and red tail lights at the ends of the box, and a bright rear plate."""
    s.pair((0.94, 1.0), (0.52, 0.95), front_z, (255, 252, 232), 0.7)
    s.pair((-1.0, -0.94), (0.5, 0.97), rear_z, RED, 0.7)
    s.add((-1.0, -0.95), (-0.22, 0.22), (rear_z[0] - 0.1, rear_z[0] - 0.02), WHITE, reflectivity=0.95)


def _darker(color: Color) -> Color:
    return int(color[0] * 0.75), int(color[1] * 0.75), int(color[2] * 0.75)


def _car(s: Shape, rng: np.random.Generator, rider: bool) -> None:
    paint = PAINTS[rng.integers(len(PAINTS))]
    glass = {"front": (90, 122, 150), "rear": GLASS, "left": GLASS, "right": GLASS}
    _wheels(s, (-0.6, 0.62), 0.14, 0.38)
    s.add((-0.97, 0.97), (-0.97, 0.97), (0.13, 0.52), paint, top_x=(-0.97, 0.93), faces={"front": _darker(paint)})
    kind = rng.integers(3)
    if kind == 0:  # sedan: trunk a little higher than the hood
        s.add((-0.97, -0.5), (-0.95, 0.95), (0.5, 0.62), paint)
        s.add((-0.66, 0.42), (-0.94, 0.94), (0.5, 1.0), paint, top_x=(-0.42, 0.06), top_y=(-0.78, 0.78), faces=glass)
    elif kind == 1:  # hatchback or SUV: steep rear
        s.add((-0.95, 0.42), (-0.95, 0.95), (0.5, 1.0), paint, top_x=(-0.82, 0.1), top_y=(-0.82, 0.82), faces=glass)
    else:  # van: short hood
        s.add((-0.96, 0.66), (-0.96, 0.96), (0.5, 1.0), paint, top_x=(-0.93, 0.36), top_y=(-0.86, 0.86), faces=glass)
    s.add((0.93, 0.99), (-0.48, 0.48), (0.22, 0.42), RUBBER)
    _lights(s, (0.36, 0.48), (0.42, 0.56))


def _truck(s: Shape, rng: np.random.Generator, rider: bool) -> None:
    paint = PAINTS[rng.integers(len(PAINTS))]
    if rng.random() < 0.35:  # pickup
        _wheels(s, (-0.6, 0.62), 0.13, 0.36)
        s.add((-0.98, 0.97), (-0.97, 0.97), (0.18, 0.5), paint)
        s.add((-0.98, -0.2), (-0.97, -0.85), (0.5, 0.62), paint)
        s.add((-0.98, -0.2), (0.85, 0.97), (0.5, 0.62), paint)
        s.add((-0.98, -0.92), (-0.9, 0.9), (0.5, 0.62), paint)
        s.add((-0.2, 0.5), (-0.93, 0.93), (0.5, 1.0), paint, top_x=(-0.12, 0.25), top_y=(-0.82, 0.82),
              faces={"front": (90, 122, 150), "rear": GLASS, "left": GLASS, "right": GLASS})  # fmt: skip
        s.add((0.5, 0.95), (-0.93, 0.93), (0.5, 0.58), paint)
        _lights(s, (0.38, 0.5), (0.38, 0.52))
        return
    cargo: Color = ((236, 236, 232), (198, 200, 204), (188, 170, 134), (72, 104, 150))[rng.integers(4)]
    _wheels(s, (-0.7, -0.45, 0.7), 0.09, 0.28)
    s.add((-0.97, 0.96), (-0.7, 0.7), (0.16, 0.3), (60, 60, 62))
    s.add((0.56, 0.98), (-0.95, 0.95), (0.14, 0.78), paint, top_x=(0.58, 0.92))
    s.add((0.9, 0.985), (-0.85, 0.85), (0.46, 0.72), (90, 122, 150), top_x=(0.9, 0.95))
    s.pair((0.68, 0.86), (0.94, 0.99), (0.46, 0.7), GLASS)
    s.add((-0.99, 0.48), (-1.0, 1.0), (0.28, 1.0), cargo)
    _lights(s, (0.2, 0.3), (0.18, 0.27))


def _construction_vehicle(s: Shape, rng: np.random.Generator, rider: bool) -> None:
    paint: Color = ((236, 176, 24), (232, 130, 28), (220, 190, 50))[rng.integers(3)]
    s.pair((-0.95, 0.45), (0.6, 1.0), (0.0, 0.24), (40, 40, 42))
    s.add((-1.0, 0.1), (-0.9, 0.9), (0.26, 0.56), paint, top_x=(-0.92, 0.1))
    s.add((-0.3, 0.16), (0.1, 0.88), (0.56, 0.94), GLASS, top_x=(-0.26, 0.1), faces={"top": paint, "rear": paint})
    s.add((0.0, 0.2), (-0.3, 0.0), (0.4, 1.0), paint, top_x=(0.42, 0.58))
    s.add((0.78, 0.94), (-0.26, -0.02), (0.12, 0.98), paint, top_x=(0.46, 0.6))
    s.add((0.68, 1.0), (-0.55, 0.25), (0.0, 0.2), (70, 66, 60))


def _bus(s: Shape, rng: np.random.Generator, rider: bool) -> None:
    paint: Color = ((206, 40, 36), (40, 120, 70), (36, 84, 170), (236, 170, 40))[rng.integers(4)]
    _wheels(s, (-0.58, 0.62), 0.07, 0.28)
    s.add((-0.98, 0.98), (-0.985, 0.985), (0.1, 0.94), paint, faces={"top": (226, 226, 226)})
    s.add((-0.75, -0.25), (-0.6, 0.6), (0.94, 1.0), (210, 210, 210))
    s.pair((-0.94, 0.9), (0.97, 1.0), (0.48, 0.78), GLASS)
    s.add((0.96, 1.0), (-0.92, 0.92), (0.4, 0.78), (100, 136, 164))
    s.add((0.96, 1.0), (-0.6, 0.6), (0.82, 0.92), (250, 170, 30))
    s.add((-1.0, -0.96), (-0.6, 0.6), (0.56, 0.74), GLASS)
    _lights(s, (0.17, 0.25), (0.25, 0.36))


def _trailer(s: Shape, rng: np.random.Generator, rider: bool) -> None:
    paint: Color = ((236, 236, 238), (200, 204, 210), (60, 110, 170), (190, 130, 60))[rng.integers(4)]
    _wheels(s, (-0.84, -0.64, -0.44), 0.07, 0.27)
    s.pair((0.42, 0.5), (0.5, 0.7), (0.0, 0.3), (50, 50, 52))
    s.add((-0.97, 0.98), (-0.6, 0.6), (0.24, 0.32), (60, 60, 62))
    s.add((-0.99, 1.0), (-1.0, 1.0), (0.32, 1.0), paint, faces={"rear": _darker(paint)})
    s.pair((-0.99, 0.98), (0.985, 1.0), (0.33, 0.38), RED, 0.6)
    s.pair((-1.0, -0.97), (0.5, 0.97), (0.2, 0.32), RED, 0.7)
    s.add((-0.995, -0.985), (-0.02, 0.02), (0.34, 0.98), (40, 40, 40))


def _barrier(s: Shape, rng: np.random.Generator, rider: bool) -> None:
    kind = rng.integers(3)
    if kind == 0:  # concrete
        s.add((-1, 1), (-1, 1), (0.0, 0.35), (176, 174, 166), top_x=(-0.6, 0.6))
        s.add((-0.6, 0.6), (-1, 1), (0.35, 1.0), (186, 184, 176), top_x=(-0.4, 0.4))
        return
    color: Color = (226, 96, 24) if kind == 1 else (206, 30, 30)
    s.add((-1, 1), (-1, 1), (0.0, 0.2), color)
    for i in range(4):
        y0 = -1 + 0.5 * i
        s.add((-0.5, 0.5), (y0, y0 + 0.5), (0.2, 1.0), color if i % 2 else WHITE, reflectivity=0.5)


def _rider(s: Shape, rng: np.random.Generator, seat: float, helmet: Color) -> None:
    shirt = CLOTHES[rng.integers(len(CLOTHES))]
    s.pair((-0.2, 0.15), (0.25, 0.55), (seat - 0.28, seat), (40, 44, 60))
    s.add((-0.36, -0.02), (-0.6, 0.6), (seat, 0.86), shirt, top_x=(-0.22, 0.1))
    s.add((-0.12, 0.12), (-0.26, 0.26), (0.86, 1.0), helmet, faces={"front": SKIN})


def _motorcycle(s: Shape, rng: np.random.Generator, rider: bool) -> None:
    paint: Color = ((190, 30, 30), (30, 60, 150), (40, 40, 40), (220, 140, 30))[rng.integers(4)]
    z = 0.62 if rider else 0.85  # height of the machine as a share of the box
    s.add((0.5, 1.0), (-0.16, 0.16), (0.0, 0.5 * z), RUBBER)
    s.add((-1.0, -0.5), (-0.18, 0.18), (0.0, 0.5 * z), RUBBER)
    s.add((-0.75, 0.55), (-0.34, 0.34), (0.28 * z, 0.85 * z), paint, top_x=(-0.8, 0.3))
    s.add((0.28, 0.42), (-1.0, 1.0), (0.9 * z, 1.0 * z), (60, 60, 60))
    s.add((0.46, 0.6), (-0.3, 0.3), (0.66 * z, 0.86 * z), (255, 250, 230), reflectivity=0.8)
    s.add((-0.98, -0.84), (-0.22, 0.22), (0.55 * z, 0.68 * z), RED, reflectivity=0.8)
    if rider:
        _rider(s, rng, 0.55, (30, 30, 34))
    else:
        s.add((0.3, 0.4), (-0.2, 0.2), (z, 1.0), (60, 60, 60))


def _bicycle(s: Shape, rng: np.random.Generator, rider: bool) -> None:
    paint: Color = ((40, 150, 160), (210, 210, 40), (200, 60, 140), (90, 200, 90))[rng.integers(4)]
    z = 0.64 if rider else 0.95
    s.add((0.32, 1.0), (-0.08, 0.08), (0.0, 0.62 * z), RUBBER)
    s.add((-1.0, -0.32), (-0.08, 0.08), (0.0, 0.62 * z), RUBBER)
    s.add((-0.55, 0.5), (-0.12, 0.12), (0.45 * z, 0.72 * z), paint)
    s.add((0.34, 0.46), (-1.0, 1.0), (0.92 * z, z), (70, 70, 70))
    s.add((0.36, 0.44), (-0.1, 0.1), (0.6 * z, 1.0 if not rider else z), paint)
    s.add((-0.5, -0.2), (-0.25, 0.25), (0.8 * z, 0.9 * z), (30, 30, 30))
    if rider:
        _rider(s, rng, 0.58, ((240, 240, 240), (40, 160, 70), (200, 40, 40))[rng.integers(3)])


def _pedestrian(s: Shape, rng: np.random.Generator, rider: bool) -> None:
    shirt, pants = CLOTHES[rng.integers(len(CLOTHES))], ((40, 44, 70), (30, 30, 32), (120, 110, 90))[rng.integers(3)]
    step = rng.uniform(0.15, 0.75)
    s.add((-0.2, 0.25), (0.06, 0.5), (0.0, 0.48), pants, top_x=(-0.2, 0.25), reflectivity=0.15)
    s.add((step - 0.3, step + 0.15), (-0.5, -0.06), (0.0, 0.48), pants, top_x=(-0.2, 0.25), reflectivity=0.15)
    s.add((-0.32, 0.32), (-0.62, 0.62), (0.46, 0.83), shirt, top_y=(-0.72, 0.72))
    s.add((-0.15, 0.2), (0.66, 1.0), (0.42, 0.8), shirt, faces={"bottom": SKIN})
    s.add((-0.05, 0.3), (-1.0, -0.66), (0.42, 0.8), shirt, faces={"bottom": SKIN})
    hair: Color = ((40, 28, 20), (90, 60, 30), (20, 20, 20))[rng.integers(3)]
    s.add((-0.26, 0.3), (-0.25, 0.25), (0.85, 1.0), hair, faces={"front": SKIN})
    if rng.random() < 0.35:  # backpack
        s.add((-0.85, -0.32), (-0.45, 0.45), (0.52, 0.8), CLOTHES[rng.integers(len(CLOTHES))])


def _traffic_cone(s: Shape, rng: np.random.Generator, rider: bool) -> None:
    orange: Color = (238, 92, 16)
    s.add((-1, 1), (-1, 1), (0.0, 0.08), orange)
    for z0, z1, r0, r1, color in (
        (0.08, 0.45, 0.8, 0.58, orange),
        (0.45, 0.7, 0.58, 0.42, WHITE),
        (0.7, 1.0, 0.42, 0.22, orange),
    ):
        s.add(
            (-r0, r0),
            (-r0, r0),
            (z0, z1),
            color,
            top_x=(-r1, r1),
            top_y=(-r1, r1),
            reflectivity=0.8 if color is WHITE else 0.35,
        )


def _building(s: Shape, rng: np.random.Generator, rider: bool) -> None:
    wall: Color = ((168, 120, 100), (190, 184, 170), (140, 146, 152), (206, 190, 150), (120, 104, 96))[rng.integers(5)]
    s.add((-1, 1), (-1, 1), (0, 1), wall, texture=WINDOWS)


def _pole(s: Shape, rng: np.random.Generator, rider: bool) -> None:
    s.add((-0.3, 0.3), (-0.3, 0.3), (0, 1), (110, 112, 114))
    if rng.random() < 0.5:  # a sign plate
        s.add(
            (-0.3, 0.3),
            (-1, 1),
            (0.55, 0.72),
            ((30, 90, 170), (220, 220, 220), (200, 40, 40))[rng.integers(3)],
            reflectivity=0.9,
        )


def _bush(s: Shape, rng: np.random.Generator, rider: bool) -> None:
    green: Color = (int(rng.integers(40, 80)), int(rng.integers(90, 130)), int(rng.integers(36, 60)))
    s.add((-0.8, 0.8), (-0.8, 0.8), (0, 0.55), green, top_x=(-1, 1), top_y=(-1, 1), texture=LEAVES)
    s.add((-1, 1), (-1, 1), (0.55, 1), green, top_x=(-0.5, 0.5), top_y=(-0.5, 0.5), texture=LEAVES)


def _tree(s: Shape, rng: np.random.Generator, rider: bool) -> None:
    green: Color = (int(rng.integers(40, 80)), int(rng.integers(90, 130)), int(rng.integers(36, 60)))
    s.add((-0.1, 0.1), (-0.1, 0.1), (0, 0.5), (88, 66, 48))
    s.add((-0.7, 0.7), (-0.7, 0.7), (0.42, 0.7), green, top_x=(-1, 1), top_y=(-1, 1), texture=LEAVES)
    s.add((-1, 1), (-1, 1), (0.7, 1), green, top_x=(-0.4, 0.4), top_y=(-0.4, 0.4), texture=LEAVES)


def _crate(s: Shape, rng: np.random.Generator, rider: bool) -> None:
    color: Color = ((50, 96, 70), (110, 110, 114), (150, 60, 44), (70, 84, 110))[rng.integers(4)]
    s.add((-1, 1), (-1, 1), (0, 1), color, top_x=(-0.92, 0.92))


_BUILDERS: dict[str, Callable[[Shape, np.random.Generator, bool], None]] = {
    "car": _car, "truck": _truck, "construction_vehicle": _construction_vehicle, "bus": _bus, "trailer": _trailer,
    "barrier": _barrier, "motorcycle": _motorcycle, "bicycle": _bicycle, "pedestrian": _pedestrian,
    "traffic_cone": _traffic_cone,
    "building": _building, "pole": _pole, "bush": _bush, "tree": _tree, "crate": _crate,
}  # fmt: skip
CLUTTER = ("building", "pole", "bush", "tree", "crate")


def build_shape(
    kind: str, size_m: tuple[float, float, float], rng: np.random.Generator, rider: bool = False
) -> list[Frustum]:
    """Frusta [m] in the object frame: ``kind`` is a class of schema.CLASSES or one of CLUTTER, ``size_m`` (l, w, h).

    Objects stand BOX_BASE_M above the ground and fill their box up to BOX_MARGIN_M per side; clutter fills its box.
    """
    if kind in CLUTTER:
        shape = Shape(size_m, 0.0, 0.0)
    else:
        shape = Shape(size_m, const.BOX_MARGIN_M, const.BOX_BASE_M)
    _BUILDERS[kind](shape, rng, rider)
    return shape.frusta
