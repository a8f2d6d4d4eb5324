"""Corruption of input in robustness studies. It is applied when samples are read for prediction, never in training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pdetr3d.config import CorruptionConfig
from pdetr3d.data.draws import keyed_rng
from pdetr3d.data.labels.clicks import by_people
from pdetr3d.schema import CAMERAS, DataError, PointLabels, Sample


def corrupt(sample: Sample, config: CorruptionConfig, seed: int) -> Sample:
    """Corrupt a sample by ``config``: moved clicks, missing or rotated cameras, blurred images.

    Draws are keyed by (seed, sample token), so that a sample loses the same cameras and rotates about the same axes
    under every setting; this makes settings comparable.

    Raises:
        DataError: when ``click_noise_factor`` is not 1 and a simulated click's box is unknown.
    """
    token = sample.record.sample_token
    if config.click_noise_factor != 1:
        sample = replace(sample, clicks=spread_clicks(sample, config.click_noise_factor))
    if config.missing_cameras:
        lost = keyed_rng(seed, 0, token, "missing_cameras").permutation(len(CAMERAS))[: config.missing_cameras]
        sample = _without(sample, lost)
    if config.extrinsics_deg:
        axes = keyed_rng(seed, 0, token, "extrinsics").normal(size=(len(CAMERAS), 3))
        moved = [turn_camera(m, a, config.extrinsics_deg) for m, a in zip(sample.lidar2img, axes, strict=True)]
        sample = replace(sample, lidar2img=np.stack(moved))
    if config.blur_px and len(sample.images):
        import cv2

        blurred = [cv2.GaussianBlur(image, (0, 0), config.blur_px) for image in sample.images]
        sample = replace(sample, images=np.stack(blurred).astype(np.uint8))
    return sample


def spread_clicks(sample: Sample, factor: float) -> PointLabels:
    """The sample's clicks, with each simulated click's offset from its box's center multiplied by ``factor``.

    This scales the standard deviation of the click noise. People's clicks stay.

    Raises:
        DataError: when the box of a simulated click is unknown.
    """
    clicks = sample.clicks
    simulated = ~by_people(clicks)
    if (simulated & (clicks.box_index < 0)).any():
        raise DataError(
            f"sample {sample.record.sample_token}: corruption.click_noise_factor {factor:g} moves clicks relative to "
            "their true boxes, which only python -m ray_jobs.search robustness looks at; set it to 1"
        )
    xyz = clicks.xyz_m.copy()
    center = sample.boxes.center_m[clicks.box_index[simulated]].astype(np.float64)
    xyz[simulated] = center + factor * (xyz[simulated] - center)
    return replace(clicks, xyz_m=xyz)


def turn_camera(lidar2img: NDArray[np.float64], axis: NDArray[np.float64], angle_deg: float) -> NDArray[np.float64]:
    """``lidar2img`` (4, 4) of a camera that is turned by ``angle_deg`` about ``axis`` (3,) through its center."""
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.deg2rad(angle_deg)
    rotation = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross  # Rodrigues
    center = -np.linalg.solve(lidar2img[:3, :3], lidar2img[:3, 3])
    about_center = np.eye(4)
    about_center[:3, :3], about_center[:3, 3] = rotation, center - rotation @ center
    return lidar2img @ about_center


def _without(sample: Sample, cameras: NDArray[np.int64]) -> Sample:
    """The sample as if its record had None for these cameras."""
    valid, images = sample.camera_valid.copy(), sample.images.copy()
    valid[cameras] = False
    if len(images):
        images[cameras] = 0
    return replace(sample, camera_valid=valid, images=images)
