"""The teacher's decoder: RoI fusion, feed-forward, box and quality heads, box refinement between layers.

Legend: B samples, Q queries, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from pdetr3d.config import TeacherConfig
from pdetr3d.models.box_code import (
    BOX_CODE,
    FLAT_CODE,
    decode_click_box,
    join_frames,
    start_at_zero,
    viewing_direction,
)
from pdetr3d.models.click_crops import ClickCrops, stage_frame, stage_start
from pdetr3d.models.fusion import Fusion
from pdetr3d.models.point_crop import Clicks
from pdetr3d.models.point_query import Queries
from pdetr3d.models.roi_fusion import Views

CLASS_BIAS = -math.log((1 - 0.01) / 0.01)  # every class starts at a probability of 0.01 (method.md 2.7)


class DecoderLayer(nn.Module):
    """query + fusion -> LayerNorm -> feed-forward -> LayerNorm; queries never see one another (method.md 2.6)."""

    def __init__(self, config: TeacherConfig) -> None:
        super().__init__()
        c = config.channels
        self.fusion = Fusion(config)
        self.dropout = nn.Dropout(config.dropout)
        self.norm1, self.norm2 = nn.LayerNorm(c), nn.LayerNorm(c)
        self.feed_forward = nn.Sequential(
            nn.Linear(c, 2 * c), nn.ReLU(), nn.Dropout(config.dropout), nn.Linear(2 * c, c)
        )

    def forward(self, query: Tensor, fused: Tensor) -> Tensor:
        query = self.norm1(query + self.dropout(fused))
        return self.norm2(query + self.dropout(self.feed_forward(query)))


@dataclass(frozen=True)
class Decoded:
    """What one decoder layer says: the first six attributes of ``TeacherOutput``; logit None where there is none."""

    box: Tensor
    code: Tensor
    quality: Tensor
    anchor: Tensor
    frame: Tensor
    logit: Tensor | None


class Decoder(nn.Module):
    """``teacher.decoder_layers`` layers; each predicts a box per query, which is the next layer's RoI (detached).

    A layer's box code is relative to its anchor and its frame: the first layer's frame is the viewing ray, that of a
    later one is the heading of the RoI (``click_crops.stage_frame``). Where queries have crops, a layer adds to what
    the crop of its stage says, at first nothing; its RoI is the crop's box.

    A query that starts at its click stays anchored there. Where ``Queries.refined`` is set, only the first layer's
    anchor is ``Queries.anchor``; those of later layers are the RoI's center, the refined reference, as in Point-DETR's
    3D form (method.md 8: "only the first layer's box residual uses the true point"). So of ``query_init=implicit`` the
    boxes that answer, the last layer's, are relative to the click only with ``teacher.decoder_layers=1``. RoIs are
    detached, as in Deformable DETR: a reference learns from what is sampled there, a learned query's also from what the
    first layer should have said of it (``TeacherCriterion``).

    Args:
        classes: predicted per query by class heads; 0 where queries are told their class.
    """

    def __init__(self, config: TeacherConfig, classes: int = 0) -> None:
        super().__init__()
        c, count = config.channels, config.decoder_layers
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(count))
        # Linear: with hidden layers, as the quality heads have them, box heads learn headings (large, easy) and next to
        # nothing of heights and sizes (small beside the gradient noise of headings in the weights that both share).
        self.box_heads = nn.ModuleList(nn.Linear(c, BOX_CODE + FLAT_CODE) for _ in range(count))
        self.quality_heads = nn.ModuleList(self._head(c, 1) for _ in range(count))
        self.class_heads = nn.ModuleList(self._head(c, classes) for _ in range(count if classes else 0))
        for head in self.box_heads:
            start_at_zero(head)  # type: ignore[arg-type]
        for head in self.class_heads:
            nn.init.constant_(head[-1].bias, CLASS_BIAS)  # type: ignore[index]

    @staticmethod
    def _head(channels: int, outputs: int) -> nn.Sequential:
        hidden = [nn.Linear(channels, channels), nn.LayerNorm(channels), nn.ReLU()]
        return nn.Sequential(*hidden, nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, outputs))

    def forward(
        self,
        queries: Queries,
        axis: Tensor,
        bev: Sequence[Tensor],
        range_m: Tensor,
        images: Sequence[Tensor] | None,
        views: Views | None,
        crops: ClickCrops | None = None,
        clicks: Clicks | None = None,
    ) -> list[Decoded]:
        """One entry per layer.

        Args:
            axis: (B, Q, 2) that headings start along, see ``start_axes``. crops, clicks: the crop branch and what it
                looks at, for queries that start at clicks.
        """
        reference, prior = queries.reference, queries.prior_size
        query, anchor, roi, results = queries.content, queries.anchor, None, []
        for i, (layer, box_head, quality_head) in enumerate(
            zip(self.layers, self.box_heads, self.quality_heads, strict=True)
        ):
            assert isinstance(layer, DecoderLayer)
            frame = stage_frame(i, anchor, roi, self.training)
            start = stage_start(i, axis)
            if crops is not None and clicks is not None:
                shape, said = crops(i, clicks, frame)
                query, start = query + shape, start + said
            if roi is None or crops is not None:
                seen_from = frame if anchor is reference else viewing_direction(reference)
                roi = decode_click_box(join_frames(start, seen_from), reference, prior, seen_from)
                roi = roi if crops is None else roi.detach()  # a learned reference learns from what is sampled there
            query = layer(query, layer.fusion(query + queries.position, roi, bev, range_m, images, views))
            code = join_frames(start + box_head(query).float(), frame)
            logit = self.class_heads[i](query).float() if self.class_heads else None
            box = decode_click_box(code, anchor, prior, frame)
            results.append(Decoded(box, code, quality_head(query).float()[..., 0], anchor, frame, logit))
            # What the layer says about the reference: its box, unless the code was relative to another point.
            roi = box if anchor is reference else decode_click_box(code, reference, prior, frame)
            roi = roi.detach()
            if queries.refined:
                reference = anchor = roi[..., :3]
        return results
