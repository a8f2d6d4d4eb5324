"""Lays out a simulated scene: the drive, the street, objects and clutter, in the road frame (see world.py)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pdetr3d.schema import CLASSES
from pdetr3d.simulator import constants as const
from pdetr3d.simulator.space import Space
from pdetr3d.simulator.subtypes import Sizes
from pdetr3d.simulator.world import Actor, EgoPath, Street

HALF_PI = np.pi / 2
TRIES = 8  # number of places that are tried for an object before it is left out
LARGE = ("trailer", "bus", "construction_vehicle", "truck")  # placed first, while there is room for them


def lay_out(rng: np.random.Generator, duration_s: float, sizes: Sizes) -> tuple[EgoPath, Street, list[Actor]]:
    """Draw the drive, the street and the actors, of which no two overlap at any time of the scene.

    Args:
        rng: draws everything. duration_s: of the scene. sizes: of the world's objects.
    """
    ego, street = _draw_drive(rng, duration_s)
    layout = _Layout(rng, ego, street, duration_s, sizes)
    layout.buildings()
    layout.zones()
    for kind in LARGE + tuple(c for c in CLASSES if c not in LARGE):
        layout.objects(kind)
    layout.clutter()
    return ego, street, layout.space.actors


def _draw_drive(rng: np.random.Generator, duration_s: float) -> tuple[EgoPath, Street]:
    """Draw the street and the ego vehicle's path: a turn at the crossing, or a straight drive."""
    lanes, cross_lanes = int(rng.integers(1, 3)), int(rng.integers(1, 3))
    half, cross_half = lanes * const.LANE_WIDTH_M, cross_lanes * const.LANE_WIDTH_M
    if rng.random() < const.TURN_SHARE:
        turn = int(rng.choice([-1, 1]))
        # Right-hand traffic: a right turn leads from outer to outer lane, a left turn from inner to inner lane. The
        # radius is at least 7 m.
        y = -(half - 1.75) if turn < 0 else -1.75
        radius = 7.0 + rng.uniform(0.0, 2.0) + (abs(y) if turn > 0 else 0.0)
        speed = rng.uniform(4.0, 6.5)
        target = -(cross_half - 1.75) if turn < 0 else 1.75  # lane entered, relative to the middle of the crossing road
        start = target - radius
        arc = rng.uniform(0.1, 0.6) * radius * HALF_PI - speed * duration_s / 2
        return EgoPath(speed, turn, radius, start, y, arc), Street(half, 0.0, cross_half, lanes, cross_lanes)
    speed = 0.0 if rng.random() < const.EGO_STOPPED_SHARE else rng.uniform(4.0, 13.0)
    y = -(1.75 + const.LANE_WIDTH_M * int(rng.integers(lanes)))
    cross_x = rng.uniform(-30, 40) if rng.random() < const.INTERSECTION_SHARE else np.nan
    return EgoPath(speed, 0, 1.0, 0.0, y, -speed * duration_s / 2), Street(
        half, cross_x, cross_half, lanes, cross_lanes
    )


