"""Poorer sensors than the dataset's: fewer LiDAR beams and points, smaller, blurred, harder compressed images.

Unlike ``data/augmentation/corruption.py``, which troubles prediction alone, this is what models are trained with, too.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pdetr3d.config import SensorConfig
from pdetr3d.data.draws import keyed_rng

BEAMS = 32  # of nuScenes' LiDAR


def keep_beams(raw: NDArray[np.float32], beams: int) -> NDArray[np.float32]:
    """Rows of a .pcd.bin (P, 5) whose ring (last column, 0 to 31) a LiDAR of ``beams`` beams would have, too."""
    return raw if beams == BEAMS else raw[raw[:, 4].astype(np.int64) % (BEAMS // beams) == 0]


def keep_points(points: NDArray[np.float32], share: float, token: str) -> NDArray[np.float32]:
    """Each of the points (P, C) with probability ``share``; drawn by the sample's token: a smaller share's points are
    among a larger one's."""
    if share == 1:
        return points
    return points[keyed_rng(0, 0, token, "point_keep").random(len(points)) < share]


def worsen_image(image: NDArray[np.uint8], sensor: SensorConfig) -> NDArray[np.uint8]:
    """An RGB image (H, W, 3) of a poorer camera: scaled down, blurred, compressed; then stretched to (H, W)."""
    import cv2

    height, width = image.shape[:2]
    worse = image
    if sensor.image_scale < 1:
        size = (max(1, round(width * sensor.image_scale)), max(1, round(height * sensor.image_scale)))
        worse = np.asarray(cv2.resize(worse, size, interpolation=cv2.INTER_AREA), np.uint8)
    if sensor.image_blur_px:
        worse = np.asarray(cv2.GaussianBlur(worse, (0, 0), sensor.image_blur_px), np.uint8)
    if sensor.jpeg_quality:
        # OpenCV takes channels for B, G, R: chroma would be computed of the wrong ones.
        file = cv2.imencode(".jpg", worse[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, sensor.jpeg_quality])[1]
        worse = np.asarray(cv2.imdecode(file, cv2.IMREAD_COLOR), np.uint8)[..., ::-1]
    if worse.shape != image.shape:
        worse = np.asarray(cv2.resize(worse, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
    return np.ascontiguousarray(worse)
