"""Builds the shapes of the simulated world's vehicles from frusta, whose sizes are shares of the box.

Subtypes differ in outline, also from behind (height and slope of the cabin), so that images and near LiDAR points tell
them apart. The heading is visible in the shape (hood below the cabin, cab ahead of the cargo) and in colors (white
lights ahead, red ones behind).
"""

from __future__ import annotations

import numpy as np

from pdetr3d.simulator.shapes import Color, Range, Shape

GLASS: Color = (38, 48, 60)
WINDSHIELD: Color = (96, 130, 160)
RUBBER: Color = (22, 22, 24)
STEEL: Color = (60, 60, 62)
WHITE: Color = (240, 240, 236)
RED: Color = (205, 18, 22)
PAINTS: tuple[Color, ...] = (
    (232, 232, 230), (182, 186, 190), (52, 54, 58), (112, 116, 120), (30, 52, 104), (148, 28, 30),
    (36, 78, 60), (176, 160, 124),
)  # fmt: skip
WINDOWS = {"front": WINDSHIELD, "rear": GLASS, "left": GLASS, "right": GLASS}


def _wheels(s: Shape, axles: tuple[float, ...], half_length: float, height: float) -> None:
    """Add wheels left and right at each axle."""
    for axle in axles:
        s.pair((axle - half_length, axle + half_length), (0.68, 0.98), (0.0, height), RUBBER)


def _lights(s: Shape, front_z: Range, rear_z: Range) -> None:
    """Add white headlights, red tail lights, and a bright rear plate."""
    s.pair((0.94, 1.0), (0.5, 0.95), front_z, (255, 252, 232), 0.7)
    s.pair((-1.0, -0.94), (0.5, 0.97), rear_z, RED, 0.7)
    s.add((-1.0, -0.95), (-0.22, 0.22), (rear_z[0] - 0.1, rear_z[0] - 0.02), WHITE, reflectivity=0.95)


def _darker(color: Color, share: float = 0.75) -> Color:
    return int(color[0] * share), int(color[1] * share), int(color[2] * share)


def car(s: Shape, rng: np.random.Generator, subtype: str, attribute: str) -> None:
    """Hatchback (steep rear), sedan (trunk), SUV (high, dark sills), van (short hood, closed rear)."""
    paint = PAINTS[rng.integers(len(PAINTS))]
    grille = {"front": _darker(paint, 0.55)}
    if subtype == "hatchback":
        _wheels(s, (-0.62, 0.64), 0.16, 0.40)
        s.add((-0.97, 0.97), (-0.97, 0.97), (0.13, 0.54), paint, top_x=(-0.97, 0.92), faces=grille)
        s.add((-0.97, 0.46), (-0.95, 0.95), (0.53, 1.0), paint, top_x=(-0.72, 0.08), top_y=(-0.78, 0.78), faces=WINDOWS)
        _lights(s, (0.36, 0.5), (0.42, 0.62))
    elif subtype == "sedan":
        _wheels(s, (-0.6, 0.64), 0.14, 0.40)
        s.add((-0.97, 0.97), (-0.97, 0.97), (0.13, 0.53), paint, top_x=(-0.97, 0.93), faces=grille)
        s.add((-0.97, -0.52), (-0.95, 0.95), (0.52, 0.64), paint)
        s.add((-0.64, 0.38), (-0.94, 0.94), (0.52, 1.0), paint, top_x=(-0.36, 0.02), top_y=(-0.74, 0.74), faces=WINDOWS)
        _lights(s, (0.36, 0.48), (0.46, 0.6))
    elif subtype == "suv":
        _wheels(s, (-0.6, 0.62), 0.17, 0.42)
        s.add((-0.97, 0.97), (-0.97, 0.97), (0.18, 0.3), (40, 42, 44))
        s.add((-0.97, 0.97), (-0.97, 0.97), (0.3, 0.6), paint, top_x=(-0.97, 0.94), faces=grille)
        s.add((-0.97, 0.4), (-0.95, 0.95), (0.59, 0.96), paint, top_x=(-0.9, 0.14), top_y=(-0.86, 0.86), faces=WINDOWS)
        s.pair((-0.8, 0.0), (0.7, 0.8), (0.95, 1.0), (30, 30, 32))
        _lights(s, (0.42, 0.55), (0.5, 0.72))
    else:  # van
        _wheels(s, (-0.62, 0.66), 0.13, 0.30)
        s.add((-0.97, 0.97), (-0.97, 0.97), (0.1, 0.46), paint, top_x=(-0.97, 0.94), faces=grille)
        s.add((-0.97, 0.76), (-0.96, 0.96), (0.45, 1.0), paint, top_x=(-0.96, 0.42), top_y=(-0.88, 0.88),
              faces={"front": WINDSHIELD, "rear": _darker(paint)})  # fmt: skip
        s.pair((0.1, 0.46), (0.93, 0.97), (0.5, 0.76), GLASS)
        _lights(s, (0.3, 0.42), (0.3, 0.62))
    s.add((0.93, 0.99), (-0.48, 0.48), (0.22, 0.4), RUBBER)


