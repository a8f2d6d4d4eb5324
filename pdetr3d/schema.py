"""Defines the NumPy types that modules exchange: boxes, clicks, records, samples (torch types: ``batch.py``).

Everything is in the keyframe's LIDAR_TOP frame (x right, y forward, z up) and in meters, unless a field says otherwise.
Boxes have the gravity center, (l, w, h) with l along the heading, and the yaw counter-clockwise about +z from +x in
[-pi, pi).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # importing shapely is slow, and the class list stands above this module
    from pdetr3d.class_list import ClassList
    from pdetr3d.geometry.regions import Regions

from pdetr3d.errors import DataError as DataError  # all modules import it from here

# nuScenes' ten classes, in the order of method.md 1.3. A run's classes are in its class list (``class_list.py``), which
# holds these ten unless ``data.classes`` names others; a label is an index into that list.
CLASSES = (
    "car",
    "truck",
    "construction_vehicle",
    "bus",
    "trailer",
    "barrier",
    "motorcycle",
    "bicycle",
    "pedestrian",
    "traffic_cone",
)
# The labels of a sample. box: people drew all its boxes. point: people clicked all its objects. empty: people looked
# and found no object. unlabeled: nobody looked (also val and test samples): no place is known to be background.
ROLES = ("unlabeled", "box", "point", "empty")
BOXES_KNOWN = ("box", "empty")  # roles of the samples whose boxes are all known
# The order of cameras in every array (method.md 1.5).
CAMERAS = ("CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_FRONT_LEFT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_BACK_RIGHT")
# Columns of tables of boxes: gravity center [m], sides along, across and upright [m], heading [rad].
BOX_COLUMNS = ("x", "y", "z", "l", "w", "h", "yaw")
LIDAR_TOP = "LIDAR_TOP"  # the LiDAR's channel
# Ends the name of a simulated scene that gives velocities to another scene, and that is in no split.
LATER = "-later"

# Mean (l, w, h) [m] per class, rows as CLASSES (method.md 1.3). This documented constant is used for a class that the
# box-labeled part does not contain. It is no statistic of the unlabeled boxes.
FALLBACK_SIZE_M = np.array(
    [
        [4.63, 1.96, 1.74],
        [6.94, 2.52, 2.85],
        [6.56, 2.82, 3.20],
        [11.19, 2.95, 3.49],
        [12.28, 2.92, 3.87],
        [0.50, 2.51, 0.99],
        [2.11, 0.77, 1.46],
        [1.70, 0.61, 1.30],
        [0.73, 0.67, 1.77],
        [0.42, 0.41, 1.08],
    ],
    dtype=np.float32,
)

SOURCE_HUMAN, SOURCE_PSEUDO = 0, 1


@dataclass(frozen=True)
class Boxes3D:
    """N boxes.

    Attributes:
        center_m: (N, 3) float32, gravity center [m].
        size_m: (N, 3) float32, (l, w, h) [m].
        yaw_rad: (N,) float32 in [-pi, pi).
        velocity_m_s: (N, 2) float32, (vx, vy) [m/s] of the object over ground in LIDAR_TOP axes; NaN = unknown.
        label: (N,) int64, place in the list of classes.
        score: (N,) float32 in [0, 1]; 1 for boxes drawn by people.
        direction: (N,) float32 in [0, 1], the probability that the object heads along its yaw, not the opposite way; 1
            for boxes of people and of students.
        source: (N,) int8, SOURCE_HUMAN or SOURCE_PSEUDO.
    """

    center_m: NDArray[np.float32]
    size_m: NDArray[np.float32]
    yaw_rad: NDArray[np.float32]
    velocity_m_s: NDArray[np.float32]
    label: NDArray[np.int64]
    score: NDArray[np.float32]
    direction: NDArray[np.float32]
    source: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, index: NDArray[np.bool_] | NDArray[np.int64] | slice) -> Boxes3D:
        """Select boxes by mask, indices or slice (never a single integer: the result is always N boxes)."""
        return Boxes3D(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    @property
    def rows(self) -> NDArray[np.float32]:
        """(N, 7) x, y, z, l, w, h, yaw."""
        return np.concatenate([self.center_m, self.size_m, self.yaw_rad[:, None]], 1)

    @staticmethod
    def empty() -> Boxes3D:
        """Zero boxes; a sample without boxes is no error."""
        return Boxes3D.build(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0), np.zeros(0))

    @staticmethod
    def build(
        center_m: NDArray,
        size_m: NDArray,
        yaw_rad: NDArray,
        label: NDArray,
        *,
        velocity_m_s: NDArray | None = None,
        score: NDArray | None = None,
        direction: NDArray | None = None,
        source: int = SOURCE_HUMAN,
    ) -> Boxes3D:
        """Cast to the dtypes above, wrap yaw, fill velocity with NaN, score and direction with 1, and validate."""
        n = len(label)
        one = np.ones(n, np.float32)
        yaw = (np.asarray(yaw_rad, dtype=np.float64) + np.pi) % (2 * np.pi) - np.pi
        boxes = Boxes3D(
            center_m=np.asarray(center_m, dtype=np.float32).reshape(n, 3),
            size_m=np.asarray(size_m, dtype=np.float32).reshape(n, 3),
            yaw_rad=yaw.astype(np.float32),
            velocity_m_s=np.full((n, 2), np.nan, np.float32)
            if velocity_m_s is None
            else np.asarray(velocity_m_s, dtype=np.float32).reshape(n, 2),
            label=np.asarray(label, dtype=np.int64).reshape(n),
            score=one if score is None else np.asarray(score, dtype=np.float32).reshape(n),
            direction=one if direction is None else np.asarray(direction, dtype=np.float32).reshape(n),
            source=np.full(n, source, np.int8),
        )
        boxes.validate()
        return boxes

    @staticmethod
    def concatenate(parts: list[Boxes3D]) -> Boxes3D:
        """Concatenate boxes in order; an empty list gives zero boxes."""
        if not parts:
            return Boxes3D.empty()
        return Boxes3D(**{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Boxes3D)})

    def validate(self) -> None:
        """Check shapes, numbers and labels.

        Raises:
            ValueError: names the field and its fault.
        """
        n = len(self.label)
        shapes = {
            "center_m": (n, 3),
            "size_m": (n, 3),
            "yaw_rad": (n,),
            "velocity_m_s": (n, 2),
            "score": (n,),
            "direction": (n,),
            "source": (n,),
        }
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"Boxes3D.{name} has shape {getattr(self, name).shape}, must be {shape}")
        for name in ("center_m", "size_m", "yaw_rad", "score", "direction"):
            if not np.isfinite(getattr(self, name)).all():
                raise ValueError(f"Boxes3D.{name} has a number that is not finite")
        if n and self.size_m.min() <= 0:
            raise ValueError(f"Boxes3D.size_m has a side of {self.size_m.min()} m, must be > 0")
        if n and self.label.min() < 0:
            raise ValueError(f"Boxes3D.label must be a place in the list of classes, got {self.label.min()}")


@dataclass(frozen=True)
class PointLabels:
    """K clicks of one sample.

    Attributes:
        click_id: (K,) object array of str, the join key of pseudo labels.
        xyz_m: (K, 3) float64 [m].
        label: (K,) int64, index into the class list.
        box_index: (K,) int64, index into the sample's human boxes if the trainer may know the click's box (in
            box-labeled samples), else -1. It is always -1 in point-labeled samples.
    """

    click_id: NDArray[np.object_]
    xyz_m: NDArray[np.float64]
    label: NDArray[np.int64]
    box_index: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, index: NDArray[np.bool_] | NDArray[np.int64] | slice) -> PointLabels:
        """Select clicks by mask, indices or slice."""
        return PointLabels(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    @staticmethod
    def empty() -> PointLabels:
        """Zero clicks."""
        return PointLabels(np.zeros(0, object), np.zeros((0, 3)), np.zeros(0, np.int64), np.zeros(0, np.int64))

    @staticmethod
    def concatenate(parts: Sequence[PointLabels]) -> PointLabels:
        """Concatenate clicks in order; ``box_index`` is not changed."""
        parts = [PointLabels.empty(), *parts]
        return PointLabels(**{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(PointLabels)})


@dataclass(frozen=True)
class SweepRecord:
    """One earlier sweep: absolute ``path``, ``sweep2lidar`` (4, 4) float64 into the keyframe's frame, ``dt_s`` >= 0."""

    path: str
    sweep2lidar: NDArray[np.float64]
    dt_s: float


