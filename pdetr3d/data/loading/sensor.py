"""Simulates poorer sensors: fewer LiDAR beams and points; smaller, blurred, more strongly compressed images.

Models are trained and evaluated with such data. ``data/augmentation/corruption.py`` changes only prediction.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pdetr3d.config import SensorConfig
from pdetr3d.data.draws import keyed_rng

BEAMS = 32  # beams of nuScenes' LiDAR


def keep_beams(raw: NDArray[np.float32], beams: int) -> NDArray[np.float32]:
    """Keep every (32 / beams)-th ring of the points (P, 5) of a .pcd.bin; the ring is the last column, 0 to 31."""
    return raw if beams == BEAMS else raw[raw[:, 4].astype(np.int64) % (BEAMS // beams) == 0]


def keep_points(points: NDArray[np.float32], share: float, token: str) -> NDArray[np.float32]:
    """Keep each of the points (P, C) with probability ``share``.

    The draw is keyed by the sample's token, so that a smaller share's points are a subset of a larger one's.
    """
    if share == 1:
        return points
    return points[keyed_rng(0, 0, token, "point_keep").random(len(points)) < share]


def worsen_image(image: NDArray[np.uint8], sensor: SensorConfig) -> NDArray[np.uint8]:
    """Degrade an RGB image (H, W, 3) uint8: scale it down, blur it, compress it, then enlarge it to (H, W) again."""
    import cv2

    height, width = image.shape[:2]
    worse = image
    if sensor.image_scale < 1:
        size = (max(1, round(width * sensor.image_scale)), max(1, round(height * sensor.image_scale)))
        worse = np.asarray(cv2.resize(worse, size, interpolation=cv2.INTER_AREA), np.uint8)
    if sensor.image_blur_px:
        worse = np.asarray(cv2.GaussianBlur(worse, (0, 0), sensor.image_blur_px), np.uint8)
    if sensor.jpeg_quality:
        # OpenCV expects B, G, R: with R, G, B it would compute chroma from swapped channels.
        file = cv2.imencode(".jpg", worse[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, sensor.jpeg_quality])[1]
        worse = np.asarray(cv2.imdecode(file, cv2.IMREAD_COLOR), np.uint8)[..., ::-1]
    if worse.shape != image.shape:
        worse = np.asarray(cv2.resize(worse, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
    return np.ascontiguousarray(worse)
