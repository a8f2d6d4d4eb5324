"""Global augmentation: one affine matrix moves points, boxes, clicks, regions and cameras together (method.md 5.3)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pdetr3d.geometry import rigid
from pdetr3d.schema import Boxes3D, Sample


@dataclass(frozen=True)
class AugmentRange:
    """The distribution of augmentations.

    Attributes:
        flip: mirror x and y, each with probability 1/2. rotation_rad: yaw is uniform in +-rotation_rad. scale: uniform
            in this interval. translation_m: standard deviation of the normal shift of each axis. flip_axes: whether x
            and y may be mirrored.
    """

    flip: bool = False
    rotation_rad: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    translation_m: float = 0.0
    flip_axes: tuple[bool, bool] = (True, True)

    def draw(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """Draw ``lidar2augmented`` (4, 4) float64: ``p' = scale * Rot * Flip * p + t`` (method.md 5.3)."""
        flips, angle = rng.random(2) < 0.5, rng.uniform(-1, 1) * self.rotation_rad
        scale, shift = rng.uniform(*self.scale), rng.normal(0, 1, 3) * self.translation_m
        flips &= np.array(self.flip_axes) & self.flip
        flip = np.diag([*np.where(flips, -1.0, 1.0), 1.0])
        cos, sin = np.cos(angle), np.sin(angle)
        rotation = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1.0]])
        lidar2augmented = np.eye(4)
        lidar2augmented[:3, :3] = scale * rotation @ flip
        lidar2augmented[:3, 3] = shift
        return lidar2augmented


def augment(sample: Sample, lidar2augmented: NDArray[np.float64]) -> Sample:
    """Move a sample by the (4, 4) affine matrix ``lidar2augmented``: uniform scale, z-rotation, mirrors, translation.

    Points, boxes (center, size, yaw, velocity), clicks and regions are moved. ``lidar2img`` is multiplied by the
    inverse, so that moved points project to the same pixels, and ``sample.augmentation`` by the matrix. If the matrix
    mirrors the world, the images are mirrored left to right: otherwise they would show headings that no box has.
    """
    points = sample.points.copy()
    rigid.move_points(lidar2augmented, points)
    images, lidar2img = sample.images, sample.lidar2img @ rigid.inverse(lidar2augmented)
    if len(images) and np.linalg.det(lidar2augmented[:3, :3]) < 0:
        import cv2  # only where there are images

        images = np.empty_like(images)
        for image, mirrored in zip(sample.images, images, strict=True):
            cv2.flip(image, 1, dst=mirrored)
        lidar2img[:, 0] = images.shape[2] * lidar2img[:, 2] - lidar2img[:, 0]  # u becomes width - u
    return replace(
        sample,
        points=points,
        images=images,
        lidar2img=lidar2img,
        boxes=move_boxes(sample.boxes, lidar2augmented),
        clicks=replace(sample.clicks, xyz_m=rigid.apply(lidar2augmented, sample.clicks.xyz_m)),
        augmentation=lidar2augmented @ sample.augmentation,
        regions=sample.regions and sample.regions.moved(lidar2augmented),
    )


def move_boxes(boxes: Boxes3D, matrix: NDArray[np.float64]) -> Boxes3D:
    """Apply the affine matrix (4, 4) of ``augment`` to boxes."""
    linear = matrix[:2, :2]
    heading = np.stack([np.cos(boxes.yaw_rad), np.sin(boxes.yaw_rad)], 1) @ linear.T
    return replace(
        boxes,
        center_m=rigid.apply(matrix, boxes.center_m).astype(np.float32),
        size_m=(boxes.size_m * np.cbrt(abs(np.linalg.det(matrix[:3, :3])))).astype(np.float32),
        yaw_rad=rigid.wrap_angle(np.arctan2(heading[:, 1], heading[:, 0])).astype(np.float32),
        velocity_m_s=(boxes.velocity_m_s @ linear.T).astype(np.float32),
    )
