"""Simulates poorer sensors: fewer LiDAR beams and points; smaller, blurred, more strongly compressed images.

Models are trained and evaluated with such data. ``data/augmentation/corruption.py`` changes only prediction.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pdetr3d.config import SensorConfig
from pdetr3d.data.draws import keyed_rng
from pdetr3d.schema import DataError


def keep_beams(raw: NDArray[np.float32], sensor: SensorConfig, path: Path) -> NDArray[np.float32]:
    """Keep every (lidar_rings / lidar_beams)-th ring of a LiDAR's points.

    Args:
        raw: (P, 5); the last column is the ring, from 0 on. path: the points' file, for messages.

    Raises:
        DataError: when rings are left out, but the file's rings are unknown (all of one number), or are not below
            ``lidar_rings``.
    """
    if not sensor.fewer_beams or not len(raw):
        return raw
    ring = raw[:, 4].astype(np.int64)
    low, high = int(ring.min()), int(ring.max())
    key = f"data.sensor.lidar_beams={sensor.lidar_beams}"
    if low == high:
        raise DataError(
            f"{path}: {key} leaves out rings, but all points are of ring {low}: the rings are not known. Set "
            "data.lidar_ring=false, and thin points by data.sensor.point_keep"
        )
    if high >= sensor.lidar_rings:
        raise DataError(
            f"{path}: has ring {high}, but data.sensor.lidar_rings={sensor.lidar_rings} allows 0 to "
            f"{sensor.lidar_rings - 1} with {key}: set it to the number of rings that the LiDAR has"
        )
    return raw[ring % (sensor.lidar_rings // sensor.lidar_beams) == 0]


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
