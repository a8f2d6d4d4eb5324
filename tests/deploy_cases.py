"""Makes run directories with a student, for tests of deployment."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from pdetr3d.config import Config
from pdetr3d.data.loading.collate import collate
from pdetr3d.data.loading.load import load_sample
from pdetr3d.schema import FALLBACK_SIZE_M, Boxes3D, SampleRecord
from pdetr3d.training import checkpoint
from pdetr3d.training.build import build
from tests.model_cases import change, make_batch, one_sample, shaken, tiny_config

BATCH_NORM = ["model.norm=batch", "student.score_threshold=0.09"]
VOXEL = [
    "model.lidar=voxel", "model.voxel_m=[0.4,0.4,0.4]", "model.voxel_channels=[4,6,8]",
    "model.backbone_channels=[8,16]", "model.backbone_layers=[0,1]", "model.backbone_strides=[1,2]",
    "student.neck_channels=[8,8]", "student.neck_strides=[1,2]",
]  # fmt: skip


def trained_run(folder: Path, *overrides: str, steps: tuple[int, ...] = (1,), arm: str = "ours") -> Config:
    """Write the files of a trained arm: a checkpoint per step, with different weights, and done.json."""
    config = tiny_config(*overrides)
    model = shaken(build("student", config, FALLBACK_SIZE_M, guidance=False).model)
    names = []
    for step in steps:
        with torch.no_grad():
            next(model.parameters()).mul_(1 + step)
        names.append(f"step_{step}.pt")
        checkpoint.save(folder / f"student_{arm}", model, None, step, config.to_json()).rename(
            folder / f"student_{arm}" / names[-1]
        )
    (folder / f"student_{arm}" / "done.json").write_text(json.dumps({"checkpoints": names, "steps": steps[-1]}))
    return config


def own_boxes(file: Path, points: Tensor) -> Boxes3D:
    """The boxes that a checkpoint's student predicts in evaluation."""
    state = checkpoint.load(file)
    task = build("student", Config.from_json(state["config"]), FALLBACK_SIZE_M, guidance=False)
    task.model.load_state_dict(state["model"])
    batch = change(one_sample(make_batch(1), 0), points=points, point_sample=torch.zeros(len(points), dtype=torch.long))
    with torch.no_grad():
        return task.predict(task.model.eval()(batch), batch)[0]


def points_of(record: SampleRecord, config: Config) -> Tensor:
    """The points of a record in training and evaluation."""
    return torch.from_numpy(collate([load_sample(record, config.data, cameras=False)])["points"])
