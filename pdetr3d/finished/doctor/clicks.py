"""Measures the clicks of box-labeled samples against the boxes that people drew in these samples."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pdetr3d.geometry.boxes import points_in_boxes, rotate_z
from pdetr3d.schema import Boxes3D, SampleRecord


@dataclass(frozen=True)
class ClickFacts:
    """K clicks compared with the boxes of their samples.

    A click's reference is its own box; if it has none, the nearest box of its class.

    Attributes:
        outside_m: (K,) distance [m] from the reference's surface; 0 inside, infinite without a reference.
        other_class: (K,) whether the click lies in a box of another class, and outside its reference.
        offset_m: (K, 3) from the reference's center to the click (LIDAR_TOP) [m]; NaN without a reference.
        token: (K,) the click's sample.
    """

    outside_m: NDArray[np.float64]
    other_class: NDArray[np.bool_]
    offset_m: NDArray[np.float64]
    token: NDArray[np.object_]


def click_facts(records: Iterable[SampleRecord]) -> ClickFacts:
    """Measure all clicks of records, which must hold all their boxes and the clicks' ``box_index``."""
    rows = [(*_measure(r, place), r.sample_token) for r in records for place in range(len(r.clicks))]
    outside, other, offset, token = zip(*rows, strict=True) if rows else ((),) * 4
    return ClickFacts(
        np.array(outside, np.float64),
        np.array(other, bool),
        np.array(offset, np.float64).reshape(-1, 3),
        np.array(token, object),
    )


def _measure(record: SampleRecord, place: int) -> tuple[float, bool, NDArray[np.float64]]:
    clicks, boxes = record.clicks, record.boxes
    xyz, label, own = clicks.xyz_m[place], clicks.label[place], clicks.box_index[place]
    candidates = boxes[np.array([own])] if own >= 0 else boxes[boxes.label == label]
    distance = outside_m(xyz, candidates)
    nearest = int(distance.argmin()) if len(candidates) else -1
    least = float(distance[nearest]) if len(candidates) else np.inf
    inside = points_in_boxes(xyz[None], boxes.center_m, boxes.size_m, boxes.yaw_rad)[:, 0]
    other = bool(least > 0 and (boxes.label[inside] != label).any())
    return least, other, xyz - candidates.center_m[nearest] if len(candidates) else np.full(3, np.nan)


def outside_m(xyz_m: NDArray[np.floating], boxes: Boxes3D) -> NDArray[np.float64]:
    """The distances (N,) [m] of a point (3,) from the surfaces of N boxes in the same frame; 0 inside."""
    offset = np.asarray(xyz_m, np.float64) - boxes.center_m
    local = rotate_z(offset, -boxes.yaw_rad.astype(np.float64))
    return np.linalg.norm(np.maximum(np.abs(local) - boxes.size_m / 2, 0), axis=1)
