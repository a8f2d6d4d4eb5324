"""Clicks of box-labeled samples against the boxes that people drew there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pdetr3d.doctor.evidence import ClickFacts, StrayClick
from pdetr3d.geometry.boxes import rotate_z
from pdetr3d.pseudo_labels import CLICK_TOLERANCE_M
from pdetr3d.schema import CLASSES, Boxes3D, SampleRecord


def click_facts(records: Sequence[SampleRecord]) -> ClickFacts:
    """Measure the clicks of ``records`` (role "box", see ``training_records``); others are passed over.

    A click is outside when it is more than 0.1 m (as for pseudo labels) from its box, or no box is its own.
    """
    count, strays, shifts = 0, [], []
    for record in (record for record in records if record.role == "box"):
        clicks, boxes = record.clicks, record.boxes
        for place, own in enumerate(clicks.box_index):
            count += 1
            xyz, label = clicks.xyz_m[place], int(clicks.label[place])
            candidates = boxes[np.array([own])] if own >= 0 else boxes[boxes.label == label]
            if len(candidates):
                distance = outside_m(xyz, candidates)
                nearest = int(distance.argmin())
                shifts.append(xyz - candidates.center_m[nearest])
                farthest: float | None = float(distance[nearest])
            else:
                farthest = None
            if own < 0 or farthest is None or farthest > CLICK_TOLERANCE_M:
                strays.append(StrayClick(record.sample_token, CLASSES[label], farthest))
    strays.sort(key=lambda stray: -np.inf if stray.outside_m is None else -stray.outside_m)
    x, y, z = np.median(shifts, axis=0).tolist() if shifts else (0.0, 0.0, 0.0)
    return ClickFacts(count, tuple(strays), (x, y, z) if shifts else None)


def outside_m(xyz_m: NDArray[np.floating], boxes: Boxes3D) -> NDArray[np.float64]:
    """Distance (N,) [m] of a point (3,) from the surface of N boxes; 0 inside."""
    offset = np.asarray(xyz_m, np.float64) - boxes.center_m
    local = rotate_z(offset, -boxes.yaw_rad.astype(np.float64))
    return np.linalg.norm(np.maximum(np.abs(local) - boxes.size_m / 2, 0), axis=1)
