"""Small models of one crop that measure how much LiDAR (two stages) or a picture shows in the simulated world.

Legend: B clicks, N their points, C channels. Angles are relative to the viewing direction (from the sensor to the
click), so no model knows the direction of traffic.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pdetr3d.class_list import NUSCENES_CLASSES
from pdetr3d.evaluation.pseudo_label_quality import pseudo_label_quality
from pdetr3d.schema import CLASSES, Boxes3D
from tests.world_crops import Crops

SIZE_STD = 0.2  # the unit of log sizes in the code
JITTER_RAD, FLIP_SHARE = 0.15, 0.1  # noise of the first stage's heading in training
KEEP = 0.75  # half sides of the second stage's crop in sides of the class-mean box; 0.5 is the box itself


class Batch:
    """The tensors of crops. ``mirror`` (B,) bool: crops that are mirrored at the viewing direction."""

    def __init__(self, crops: Crops, mirror: NDArray[np.bool_]) -> None:
        self.label, self.count = torch.from_numpy(crops.label), torch.from_numpy(crops.count)
        self.owner = torch.repeat_interleave(torch.arange(len(crops)), self.count)
        click, box = torch.from_numpy(crops.click), torch.from_numpy(crops.box)
        self.bearing = torch.atan2(click[:, 1], click[:, 0])
        self.far = click[:, :2].norm(dim=1)
        sign = torch.from_numpy(np.where(mirror, -1.0, 1.0).astype(np.float32))
        points = torch.from_numpy(crops.points)
        xy = rotate(points[:, :2], -self.bearing[self.owner])
        self.points = torch.cat([xy[:, :1], xy[:, 1:] * sign[self.owner, None], points[:, 2:]], 1)
        center = rotate((box - torch.nn.functional.pad(click, (0, 4)))[:, :2], -self.bearing)
        self.center = torch.stack([center[:, 0], center[:, 1] * sign, box[:, 2] - click[:, 2]], 1)
        self.size, self.yaw = box[:, 3:6], (box[:, 6] - self.bearing) * sign
        picture = torch.from_numpy(crops.picture).permute(0, 3, 1, 2).float() / 128 - 1
        self.picture = torch.where(sign[:, None, None, None] < 0, picture.flip(3), picture)
        self.pixel = torch.nan_to_num(torch.from_numpy(crops.pixel_m), nan=1.0)


def rotate(xy: Tensor, angle: Tensor) -> Tensor:
    """Rotate vectors (K, 2) by angles (K,) [rad]."""
    c, s = angle.cos(), angle.sin()
    return torch.stack([c * xy[:, 0] - s * xy[:, 1], s * xy[:, 0] + c * xy[:, 1]], 1)


def layers(*widths: int) -> nn.Sequential:
    """Blocks of linear layer, layer norm, ReLU between these widths."""
    steps = zip(widths, widths[1:], strict=False)
    return nn.Sequential(*(m for a, b in steps for m in (nn.Linear(a, b), nn.LayerNorm(b), nn.ReLU())))


class PointNet(nn.Module):
    """Points (N, F) of B crops, and a vector per crop (B, G) -> (B, C)."""

    def __init__(self, features: int, extra: int, channels: int) -> None:
        super().__init__()
        c = channels
        self.point, self.mix = layers(features, c, c), layers(2 * c, c, 2 * c)
        self.join = layers(2 * c + extra, 2 * c, c)

    def forward(self, points: Tensor, owner: Tensor, extra: Tensor) -> Tensor:
        feature = self.point(points)
        feature = self.mix(torch.cat([feature, crop_max(feature, owner, len(extra))[owner]], 1))
        return self.join(torch.cat([crop_max(feature, owner, len(extra)), extra], 1))


def crop_max(feature: Tensor, owner: Tensor, crops: int) -> Tensor:
    """Features (N, C) >= 0, sorted by crop (N,) -> maxima (crops, C), 0 for a crop without points."""
    count = torch.bincount(owner, minlength=crops)
    return torch.segment_reduce(feature, "max", lengths=count, axis=0, unsafe=True, initial=0)


def heading(code: Tensor) -> Tensor:
    """Decode (B, 4) sin, cos of the angle and of its double: the axis of the latter, the direction of the former."""
    axis = torch.atan2(code[:, 2], code[:, 3]) / 2
    ahead = axis.cos() * code[:, 1] + axis.sin() * code[:, 0]
    return torch.where(ahead >= 0, axis, axis + np.pi)


def heading_loss(code: Tensor, yaw: Tensor) -> Tensor:
    """(B,) L1 loss on sin and cos of the angle and of its double."""
    target = torch.stack([yaw.sin(), yaw.cos(), (2 * yaw).sin(), (2 * yaw).cos()], 1)
    return (code - target).abs().sum(1)


class LidarModel(nn.Module):
    """Predicts a heading from points in the viewing frame, then center and size from points in the heading's frame.

    Args:
        prior_size_m: (10, 3) mean l, w, h per class.
    """

    def __init__(self, prior_size_m: Tensor, channels: int = 64) -> None:
        super().__init__()
        self.prior = prior_size_m
        self.embedding = nn.Embedding(len(prior_size_m), 16)
        self.first, self.second = PointNet(5, 18, channels), PointNet(8, 20, channels)
        self.axis, self.box = nn.Linear(channels, 4), nn.Linear(channels, 10)
        nn.init.zeros_(self.box.weight)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 4) the first stage's heading, (B,) the heading given to the second stage, (B, 10) the latter's code."""
        prior = self.prior[batch.label]
        diagonal = prior[:, :2].norm(dim=1)
        extra = torch.cat(
            [self.embedding(batch.label), batch.count[:, None].float().log1p() / 5, batch.far[:, None] / 50], 1
        )
        seen = batch.points.clone()
        seen[:, :3] /= diagonal[batch.owner, None]
        first = self.axis(self.first(seen, batch.owner, extra))
        with torch.no_grad():
            start = heading(first)
            if self.training:
                start = start + JITTER_RAD * torch.randn_like(start)
                start = start + np.pi * (torch.rand_like(start) < FLIP_SHARE)
        local = rotate(batch.points[:, :2], -start[batch.owner])
        unit = torch.cat([local, batch.points[:, 2:3]], 1) / prior[batch.owner]
        inside = (unit.abs() < KEEP).all(1)
        point = torch.cat([unit, local / 5, batch.points[:, 2:]], 1)[inside]
        view = torch.stack([start.cos(), start.sin()], 1)
        code = self.box(self.second(point, batch.owner[inside], torch.cat([extra, view], 1)))
        return first, start, code

    def losses(self, batch: Batch) -> Tensor:
        """The mean over the batch."""
        first, start, code = self(batch)
        prior = self.prior[batch.label]
        center = torch.cat([rotate(batch.center[:, :2], -start), batch.center[:, 2:]], 1)
        loss = heading_loss(first, batch.yaw) + heading_loss(code[:, 6:], batch.yaw - start)
        loss = loss + ((code[:, :3] - center / (0.1 * prior[:, :2].norm(dim=1, keepdim=True))).abs()).sum(1)
        return (loss + (code[:, 3:6] - (batch.size / prior).log() / SIZE_STD).abs().sum(1)).mean()

    def boxes(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """The center offsets (B, 3), sizes (B, 3), yaws (B,) in the viewing frame."""
        _, start, code = self(batch)
        prior = self.prior[batch.label]
        center = code[:, :3] * (0.1 * prior[:, :2].norm(dim=1, keepdim=True))
        center = torch.cat([rotate(center[:, :2], start), center[:, 2:]], 1)
        return center, prior * (SIZE_STD * code[:, 3:6]).exp(), start + heading(code[:, 6:])


class PictureModel(nn.Module):
    """Predicts size and heading from a picture of 32 x 32 px; the center is the click."""

    def __init__(self, prior_size_m: Tensor, channels: int = 32) -> None:
        super().__init__()
        c = channels
        self.prior = prior_size_m
        self.embedding = nn.Embedding(len(prior_size_m), 16)
        stages = ((3, c, 2), (c, 2 * c, 2), (2 * c, 2 * c, 1), (2 * c, 2 * c, 2))
        self.conv = nn.Sequential(
            *(m for a, b, stride in stages for m in (nn.Conv2d(a, b, 3, stride, 1), nn.GroupNorm(8, b), nn.ReLU()))
        )
        self.join, self.box = layers(2 * c * 16 + 17, 4 * c, 2 * c), nn.Linear(2 * c, 7)
        nn.init.zeros_(self.box.weight)

    def forward(self, batch: Batch) -> Tensor:
        """(B, 7): log size (3), heading (4)."""
        extra = torch.cat([self.embedding(batch.label), batch.pixel[:, None].log()], 1)
        return self.box(self.join(torch.cat([self.conv(batch.picture).flatten(1), extra], 1)))

    def losses(self, batch: Batch) -> Tensor:
        """The mean over the batch."""
        code, prior = self(batch), self.prior[batch.label]
        size = (code[:, :3] - (batch.size / prior).log() / SIZE_STD).abs().sum(1)
        return (size + heading_loss(code[:, 3:], batch.yaw)).mean()

    def boxes(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """The boxes, as ``LidarModel.boxes``."""
        code = self(batch)
        size = self.prior[batch.label] * (SIZE_STD * code[:, :3]).exp()
        return torch.zeros_like(size), size, heading(code[:, 3:])


def class_means(crops: Crops) -> Tensor:
    """The mean l, w, h per class (10, 3).

    Raises:
        ValueError: names the classes without a box.
    """
    absent = [name for label, name in enumerate(CLASSES) if not (crops.label == label).any()]
    if absent:
        raise ValueError(f"no box of {', '.join(absent)}")
    means = [crops.box[crops.label == label, 3:6].mean(0) for label in range(len(CLASSES))]
    return torch.tensor(np.stack(means))


def train(model: LidarModel | PictureModel, crops: Crops, steps: int, batch: int = 128, seed: int = 0) -> float:
    """Train by one cycle of AdamW with random mirroring; returns the mean loss of the last tenth."""
    rng, late = np.random.default_rng(seed), []
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps, pct_start=0.2)
    model.train()
    for step in range(steps):
        chosen = rng.integers(len(crops), size=batch)
        loss = model.losses(Batch(crops.take(chosen), rng.random(batch) < 0.5))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        if step >= 0.9 * steps:
            late.append(loss.item())
    return float(np.mean(late))


@torch.no_grad()
def predict(model: LidarModel | PictureModel, crops: Crops) -> Boxes3D:
    """One box per crop."""
    model.eval()
    rows = []
    for chosen in np.array_split(np.arange(len(crops)), max(1, len(crops) // 512)):
        batch = Batch(crops.take(chosen), np.zeros(len(chosen), bool))
        center, size, yaw = model.boxes(batch)
        center = torch.cat([rotate(center[:, :2], batch.bearing), center[:, 2:]], 1)
        rows.append(
            torch.cat([center + torch.from_numpy(crops.click[chosen]), size, (yaw + batch.bearing)[:, None]], 1)
        )
    row = torch.cat(rows).numpy()
    return Boxes3D.build(row[:, :3], row[:, 3:6], row[:, 6], crops.label)


def true_boxes(crops: Crops) -> Boxes3D:
    """The crops' true boxes."""
    return Boxes3D.build(crops.box[:, :3], crops.box[:, 3:6], crops.box[:, 6], crops.label)


def quality(model: LidarModel | PictureModel, crops: Crops) -> dict[str, Any]:
    """The ``pseudo_label_quality`` of the model's boxes."""
    return pseudo_label_quality(predict(model, crops), true_boxes(crops), crops.distance_m, classes=NUSCENES_CLASSES)
