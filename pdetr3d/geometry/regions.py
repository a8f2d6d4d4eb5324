"""Describes where a sample's labels hold, seen from above: regions with annotations, and regions to ignore.

Polygons lie in the x-y plane of a frame, in meters; z is not used. A polygon is an array (C, 2) of C >= 3 corners, in
either sense of rotation, not closed (the last corner is not the first), with sides that do not cross.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pdetr3d.geometry.rigid import apply

if TYPE_CHECKING:
    import shapely

Polygon = NDArray[np.float64]
DISK_CORNERS = 32


@dataclass(frozen=True)
class Regions:
    """The regions of one sample, in one frame (that of the sample's points: LIDAR_TOP, or augmented).

    Attributes:
        valid: polygons; objects are annotated within their union. None: everywhere. (): nowhere.
        ignore: polygons in which annotators could not tell what is there. These places count neither as object nor as
            background, and are not scored.
    """

    valid: tuple[Polygon, ...] | None = None
    ignore: tuple[Polygon, ...] = ()

    def __bool__(self) -> bool:
        """Whether the regions restrict anything. Without regions every place counts."""
        return self.valid is not None or bool(self.ignore)

    def valid_at(self, points_xy: NDArray) -> NDArray[np.bool_]:
        """Which of the places (..., 2) or (..., 3+) [m] lie where objects are annotated: (...) bool."""
        if self.valid is None:
            return np.ones(np.shape(points_xy)[:-1], bool)
        return _inside(self._valid_area, points_xy)

    def ignored_at(self, points_xy: NDArray) -> NDArray[np.bool_]:
        """Which of the places (..., 2) or (..., 3+) [m] lie in a region to ignore: (...) bool."""
        if not self.ignore:
            return np.zeros(np.shape(points_xy)[:-1], bool)
        return _inside(self._ignore_area, points_xy)

    def known_at(self, points_xy: NDArray) -> NDArray[np.bool_]:
        """Which of the places (..., 2) or (..., 3+) [m] count, i.e. are annotated and not to ignore: (...) bool."""
        return self.valid_at(points_xy) & ~self.ignored_at(points_xy)

    def moved(self, src2dst: NDArray[np.float64]) -> Regions:
        """The same regions in another frame; ``src2dst`` (4, 4) may rotate about z, mirror, scale and translate."""

        def move(polygons: Sequence[Polygon]) -> tuple[Polygon, ...]:
            return tuple(apply(src2dst, np.pad(corners, ((0, 0), (0, 1))))[:, :2] for corners in polygons)

        return Regions(None if self.valid is None else move(self.valid), move(self.ignore))

    def joined(self, ignore: Sequence[Polygon]) -> Regions:
        """The same regions with further polygons to ignore."""
        return Regions(self.valid, (*self.ignore, *ignore))

    def known_cells(self, low_m: Sequence[float], cell_m: float, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """Which cells of a BEV grid count, by their centers: (H, W) bool, rows = y, columns = x.

        Args:
            low_m: x, y of the grid's low corner [m]. cell_m: side of a cell. shape: (H, W).
        """
        y, x = (low + (np.arange(n) + 0.5) * cell_m for low, n in zip((low_m[1], low_m[0]), shape, strict=True))
        return self.known_at(np.stack(np.meshgrid(x, y), -1))

    @cached_property
    def _valid_area(self) -> shapely.Geometry:
        return _union(self.valid or ())

    @cached_property
    def _ignore_area(self) -> shapely.Geometry:
        return _union(self.ignore)


EVERYWHERE = Regions()  # the regions of a sample that names none: annotated everywhere, nothing to ignore


def disk(center_xy: NDArray, radius_m: float) -> Polygon:
    """A disk as a polygon (DISK_CORNERS, 2) [m] with its corners on the rim; its sides are up to 0.5 % of the radius
    inside the disk."""
    angle = 2 * np.pi * np.arange(DISK_CORNERS) / DISK_CORNERS
    return np.asarray(center_xy, np.float64)[:2] + radius_m * np.stack([np.cos(angle), np.sin(angle)], 1)


def polygon_problem(corners: NDArray) -> str:
    """The reason why ``corners`` is no valid polygon, as the predicate of a sentence; "" if it is valid."""
    import shapely

    corners = np.asarray(corners, np.float64)
    if corners.ndim != 2 or corners.shape[1] != 2 or len(corners) < 3:
        return f"has shape {corners.shape}, but must be three corners (x, y) [m] or more"
    if not np.isfinite(corners).all():
        return "has a corner that is not finite"
    shape = shapely.polygons(corners)
    if not shapely.is_valid(shape):
        return f"has sides that cross or touch ({shapely.is_valid_reason(shape)})"
    return "" if shapely.area(shape) > 0 else "has no area"


def _union(polygons: Sequence[Polygon]) -> shapely.Geometry:
    import shapely

    area = shapely.union_all([shapely.polygons(corners) for corners in polygons])
    shapely.prepare(area)
    return area


def _inside(area: shapely.Geometry, points_xy: NDArray) -> NDArray[np.bool_]:
    """(...) bool: whether points (..., 2+) [m] lie in the area or on its rim."""
    import shapely

    points = np.asarray(points_xy, np.float64)
    return np.asarray(shapely.intersects_xy(area, points[..., 0], points[..., 1]), bool)
