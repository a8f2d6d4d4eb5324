"""The teacher's decoder: RoI fusion, feed-forward, box and quality heads, box refinement between layers.

Legend: B samples, Q queries, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
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


class SelfAttention(nn.Module):
    """query + attention to all queries of its sample -> LayerNorm, as in DETR; positions are added to queries and keys.

    ``nn.MultiheadAttention`` is not used, because it refuses samples without queries.

    Args:
        config: of the teacher.
    """

    def __init__(self, config: TeacherConfig) -> None:
        super().__init__()
        c, self.heads = config.channels, config.heads
        self.query, self.key, self.value, self.output = (nn.Linear(c, c) for _ in range(4))
        self.dropout, self.norm = nn.Dropout(config.dropout), nn.LayerNorm(c)

    def forward(self, query: Tensor, position: Tensor, valid: Tensor) -> Tensor:
        """(B, Q, C) -> (B, Q, C). A query attends to itself and to the ``valid`` (B, Q) ones."""
        placed = query + position
        parts = self.query(placed), self.key(placed), self.value(query)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        itself = torch.eye(query.shape[1], dtype=torch.bool, device=query.device)
        seen = (valid[:, None] | itself)[:, None]
        dropout = self.dropout.p if self.training else 0.0
        found = F.scaled_dot_product_attention(q, k, v, seen, dropout).transpose(1, 2).flatten(2)
        return self.norm(query + self.dropout(self.output(found)))


class DecoderLayer(nn.Module):
    """query + fusion -> LayerNorm -> feed-forward -> LayerNorm (method.md 2.6).

    Queries do not see one another, unless ``teacher.self_attention`` puts ``SelfAttention`` before the fusion.
    """

    def __init__(self, config: TeacherConfig) -> None:
        super().__init__()
        c = config.channels
        self.fusion = Fusion(config)
        self.dropout = nn.Dropout(config.dropout)
        self.norm1, self.norm2 = nn.LayerNorm(c), nn.LayerNorm(c)
        self.feed_forward = nn.Sequential(
            nn.Linear(c, 2 * c), nn.ReLU(), nn.Dropout(config.dropout), nn.Linear(2 * c, c)
        )
        self.self_attention = SelfAttention(config) if config.self_attention else None

    def attend(self, query: Tensor, position: Tensor, valid: Tensor) -> Tensor:
        """The queries after self-attention, or unchanged without it; arguments as in ``SelfAttention``."""
        return query if self.self_attention is None else self.self_attention(query, position, valid)

    def forward(self, query: Tensor, fused: Tensor) -> Tensor:
        query = self.norm1(query + self.dropout(fused))
        return self.norm2(query + self.dropout(self.feed_forward(query)))


@dataclass(frozen=True)
class Decoded:
    """The output of one decoder layer: the first six attributes of ``TeacherOutput``; logit is None without classes."""

    box: Tensor
    code: Tensor
    quality: Tensor
    anchor: Tensor
    frame: Tensor
    logit: Tensor | None


class Decoder(nn.Module):
    """``teacher.decoder_layers`` layers; each predicts a box per query, which is the next layer's RoI (detached).

    A layer's box code is relative to its anchor and its frame. The first layer's frame is the viewing ray, a later
    layer's the heading of the RoI (``click_crops.stage_frame``). If queries have crops, the layer's prediction is added
    to that of the crop branch's stage (it begins at zero), and the RoI is the crop branch's box.

    A query that starts at its click keeps the click as its anchor in all layers. With ``Queries.refined``, only the
    first layer's anchor is ``Queries.anchor``; a later layer's anchor is the refined reference, which is the RoI's
    center, as in Point-DETR's 3D form (method.md 8: "only the first layer's box residual uses the true point"). So with
    ``query_init=implicit`` the final boxes are relative to the click only if ``teacher.decoder_layers=1``. RoIs are
    detached, as in Deformable DETR: a reference gets its gradient from the features that are sampled there; a learned
    query's reference also gets one from the first layer's target (``TeacherCriterion``).

    Args:
        config: of the teacher. classes: number of classes that class heads predict; 0 if queries know their class.
    """

    def __init__(self, config: TeacherConfig, classes: int = 0) -> None:
        super().__init__()
        c, count = config.channels, config.decoder_layers
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(count))
        # Box heads are linear. With hidden layers, like those of quality heads, they learn headings but hardly any
        # heights and sizes: in shared weights the gradient noise of headings is larger than those gradients.
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
        valid: Tensor,
        axis: Tensor,
        bev: Sequence[Tensor],
        range_m: Tensor,
        images: Sequence[Tensor] | None,
        views: Views | None,
        crops: ClickCrops | None = None,
        clicks: Clicks | None = None,
    ) -> list[Decoded]:
        """Run all layers; returns one entry per layer.

        Args:
            queries: the start. valid: (B, Q) bool; False for padding, to which other queries do not attend. axis:
            (B, Q, 2) start of headings, see ``start_axes``. bev: L BEV maps (B, C, H, W). range_m: (4,) x0, y0, x1, y1
            of the BEV maps. images: L maps (B, V, C, h, w); None without cameras. views: the cameras of the images.
            crops, clicks: the crop branch and its input; None without it.
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
                roi = roi if crops is None else roi.detach()  # a learned reference gets its gradient through the RoI
            query = layer.attend(query, queries.position, valid)
            query = layer(query, layer.fusion(query + queries.position, roi, bev, range_m, images, views))
            code = join_frames(start + box_head(query).float(), frame)
            logit = self.class_heads[i](query).float() if self.class_heads else None
            box = decode_click_box(code, anchor, prior, frame)
            results.append(Decoded(box, code, quality_head(query).float()[..., 0], anchor, frame, logit))
            # The next RoI is the layer's box. If the code was relative to another point, it is decoded at the
            # reference.
            roi = box if anchor is reference else decode_click_box(code, reference, prior, frame)
            roi = roi.detach()
            if queries.refined:
                reference = anchor = roi[..., :3]
        return results
