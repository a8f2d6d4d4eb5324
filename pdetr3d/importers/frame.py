"""Defines the form in which importers describe the frames of a foreign dataset; ``dataset.py`` writes tables from it.

Everything is in the frame's LIDAR_TOP frame: x right, y forward, z up, origin at the LiDAR, meters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry import LineString, Polygon
from shapely.ops import split

from pdetr3d.geometry.regions import EVERYWHERE, Regions

FAR_M = 200.0  # length of a camera's field of view on the ground, farther than any annotation


@dataclass(frozen=True)
class Camera:
    """One image of a frame.

    Attributes:
        channel: one of ``schema.CAMERAS``. file: JPEG or PNG. size_px: (width, height). intrinsic: (3, 3) [px].
        camera2lidar: (4, 4); camera axes: x right, y down, z forward.
    """

    channel: str
    file: Path
    size_px: tuple[int, int]
    intrinsic: NDArray[np.float64]
    camera2lidar: NDArray[np.float64]


@dataclass(frozen=True)
class Objects:
    """N annotated objects of a frame.

    Attributes:
        category: (N,) names for category.json: nuScenes' (``vehicle.car``), or the dataset's own.
        center_m: (N, 3) gravity centers. size_m: (N, 3) l, w, h. yaw_rad: (N,) counter-clockwise about +z from +x.
        track: (N,) name of the object within its scene; None: unknown.
    """

    category: tuple[str, ...] = ()
    center_m: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 3)))
    size_m: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 3)))
    yaw_rad: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    track: tuple[str | None, ...] = ()


@dataclass(frozen=True)
class Frame:
    """A LiDAR sweep with its images and annotations.

    Attributes:
        name: unique in the dataset; the frame's files get this name. scene: name of its scene.
        timestamp_us: unique within a scene.
        points: reads (P, 5) float32 x, y, z [m], intensity [0..255], ring.
        lidar2global: (4, 4) into a frame that is fixed within the scene; None: unknown, and the scene then has neither
            sweeps nor velocities.
        keyframe: True: a sample; False: an earlier sweep of one.
        cameras: its images. objects: its annotations. regions: where these hold.
    """

    name: str
    scene: str
    timestamp_us: int
    points: Callable[[], NDArray[np.float32]]
    lidar2global: NDArray[np.float64] | None = None
    keyframe: bool = True
    cameras: tuple[Camera, ...] = ()
    objects: Objects = Objects()
    regions: Regions = EVERYWHERE


def field_of_view(camera: Camera) -> NDArray[np.float64]:
    """The ground that a camera's image covers up to FAR_M: a polygon (3, 2) [m] in the LIDAR_TOP frame."""
    return image_sector(camera, 0.0, float(camera.size_px[0]))


def image_sector(camera: Camera, left_px: float, right_px: float, near_m: float = 0.0) -> NDArray[np.float64]:
    """The ground in a range of image columns, from depth ``near_m`` to FAR_M: a polygon (3 or 4, 2) [m] in LIDAR_TOP.

    It is exact for a level camera, whose image columns are upright planes.
    """
    columns = np.array([[left_px, right_px], [camera.intrinsic[1, 2]] * 2, [1.0, 1.0]])
    rays = np.linalg.solve(camera.intrinsic, columns)  # up to depth 1
    left, right = (camera.camera2lidar[:3, :3] @ rays)[:2].T
    start = camera.camera2lidar[:2, 3]
    ends = [start + FAR_M * left, start + FAR_M * right]
    if near_m <= 0:
        return np.array([start, *ends[::-1]])
    return np.array([start + near_m * left, ends[0], ends[1], start + near_m * right])


def cut_out(polygon: NDArray[np.float64], holes: list[NDArray[np.float64]]) -> tuple[NDArray[np.float64], ...]:
    """A polygon (C, 2) without the areas of others, as polygons without holes."""
    rest = shapely.difference(shapely.polygons(polygon), shapely.union_all([shapely.polygons(hole) for hole in holes]))
    waiting, found = [rest], list[NDArray[np.float64]]()
    while waiting:
        shape = waiting.pop()
        if not isinstance(shape, Polygon):
            waiting += list(getattr(shape, "geoms", ()))  # points and lines, which have no parts, are dropped
        elif shape.interiors:  # cut along y through a hole: each part has one hole less
            x = shape.interiors[0].centroid.x
            _, low, _, high = shape.bounds
            waiting += list(split(shape, LineString([(x, low - 1), (x, high + 1)])).geoms)
        elif shape.area > 0:
            found.append(np.array(shape.exterior.coords)[:-1])
    return tuple(found)
