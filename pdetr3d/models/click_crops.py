"""The crop branch: predicts a click's box from the LiDAR points and the image around it; one stage per decoder layer.

The first stage knows nothing of the box and finds the heading. Later stages see the points in the frame of the heading
that the stage before found, in units of the class's mean size, and predict center and size along the box's axes. The
teacher's decoder adds its own predictions; ``CropRegressor`` uses the branch alone.
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
JITTER_RAD, JITTER_TURNED = 0.15, 0.1  # training noise: standard deviation of headings, share of headings turned by pi


class ClickCrops(nn.Module):
    """The networks of the crop branch, one set per stage: ``forward(stage, clicks, frame)``.

    Args:
        channels: C. classes: number of classes. stages: number of decoder layers. pictures: whether images are used.
    """

    def __init__(self, channels: int, classes: int, stages: int, pictures: bool) -> None:
        super().__init__()
        self.point_crop = PointCrop(channels, classes)
        self.box_crops = nn.ModuleList(BoxCrop(channels, classes) for _ in range(stages - 1))
        self.picture_crop = PictureCrop(channels, classes) if pictures else None
        # Pictures predict only headings: if they also predicted centers and sizes, they would overfit to the few
        # training scenes.
        views = [nn.Linear(channels, HEADING, bias=False) for _ in range(stages if pictures else 0)]
        self.picture_heads = nn.ModuleList(views)
        outputs = [BOX_CODE + FLAT_CODE, *[BOX_CODE] * (stages - 1)]
        self.heads = nn.ModuleList(nn.Linear(channels, n) for n in outputs)
        for head in self.heads:
            start_at_zero(head)  # type: ignore[arg-type]
        for head in self.picture_heads:
            nn.init.zeros_(head.weight)  # type: ignore[arg-type]

    def look(self, batch: Batch, clicks: Clicks) -> Clicks:
        """Add the features of the pictures to ``clicks``, if the branch uses images."""
        if self.picture_crop is None:
            return clicks
        return replace(clicks, picture=self.picture_crop(batch, clicks.click, clicks.prior, clicks.label))

    def forward(self, stage: int, clicks: Clicks, frame: Tensor) -> tuple[Tensor, Tensor]:
        """Run one stage.

        Args:
            stage: its number. clicks: of the batch. frame: (B, K, 2) of ``stage_frame``.

        Returns:
            Features (B, K, C), >= 0, and the prediction (B, K, 16), which is added to ``stage_start`` and joined by
            ``join_frames``.
        """
        shape = self.point_crop(clicks) if stage == 0 else self.box_crops[stage - 1](clicks, frame)
        said = self.heads[stage](shape).float()
        if clicks.picture is not None:
            viewed = self.picture_heads[stage](clicks.picture).float()
            said = said + F.pad(viewed_heading(viewed, clicks.click, frame), (6, said.shape[-1] - BOX_CODE))
        return shape, F.pad(said, (0, BOX_CODE + FLAT_CODE - said.shape[-1]))


def viewed_heading(heading: Tensor, click: Tensor, frame: Tensor) -> Tensor:
    """Rotate headings from the viewing frame, in which pictures show them, to a stage's frame.

    Args:
        heading: (B, K, 4) sin and cos of yaw and of 2 yaw, relative to the viewing ray. click: (B, K, 3). frame:
            (B, K, 2) cos and sin of the stage's frame.

    Returns:
        (B, K, 4), relative to the frame.
    """
    back = backwards(turn(frame, backwards(viewing_direction(click))))
    once, twice = turn(heading[..., [1, 0]], back), turn(turn(heading[..., [3, 2]], back), back)
    return torch.cat([once[..., [1, 0]], twice[..., [1, 0]]], -1)


def stage_frame(stage: int, anchor: Tensor, box: Tensor | None, training: bool) -> Tensor:
    """The frame of a stage's code: (B, Q, 2) cos and sin of its x axis, without a gradient.

    The first stage's frame is the viewing ray to the anchor (B, Q, 3), a later stage's the heading of the box (B, Q, 7)
    of the stage before. In training this heading gets noise, and some headings are turned by pi, since headings of
    unseen objects will have such errors. The noise is a hash of the anchor: it is the same on every worker and after a
    resume.
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
    """The start (B, Q, 16) of a stage's code: the class-mean box at the anchor.

    In the first stage it heads along ``axis`` (B, Q, 2), the axis of the points; in later stages along the frame.
    """
    return start_code(axis) if stage == 0 else F.pad(along_code(axis), (0, FLAT_CODE))
