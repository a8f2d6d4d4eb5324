"""A trained teacher uses the images: with wrong images or wrong cameras, its boxes of far objects get worse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from pdetr3d.batch import Batch
from pdetr3d.class_list import NUSCENES_CLASSES
from pdetr3d.evaluation.pseudo_label_quality import pseudo_label_quality
from pdetr3d.schema import Boxes3D
from pdetr3d.training.build import Task
from pdetr3d.training.context import LocalContext
from pdetr3d.training.loop import train_step
from pdetr3d.training.optim import learning_rate, make_optimizer
from pdetr3d.training.plan import BatchLoader, Plan
from tests.training_cases import World, one_thread, open_world, task_of

STEPS, FAR_M = 120, 20.0
OVERRIDES = [
    "data.image_size_px=[160,90]",
    "label.ratio=1.0",
    "teacher.optim.batch_size=2",
    "teacher.optim.lr=0.004",
    "model.range_m=[-51.2,-51.2,-5,51.2,51.2,3]",
    "model.pillar_m=3.2",
]


def without_points(arrays: dict[str, np.ndarray]) -> Batch:
    """The record without any LiDAR points: the extreme case of a far object."""
    empty = {key: arrays[key][:0] for key in ("points", "point_sample")}
    return Batch.from_arrays(arrays | empty)


def far_quality(world: World, task: Task, *, shuffle: bool) -> dict[str, float]:
    """Quality of the boxes of clicks beyond FAR_M. With ``shuffle`` every camera shows its neighbor's image."""
    load = BatchLoader(world.run.config, "predict", cameras=True)
    predicted, truth = [], []
    for record in world.boxed:
        arrays = load([record], [0])
        if shuffle:
            arrays["images"] = np.roll(arrays["images"], 1, axis=1)
        batch = without_points(arrays)
        with torch.no_grad():
            boxes = task.predict(task.model(batch), batch)[0]
        far = np.linalg.norm(record.clicks.xyz_m[:, :2], axis=1) > FAR_M
        predicted.append(boxes[far])
        truth.append(record.boxes[record.clicks.box_index[far]])
    true = Boxes3D.concatenate(truth)
    return pseudo_label_quality(
        Boxes3D.concatenate(predicted), true, np.linalg.norm(true.center_m[:, :2], axis=1), classes=NUSCENES_CLASSES
    )


def test_shuffled_cameras_worsen_far_boxes(sim_world: Path, tmp_path: Path) -> None:
    world = open_world(sim_world, tmp_path, *OVERRIDES)
    task = task_of("teacher", world)
    plan, optimizer = Plan(len(world.boxed), 2, STEPS, 0), make_optimizer(task.model, task.optim)
    context = LocalContext(world.boxed, plan, task.loader, tmp_path)
    task.model.train()
    with one_thread():
        for step, arrays in enumerate(context.batches(0)):
            rate = learning_rate(task.optim, step, STEPS)
            train_step(task.model, optimizer, task, without_points(arrays), context, rate)
        task.model.eval()
        right, shuffled = (far_quality(world, task, shuffle=shuffle) for shuffle in (False, True))
    # Measured when written: BEV IoU 0.59 against 0.48, yaw error 0.53 against 1.21 rad, of 115 boxes.
    assert right["n"] > 100
    assert right["yaw_error_rad"] < shuffled["yaw_error_rad"] - 0.3
    assert right["bev_iou"] > shuffled["bev_iou"] + 0.05