@dataclass(frozen=True)
class CameraRecord:
    """One camera image: absolute ``path`` (JPEG), ``width_px``, ``height_px``, and ``lidar2img`` (4, 4) float64.

    ``lidar2img @ (x, y, z, 1) = (u d, v d, d, 1)`` for a LIDAR_TOP point of the keyframe: (u, v) continuous pixels of
    the original image with corners at integers, d the depth [m]. It goes through the camera's own ego pose.
    """

    path: str
    width_px: int
    height_px: int
    lidar2img: NDArray[np.float64]


@dataclass(frozen=True)
class SampleRecord:
    """A sample as training may know it: files, poses, and only the labels that its role allows.

    Attributes:
        sample_token, scene_token: nuScenes tokens.
        timestamp_us: of the keyframe's LiDAR sweep [us].
        role: one of ROLES.
        lidar_path: absolute path of the keyframe's .pcd.bin.
        sweeps: earlier sweeps, newest first, at most 9.
        cameras: in the order of CAMERAS; None for a camera that the sample lacks.
        lidar2ego, ego2global: (4, 4) float64 at the keyframe's LiDAR time.
        boxes: human boxes of a box-labeled sample, pseudo labels of a point-labeled one (empty before there are any).
        clicks: stored clicks (train samples of either role).
        regions: where labels hold (``geometry/regions.py``); None: everywhere.
    """

    sample_token: str
    scene_token: str
    timestamp_us: int
    role: str
    lidar_path: str
    sweeps: tuple[SweepRecord, ...]
    cameras: tuple[CameraRecord | None, ...]
    lidar2ego: NDArray[np.float64]
    ego2global: NDArray[np.float64]
    boxes: Boxes3D
    clicks: PointLabels
    regions: Regions | None = None


@dataclass(frozen=True)
class Sample:
    """One decoded sample.

    Attributes:
        record: the sample's record.
        points: (P, 5) float32: x, y, z [m], intensity [0..255], dt [s] >= 0 (0 = keyframe).
        images: (6, H, W, 3) uint8 RGB in the order of CAMERAS, or (0, 0, 0, 3) when cameras were not asked for.
        lidar2img: (6, 4, 4) float64 for the resized images and the (possibly augmented) points.
        camera_valid: (6,) bool, False where the sample lacks that camera (its pixels are 0).
        boxes, clicks, regions: labels and where they hold (None: everywhere), moved with the points by augmentation.
        augmentation: (4, 4) float64, ``lidar2augmented``: identity before ``augment``. May scale and mirror.
        classes: the names of labels, of a sample that ``pdetr3d.load_sample`` read; None: whoever reads it knows them.
    """

    record: SampleRecord
    points: NDArray[np.float32]
    images: NDArray[np.uint8]
    lidar2img: NDArray[np.float64]
    camera_valid: NDArray[np.bool_]
    boxes: Boxes3D
    clicks: PointLabels
    augmentation: NDArray[np.float64]
    regions: Regions | None = None
    classes: ClassList | None = None
