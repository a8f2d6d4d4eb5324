"""Boxes at clicks against the true boxes of those clicks: nothing of it reaches training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from pdetr3d.config import Config
from pdetr3d.data.load import load_sample
from pdetr3d.evaluation.pseudo_label_quality import pseudo_label_quality
from pdetr3d.pseudo_labels import FLOORS, class_mean_boxes, class_mean_pca_boxes
from pdetr3d.schema import Boxes3D, SampleRecord

CHUNK = 16  # samples of one task


class KnownClicks:
    """Those clicks of ``records`` whose true box is known, and the boxes.

    Args:
        records: samples whose clicks were turned into boxes.
        known: sample_token -> the record that has every box (role "box"), its clicks with ``box_index``.
    """

    def __init__(self, records: Sequence[SampleRecord], known: dict[str, SampleRecord]) -> None:
        self.rows: list[tuple[SampleRecord, NDArray[np.int64]]] = []
        truth = []
        for record in records:
            true = known[record.sample_token]
            box_of = {c: i for c, i in zip(true.clicks.click_id, true.clicks.box_index, strict=True) if i >= 0}
            rows = np.array([i for i, c in enumerate(record.clicks.click_id) if c in box_of], np.int64)
            if len(rows):  # on a really point-labeled dataset: never
                truth.append(true.boxes[np.array([box_of[c] for c in record.clicks.click_id[rows]], np.int64)])
                self.rows.append((record, rows))
        self.truth = Boxes3D.concatenate(truth)

    def quality(self, boxes: Mapping[str, Boxes3D]) -> dict[str, Any]:
        """``pseudo_label_quality`` of sample_token -> boxes, one per click of the record and in their order."""
        mine = Boxes3D.concatenate([boxes[record.sample_token][rows] for record, rows in self.rows])
        return pseudo_label_quality(mine, self.truth, np.linalg.norm(self.truth.center_m[:, :2], axis=1))


def floors(clicks: KnownClicks, config: Config, prior_size_m: NDArray[np.floating]) -> dict[str, dict[str, Any]]:
    """Quality of what needs no training: the class-mean box, heading forward or along the points near the click."""
    records = [record for record, _ in clicks.rows]
    plain = {r.sample_token: class_mean_boxes(r.clicks, prior_size_m) for r in records}
    chunks = [records[i : i + CHUNK] for i in range(0, len(records), CHUNK)]
    task = ray.remote(num_cpus=config.scaling.data_cpus)(_pca_boxes)
    turned: dict[str, Boxes3D] = {}
    for part in ray.get([task.remote(chunk, config, prior_size_m) for chunk in chunks]):
        turned |= part
    return {name: clicks.quality(boxes) for name, boxes in zip(FLOORS, (plain, turned), strict=True)}


def _pca_boxes(
    records: Sequence[SampleRecord], config: Config, prior_size_m: NDArray[np.floating]
) -> dict[str, Boxes3D]:
    boxes = {}
    for record in records:
        points = load_sample(record, config.data, cameras=False).points
        boxes[record.sample_token] = class_mean_pca_boxes(record.clicks, prior_size_m, points)
    return boxes