def truck(s: Shape, rng: np.random.Generator, subtype: str, attribute: str) -> None:
    """Pickup; cab with a cargo box, or with a low open deck; tractor of a semi-trailer, its rear low and dark."""
    paint = PAINTS[rng.integers(len(PAINTS))]
    if subtype == "pickup":
        _wheels(s, (-0.6, 0.62), 0.13, 0.36)
        s.add((-0.98, 0.97), (-0.97, 0.97), (0.18, 0.5), paint)
        for y in ((-0.97, -0.85), (0.85, 0.97)):
            s.add((-0.98, -0.2), y, (0.5, 0.62), paint)
        s.add((-0.98, -0.92), (-0.9, 0.9), (0.5, 0.62), paint)
        s.add((-0.2, 0.5), (-0.93, 0.93), (0.5, 1.0), paint, top_x=(-0.12, 0.25), top_y=(-0.82, 0.82), faces=WINDOWS)
        s.add((0.5, 0.95), (-0.93, 0.93), (0.5, 0.58), paint)
        _lights(s, (0.38, 0.5), (0.38, 0.52))
        return
    low = subtype == "tractor"
    cab = (0.1, 0.98) if low else (0.58, 0.98)  # of the length
    top = {"box": 0.8, "flatbed": 0.98, "tractor": 1.0}[subtype]
    _wheels(s, (-0.72, -0.42, 0.7), 0.12 if low else 0.09, 0.28)
    s.add((-0.97, 0.96), (-0.7, 0.7), (0.16, 0.3), STEEL)
    s.add(cab, (-0.96, 0.96), (0.14, top), paint, top_x=(cab[0] + 0.02, 0.92))
    s.add((0.9, 0.985), (-0.85, 0.85), (0.58 * top, 0.92 * top), WINDSHIELD, top_x=(0.9, 0.95))
    s.pair((0.68, 0.86), (0.94, 0.99), (0.58 * top, 0.9 * top), GLASS)
    if subtype == "box":
        cargo: Color = ((236, 236, 232), (198, 200, 204), (188, 170, 134), (72, 104, 150))[rng.integers(4)]
        s.add((-0.99, 0.5), (-1.0, 1.0), (0.28, 1.0), cargo, faces={"rear": _darker(cargo)})
    elif subtype == "flatbed":
        s.add((-0.99, 0.5), (-1.0, 1.0), (0.28, 0.36), (120, 90, 58))
        for y in ((-1.0, -0.94), (0.94, 1.0)):
            s.add((-0.99, 0.5), y, (0.36, 0.5), (96, 98, 104))
        s.add((0.44, 0.5), (-0.9, 0.9), (0.36, 0.8), (96, 98, 104))
    else:
        s.add((-0.8, -0.3), (-0.45, 0.45), (0.3, 0.36), RUBBER)  # the fifth wheel
        s.add((-0.99, 0.0), (-1.0, 1.0), (0.24, 0.3), STEEL)
    _lights(s, (0.2, 0.3), (0.18, 0.27))


def construction_vehicle(s: Shape, rng: np.random.Generator, subtype: str, attribute: str) -> None:
    """Excavator (tracks, arm), wheel loader (large wheels, bucket ahead), roller (drum ahead)."""
    paint: Color = ((236, 176, 24), (232, 130, 28), (220, 190, 50))[rng.integers(3)]
    cab = {"top": paint, "rear": paint}
    if subtype == "excavator":
        s.pair((-0.95, 0.45), (0.6, 1.0), (0.0, 0.24), (40, 40, 42))
        s.add((-1.0, 0.1), (-0.9, 0.9), (0.26, 0.56), paint, top_x=(-0.92, 0.1))
        s.add((-0.3, 0.16), (0.1, 0.88), (0.56, 0.94), GLASS, top_x=(-0.26, 0.1), faces=cab)
        s.add((0.0, 0.2), (-0.3, 0.0), (0.4, 1.0), paint, top_x=(0.42, 0.58))
        s.add((0.78, 0.94), (-0.26, -0.02), (0.12, 0.98), paint, top_x=(0.46, 0.6))
        s.add((0.68, 1.0), (-0.55, 0.25), (0.0, 0.2), (70, 66, 60))
    elif subtype == "loader":
        _wheels(s, (-0.55, 0.3), 0.24, 0.46)
        s.add((-1.0, 0.0), (-0.6, 0.6), (0.3, 0.62), paint, top_x=(-0.95, 0.0), faces={"rear": STEEL})
        s.add((-0.35, 0.1), (-0.5, 0.5), (0.6, 1.0), GLASS, top_x=(-0.32, 0.06), top_y=(-0.45, 0.45), faces=cab)
        s.add((0.0, 0.6), (-0.5, 0.5), (0.28, 0.52), paint, top_x=(0.0, 0.4))
        s.pair((0.4, 0.85), (0.3, 0.45), (0.16, 0.34), paint)
        s.add((0.7, 1.0), (-1.0, 1.0), (0.02, 0.34), (70, 66, 60), top_x=(0.76, 0.84))
    else:  # roller
        s.add((0.4, 1.0), (-0.9, 0.9), (0.0, 0.42), (90, 90, 92), top_x=(0.5, 0.9))
        s.pair((-0.9, -0.3), (0.5, 1.0), (0.0, 0.44), RUBBER)
        s.add((-1.0, 0.3), (-0.6, 0.6), (0.36, 0.62), paint, top_x=(-0.9, 0.2))
        s.pair((-0.25, -0.19), (0.5, 0.56), (0.6, 0.94), STEEL)
        s.pair((0.2, 0.26), (0.5, 0.56), (0.6, 0.94), STEEL)
        s.add((-0.35, 0.4), (-0.7, 0.7), (0.94, 1.0), paint)


