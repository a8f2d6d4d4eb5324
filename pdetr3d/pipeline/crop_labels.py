"""Labels clicks without a box by the crop branch, for the branch's second training (``teacher.crop_self_labels``).

Box-labeled samples are few, and show few objects of rare classes. The branch's own boxes at the other clicks show it
many more. Of their directions only the surest are learned.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pdetr3d.batch import Batch
from pdetr3d.config import Config
from pdetr3d.data.draws import keyed_uniform
from pdetr3d.data.labels.pseudo_table import surest_directions
from pdetr3d.data.loading.crops import CropLoader, Crops, crops_of
from pdetr3d.data.loading.record_list import Records
from pdetr3d.pipeline.training import CROPS
from pdetr3d.pseudo_labels import pseudo_label_rows
from pdetr3d.schema import ROLES, Boxes3D
from pdetr3d.training.build import build
from pdetr3d.training.checkpoint import best_weights, load

SURE_DIRECTIONS = 0.7  # share of the labels whose direction is learned (``surest_directions``); 0.5 was worse
BATCH = 256  # crops that are labeled at a time


def drawn_clicks(records: Records, config: Config) -> Records:
    """Draw point-labeled samples by ``run.seed`` that have at most ``teacher.crop_self_labels`` clicks in all."""
    asked = records.select(records.clicked & (records.role == ROLES.index("point")))
    drawn = keyed_uniform(config.run.seed, 0, asked.tokens, "crop self labels", 1)[:, 0]
    order = np.argsort(drawn, kind="stable")
    clicks = (asked.click_range[:, 1] - asked.click_range[:, 0])[order]
    return asked.select(np.sort(order[np.cumsum(clicks) <= config.teacher.crop_self_labels]))


def labeled_crops(records: Records, checkpoint: Path, config: Config, prior_size_m: NDArray[np.float32]) -> Crops:
    """Crops of the samples' clicks with boxes of a trained crop branch. Boxes that would not be accepted are left out.

    Args:
        records: of point-labeled samples. checkpoint: of the crop branch. config: of the run. prior_size_m: (C, 3) mean
            l, w, h per class [m].
    """
    some = list(records)
    crops = crops_of(some, config.data, prior_size_m, cameras=config.teacher.has_pictures, boxed=False)
    task = build(CROPS, config, prior_size_m)
    task.model.load_state_dict(best_weights(load(checkpoint)))
    task.model.eval()
    loader, found = CropLoader(crops, config.run.seed), list[Boxes3D]()
    with torch.no_grad():
        for first in range(0, len(crops), BATCH):
            batch = Batch.from_arrays(loader.as_stored(range(first, min(first + BATCH, len(crops)))))
            found += task.predict(task.model(batch), batch)
    ends = np.cumsum([len(record.clicks) for record in some])
    boxes = Boxes3D.concatenate(found)
    theirs = [boxes[end - len(record.clicks) : end] for record, end in zip(some, ends, strict=True)]
    rows = pseudo_label_rows(some, theirs, prior_size_m, "", config.model.range_m, classes=config.classes)
    kept = np.flatnonzero(rows["accepted"].to_numpy(bool))
    labels = surest_directions(boxes[kept], SURE_DIRECTIONS, config.classes)
    return replace(crops.take(kept), box=labels.rows.astype(np.float64), direction=labels.direction)
