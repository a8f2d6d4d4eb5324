"""Baseline: the points round each click -> one box per click. No cameras, no map of the scene."""

from __future__ import annotations

from torch import Tensor, nn

from pdetr3d.batch import Batch, TeacherOutput
from pdetr3d.config import Config
from pdetr3d.models.decoder import BOX_CODE, FLAT_CODE, decode_click_box, join_frames, start_at_zero, start_code
from pdetr3d.models.point_crop import PointCrop
from pdetr3d.models.point_query import click_axes, own_click


class CropRegressor(nn.Module):
    """``forward(batch) -> TeacherOutput`` of one layer, as the teacher's: row k answers for click k.

    Args:
        config: ``teacher.channels`` is the width. prior_size_m: (10, 3) mean l, w, h per class.
    """

    def __init__(self, config: Config, prior_size_m: Tensor) -> None:
        super().__init__()
        c = config.teacher.channels
        self.crop = PointCrop(c, prior_size_m)
        self.dropout = nn.Dropout(config.teacher.dropout)
        self.box_head, self.quality_head = nn.Linear(c, BOX_CODE + FLAT_CODE), nn.Linear(c, 1)
        start_at_zero(self.box_head)
        self.start = config.teacher.heading_start

    def forward(self, batch: Batch) -> TeacherOutput:
        click, prior = batch.click, self.crop.prior_size_m[batch.click_label]
        query = self.dropout(self.crop(*batch.crops))
        start = start_code(click_axes(batch, self.crop.prior_size_m, self.start))
        code = join_frames(start + self.box_head(query).float(), click)
        box = decode_click_box(code, click, prior)
        quality = self.quality_head(query).float()[..., 0]
        return TeacherOutput([box], [code], [quality], [click], [], prior, own_click(batch.click_label))
