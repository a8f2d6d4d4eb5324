"""LiDAR encoder and 2D backbone (teacher and student have the same layers with own weights), and the student's neck."""

from __future__ import annotations

from torch import Tensor, nn

from pdetr3d.config import Config, ModelConfig
from pdetr3d.models.bev_backbone import Second, SecondFPN
from pdetr3d.models.pillars import PillarEncoder
from pdetr3d.models.voxels import VoxelEncoder


class LidarModel(nn.Module):
    """Points -> ``pillars`` or ``voxels`` -> ``backbone`` (SECOND); subclasses add a neck and a head.

    Args:
        config: ``lidar`` chooses the encoder. The names ``pillars``, ``voxels`` and ``backbone`` are in checkpoints.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.lidar == "voxel":
            self.voxels = VoxelEncoder(config)
        else:
            self.pillars = PillarEncoder(config)
        self.backbone = Second(config)

    def lidar_stages(self, points: Tensor, point_sample: Tensor, batch_size: int) -> list[Tensor]:
        """BEV maps (B, C, H, W) of the backbone's stages, finest first."""
        encoder = self.voxels if hasattr(self, "voxels") else self.pillars
        return self.backbone(encoder(points, point_sample, batch_size))


class StudentFeatures(LidarModel):
    """LiDAR stages -> ``neck`` (SECONDFPN): the student without its head."""

    def __init__(self, config: Config) -> None:
        super().__init__(config.model)
        model, student = config.model, config.student
        self.neck = SecondFPN(model.backbone_channels, student.neck_channels, student.neck_strides, model.norm)

    def features(self, points: Tensor, point_sample: Tensor, batch_size: int) -> Tensor:
        """Neck features (B, C, H, W) of one view."""
        return self.neck(self.lidar_stages(points, point_sample, batch_size))