def bus(s: Shape, rng: np.random.Generator, subtype: str, attribute: str) -> None:
    """City bus (windows low down, units on its roof), minibus (sloping nose), coach (windows above a luggage hold)."""
    paint: Color = ((206, 40, 36), (40, 120, 70), (36, 84, 170), (236, 170, 40))[rng.integers(4)]
    if subtype == "minibus":
        _wheels(s, (-0.6, 0.66), 0.11, 0.26)
        s.add((-0.98, 0.98), (-0.985, 0.985), (0.1, 0.44), paint, top_x=(-0.98, 0.96))
        s.add((-0.98, 0.84), (-0.985, 0.985), (0.44, 1.0), paint, top_x=(-0.98, 0.6), top_y=(-0.92, 0.92),
              faces={"front": WINDSHIELD})  # fmt: skip
        s.pair((-0.9, 0.5), (0.955, 0.985), (0.5, 0.76), GLASS)
        s.add((-1.0, -0.96), (-0.7, 0.7), (0.52, 0.8), GLASS)
        _lights(s, (0.26, 0.36), (0.28, 0.42))
        return
    coach = subtype == "coach"
    _wheels(s, (-0.58, 0.62), 0.07, 0.28)
    s.add((-0.98, 0.98), (-0.985, 0.985), (0.1, 0.94), paint, faces={"top": (226, 226, 226)})
    s.add((-0.9, 0.3) if coach else (-0.75, -0.25), (-0.6, 0.6), (0.94, 1.0), (210, 210, 210))
    s.pair((-0.94, 0.9), (0.97, 1.0), (0.58, 0.88) if coach else (0.4, 0.76), GLASS)
    if coach:
        s.pair((-0.5, 0.45), (0.97, 1.0), (0.14, 0.4), _darker(paint, 0.5))
    s.add((0.96, 1.0), (-0.92, 0.92), (0.4, 0.78), WINDSHIELD)
    s.add((0.96, 1.0), (-0.6, 0.6), (0.82, 0.92), (250, 170, 30))
    s.add((-1.0, -0.96), (-0.6, 0.6), (0.56, 0.74), GLASS)
    _lights(s, (0.17, 0.25), (0.25, 0.36))


def trailer(s: Shape, rng: np.random.Generator, subtype: str, attribute: str) -> None:
    """Box and tank on three axles at the rear, on stands ahead; a small one with a drawbar."""
    paint: Color = ((236, 236, 238), (200, 204, 210), (60, 110, 170), (190, 130, 60))[rng.integers(4)]
    if subtype == "small":
        _wheels(s, (-0.35,), 0.16, 0.3)
        s.add((0.5, 1.0), (-0.08, 0.08), (0.2, 0.27), STEEL, top_x=(0.5, 1.0))
        s.add((-0.98, 0.62), (-1.0, 1.0), (0.24, 1.0), paint, top_x=(-0.98, 0.56), faces={"rear": _darker(paint)})
        s.pair((-1.0, -0.97), (0.6, 0.97), (0.26, 0.4), RED, 0.7)
        return
    _wheels(s, (-0.84, -0.64, -0.44), 0.07, 0.27)
    s.pair((0.42, 0.5), (0.5, 0.7), (0.0, 0.3), (50, 50, 52))
    s.add((-0.97, 0.98), (-0.6, 0.6), (0.24, 0.32), STEEL)
    if subtype == "box":
        s.add((-0.99, 1.0), (-1.0, 1.0), (0.32, 1.0), paint, faces={"rear": _darker(paint)})
        s.pair((-0.99, 0.98), (0.985, 1.0), (0.33, 0.38), RED, 0.6)
        s.add((-0.995, -0.985), (-0.02, 0.02), (0.34, 0.98), (40, 40, 40))
    else:  # tank
        tin: Color = (186, 190, 196)
        s.add((-0.97, 1.0), (-0.7, 0.7), (0.32, 0.6), tin, top_y=(-1.0, 1.0), faces={"rear": RED})
        s.add((-0.97, 1.0), (-1.0, 1.0), (0.6, 0.92), tin, top_y=(-0.6, 0.6), faces={"rear": _darker(tin)})
        s.add((-0.3, 0.3), (-0.2, 0.2), (0.92, 1.0), STEEL)
    s.pair((-1.0, -0.97), (0.5, 0.97), (0.2, 0.32), RED, 0.7)
