"""Cross-modal deformable RoI fusion, D-RoI (method.md 3.3): samples LiDAR BEV maps and image maps around a query's box.

Legend: B samples, K clicks, C channels, M heads, L levels, S = n * n + free samples, V views.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pdetr3d.geometry.camera import MIN_DEPTH_M
from pdetr3d.geometry.tensors import box_corners, inside, project
from pdetr3d.models.deformable import deformable_sample, grid_offsets

MIN_ROI_M = 2.0  # the smallest side of the sampled area: a cone's footprint is smaller than a BEV cell
FREE_REACH_M = (5.0, 5.0, 1.5)  # the largest offsets of the camera branch's free 3D points (method.md 3.2)


@dataclass(frozen=True)
class Views:
    """The cameras of a batch.

    Attributes:
        lidar2img: (B, V, 4, 4). valid: (B, V) bool.
        size: (2,) W, H [px] of the images; pixels outside are not in view.
        covered: (2,) W, H [px] that the feature maps cover, with the padding at the right and at the bottom. A pixel
            divided by it gives the place on the maps in [0, 1].
    """

    lidar2img: Tensor
    valid: Tensor
    size: Tensor
    covered: Tensor


def project_visible(views: Views, points: Tensor) -> tuple[Tensor, Tensor]:
    """Project (B, K, 3) points into ``views``: pixels (B, V, K, 2), and whether each is in view."""
    pixel, depth = project(views.lidar2img, points)
    return pixel, inside(pixel, views.size) & (depth > MIN_DEPTH_M) & views.valid[:, :, None]


def mean_over_views(seen_by: Tensor, visible: Tensor) -> Tensor:
    """(B, V, K, C), (B, V, K) -> (B, K, C): the mean over the views that see the query; zero if none does."""
    count = visible.sum(1).clamp(min=1)[..., None]
    return (seen_by * visible[..., None]).sum(1) / count


class SampleWeights(nn.Module):
    """Predicts the weights of a query's samples: per head a softmax over all levels' valid RoI and free samples."""

    def __init__(self, channels: int, heads: int, levels: int, samples: int) -> None:
        super().__init__()
        self.shape = (heads, levels, samples)
        self.linear = nn.Linear(channels, math.prod(self.shape))
        nn.init.zeros_(self.linear.weight)
        # With uniform weights every head would see the same blurred mean; random weights give heads different places.
        nn.init.normal_(self.linear.bias, std=2.0)

    def forward(self, query: Tensor, valid: Tensor | None = None) -> Tensor:
        """(B, K, C) -> (B, K, M, L, S). ``valid`` broadcasts to it; invalid samples have weight zero."""
        logits = self.linear(query).unflatten(-1, self.shape)
        if valid is None:
            return logits.flatten(-2).softmax(-1).unflatten(-1, self.shape[1:])
        logits = logits.masked_fill(~valid, -1e4)
        return logits.flatten(-2).softmax(-1).unflatten(-1, self.shape[1:]) * valid


class LidarRoI(nn.Module):
    """Samples BEV levels on an n x n grid over the rotated box footprint, and at free points; it learns the offsets."""

    def __init__(self, channels: int, heads: int, levels: int, roi_grid: int, free_points: int) -> None:
        super().__init__()
        self.heads, self.levels, self.free = heads, levels, free_points
        self.grid: Tensor
        self.register_buffer("grid", grid_offsets(roi_grid), persistent=False)
        self.samples = roi_grid**2 + free_points
        self.value = nn.ModuleList(nn.Conv2d(channels, channels, 1) for _ in range(levels))
        self.offset = nn.Linear(channels, heads * levels * self.samples * 2)  # in cells of the level
        self.weights = SampleWeights(channels, heads, levels, self.samples)
        self.output = nn.Linear(channels, channels)
        nn.init.zeros_(self.offset.weight)
        with torch.no_grad():
            self.offset.bias.zero_()
            self.offset.bias.view(heads, levels, self.samples, 2)[:, :, self.samples - free_points :] = free_bias(
                heads, free_points
            )

    def forward(self, query: Tensor, roi: Tensor, levels: Sequence[Tensor], range_m: Tensor) -> Tensor:
        """Queries (B, K, C), RoI boxes (B, K, 7), L BEV maps (B, C, H, W), range (4,) x0 y0 x1 y1 -> (B, K, C)."""
        size = roi[..., 3:5].clamp(min=MIN_ROI_M)[..., None, :] * self.grid  # (B, K, n*n, 2)
        cos, sin = roi[..., 6].cos()[..., None], roi[..., 6].sin()[..., None]
        place = torch.stack([size[..., 0] * cos - size[..., 1] * sin, size[..., 0] * sin + size[..., 1] * cos], -1)
        place = torch.cat([place, place.new_zeros(*place.shape[:2], self.free, 2)], 2) + roi[..., None, :2]
        place = (place - range_m[:2]) / (range_m[2:] - range_m[:2])  # (B, K, S, 2) in [0, 1]
        offset = self.offset(query).unflatten(-1, (self.heads, self.levels, self.samples, 2))
        cells = torch.tensor([[m.shape[-1], m.shape[-2]] for m in levels], device=query.device, dtype=query.dtype)
        location = place[:, :, None, None] + offset / cells[:, None]
        values = [linear(m) for linear, m in zip(self.value, levels, strict=True)]
        return self.output(deformable_sample(values, location, self.weights(query, inside(location, 1.0))))


def free_bias(heads: int, points: int) -> Tensor:
    """Initial offsets (M, 1, points, 2) [cells]: each head has a direction, and point i is i + 1 cells away in it.

    This is Deformable DETR's initialization.
    """
    angle = torch.arange(heads) * (2 * math.pi / heads)
    direction = torch.stack([angle.cos(), angle.sin()], -1)
    direction = direction / direction.abs().amax(-1, keepdim=True)
    return direction[:, None, None] * (torch.arange(points) + 1.0)[None, None, :, None]


class CameraRoI(nn.Module):
    """Samples image levels on an n x n grid over the box's projection (clipped to the image) and at free 3D points."""

    def __init__(self, channels: int, heads: int, levels: int, roi_grid: int, free_points: int) -> None:
        super().__init__()
        self.heads, self.levels, self.free = heads, levels, free_points
        self.grid: Tensor
        self.reach: Tensor
        self.register_buffer("grid", grid_offsets(roi_grid), persistent=False)
        self.register_buffer("reach", torch.tensor(FREE_REACH_M), persistent=False)
        self.roi_samples = roi_grid**2
        self.value = nn.ModuleList(nn.Conv2d(channels, channels, 1) for _ in range(levels))
        self.roi_offset = nn.Linear(channels, heads * levels * self.roi_samples * 2)  # in cells of the level
        self.free_offset = nn.Linear(channels, heads * max(free_points, 1) * 3)  # 3D, bounded by the reach
        self.weights = SampleWeights(channels, heads, levels, self.roi_samples + free_points)
        self.output = nn.Linear(channels, channels)
        for layer in (self.roi_offset, self.free_offset):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.uniform_(self.free_offset.bias, -0.3, 0.3)

    def forward(self, query: Tensor, roi: Tensor, levels: Sequence[Tensor], views: Views) -> Tensor:
        """Like ``LidarRoI`` with L maps (B, V, C, h, w).

        Returns:
            (B, K, C): the mean over the views that see the RoI's center; zero if none does.
        """
        center, visible = project_visible(views, roi[..., :3])
        cells = torch.tensor([[m.shape[-1], m.shape[-2]] for m in levels], device=query.device, dtype=query.dtype)
        place = self.roi_places(views, roi, center)[:, :, :, None, None]  # (B, V, K, 1, 1, n*n, 2)
        offset = self.roi_offset(query).unflatten(-1, (self.heads, self.levels, self.roi_samples, 2)) / cells[:, None]
        location = place + offset[:, None]
        valid = inside(location, views.size / views.covered)  # samples outside the image or in its padding are invalid
        if self.free:
            free, seen = self._free_places(views, query, roi)
            location = torch.cat([location, free.expand(-1, -1, -1, -1, self.levels, -1, -1)], -2)
            valid = torch.cat([valid, seen.expand(-1, -1, -1, -1, self.levels, -1)], -1)
        b, v, k = location.shape[:3]
        weight = self.weights(query[:, None].expand(-1, v, -1, -1), valid & visible[..., None, None, None])
        values = [linear(m.flatten(0, 1)) for linear, m in zip(self.value, levels, strict=True)]
        seen_by = deformable_sample(values, location.flatten(0, 1), weight.flatten(0, 1)).unflatten(0, (b, v))
        return self.output(mean_over_views(seen_by, visible)) * visible.any(1)[..., None]

    def roi_places(self, views: Views, roi: Tensor, center: Tensor) -> Tensor:
        """The places (B, V, K, n*n, 2) in [0, 1] of a grid over a rectangle around ``center`` (B, V, K, 2) [px].

        The rectangle has the size of the bounding rectangle of the corners in front of the camera, and is clipped to
        the image. It is centered at the projected box center, which is not the bounding rectangle's middle, since the
        near half of a near box looks larger.
        """
        pixel, depth = project(views.lidar2img, box_corners(roi))  # (B, V, K, 8, 2)
        pixel = torch.where((depth > MIN_DEPTH_M)[..., None], pixel, center[..., None, :])
        half = (pixel.amax(-2) - pixel.amin(-2)) / 2
        low, high = ((center + side).clamp(min=0).minimum(views.size) for side in (-half, half))
        place = (low + high)[..., None, :] / 2 + (high - low)[..., None, :] * self.grid
        return place / views.covered

    def _free_places(self, views: Views, query: Tensor, roi: Tensor) -> tuple[Tensor, Tensor]:
        """The places (B, V, K, M, 1, F, 2) in [0, 1] of free 3D points, and whether each is in view."""
        offset = self.free_offset(query).unflatten(-1, (self.heads, self.free, 3)).tanh() * self.reach
        pixel, depth = project(views.lidar2img, roi[..., None, None, :3] + offset)
        seen = (depth > MIN_DEPTH_M) & inside(pixel, views.size)
        place = torch.where(seen[..., None], pixel / views.covered, torch.zeros_like(pixel))
        return place[..., None, :, :], seen[..., None, :]
