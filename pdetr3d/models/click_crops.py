"""The crop branch: the LiDAR points round each click, looked at once per decoder layer, and the picture of it.

The first stage sees them before anything is known of the box and finds the heading. Later stages see them along the
heading that the stage before found, in units of the class's mean size, and say center and size along the box's axes.
The teacher's decoder adds to what the stages say; ``CropRegressor`` is the branch alone.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pdetr3d.batch import Batch, hashed_uniform
from pdetr3d.models.box_code import (
    BOX_CODE,
    FLAT_CODE,
    along_code,
    backwards,
    direction_of,
    start_at_zero,
    start_code,
    turn,
    viewing_direction,
)
from pdetr3d.models.picture_crop import PictureCrop
from pdetr3d.models.point_crop import BoxCrop, Clicks, PointCrop

HEADING = 4  # sin and cos of yaw, sin and cos of 2 yaw
JITTER_RAD, JITTER_TURNED = 0.15, 0.1  # in training: standard deviation of the heading, share of those turned by pi


class ClickCrops(nn.Module):
    """``forward(stage, clicks, frame)``: what the points round the clicks show.

    Args:
        channels: C. classes: how many. stages: one per decoder layer. pictures: whether it looks at images.
    """

    def __init__(self, channels: int, classes: int, stages: int, pictures: bool) -> None:
        super().__init__()
        self.point_crop = PointCrop(channels, classes)
        self.box_crops = nn.ModuleList(BoxCrop(channels, classes) for _ in range(stages - 1))
        self.picture_crop = PictureCrop(channels, classes) if pictures else None
        # Pictures say headings alone, and shapes nothing of them: with a word in centers and sizes they learn the few
        # training scenes by heart.
        views = [nn.Linear(channels, HEADING, bias=False) for _ in range(stages if pictures else 0)]
        self.picture_heads = nn.ModuleList(views)
        outputs = [BOX_CODE + FLAT_CODE, *[BOX_CODE] * (stages - 1)]
        self.heads = nn.ModuleList(nn.Linear(channels, n) for n in outputs)
        for head in self.heads:
            start_at_zero(head)  # type: ignore[arg-type]
        for head in self.picture_heads:
            nn.init.zeros_(head.weight)  # type: ignore[arg-type]

    def look(self, batch: Batch, clicks: Clicks) -> Clicks:
        """With what the pictures show, where the branch looks at pictures."""
        if self.picture_crop is None:
            return clicks
        return replace(clicks, picture=self.picture_crop(batch, clicks.click, clicks.prior, clicks.label))

    def forward(self, stage: int, clicks: Clicks, frame: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, K, C), >= 0, and what to add to the stage's start (B, K, 16), see ``join_frames``.

        Args:
            frame: (B, K, 2) of the stage, see ``stage_frame``.
        """
        shape = self.point_crop(clicks) if stage == 0 else self.box_crops[stage - 1](clicks, frame)
        said = self.heads[stage](shape).float()
        if clicks.picture is not None:
            viewed = self.picture_heads[stage](clicks.picture).float()
            said = said + F.pad(viewed_heading(viewed, clicks.click, frame), (6, said.shape[-1] - BOX_CODE))
        return shape, F.pad(said, (0, BOX_CODE + FLAT_CODE - said.shape[-1]))


def viewed_heading(heading: Tensor, click: Tensor, frame: Tensor) -> Tensor:
    """(B, K, 4) sin and cos of yaw and of 2 yaw from the viewing ray to the click (B, K, 3), as a picture shows them ->
    the same from the frame's direction (B, K, 2)."""
    back = backwards(turn(frame, backwards(viewing_direction(click))))
    once, twice = turn(heading[..., [1, 0]], back), turn(turn(heading[..., [3, 2]], back), back)
    return torch.cat([once[..., [1, 0]], twice[..., [1, 0]]], -1)


def stage_frame(stage: int, anchor: Tensor, box: Tensor | None, training: bool) -> Tensor:
    """(B, Q, 2) frame of a stage's code: cos and sin of the viewing ray to the anchor (B, Q, 3) in the first one, then
    of the heading of the box (B, Q, 7) before; no gradient flows through it.

    In training such a heading is a little wrong, and some are turned by pi, as they will be on objects that training
    has not seen: by a hash of the anchor, the same on every worker and after a resume.
    """
    if stage == 0 or box is None:
        return viewing_direction(anchor)
    yaw = box[..., 6].detach()
    if training:
        noise = hashed_uniform(anchor, 2 * stage)[..., -2:, 0]
        normal = 2**0.5 * torch.erfinv(noise[..., 0].clamp(-0.999, 0.999))
        yaw = yaw + JITTER_RAD * normal + torch.pi * (noise[..., 1] > 1 - 2 * JITTER_TURNED)
    return direction_of(yaw)


def stage_start(stage: int, axis: Tensor) -> Tensor:
    """(B, Q, 16) what a stage's code starts with: the class-mean box at the anchor, along the axis of the points
    (B, Q, 2) in the first stage, then along the stage's frame."""
    return start_code(axis) if stage == 0 else F.pad(along_code(axis), (0, FLAT_CODE))
