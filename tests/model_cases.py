"""Makes small configurations and batches for tests of models and losses."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import torch

from pdetr3d import presets
from pdetr3d.batch import Batch
from pdetr3d.config import Config

TINY = [
    "model.range_m=[-12.8,-12.8,-5,12.8,12.8,3]",
    "model.pillar_m=0.8",
    "model.backbone_strides=[1,2,2]",
    "model.pillar_channels=8",
    "model.pillar_points=20",
    "model.backbone_channels=[8,8,16]",
    "model.backbone_layers=[0,0,1]",
    "model.norm=group",
    "teacher.channels=24",
    "teacher.heads=2",
    "teacher.image_channels=[8,8,16]",
    "teacher.dropout=0",
    "student.neck_channels=[8,8,8]",
    "student.head_channels=8",
    "student.regression_reach=0",
    "student.gt_sampling=[]",
    "student.gt_sampling_pseudo_score=0",
    "teacher.decoder_layers=1",
    "teacher.crop_optim.epochs=2",
    "scaling.workers=1",
    "scaling.inference_workers=1",
    "scaling.concurrent_stages=1",
]

# Overrides per choice of teacher.query_init and teacher.fusion.
QUERY_INITS = {
    "explicit": [],
    "implicit": ["teacher.query_init=implicit"],
    "learned": [
        "teacher.query_init=learned",
        "teacher.matching=hungarian",
        "teacher.learned_queries=9",
    ],
    "group": ["teacher.query_init=group", "teacher.group_copies=3"],
}
QUERY_INITS["implicit attending"] = [*QUERY_INITS["implicit"], "teacher.self_attention=true"]
QUERY_INITS["learned attending"] = [*QUERY_INITS["learned"], "teacher.self_attention=true"]
FUSIONS = {fusion: [f"teacher.fusion={fusion}"] for fusion in ("none", "concat", "d_roi")}


def tiny_config(*overrides: str) -> Config:
    """The quickstart preset, shrunk to 32 x 32 cells, group norm, no dropout, no GT sampling."""
    return presets.load("quickstart", [*TINY, *overrides])


def ring_cameras(width: int = 64, height: int = 32) -> torch.Tensor:
    """(6, 4, 4) lidar2img of six pinhole cameras at the sensor, 60 degrees apart, 60 degrees wide."""
    focal = width / 2 / np.tan(np.pi / 6)
    views = []
    for i in range(6):
        heading = i * np.pi / 3
        forward, left = (
            np.array([np.cos(heading), np.sin(heading), 0]),
            np.array([-np.sin(heading), np.cos(heading), 0]),
        )
        rows = [width / 2 * forward - focal * left, height / 2 * forward - focal * np.array([0, 0, 1]), forward]
        matrix = np.eye(4)
        matrix[:3, :3] = np.stack(rows)
        views.append(matrix)
    return torch.tensor(np.stack(views), dtype=torch.float32)


def make_batch(samples: int = 2, clicks: int = 5, seed: int = 0, points: int = 400) -> Batch:
    """Random points, images and ``clicks`` boxes with clicks near centers per sample, in the tiny range."""
    g = torch.Generator().manual_seed(seed)

    def uniform(*shape: int, low: float = 0, high: float = 1) -> torch.Tensor:
        return torch.rand(*shape, generator=g) * (high - low) + low

    cloud = torch.cat(
        [uniform(samples * points, 2, low=-12, high=12), uniform(samples * points, 1, low=-2, high=1),
         uniform(samples * points, 1, high=255), uniform(samples * points, 1, high=0.3)], 1
    )  # fmt: skip
    sample = torch.arange(samples).repeat_interleave(points)
    center = torch.cat(
        [uniform(samples, clicks, 2, low=-11, high=11), uniform(samples, clicks, 1, low=-1, high=0.5)], -1
    )
    size = uniform(samples, clicks, 3, low=0.5, high=4)
    yaw = uniform(samples, clicks, 1, low=-3, high=3)
    label = torch.randint(0, 10, (samples, clicks), generator=g)
    click = center + uniform(samples, clicks, 3, low=-0.1, high=0.1)
    valid = torch.ones(samples, clicks, dtype=torch.bool)
    return Batch(
        token=np.array([f"sample{i}".encode() for i in range(samples)]),
        points=cloud,
        point_sample=sample,
        weak_points=cloud.clone(),
        weak_point_sample=sample.clone(),
        box_labeled=torch.ones(samples, dtype=torch.bool),
        augmentation=torch.eye(4).repeat(samples, 1, 1),
        images=torch.randint(0, 256, (samples, 6, 32, 64, 3), generator=g, dtype=torch.uint8),
        lidar2img=ring_cameras().repeat(samples, 1, 1, 1),
        camera_valid=torch.ones(samples, 6, dtype=torch.bool),
        box=torch.cat([center, size, yaw], -1),
        velocity=uniform(samples, clicks, 2, low=-5, high=5),
        box_label=label,
        box_score=torch.ones(samples, clicks),
        box_direction=torch.ones(samples, clicks),
        box_source=torch.zeros(samples, clicks, dtype=torch.long),
        box_valid=valid,
        click=click,
        canonical_click=click.clone(),
        click_label=label.clone(),
        click_box=torch.arange(clicks).repeat(samples, 1),
        click_valid=valid.clone(),
    )


def shaken(model: torch.nn.Module) -> torch.nn.Module:
    """The model in evaluation mode, with noise on zero-initialized layers, so that boxes depend on all inputs."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval()


def change(batch: Batch, **values: torch.Tensor) -> Batch:
    """A copy of the batch with some fields replaced."""
    return Batch(**{f.name: values.get(f.name, getattr(batch, f.name)) for f in fields(Batch)})


def one_sample(batch: Batch, index: int) -> Batch:
    """The batch of only sample ``index``."""
    values = {f.name: getattr(batch, f.name) for f in fields(Batch) if "point" not in f.name}
    per_sample = {name: value[index : index + 1] for name, value in values.items() if value is not None}
    keep, weak = batch.point_sample == index, batch.weak_point_sample == index
    zeros = torch.zeros(int(keep.sum()), dtype=torch.long)
    return Batch(
        points=batch.points[keep],
        point_sample=zeros,
        weak_points=batch.weak_points[weak],
        weak_point_sample=zeros,
        **per_sample,
    )


def same_on_all_ranks(value: torch.Tensor) -> torch.Tensor:
    """The ``RankMean`` of a single process."""
    return value.detach()
