"""Converts a frame of KITTI, of any layout, to points, camera, boxes and regions of the written dataset."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pdetr3d.config import DataConfig
from pdetr3d.data.storage.points import STRANGE, check_points
from pdetr3d.evaluation.kitti_score import DONT_CARE
from pdetr3d.geometry.boxes import footprints
from pdetr3d.geometry.regions import Regions
from pdetr3d.geometry.rigid import move_points
from pdetr3d.importers.frame import Camera, Frame, Objects, cut_out, field_of_view, image_sector
from pdetr3d.importers.kitti_files import Calibration, Labels
from pdetr3d.importers.mapping import ClassMapping
from pdetr3d.importers.scenes import SceneRow
from pdetr3d.schema import DataError

VELODYNE = DataConfig(lidar_columns=4)  # x, y, z, reflectance in [0, 1]
FULL_INTENSITY = 255.0
# Allowed distance of the principal point from the image's middle, as a share of the sides (KITTI: at 0.49 and 0.46).
OFF_CENTER = 0.15
SPILL_PX = 1.0  # a label's rectangle may leave the image by this much
CAMERA_HEIGHT_M = 1.65  # of the left color camera above the ground (KITTI's sensor setup)
NEAREST_M = 2.0  # least depth at which a region to ignore begins
FARTHEST_START_M = 40.0  # largest depth at which one begins: near the horizon flat ground is a poor model
SLACK = 0.8  # a region begins at this share of the depth at which flat ground meets the rectangle's lower side


@dataclass(frozen=True)
class KittiFrame:
    """A frame's files, calibration and labels.

    Attributes:
        name: unique in the dataset. velodyne, image: files. size_px: (width, height) of the image.
        lidar2global: (4, 4), or None if unknown.
        keyframe: False for a sweep between keyframes, whose image and labels are not used.
    """

    name: str
    velodyne: Path
    image: Path
    size_px: tuple[int, int]
    calibration: Calibration
    labels: Labels
    lidar2global: NDArray[np.float64] | None = None
    keyframe: bool = True

    def to_frame(self, row: SceneRow, classes: ClassMapping) -> Frame:
        """The frame in the form that ``dataset.write_dataset`` takes; ``row``: its scene."""

        def points() -> NDArray[np.float32]:
            return velodyne_points(self.velodyne, self.calibration)

        if not self.keyframe:
            return Frame(self.name, row.scene, row.timestamp_us, points, self.lidar2global, keyframe=False)
        cared = np.flatnonzero(self.labels.cared)
        kinds = [self.labels.kind[i] for i in cared]
        box = self.labels.boxes(self.calibration)[cared]
        camera = Camera(
            "CAM_FRONT", self.image, self.size_px, self.calibration.intrinsic, self.calibration.camera2lidar
        )
        names = tuple(classes.category(kind) for kind in kinds)
        tracks = tuple(self.labels.track[i] or None for i in cared)
        view = Regions((field_of_view(camera),), ignored(camera, self.labels.rectangle_px[~self.labels.cared], box))
        beside = outlines(box[~view.valid_at(box)])  # labeled objects at the image's rim: their places are valid, too
        return Frame(
            name=self.name,
            scene=row.scene,
            timestamp_us=row.timestamp_us,
            points=points,
            lidar2global=self.lidar2global,
            cameras=(camera,),
            objects=Objects(names, box[:, :3], box[:, 3:6], box[:, 6], tracks),
            regions=Regions((field_of_view(camera), *beside), view.ignore),
        )


def velodyne_points(file: Path, calibration: Calibration) -> NDArray[np.float32]:
    """Read points (P, 5) float32: x, y, z [m] in LIDAR_TOP, reflectance in [0, 255], and 0, since KITTI has no rings.

    Raises:
        DataError: when the file is truncated or holds something else.
    """
    try:
        check_points(file, VELODYNE)
    except DataError as error:  # its advice is for datasets that are indexed as they are
        found = re.sub(r": set data\.lidar.*|; say what they are by data\.lidar.*", "", str(error))
        raise DataError(
            f"{found}; KITTI's files hold 4 float32 a point (x, y, z, reflectance): write these alone"
        ) from error
    points = np.pad(np.fromfile(file, "<f4").reshape(-1, 4), ((0, 0), (0, 1)))
    bright = points[:, 3] > 1
    if bright.sum() > STRANGE * len(points):
        raise DataError(
            f"{file}: {bright.mean():.0%} of the reflectances are above 1, the largest is {points[:, 3].max():g}; "
            "KITTI's are 0 to 1: divide them by their full scale (255, say)"
        )
    move_points(calibration.velo2lidar, points)
    points[:, 3] *= FULL_INTENSITY
    return points


def ignored(
    camera: Camera, rectangles_px: NDArray[np.float64], boxes: NDArray[np.float64]
) -> tuple[NDArray[np.float64], ...]:
    """The regions to ignore on the ground behind an image's DontCare rectangles (D, 4).

    A rectangle gives a direction, but no distance. Its region begins at SLACK times the depth at which flat ground
    meets its lower side (at most FARTHEST_START_M), but not below NEAREST_M, and ends with the field of view. The
    footprints of labeled ``boxes`` (N, 7) are cut out, because they are known.

    Returns:
        Polygons (C, 2) [m] in the LIDAR_TOP frame.
    """
    known = outlines(boxes)
    polygons: list[NDArray[np.float64]] = []
    for left, _, right, bottom in rectangles_px:
        below_px = bottom - camera.intrinsic[1, 2]
        depth_m = camera.intrinsic[1, 1] * CAMERA_HEIGHT_M / below_px if below_px > 0 else np.inf
        near_m = max(NEAREST_M, SLACK * min(depth_m, FARTHEST_START_M))
        polygons += cut_out(image_sector(camera, left, right, near_m), known)
    return tuple(polygons)


def outlines(boxes: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """The footprints of boxes (N, 7) as polygons (4, 2) [m]."""
    return [np.array(shape.exterior.coords)[:-1] for shape in footprints(boxes[:, :3], boxes[:, 3:6], boxes[:, 6])]


def find_image(folder: Path, name: str, problems: list[str]) -> tuple[Path, tuple[int, int]] | None:
    """Find folder/NAME.png or .jpg and its (width, height); returns None after adding a problem."""
    image = next((path for end in (".png", ".jpg") if (path := folder / f"{name}{end}").is_file()), None)
    if image is None:
        problems.append(f"{folder / name}.png: no such image")
        return None
    try:
        with Image.open(image, formats=["PNG", "JPEG"]) as opened:
            return image, opened.size
    except OSError as error:
        problems.append(f"{image}: missing or broken PNG or JPEG ({error}); copy the file again")
        return None


def class_problems(file: Path, labels: Labels, classes: ClassMapping) -> list[str]:
    """The problems of label lines whose type is not in the mapping."""
    found = zip(labels.kind, labels.line, strict=True)
    return [
        f"{file}:{line}: {problem}"
        for kind, line in found
        if kind != DONT_CARE and (problem := classes.problem(kind))
    ]  # fmt: skip


def size_problems(
    image: Path, size: tuple[int, int], calibration: Calibration, file: Path, labels: Labels
) -> list[str]:
    """The problems of an image whose size does not fit its calibration or labels."""
    center = calibration.intrinsic[:2, 2]
    if np.abs(center / size - 0.5).max() > OFF_CENTER:
        return [
            f"{image}: {size[0]} x {size[1]} px, but P2 has its principal point at ({center[0]:.1f}, {center[1]:.1f}): "
            f"it is for an image of about {2 * center[0]:.0f} x {2 * center[1]:.0f} px; give the image of that size, "
            "or a P2 scaled as the image was"
        ]
    outside = np.flatnonzero((labels.rectangle_px[:, 2:] > np.array(size) + SPILL_PX).any(1))
    return [
        f"{file}:{labels.line[i]}: right, bottom {labels.rectangle_px[i, 2]:g} {labels.rectangle_px[i, 3]:g} is out of "
        f"{image.name}, {size[0]} x {size[1]} px: the label is of another image size"
        for i in outside
    ]


def label_facts(frames: Sequence[KittiFrame], classes: ClassMapping) -> dict[str, Any]:
    """The numbers of keyframes and labels, for import.json."""
    key = [each for each in frames if each.keyframe]
    kinds = [kind for each in key for kind in each.labels.kind]
    objects = [kind for kind in kinds if kind != DONT_CARE]
    return {
        "frames": len(key),
        "objects": dict(Counter(objects).most_common()),
        "without_class": classes.without_class(objects),
        "dont_care": kinds.count(DONT_CARE),
        "occlusion_unknown": sum(int(((each.labels.occluded == 3) & each.labels.cared).sum()) for each in key),
    }
