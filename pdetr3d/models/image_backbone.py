"""The image encoder: uint8 images -> feature pyramid. Pixels are normalized here, on the device.

Legend: I images, C channels, H x W pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pdetr3d.config import Config
from pdetr3d.config_models import RESNET_CHANNELS
from pdetr3d.models.bev_backbone import FPN, conv_block
from pdetr3d.models.recompute import run_stage

RGB_MEAN, RGB_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # method.md 1.5
FINEST_STRIDE, RESNET_STAGES = 4, 4  # stride [px] of a backbone's first stage (later ones double it); number of stages


class SmallBackbone(nn.Module):
    """A small backbone for small images: stages at strides 4, 8, 16, ..., one per entry of ``channels``."""

    def __init__(self, channels: tuple[int, ...], norm: str, recompute: bool = False) -> None:
        super().__init__()
        self.recompute = recompute
        self.stem = conv_block(3, channels[0] // 2, 2, norm)
        self.stages = nn.ModuleList()
        inputs = channels[0] // 2
        for c in channels:
            self.stages.append(nn.Sequential(conv_block(inputs, c, 2, norm), conv_block(c, c, 1, norm)))
            inputs = c

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        outputs, x = [], self.stem(images)
        for stage in self.stages:
            x = run_stage(stage, x, self.recompute)
            outputs.append(x)
        return tuple(outputs)


def image_stages(config: Config) -> nn.Module:
    """The last ``len(teacher.fpn_inputs)`` stages of ``teacher.image_backbone``, finest first."""
    teacher = config.teacher
    if teacher.image_backbone == "small":
        return SmallBackbone(teacher.fpn_inputs, config.model.norm, config.model.checkpoint_activations)
    depth = int(teacher.image_backbone.removeprefix("resnet"))
    from pdetr3d.models.image_resnet import ImageResNet

    used = range(RESNET_STAGES - len(teacher.fpn_inputs), RESNET_STAGES)
    loaded = bool(teacher.image_weights)  # without loaded weights nothing may be frozen
    return ImageResNet(
        depth,
        used,
        frozen_stages=teacher.image_frozen_stages if loaded else 0,
        norm_frozen=(loaded and teacher.image_norm_frozen) or config.model.norm == "frozen",
        recompute=config.model.checkpoint_activations,
    )


class ImageEncoder(nn.Module):
    """``forward(images (B, V, H, W, 3) uint8) -> list of (B, V, C, h, w)``, finest first.

    Images are padded at the bottom and on the right to ``padded_size``, a multiple of the coarsest stride. So all
    levels cover the same pixels, and a place has the same relative coordinates on each.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        stages = len(config.teacher.fpn_inputs)
        skipped = RESNET_STAGES - stages if config.teacher.image_backbone in RESNET_CHANNELS else 0
        self.multiple = FINEST_STRIDE * 2 ** (skipped + max(stages, config.teacher.fpn_levels) - 1)
        self.backbone = image_stages(config)
        self.fpn = FPN(
            config.teacher.fpn_inputs,
            config.teacher.channels,
            config.teacher.fpn_levels,
            config.model.norm,
            convolve=True,
        )
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(RGB_MEAN), persistent=False)
        self.register_buffer("std", torch.tensor(RGB_STD), persistent=False)

    def forward(self, images: Tensor) -> list[Tensor]:
        b, v = images.shape[:2]
        pixels = ((images.float() - self.mean) / self.std).flatten(0, 1).permute(0, 3, 1, 2).contiguous()
        (height, width), (padded_width, padded_height) = pixels.shape[-2:], self.padded_size(images)
        if (height, width) != (padded_height, padded_width):
            pixels = F.pad(pixels, (0, padded_width - width, 0, padded_height - height))
        return [level.unflatten(0, (b, v)) for level in self.fpn(self.backbone(pixels))]

    def padded_size(self, images: Tensor) -> tuple[int, int]:
        """Width and height [px] of the padded images, which all levels cover."""
        height, width = images.shape[2:4]
        return width + -width % self.multiple, height + -height % self.multiple