class _Layout:
    """Draws actors one after another; ``space`` rejects those without room."""

    def __init__(self, rng: np.random.Generator, ego: EgoPath, street: Street, duration_s: float, sizes: Sizes) -> None:
        self.rng, self.ego, self.street, self.sizes = rng, ego, street, sizes
        self.space = Space(ego, duration_s)
        path = ego.pose(self.space.times)
        self.reach = (path[:, 0].min(), path[:, 0].max(), path[:, 1].min(), path[:, 1].max())
        self.curb = street.half_m + const.CURB_STRIP_M
        self.back = self.curb + const.SIDEWALK_M  # lots and buildings begin at this distance from the street's middle
        # All vehicles of a lane have one speed, so that none runs into another; some lanes stand still.
        self.lane_speed = {
            (side, lane): 0.0 if rng.random() < 0.3 else rng.uniform(4.0, 12.0)
            for side in (-1, 1)
            for lane in range(street.lanes)
        }
        if ego.turn == 0:
            self.lane_speed[(-1, round((-ego.y_m - 1.75) / const.LANE_WIDTH_M))] = ego.speed_m_s
        # In some streets cars park at an angle to the curb, forwards (+) or backwards (-).
        angled = rng.random() < const.ANGLED_PARKING_SHARE
        self.curb_angle = float(rng.choice([-1, 1]) * rng.uniform(0.7, HALF_PI)) if angled else 0.0
        self.cross_waits = ego.turn != 0 or rng.random() < 0.5
        self.lots: list[tuple[float, float, int, float]] = []  # x0, x1, side, yaw
        self.zone_at: list[tuple[float, float]] = []

    def actor(self, kind: str, x: float, y: float, yaw: float, speed: float = 0.0, attribute: str = "") -> Actor:
        """An object of a class; its subtype and size are drawn."""
        subtype = self.sizes.subtype(kind, self.rng)
        size = self.sizes.size(kind, subtype, self.rng, attribute)
        return Actor(kind, size, x, y, yaw, speed, attribute=attribute, subtype=subtype.name)

    def along(self) -> float:
        """A distance along the street, anywhere."""
        x0, x1, _, _ = self.reach
        return float(self.rng.uniform(x0 - const.STREET_REACH_M, x1 + const.STREET_REACH_M))

    # --- scenery ---------------------------------------------------------------------------------------------------
    def buildings(self) -> None:
        """Fill both sides of the street with sections: a building, a lot, or greenery."""
        rng, street = self.rng, self.street
        x0, x1, _, _ = self.reach
        for side in (-1, 1):
            x = x0 - const.STREET_REACH_M - 10
            while x < x1 + const.STREET_REACH_M + 10:
                end = x + rng.uniform(16, 34)
                clear = street.cross_half_m + 0.5 + const.SIDEWALK_M
                if np.isfinite(street.cross_x_m) and x < street.cross_x_m + clear and end > street.cross_x_m - clear:
                    if street.cross_x_m - clear - x > 12:
                        end = street.cross_x_m - clear
                    else:
                        x = street.cross_x_m + clear
                        continue
                self._section(side, x, end)
                x = end
        if np.isfinite(street.cross_x_m):
            self._cross_street_buildings()

    def _section(self, side: int, x: float, end: float) -> None:
        rng, kind = self.rng, self.rng.random()
        if kind < 0.36:
            depth, height = rng.uniform(8, 16), rng.uniform(4, 14)
            setback = rng.uniform(0.0, 4.0)
            size = (end - x - rng.uniform(0, 4), depth, height)
            self.space.place(Actor("building", size, (x + end) / 2, side * (self.back + setback + depth / 2), 0.0), 0.0)
        elif kind < 0.82:
            self.lots.append(
                (x + 1, end - 1, side, rng.uniform(-np.pi, np.pi) if rng.random() < 0.6 else side * HALF_PI)
            )
        else:
            for _ in range(rng.integers(2, 6)):
                self._scatter(
                    "tree" if rng.random() < 0.5 else "bush",
                    rng.uniform(x, end),
                    side * (self.back + rng.uniform(1, 12)),
                )

    def _cross_street_buildings(self) -> None:
        street, rng = self.street, self.rng
        for side_x in (-1, 1):
            for side_y in (-1, 1):
                y = self.back + 22.0
                while y < const.STREET_REACH_M:
                    length = rng.uniform(12, 25)
                    x = street.cross_x_m + side_x * (street.cross_half_m + const.SIDEWALK_M + 6.0)
                    if rng.random() < 0.7:
                        self.space.place(
                            Actor("building", (10.0, length, rng.uniform(4, 12)), x, side_y * (y + length / 2), 0.0),
                            0.0,
                        )
                    y += length + rng.uniform(2, 8)

    def _scatter(self, kind: str, x: float, y: float) -> bool:
        rng = self.rng
        low, high = {
            "tree": ((2.5, 2.5, 4.0), (5.0, 5.0, 8.0)),
            "bush": ((0.8, 0.8, 0.6), (2.2, 1.8, 1.7)),
            "pole": ((0.5, 0.7, 2.4), (0.6, 0.9, 6.5)),
            "crate": ((0.5, 0.5, 0.7), (3.4, 1.8, 1.8)),
        }[kind]
        size = tuple(float(v) for v in rng.uniform(low, high))
        return self.space.place(Actor(kind, (size[0], size[1], size[2]), x, y, rng.uniform(-np.pi, np.pi)))

    def clutter(self) -> None:
        """Place poles along the curb, bushes, hedges, trees and crates (bins, kiosks, containers); none is labeled."""
        for _ in range(14):
            self._scatter("pole", self.along(), self.rng.choice([-1, 1]) * (self.curb + 0.4))
        for _ in range(10):
            self._scatter("bush", self.along(), self.rng.choice([-1, 1]) * (self.back + self.rng.uniform(-0.6, 5.0)))
        for _ in range(6):
            x, y = self.along(), self.rng.choice([-1, 1]) * (self.back + self.rng.uniform(0.3, 1.2))
            size = (self.rng.uniform(3, 9), self.rng.uniform(0.6, 1.0), self.rng.uniform(0.8, 1.5))
            self.space.place(Actor("bush", size, x, y, self.rng.normal(0, 0.03)), 0.1)
        for _ in range(4):
            self._scatter("tree", self.along(), self.rng.choice([-1, 1]) * (self.back + self.rng.uniform(-1.0, 6.0)))
        for _ in range(8):
            self._scatter("crate", self.along(), self.rng.choice([-1, 1]) * (self.curb + self.rng.uniform(0.3, 9.0)))

    # --- objects ---------------------------------------------------------------------------------------------------
    def zones(self) -> None:
        """Place construction zones: rows of barriers and lines of cones at the curb or in a lane."""
        rng = self.rng
        length = 1.0 + (self.reach[1] - self.reach[0]) / 120
        barriers, cones = (rng.poisson(const.SPAWN_COUNT[k] * length) for k in ("barrier", "traffic_cone"))
        for _ in range(12):
            if barriers <= 0 and cones <= 0:
                return
            x, side = self.along(), int(rng.choice([-1, 1]))
            y = side * (self.street.half_m + rng.uniform(-1.0, 6.0))
            self.zone_at.append((x, y + side * 4.0))
            barriers -= self._row("barrier", x, y, min(barriers, int(rng.integers(2, 6))))
            cones -= self._row(
                "traffic_cone", x + rng.uniform(-6, 6), y + rng.uniform(-2, 2), min(cones, int(rng.integers(2, 6)))
            )

    def _row(self, kind: str, x: float, y: float, count: int) -> int:
        """Place a row along the street, sometimes across; returns the number of objects that found room."""
        rng = self.rng
        across, slant, placed = rng.random() < 0.25, rng.normal(0, 0.1), 0
        flip = float(rng.choice([0.0, np.pi]))
        first = self.actor(kind, x, y, 0.0)
        step = first.size_m[1] + rng.uniform(0.1, 0.4) if kind == "barrier" else rng.uniform(1.5, 4.0)
        direction = (HALF_PI if across else 0.0) + slant
        for i in range(max(count, 0)):
            yaw = direction + HALF_PI + flip + rng.normal(0, 0.03) if kind == "barrier" else rng.uniform(-np.pi, np.pi)
            at = (x + i * step * np.cos(direction), y + i * step * np.sin(direction))
            placed += self.space.place(replace(first, x_m=at[0], y_m=at[1], yaw_rad=yaw), 0.02)
        return placed

    def objects(self, kind: str) -> None:
        """Spawn the movable objects of a class around the drive."""
        if kind not in const.PLACEMENT:
            return
        shares = const.PLACEMENT[kind]
        length = 1.0 + (self.reach[1] - self.reach[0]) / 120
        for _ in range(self.rng.poisson(const.SPAWN_COUNT[kind] * length)):
            for _ in range(TRIES):
                where = str(self.rng.choice(list(shares), p=list(shares.values())))
                if self.space.place(getattr(self, f"_at_{where}")(kind), 0.3):
                    break

    def _parked(self, kind: str, x: float, y: float, yaw: float) -> Actor:
        cycle = kind in ("motorcycle", "bicycle")
        return self.actor(kind, x, y, yaw, attribute="cycle.without_rider" if cycle else "vehicle.parked")

    def _driving(self, kind: str, x: float, y: float, yaw: float, speed: float) -> Actor:
        attribute = "vehicle.moving" if speed > 0 else "vehicle.stopped"
        if kind in ("motorcycle", "bicycle"):
            attribute = "cycle.with_rider"
        return self.actor(kind, x, y, yaw + self.rng.normal(0, 0.02), speed, attribute)

    def _aside(self, actor: Actor) -> Actor:
        """Move some actors from the street's edge to the edge of the crossing road, if there is one."""
        street, rng = self.street, self.rng
        if not np.isfinite(street.cross_x_m) or rng.random() > 0.4:
            return actor
        # The crossing road has no curb strip: its parked objects stand at the edge of its outer lane.
        shift = self.street.half_m + const.CURB_STRIP_M - street.cross_half_m - 0.5
        y = abs(actor.y_m) - shift
        x = street.cross_x_m - float(np.copysign(y, actor.y_m))
        at = float(rng.choice([-1, 1])) * rng.uniform(self.back, 58.0)
        return replace(actor, x_m=x, y_m=at, yaw_rad=actor.yaw_rad + HALF_PI)

    def _at_lane(self, kind: str) -> Actor:
        """Place it in a lane of the street, at the lane's speed."""
        side, lane = list(self.lane_speed)[self.rng.integers(len(self.lane_speed))]
        y = side * (1.75 + lane * const.LANE_WIDTH_M) + self.rng.normal(0, 0.2)
        return self._driving(kind, self.along(), y, 0.0 if side < 0 else np.pi, self.lane_speed[(side, lane)])

    def _at_lane_edge(self, kind: str) -> Actor:
        """Riding between the outer lane and the curb."""
        side = int(self.rng.choice([-1, 1]))
        y = side * (self.street.half_m + self.rng.uniform(-0.4, 0.4))
        return self._driving(kind, self.along(), y, 0.0 if side < 0 else np.pi, self.rng.uniform(2.5, 6.0))

    def _at_cross(self, kind: str) -> Actor:
        """Place it on the crossing road (driving, waiting or turning at the intersection), or in a lane without one."""
        street, rng = self.street, self.rng
        if not np.isfinite(street.cross_x_m):
            return self._at_lane(kind)
        side, lane = int(rng.choice([-1, 1])), int(rng.integers(street.cross_lanes))
        x = street.cross_x_m + side * (1.75 + lane * const.LANE_WIDTH_M)
        if rng.random() < 0.2:
            speed = rng.uniform(3.0, 6.0)
            actor = self._driving(kind, x, rng.uniform(-12, 12), rng.uniform(-np.pi, np.pi), speed)
            return replace(actor, yaw_rate_rad_s=float(rng.choice([-1, 1])) * speed / rng.uniform(8, 20))
        y = rng.choice([-1, 1]) * rng.uniform(4.0 if not self.cross_waits else self.curb + 4.0, 55.0)
        return self._driving(kind, x, y, side * HALF_PI, 0.0 if self.cross_waits else rng.uniform(5, 9))

    def _at_curb(self, kind: str) -> Actor:
        """Parked along the curb, or at the street's angle, half on the sidewalk; motorcycles always at an angle."""
        side, rng = int(self.rng.choice([-1, 1])), self.rng
        yaw = (0.0 if side < 0 else np.pi) + rng.normal(0, 0.04)
        if rng.random() < 0.08:
            yaw += np.pi
        outward = 1.3
        if kind == "motorcycle":
            yaw += rng.uniform(0.6, 1.8)
        elif kind == "car" and self.curb_angle:
            yaw += self.curb_angle
            outward += 2.0 * abs(np.sin(self.curb_angle))
        return self._aside(self._parked(kind, self.along(), side * (self.street.half_m + outward), yaw))

    def _at_lot(self, kind: str) -> Actor:
        """Parked on a lot beside the street, in rows at the lot's angle."""
        rng = self.rng
        if not self.lots:
            return self._at_curb(kind)
        x0, x1, side, yaw = self.lots[rng.integers(len(self.lots))]
        y = side * (self.back + 3.0 + rng.uniform(0, 3) + 8.0 * rng.integers(0, 2))
        return self._parked(kind, rng.uniform(x0, x1), y, yaw + rng.choice([0.0, np.pi]) + rng.normal(0, 0.06))

    def _at_zone(self, kind: str) -> Actor:
        """Place it at a construction zone."""
        rng = self.rng
        x, y = self.zone_at[rng.integers(len(self.zone_at))] if self.zone_at else (self.along(), self.back + 4.0)
        x, y, yaw = x + rng.uniform(-9, 9), y + rng.uniform(-3, 4), rng.uniform(-np.pi, np.pi)
        return self._walking(kind, x, y, yaw) if kind == "pedestrian" else self._parked(kind, x, y, yaw)

    def _walking(self, kind: str, x: float, y: float, yaw: float) -> Actor:
        if self.rng.random() < const.STANDING_SHARE:
            return self.actor(kind, x, y, self.rng.uniform(-np.pi, np.pi), attribute="pedestrian.standing")
        return self.actor(kind, x, y, yaw, self.rng.uniform(0.7, 1.8), "pedestrian.moving")

    def _at_sidewalk(self, kind: str) -> Actor:
        """Place it on a sidewalk: people walk along it, bicycles are parked."""
        side, rng = int(self.rng.choice([-1, 1])), self.rng
        y = side * (self.curb + rng.uniform(0.6, const.SIDEWALK_M - 0.4))
        if kind == "bicycle":
            return self._aside(self._parked(kind, self.along(), y, rng.uniform(-np.pi, np.pi)))
        return self._aside(self._walking(kind, self.along(), y, rng.choice([0.0, np.pi]) + rng.normal(0, 0.15)))

    def _at_crosswalk(self, kind: str) -> Actor:
        """Crossing the street, at the intersection if there is one."""
        rng = self.rng
        at = self.street.cross_x_m + rng.choice([-1, 1]) * (self.street.cross_half_m + 2.5)
        x = at + rng.normal(0, 0.6) if np.isfinite(at) else self.along()
        return self._walking(
            kind, x, rng.uniform(-self.curb, self.curb), rng.choice([-1, 1]) * HALF_PI + rng.normal(0, 0.1)
        )
