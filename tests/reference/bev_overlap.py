"""Slow oracle: the intersection area of two rotated rectangles, by clipping one at each edge of the other in loops."""

from __future__ import annotations

import math


def rectangle(x: float, y: float, length: float, width: float, yaw_rad: float) -> list[tuple[float, float]]:
    """The corners of a rotated rectangle, counter-clockwise."""
    corners = []
    for along, across in ((0.5, 0.5), (-0.5, 0.5), (-0.5, -0.5), (0.5, -0.5)):
        u, v = along * length, across * width
        corners.append(
            (x + u * math.cos(yaw_rad) - v * math.sin(yaw_rad), y + u * math.sin(yaw_rad) + v * math.cos(yaw_rad))
        )
    return corners


def clip(
    polygon: list[tuple[float, float]], a: tuple[float, float], b: tuple[float, float]
) -> list[tuple[float, float]]:
    """The part of the polygon to the left of the line from a to b."""

    def side(p: tuple[float, float]) -> float:
        return (b[0] - a[0]) * (p[1] - a[1]) - (b[1] - a[1]) * (p[0] - a[0])

    kept = []
    for i, p in enumerate(polygon):
        q = polygon[(i + 1) % len(polygon)]
        if side(p) >= 0:
            kept.append(p)
        if side(p) * side(q) < 0:
            t = side(p) / (side(p) - side(q))
            kept.append((p[0] + t * (q[0] - p[0]), p[1] + t * (q[1] - p[1])))
    return kept


def area(polygon: list[tuple[float, float]]) -> float:
    """The area of a polygon by the shoelace formula."""
    total = 0.0
    for i, p in enumerate(polygon):
        q = polygon[(i + 1) % len(polygon)]
        total += p[0] * q[1] - q[0] * p[1]
    return total / 2


def intersection_area(first: list[tuple[float, float]], second: list[tuple[float, float]]) -> float:
    polygon = first
    for i, a in enumerate(second):
        polygon = clip(polygon, a, second[(i + 1) % len(second)])
        if not polygon:
            return 0.0
    return area(polygon)
