"""Measures the value of cameras on unseen scenes: a teacher's pseudo labels when each camera has another one's picture.

The benchmark reads a finished run (PDETR3D_RUN, default runs/quickstart) and prints a table; it skips without a run.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pdetr3d.batch import Batch
from pdetr3d.class_list import NUSCENES_CLASSES
from pdetr3d.config import Config
from pdetr3d.data.index.index import Index
from pdetr3d.data.label_manifest import prior_size_m, training_records
from pdetr3d.data.labels.manifest import LabelManifest
from pdetr3d.evaluation.pseudo_label_quality import pseudo_label_quality
from pdetr3d.schema import Boxes3D, SampleRecord
from pdetr3d.training import checkpoint
from pdetr3d.training.build import Task, build
from pdetr3d.training.plan import BatchLoader

RUN = Path(os.environ.get("PDETR3D_RUN", "runs/quickstart"))
EVERY = 4  # every fourth of the point-labeled samples is used


def quality(task: Task, config: Config, records: list[SampleRecord], *, shuffle: bool) -> dict[str, Any]:
    """The quality at clicks with known boxes; ``shuffle``: each camera gets the picture of the opposite one."""
    load = BatchLoader(config, "predict", cameras=True)
    predicted, truth = [], []
    for record in records:
        arrays = load([record], [0])
        if shuffle:
            arrays["images"] = np.roll(arrays["images"], 3, axis=1)
        batch = Batch.from_arrays(arrays)
        with torch.no_grad():
            boxes = task.predict(task.model(batch), batch)[0]
        known = record.clicks.box_index >= 0
        predicted.append(boxes[known])
        truth.append(record.boxes[record.clicks.box_index[known]])
    true = Boxes3D.concatenate(truth)
    return pseudo_label_quality(
        Boxes3D.concatenate(predicted), true, np.linalg.norm(true.center_m[:, :2], axis=1), classes=NUSCENES_CLASSES
    )


def test_print_what_cameras_are_worth() -> None:
    """Print the table."""
    files = sorted((RUN / "teacher").glob("step_*.pt"))
    if not files:
        pytest.skip(f"{RUN} holds no trained teacher: run `make quickstart`, or set PDETR3D_RUN")
    state = checkpoint.load(files[-1])
    config = Config.from_json(state["config"])
    index = Index.open(RUN / "data" / "index.arrow")
    labeled = training_records(index, LabelManifest.open(RUN / "data" / "manifest"))
    unseen = [record.sample_token for record in labeled if record.role == "point"][::EVERY]
    everything = training_records(index, LabelManifest.open(RUN / "data" / "manifest"), boxes_everywhere=True)
    records = [record for record in everything if record.sample_token in set(unseen)]
    task = build("teacher", config, prior_size_m(labeled, classes=NUSCENES_CLASSES)[0])
    task.model.load_state_dict(state["model"])
    task.model.eval()
    right, wrong = (quality(task, config, records, shuffle=shuffle) for shuffle in (False, True))
    table = Table(escape("distance [m]"), "n", "IoU", "IoU shuffled", escape("yaw error [rad]"), "yaw error shuffled")
    rows = [("all", right, wrong)]
    rows += [(name, right["by_distance"][name], wrong["by_distance"][name]) for name in right["by_distance"]]
    for name, a, b in rows:
        table.add_row(name, str(a["n"]), *(f"{q[key]:.3f}" for key in ("bev_iou", "yaw_error_rad") for q in (a, b)))
    Console(width=100).print(table)
    assert right["n"] == wrong["n"] > 0
