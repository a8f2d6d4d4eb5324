"""What an importer says of each frame of a foreign dataset; ``dataset.py`` writes nuScenes tables from it.

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

FAR_M = 200.0  # how far a camera's field of view reaches on the ground: beyond any annotation


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
        category: (N,) names as category.json has them: nuScenes' (``vehicle.car``), or the dataset's own.
        center_m: (N, 3) gravity centers. size_m: (N, 3) l, w, h. yaw_rad: (N,) counter-clockwise about +z from +x.
        track: (N,) name of the object within its scene; None: not known.
    """

    category: tuple[str, ...] = ()
    center_m: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 3)))
    size_m: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 3)))
    yaw_rad: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    track: tuple[str | None, ...] = ()


@dataclass(frozen=True)
class Frame:
    """One LiDAR sweep with what was recorded and annotated with it.

    Attributes:
        name: of the frame, unique in the dataset; files are named by it. scene: that it belongs to.
        timestamp_us: rising within a scene. points: reads (P, 5) float32 x, y, z [m], intensity [0..255], ring.
        lidar2global: (4, 4) into a frame that stands still within the scene; None: not known (then the scene has no
            sweeps and no velocities). keyframe: a sample; False: an earlier sweep of one.
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
    """The ground that a camera's image covers, as a polygon (3, 2) in the LIDAR_TOP frame, FAR_M far."""
    return image_sector(camera, 0.0, float(camera.size_px[0]))


def image_sector(camera: Camera, left_px: float, right_px: float, near_m: float = 0.0) -> NDArray[np.float64]:
    """The ground behind a range of image columns, from the depth ``near_m`` to FAR_M: (3 or 4, 2) corners.

    Exact for a camera that stands level: there a column is an upright plane.
    """
    columns = np.array([[left_px, right_px], [camera.intrinsic[1, 2]] * 2, [1.0, 1.0]])
    rays = np.linalg.solve(camera.intrinsic, columns)  # of depth 1
    left, right = (camera.camera2lidar[:3, :3] @ rays)[:2].T
    start = camera.camera2lidar[:2, 3]
    ends = [start + FAR_M * left, start + FAR_M * right]
    if near_m <= 0:
        return np.array([start, *ends[::-1]])
    return np.array([start + near_m * left, ends[0], ends[1], start + near_m * right])


def cut_out(polygon: NDArray[np.float64], holes: list[NDArray[np.float64]]) -> tuple[NDArray[np.float64], ...]:
    """What is left of a polygon (C, 2) without others, as polygons without holes."""
    rest = shapely.difference(shapely.polygons(polygon), shapely.union_all([shapely.polygons(hole) for hole in holes]))
    waiting, found = [rest], list[NDArray[np.float64]]()
    while waiting:
        shape = waiting.pop()
        if not isinstance(shape, Polygon):
            waiting += list(getattr(shape, "geoms", ()))  # points and lines are no ground
        elif shape.interiors:  # cut through a hole, upright: each side has one less
            x = shape.interiors[0].centroid.x
            _, low, _, high = shape.bounds
            waiting += list(split(shape, LineString([(x, low - 1), (x, high + 1)])).geoms)
        elif shape.area > 0:
            found.append(np.array(shape.exterior.coords)[:-1])
    return tuple(found)
