"""The teacher's queries by ``teacher.query_init``: explicit, group and implicit ones are made from clicks, or learned.

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
JITTER_SHARE = 0.25  # copies move by up to this share of the class's mean sides: most stay in the box's inner half


@dataclass(frozen=True)
class Queries:
    """The input of the decoder.

    Attributes:
        content, position: (B, Q, C).
        reference: (B, Q, 3) [m], the center of the first layer's RoI.
        anchor: (B, Q, 3) [m], the point to which the first layer's box code is relative.
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
    """(..., D) scalars -> (..., D * channels): per scalar channels / 2 sines, then as many cosines.

    The angles are value / TEMPERATURE^(i / channels) for i = 0, 2, 4, ...
    """
    exponent = torch.arange(0, channels, 2, device=value.device, dtype=value.dtype) / channels
    angle = value[..., None] / TEMPERATURE**exponent
    return torch.cat([angle.sin(), angle.cos()], -1).flatten(-2)


class RangeBuffers(nn.Module):
    """Base of the query modules: holds the class priors (saved with the weights) and the range.

    Args:
        prior_size_m: (C, 3) mean l, w, h per class of the box-labeled part [m].
        range_m: x0, y0, z0, x1, y1, z1 [m].
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
    """``forward(click (B, K, 3), label (B, K)) -> Queries`` with the click as reference (method.md 2.5, corrected).

    Position: a linear layer on sinusoids of the click's normalized x, y, z and of its class's mean l, w, h, all scaled
    by 2 pi (the released code has l in the place of h: method.md 7.2 no. 5). Content: an embedding of the class.

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
        # Sizes reach 12 m: a tenth of them is about in the sinusoid's first period, like the normalized position.
        code = sinusoid(torch.cat([place, prior / 10], -1) * 2 * math.pi, self.per_scalar)
        content, position = self.embedding(label), self.project(code)
        return Queries(content, position, click, click, prior, own_click(label), refined=False)


class GroupQuery(ExplicitQuery):
    """Like ``ExplicitQuery``, but in training every click has ``copies`` queries, all but the first at jittered places.

    The jitter is uniform within JITTER_SHARE of the class's mean sides, with the same reach in x and y, since the
    heading is unknown. It is a hash of the click's coordinates, so that it is the same on every worker and after a
    resume, and independent of the rest of the batch. In evaluation each click has one query without jitter: choosing
    among copies by predicted quality would favor lucky outliers.
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
    """Point-DETR's queries in 3D (method.md 2.1, 8), a baseline: the query's reference is predicted from its position.

    Content and position are both the sinusoids of the click's x and y plus an embedding of the class. The reference is
    a sigmoid of a linear layer of the position, scaled to the range. As in Point-DETR, only the first layer's box code
    is relative to the true click; later ones are relative to the refined reference, which is at first far from the
    click (``Decoder``). So a decoder of one layer and one of several layers are very different baselines. Unlike in
    Point-DETR, references have a height, because the RoI is a 3D box.
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
    """Object queries as in DETR: they do not depend on clicks; ``answers`` matches the predicted boxes to clicks.

    Content, position and reference are parameters. References start uniformly at random over x and y, in the middle of
    z. A query has no class, so sizes are relative to the geometric mean of the classes.
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
    """The axes with which boxes start: (B, K, 2) cos and sin of twice the heading, in the LiDAR frame.

    A vector is shorter if its axis is less sure, and zero if the axis is unknown.

    Args:
        clicks: with their points. start: ``teacher.heading_start``: "forward" makes all axes unknown; else the axes are
            those of the points near each click.
    """
    if start == "forward":
        return torch.zeros_like(clicks.click[..., :2])
    offset = clicks.points[clicks.point, :3] - clicks.click.flatten(0, 1)[clicks.crop]
    return axes_of_pairs(offset.float(), clicks.crop, clicks.prior.flatten(0, 1)).view_as(clicks.click[..., :2])


def own_click(label: Tensor) -> Tensor:
    """(B, K) int64 with 0 .. K-1 in every row: query k belongs to click k."""
    return torch.arange(label.shape[1], device=label.device).expand_as(label)
