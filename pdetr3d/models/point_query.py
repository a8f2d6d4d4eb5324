"""Clicks -> queries, by ``teacher.query_init``: explicit, implicit, learned or group.

Legend: B samples, K clicks, Q queries, C channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pdetr3d.batch import hashed_uniform
from pdetr3d.geometry.crops import axes_of_pairs
from pdetr3d.models.point_crop import Clicks

TEMPERATURE = 10000.0
JITTER_SHARE = 0.25  # of the class's mean sides, either way: copies stay within the inner half of most boxes


@dataclass(frozen=True)
class Queries:
    """What the decoder starts from.

    Attributes:
        content, position: (B, Q, C).
        reference: (B, Q, 3) [m], the center of the first layer's RoI.
        anchor: (B, Q, 3) [m], what the first layer's box code is relative to.
        prior_size: (B, Q, 3) l, w, h [m] of the first RoI; every layer's box code is relative to it.
        click: (B, Q) int64, see ``TeacherOutput``.
        refined: whether later layers' codes are relative to the refined reference; else to ``anchor``.
    """

    content: Tensor
    position: Tensor
    reference: Tensor
    anchor: Tensor
    prior_size: Tensor
    click: Tensor
    refined: bool


def sinusoid(value: Tensor, channels: int) -> Tensor:
    """(..., D) scalars -> (..., D * channels): sin and cos of value / TEMPERATURE^(i / channels), in halves."""
    exponent = torch.arange(0, channels, 2, device=value.device, dtype=value.dtype) / channels
    angle = value[..., None] / TEMPERATURE**exponent
    return torch.cat([angle.sin(), angle.cos()], -1).flatten(-2)


class RangeBuffers(nn.Module):
    """Holds the class priors (saved with the weights) and the range; all queries are made from these.

    Args:
        prior_size_m: (10, 3) mean l, w, h per class of the box-labeled part.
        range_m: x0, y0, z0, x1, y1, z1.
    """

    def __init__(self, prior_size_m: Tensor, range_m: tuple[float, ...]) -> None:
        super().__init__()
        self.prior_size_m: Tensor
        self.low: Tensor
        self.span: Tensor
        self.register_buffer("prior_size_m", prior_size_m.float())
        self.register_buffer("low", torch.tensor(range_m[:3]), persistent=False)
        self.register_buffer("span", torch.tensor(range_m[3:]) - torch.tensor(range_m[:3]), persistent=False)


class ExplicitQuery(RangeBuffers):
    """``forward(click (B, K, 3), label (B, K)) -> Queries`` with the click as reference
    (method.md 2.5, corrected).

    Position: sinusoids of the click's normalized x, y, z and of its class's mean l, w, h (the released code encodes l
    in the place of h: method.md 7.2 no. 5), all scaled by 2 pi, through a linear layer. Content: class embedding.

    Args:
        channels: C. prior_size_m, range_m: see ``RangeBuffers``.
    """

    def __init__(self, channels: int, prior_size_m: Tensor, range_m: tuple[float, ...]) -> None:
        super().__init__(prior_size_m, range_m)
        self.per_scalar = 2 * max(1, channels // 12)
        self.embedding = nn.Embedding(len(prior_size_m), channels)
        self.project = nn.Linear(6 * self.per_scalar, channels)

    def forward(self, click: Tensor, label: Tensor) -> Queries:
        place = (click - self.low) / self.span
        prior = self.prior_size_m[label]
        # Sizes reach 12 m: a tenth keeps them within the sinusoid's first period, as the normalized position is.
        code = sinusoid(torch.cat([place, prior / 10], -1) * 2 * math.pi, self.per_scalar)
        content, position = self.embedding(label), self.project(code)
        return Queries(content, position, click, click, prior, own_click(label), refined=False)


class GroupQuery(ExplicitQuery):
    """As ``ExplicitQuery``; in training every click has ``copies`` queries, all but the first at jittered places.

    The jitter is uniform within JITTER_SHARE of the class's mean sides (x and y alike: the heading is unknown) and a
    hash of the click's own coordinates: the same on every worker and after a resume, whatever else is in the batch.
    In evaluation there is one query per click, at the click: it is what the copies surround, and needs no choice by
    predicted quality, which would favor lucky outliers.
    """

    def __init__(self, channels: int, prior_size_m: Tensor, range_m: tuple[float, ...], copies: int) -> None:
        super().__init__(channels, prior_size_m, range_m)
        self.copies = copies

    def forward(self, click: Tensor, label: Tensor) -> Queries:
        if not self.training:
            return super().forward(click, label)
        side = self.prior_size_m[label]
        flat = side[..., :2].prod(-1, keepdim=True).sqrt()
        reach = JITTER_SHARE * torch.cat([flat, flat, side[..., 2:]], -1)
        jitter = hashed_uniform(click, self.copies - 1) * reach[..., None, :]  # (B, K, copies - 1, 3)
        places = torch.cat([click[:, None], click[:, None] + jitter.transpose(1, 2)], 1)  # (B, copies, K, 3)
        queries = super().forward(places.flatten(1, 2), label.repeat(1, self.copies))
        return replace(queries, click=own_click(click[..., 0]).repeat(1, self.copies))


class ImplicitQuery(RangeBuffers):
    """Point-DETR's queries in 3D (method.md 2.1, 8), the baseline: where a query looks is learned from its code.

    Content = position = sinusoids of the click's x and y + class embedding. Reference: a sigmoid of a linear layer of
    the position, over the range. As there, only the first layer's box code is relative to the true click, later ones to
    the refined learned reference, at first a place far from the click (``Decoder``): so one layer and several are very
    different baselines. Here references have a height too: the RoI is a 3D box.
    """

    def __init__(self, channels: int, prior_size_m: Tensor, range_m: tuple[float, ...]) -> None:
        super().__init__(prior_size_m, range_m)
        self.per_scalar = 2 * max(1, channels // 4)
        self.embedding = nn.Embedding(len(prior_size_m), channels)
        self.reference = nn.Linear(channels, 3)

    def forward(self, click: Tensor, label: Tensor) -> Queries:
        place = ((click - self.low) / self.span)[..., :2]
        code = sinusoid(place * 2 * math.pi, self.per_scalar)
        channels = self.embedding.embedding_dim
        query = F.pad(code, (0, max(0, channels - code.shape[-1])))[..., :channels] + self.embedding(label)
        reference = self.low + self.span * self.reference(query).float().sigmoid()
        return Queries(query, query, reference, click, self.prior_size_m[label], own_click(label), refined=True)


class LearnedQuery(RangeBuffers):
    """Object queries as in DETR: no click goes in; clicks are matched to the boxes that come out (``answers``).

    Content, position and reference are parameters, references spread evenly at random over x and y, in the middle of z.
    No query knows its class: sizes are relative to the classes' geometric mean.
    """

    def __init__(self, channels: int, prior_size_m: Tensor, range_m: tuple[float, ...], queries: int) -> None:
        super().__init__(prior_size_m, range_m)
        self.content = nn.Embedding(queries, channels)
        self.position = nn.Embedding(queries, channels)
        place = torch.cat([0.02 + 0.96 * torch.rand(queries, 2), torch.full((queries, 1), 0.5)], 1)
        self.reference = nn.Parameter(place.logit())

    def forward(self, click: Tensor, label: Tensor) -> Queries:
        b, q = len(label), len(self.reference)
        reference = (self.low + self.span * self.reference.float().sigmoid()).expand(b, -1, -1)
        prior = self.prior_size_m.log().mean(0).exp().expand(b, q, -1)
        content, position = (t.weight.expand(b, -1, -1) for t in (self.content, self.position))
        nobody = torch.full((b, q), -1, device=label.device)
        return Queries(content, position, reference, reference, prior, nobody, refined=True)


def start_axes(clicks: Clicks, start: str) -> Tensor:
    """(B, K, 2) cos and sin of twice the heading that boxes start with, LiDAR frame; shorter where less sure, zero
    where unknown: by ``teacher.heading_start`` those of the points near each click, or unknown."""
    if start == "forward":
        return torch.zeros_like(clicks.click[..., :2])
    offset = clicks.points[clicks.point, :3] - clicks.click.flatten(0, 1)[clicks.crop]
    return axes_of_pairs(offset.float(), clicks.crop, clicks.prior.flatten(0, 1)).view_as(clicks.click[..., :2])


def own_click(label: Tensor) -> Tensor:
    """(B, K) -> (B, K): 0 .. K-1 in every row."""
    return torch.arange(label.shape[1], device=label.device).expand_as(label)
