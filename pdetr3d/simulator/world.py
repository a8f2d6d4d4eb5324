"""The types of a simulated scene: the ego vehicle's drive, the actors around it, the street.

A scene is laid out in its road frame (x along the street, y left; the origin is where the ego vehicle turns, or near
the middle of its drive) and then moved to its own place and heading in the global frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pdetr3d.simulator import constants as const
from pdetr3d.simulator.shapes import Parts


@dataclass(frozen=True)
class EgoPath:
    """A drive at constant speed: straight along +x, then a 90 degree arc, then straight.

    Attributes:
        speed_m_s: of the ego vehicle. turn: +1 left, -1 right, 0 no arc. radius_m: of the arc.
        x_m, y_m: start of the arc in the road frame.
        arc_m: position on the path at time 0, measured along the path from the start of the arc.
    """

    speed_m_s: float
    turn: int
    radius_m: float
    x_m: float
    y_m: float
    arc_m: float

    def pose(self, t_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """(T, 3) = (x, y, yaw) in the road frame at times ``t_s`` (T,)."""
        s = self.arc_m + self.speed_m_s * np.asarray(t_s, dtype=np.float64)
        if self.turn == 0:
            return np.stack([self.x_m + s, np.full_like(s, self.y_m), np.zeros_like(s)], axis=1)
        angle = np.clip(s / self.radius_m, 0.0, np.pi / 2)
        before, after = np.minimum(s, 0.0), np.maximum(s - self.radius_m * np.pi / 2, 0.0)
        x = self.x_m + before + self.radius_m * np.sin(angle)
        y = self.y_m + self.turn * (self.radius_m * (1 - np.cos(angle)) + after)
        return np.stack([x, y, self.turn * angle], axis=1)


@dataclass(frozen=True)
class Actor:
    """An object or a piece of clutter, which moves at constant speed straight ahead or on a circle.

    Attributes:
        kind: a class of schema.CLASSES, or one of objects.CLUTTER. subtype: of the class. size_m: (l, w, h).
        x_m, y_m, yaw_rad: pose at time 0 in the road frame. attribute: nuScenes' attribute name, or "".
    """

    kind: str
    size_m: tuple[float, float, float]
    x_m: float
    y_m: float
    yaw_rad: float
    speed_m_s: float = 0.0
    yaw_rate_rad_s: float = 0.0
    attribute: str = ""
    subtype: str = ""


def actor_poses(actors: list[Actor], t_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """Poses (A, T, 3) = (x, y, yaw) in the road frame of A actors at T times [s]."""
    x, y, yaw, v, w = (
        np.array([(a.x_m, a.y_m, a.yaw_rad, a.speed_m_s, a.yaw_rate_rad_s) for a in actors], dtype=np.float64)
        .reshape(-1, 5)
        .T[:, :, None]
    )
    t = np.asarray(t_s, dtype=np.float64)[None]
    half = w * t / 2
    chord = v * t * np.sinc(half / np.pi)  # of the circle; for w = 0 it is the straight line
    return np.stack([x + chord * np.cos(yaw + half), y + chord * np.sin(yaw + half), yaw + w * t], axis=2)


def modulo(x: NDArray, period: float) -> NDArray:
    """x mod period, several times faster than ``%`` on arrays of floats."""
    return x - period * np.floor(x * (1.0 / period))


@dataclass(frozen=True)
class Street:
    """The ground of a scene in its road frame.

    Attributes:
        half_m, cross_half_m: half widths of the lanes of street and crossing road.
        cross_x_m: x of the crossing road's middle; NaN: there is none.
        lanes, cross_lanes: number of lanes per direction.
    """

    half_m: float
    cross_x_m: float
    cross_half_m: float
    lanes: int
    cross_lanes: int

    def region(self, x: NDArray, y: NDArray) -> NDArray[np.int8]:
        """Ground type of points in the road frame: 0 grass, 1 sidewalk, 2 asphalt, 3 lane marking."""
        region = np.zeros(np.shape(x), np.int8)
        ay = np.abs(y)
        curb = self.half_m + const.CURB_STRIP_M
        cross = np.isfinite(self.cross_x_m)
        ax = np.abs(x - np.float32(self.cross_x_m)) if cross else np.full(np.shape(x), np.inf, np.float32)
        cross_curb = self.cross_half_m + 0.5
        region[(ay < curb + const.SIDEWALK_M) | (ax < cross_curb + const.SIDEWALK_M)] = 1
        region[(ay < curb) | (ax < cross_curb)] = 2
        outside = ax > cross_curb + 1.0
        dash = modulo(x, 6.0) < 3.0
        for lane in range(self.lanes + 1):
            mark = np.abs(ay - lane * const.LANE_WIDTH_M) < 0.09
            region[mark & outside & (dash if 0 < lane < self.lanes else True)] = 3
        if not cross:
            return region
        zebra = (ax > cross_curb + 0.8) & (ax < cross_curb + 3.3) & (ay < self.half_m) & (modulo(y, 1.2) < 0.6)
        region[zebra] = 3
        region[(ax < 0.09) & (ay > curb + 1.0)] = 3
        return region


@dataclass(frozen=True)
class World:
    """A finished scene. Times are seconds after its first keyframe.

    Attributes:
        ego: the drive. actors: objects and clutter. parts: their solids. street: the ground.
        road2global_m_rad: (x, y, yaw) of the road frame in the global frame.
        sun: (3,) unit vector towards the light, global axes. ambient, brightness: of the cameras' light.
    """

    ego: EgoPath
    actors: list[Actor]
    parts: Parts
    street: Street
    road2global_m_rad: tuple[float, float, float]
    sun: NDArray[np.float64]
    ambient: float
    brightness: float

    def ego_poses(self, t_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """(T, 3) = (x, y, yaw) of the ego frame in the global frame."""
        return self._to_global(self.ego.pose(t_s))

    def poses(self, t_s: float) -> NDArray[np.float64]:
        """(A, 3) = (x, y, yaw) of all actors in the global frame at one time."""
        return self._to_global(actor_poses(self.actors, np.array([t_s]))[:, 0])

    def region(self, origin_m: NDArray[np.float64], offset_m: NDArray[np.float32]) -> tuple[NDArray, NDArray, NDArray]:
        """Ground type (N,) int8 at global ``origin_m`` (3,) + ``offset_m`` (N, 2), and x, y in the road frame."""
        x0, y0, yaw = self.road2global_m_rad
        c, s = np.cos(yaw), np.sin(yaw)
        # Differences in the global frame are taken in double precision; the small results fit single precision.
        x, y = origin_m[0] - x0, origin_m[1] - y0
        rx = offset_m[:, 0] * np.float32(c) + offset_m[:, 1] * np.float32(s) + np.float32(c * x + s * y)
        ry = offset_m[:, 1] * np.float32(c) - offset_m[:, 0] * np.float32(s) + np.float32(c * y - s * x)
        return self.street.region(rx, ry), rx, ry

    def _to_global(self, poses: NDArray[np.float64]) -> NDArray[np.float64]:
        x0, y0, yaw = self.road2global_m_rad
        c, s = np.cos(yaw), np.sin(yaw)
        x, y, angle = poses.T
        return np.stack([x0 + c * x - s * y, y0 + s * x + c * y, angle + yaw], axis=1)
