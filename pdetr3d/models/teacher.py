"""The point-centric teacher: clicks + LiDAR + six cameras -> one box per click (method.md 2, corrected design).

Legend: B samples, K clicks, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pdetr3d.batch import Batch, TeacherOutput
from pdetr3d.config import Config
from pdetr3d.models.bev_backbone import FPN
from pdetr3d.models.click_crops import ClickCrops
from pdetr3d.models.decoder import Decoder
from pdetr3d.models.image_backbone import ImageEncoder
from pdetr3d.models.lidar import LidarModel
from pdetr3d.models.point_crop import Clicks, find_clicks
from pdetr3d.models.point_query import ExplicitQuery, GroupQuery, ImplicitQuery, LearnedQuery, Queries, start_axes
from pdetr3d.models.roi_fusion import Views


class Teacher(LidarModel):
    """``forward(batch) -> TeacherOutput``; ``TeacherOutput.click`` gives each query's click.

    Args:
        config: the run's configuration.
        prior_size_m: (C, 3) mean l, w, h per class of the box-labeled part [m]; it is stored with the weights.
    """

    def __init__(self, config: Config, prior_size_m: Tensor) -> None:
        super().__init__(config.model)
        model, teacher = config.model, config.teacher
        self.fpn = FPN(model.backbone_channels, teacher.channels, teacher.fpn_levels, model.norm)
        self.images = ImageEncoder(config) if teacher.fusion != "none" else None
        self.query = make_query(config, prior_size_m)
        classes = len(prior_size_m)
        self.crops = (
            ClickCrops(teacher.channels, classes, teacher.decoder_layers, teacher.has_pictures)
            if teacher.has_crops
            else None
        )
        self.config, self.start = teacher, teacher.heading_start
        self.decoder = Decoder(teacher, classes=classes if teacher.query_init == "learned" else 0)
        self.range_m: Tensor
        self.register_buffer("range_m", torch.tensor(model.range_m)[[0, 1, 3, 4]], persistent=False)

    def forward(self, batch: Batch) -> TeacherOutput:
        bev = self.fpn(self.lidar_stages(batch.points, batch.point_sample, len(batch)))
        images, views = None, None
        if self.images is not None:
            images = self.images(batch.images)
            height, width = batch.images.shape[2:4]
            size, covered = map(batch.lidar2img.new_tensor, ((width, height), self.images.padded_size(batch.images)))
            views = Views(batch.lidar2img, batch.camera_valid, size, covered)
        queries = self.query(batch.click, batch.click_label)
        clicks, own = self._clicks(batch, queries), self.config.query_init != "learned"
        valid = batch.click_valid.gather(1, queries.click) if own else torch.ones_like(queries.click, dtype=torch.bool)
        axis = torch.zeros_like(queries.anchor[..., :2]) if clicks is None else start_axes(clicks, self.start)
        layers = self.decoder(queries, valid, axis, bev, self.range_m, images, views, self.crops, clicks)
        return TeacherOutput(
            box=[layer.box for layer in layers],
            code=[layer.code for layer in layers],
            quality=[layer.quality for layer in layers],
            anchor=[layer.anchor for layer in layers],
            frame=[layer.frame for layer in layers],
            logit=[layer.logit for layer in layers if layer.logit is not None],
            prior_size=queries.prior_size,
            click=queries.click,
        )

    def _clicks(self, batch: Batch, queries: Queries) -> Clicks | None:
        """The clicks of all queries with the points around their anchors; None for learned queries.

        Each copy of a click (``GroupQuery``) counts as a click of its own.
        """
        if self.config.query_init == "learned":
            return None
        label, valid = (t.gather(1, queries.click) for t in (batch.click_label, batch.click_valid))
        prior_size_m = self.query.prior_size_m
        clicks = find_clicks(batch.points, batch.point_sample, queries.anchor, label, valid, prior_size_m)
        return clicks if self.crops is None else self.crops.look(batch, clicks)


def make_query(config: Config, prior_size_m: Tensor) -> ExplicitQuery | ImplicitQuery | LearnedQuery:
    """Make the query module of ``teacher.query_init``; arguments as in ``Teacher``."""
    teacher, common = config.teacher, (config.teacher.channels, prior_size_m, config.model.range_m)
    if teacher.query_init == "group":
        return GroupQuery(*common, teacher.group_copies)
    if teacher.query_init == "implicit":
        return ImplicitQuery(*common)
    if teacher.query_init == "learned":
        return LearnedQuery(*common, teacher.learned_queries)
    return ExplicitQuery(*common)
