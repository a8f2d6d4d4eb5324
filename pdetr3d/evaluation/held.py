"""Selects the boxes to score in samples whose labels hold only in certain regions."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from nuscenes.eval.common.data_classes import EvalBoxes

from pdetr3d.evaluation.results_format import Poses
from pdetr3d.geometry.regions import Regions
from pdetr3d.geometry.rigid import apply, chain, inverse


def where_labels_hold(boxes: EvalBoxes, regions: Mapping[str, Regions], poses: Mapping[str, Poses]) -> EvalBoxes:
    """The boxes whose center, seen from above, lies where the sample's labels hold; every sample token is kept.

    Args:
        boxes: global frame.
        regions: sample token -> regions in its LIDAR_TOP frame. Labels of samples that are not in it hold everywhere.
        poses: sample token -> (lidar2ego, ego2global), (4, 4) each.
    """
    kept = EvalBoxes()
    for token in boxes.sample_tokens:
        mine = boxes[token]
        if token in regions and mine:
            center = apply(inverse(chain(*poses[token])), np.array([box.translation for box in mine], np.float64))
            mine = [box for box, held in zip(mine, regions[token].known_at(center), strict=True) if held]
        kept.add_boxes(token, mine)
    return kept
