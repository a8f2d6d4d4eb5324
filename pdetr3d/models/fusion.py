"""Fusion of the LiDAR and camera features of a query, by ``teacher.fusion``: none (LiDAR only), concat or d_roi.

Legend: B samples, K queries, C channels, L levels, V views.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pdetr3d.config import TeacherConfig
from pdetr3d.models.roi_fusion import CameraRoI, LidarRoI, Views, mean_over_views, project_visible


class CameraPoint(nn.Module):
    """``teacher.fusion=concat``, the baseline of D-RoI: image features of all levels at the RoI center's pixel.

    The first layer's RoI is centered at the query's reference; for explicit queries the pixel is the projected click.
    """

    def __init__(self, channels: int, levels: int) -> None:
        super().__init__()
        self.output = nn.Linear(levels * channels, channels)

    def forward(self, query: Tensor, roi: Tensor, levels: Sequence[Tensor], views: Views) -> Tensor:
        """As ``CameraRoI``: (B, K, C), the mean over the views that see the center; zero where none does."""
        pixel, visible = project_visible(views, roi[..., :3])
        # Places out of view are not used; 0 keeps them finite in half precision.
        place = torch.where(visible[..., None], 2 * pixel / views.covered - 1, torch.zeros_like(pixel))
        b, v = visible.shape[:2]
        grid = place.flatten(0, 1)[:, :, None]  # (B * V, K, 1, 2)
        sampled = [
            F.grid_sample(level.flatten(0, 1), grid, padding_mode="border", align_corners=False) for level in levels
        ]
        seen_by = torch.cat(sampled, 1)[..., 0].transpose(1, 2).unflatten(0, (b, v))  # (B, V, K, L * C)
        return self.output(mean_over_views(seen_by, visible)) * visible.any(1)[..., None]


def camera_part(config: TeacherConfig) -> nn.Module | None:
    """The module of ``teacher.fusion``: (queries, RoI boxes, image maps, views) -> (B, K, C); None: no cameras."""
    if config.fusion == "d_roi":
        return CameraRoI(config.channels, config.heads, config.fpn_levels, config.roi_grid, config.free_points)
    if config.fusion == "concat":
        return CameraPoint(config.channels, config.fpn_levels)
    return None


class Fusion(nn.Module):
    """An MLP on the concatenated LiDAR and camera features of queries -> (B, K, C), which is added to the query."""

    def __init__(self, config: TeacherConfig) -> None:
        super().__init__()
        c = config.channels
        self.lidar = LidarRoI(c, config.heads, config.fpn_levels, config.roi_grid, config.free_points)
        self.camera = camera_part(config)
        inputs = c if self.camera is None else 2 * c
        self.mlp = nn.Sequential(nn.Linear(inputs, c), nn.LayerNorm(c), nn.ReLU(), nn.Linear(c, c))

    def forward(
        self,
        query: Tensor,
        roi: Tensor,
        bev: Sequence[Tensor],
        range_m: Tensor,
        images: Sequence[Tensor] | None,
        views: Views | None,
    ) -> Tensor:
        """(B, K, C) queries, (B, K, 7) RoI boxes; maps as ``LidarRoI`` and ``CameraRoI`` take them."""
        parts = [self.lidar(query, roi, bev, range_m)]
        if self.camera is not None:
            assert images is not None and views is not None
            parts.append(self.camera(query, roi, images, views))
        return self.mlp(torch.cat(parts, -1))
