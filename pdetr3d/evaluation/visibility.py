"""Measures what the sensors show of objects by distance, i.e. what a teacher can learn of far ones beyond the click."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pdetr3d.evaluation.pseudo_label_quality import BINS_M
from pdetr3d.geometry.boxes import corners, points_in_each_box
from pdetr3d.geometry.camera import in_image, project
from pdetr3d.schema import Sample


def visibility(samples: Iterable[Sample], size_px: tuple[int, int]) -> pd.DataFrame:
    """Measure the samples' boxes by BEV distance from the LiDAR (BINS_M; farther boxes are left out).

    Args:
        samples: not augmented; their images are not used.
        size_px: (width, height) of the images that ``lidar2img`` maps to.

    Returns:
        One row per bin, with an index like ``"30-40"``:
        ``objects``: number of boxes;
        ``points``: median number of LiDAR points in a box, of all the sample's sweeps;
        ``in_view``: share of the boxes whose center lies in a camera's image;
        ``width_px``, ``height_px``: median extents of those boxes in the image where each is widest. Occlusion is
        ignored. Figures are NaN in a bin without objects.
    """
    rows = [row for sample in samples for row in _rows(sample, size_px)]
    table = pd.DataFrame(rows, columns=["distance", "points", "width_px", "height_px"])
    table["in_view"] = table.width_px.notna()
    return pd.DataFrame(
        {
            f"{low}-{high}": {
                "objects": len(mine := table[(table.distance >= low) & (table.distance < high)]),
                "points": mine.points.median(),
                "in_view": mine.in_view.mean(),
                "width_px": mine.width_px.median(),
                "height_px": mine.height_px.median(),
            }
            for low, high in BINS_M
        }
    ).T


def _rows(sample: Sample, size_px: tuple[int, int]) -> list[tuple[float, ...]]:
    """Distance [m], number of points, width and height [px] (NaN: in no image) of each box."""
    boxes = sample.boxes
    geometry = boxes.center_m, boxes.size_m, boxes.yaw_rad
    counts = [len(inside) for inside in points_in_each_box(sample.points, *geometry)]
    extents = np.full((len(boxes), 2), np.nan)
    for lidar2img in sample.lidar2img[sample.camera_valid]:
        seen = in_image(project(lidar2img, boxes.center_m)[0], size_px)
        found = _extents(lidar2img, corners(*geometry))
        wider = seen & ~(extents[:, 0] >= found[:, 0])
        extents[wider] = found[wider]
    distance = np.hypot(boxes.center_m[:, 0], boxes.center_m[:, 1])
    return list(zip(distance, counts, *extents.T, strict=True))


def _extents(lidar2img: NDArray[np.float64], corners_m: NDArray[np.float64]) -> NDArray[np.float64]:
    """Width and height [px], (N, 2), of boxes with corners (N, 8, 3); NaN where a corner is behind the camera."""
    uv = project(lidar2img, corners_m)[0]
    return uv.max(1) - uv.min(1)
