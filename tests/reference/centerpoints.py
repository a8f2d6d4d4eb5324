"""Small slow CenterPoints with the names of mmdetection3d and OpenPCDet, to make checkpoints in their layouts.

Pillars are made in a loop, sparse convolutions are dense ones under masks. The code follows papers and modules.

Legend: P points, C channels, D x H x W cells along z, y, x.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pdetr3d.config import Config

MM_BRANCHES = {"reg": 2, "height": 1, "dim": 3, "rot": 2, "vel": 2}
PC_BRANCHES = {"center": 2, "center_z": 1, "dim": 3, "rot": 2, "vel": 2}


def shake(model: nn.Module, seed: int) -> nn.Module:
    """Set norms' statistics and scales as after training; some variances are so small that epsilon matters."""
    generator = torch.Generator().manual_seed(seed)
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            size = module.running_var.shape
            # The first norm sees meters and intensities up to 255; the two-dimensional norms see normalized values.
            scale = 1e4 if "conv_input" in name else 1e2 if "pfn_layers" in name else 1.0
            low = -1.0 if isinstance(module, nn.BatchNorm1d) else -2.5
            module.running_mean.copy_(torch.randn(size, generator=generator) * 0.2)
            module.running_var.copy_(scale * 10 ** (torch.rand(size, generator=generator) * 1.5 + low))
            module.weight.data.copy_(torch.rand(size, generator=generator) * 0.4 + 0.1)
            module.bias.data.copy_(torch.randn(size, generator=generator) * 0.3)
    return model.eval()


class Held(nn.Module):
    """A module that only holds named parts."""

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)


def stages_2d(config: Config, pads_apart: bool) -> nn.ModuleList:
    model, inputs, stages = config.model, config.model.bev_channels, []
    for channels, layers, stride in zip(
        model.backbone_channels, model.backbone_layers, model.backbone_strides, strict=True
    ):
        parts: list[nn.Module] = [nn.ZeroPad2d(1)] if pads_apart else []
        parts.append(nn.Conv2d(inputs, channels, 3, stride, 0 if pads_apart else 1, bias=False))
        for _ in range(layers):
            parts += [nn.BatchNorm2d(channels, 1e-3), nn.ReLU(), nn.Conv2d(channels, channels, 3, 1, 1, bias=False)]
        stages.append(nn.Sequential(*parts, nn.BatchNorm2d(channels, 1e-3), nn.ReLU()))
        inputs = channels
    return nn.ModuleList(stages)


def necks(config: Config, plain_at_one: bool) -> nn.ModuleList:
    parts = []
    student = config.student
    for i, o, stride in zip(config.model.backbone_channels, student.neck_channels, student.neck_strides, strict=True):
        side = round(stride if stride >= 1 else 1 / stride)
        up = stride > 1 or (stride == 1 and not plain_at_one)
        conv = (nn.ConvTranspose2d if up else nn.Conv2d)(i, o, side, side, bias=False)
        parts.append(nn.Sequential(conv, nn.BatchNorm2d(o, 1e-3), nn.ReLU()))
    return nn.ModuleList(parts)


def bev_maps(stages: nn.ModuleList, ups: nn.ModuleList, x: Tensor) -> Tensor:
    found = []
    for stage, up in zip(stages, ups, strict=True):
        x = stage(x)
        found.append(up(x))
    return torch.cat(found, 1)


class PillarNet(nn.Module):
    """One layer on x, y, z, intensity, age, offsets to mean and center of ``most`` points, padded with zeros."""

    def __init__(self, config: Config, with_z: bool) -> None:
        super().__init__()
        model = config.model
        self.linear = nn.Linear(11 if with_z else 10, model.pillar_channels, bias=False)
        self.norm = nn.BatchNorm1d(model.pillar_channels, 1e-3)
        self.model, self.with_z = model, with_z

    def forward(self, points: Tensor) -> Tensor:
        x0, y0, z0, x1, y1, z1 = self.model.range_m
        side, (rows, columns) = self.model.pillar_m, self.model.grid
        pillars: dict[tuple[int, int], list[Tensor]] = {}
        for point in points:
            x, y, z = point[:3].tolist()
            if x0 <= x < x1 and y0 <= y < y1 and z0 <= z < z1:
                pillars.setdefault((math.floor((y - y0) / side), math.floor((x - x0) / side)), []).append(point)
        bev = torch.zeros(1, self.linear.out_features, rows, columns)
        for (row, column), inside in pillars.items():
            mine = torch.stack(inside[: self.model.pillar_points])
            middle = torch.tensor([x0 + (column + 0.5) * side, y0 + (row + 0.5) * side, (z0 + z1) / 2])
            away = (mine[:, :3] - middle)[:, : 3 if self.with_z else 2]
            features = torch.cat([mine, mine[:, :3] - mine[:, :3].mean(0), away], 1)
            features = F.pad(features, (0, 0, 0, self.model.pillar_points - len(mine)))
            bev[0, :, row, column] = torch.relu(self.norm(self.linear(features))).amax(0)
        return bev


class Sparse(nn.Module):
    """A sparse convolution on a dense grid; ``turned``: the weight in spconv 2's layout."""

    def __init__(
        self, inputs: int, outputs: int, size: tuple, stride: tuple, padding: tuple, bias: bool, turned: bool
    ) -> None:
        super().__init__()
        weight = torch.randn(*size, inputs, outputs) / math.sqrt(3 * inputs)
        self.weight = nn.Parameter(weight.permute(4, 0, 1, 2, 3).contiguous() if turned else weight)
        self.bias = nn.Parameter(torch.randn(outputs) * 0.2) if bias else None
        self.stride, self.padding, self.turned, self.same = stride, padding, turned, stride == (1, 1, 1)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        weight = self.weight.permute(0, 4, 1, 2, 3) if self.turned else self.weight.permute(4, 3, 0, 1, 2)
        y = F.conv3d(x, weight, self.bias, self.stride, self.padding)
        if not self.same:
            ones = torch.ones(1, 1, *weight.shape[2:])
            mask = (F.conv3d(mask, ones, None, self.stride, self.padding) > 0.5).float()
        return y * mask, mask


def normed(norm: nn.BatchNorm1d, x: Tensor, mask: Tensor) -> Tensor:
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps) * mask


class Residual(nn.Module):
    """Two submanifold convolutions with a shortcut."""

    def __init__(self, channels: int, bias: bool, turned: bool) -> None:
        super().__init__()
        same = ((3, 3, 3), (1, 1, 1), (1, 1, 1), bias, turned)
        self.conv1, self.bn1 = Sparse(channels, channels, *same), nn.BatchNorm1d(channels, 1e-3)
        self.conv2, self.bn2 = Sparse(channels, channels, *same), nn.BatchNorm1d(channels, 1e-3)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.relu(normed(self.bn1, self.conv1(x, mask)[0], mask))
        return torch.relu(x + normed(self.bn2, self.conv2(y, mask)[0], mask)), mask


class ConvNorm(nn.Sequential):
    """Convolution and norm, with the names 0 and 1 of both projects."""

    def run(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        y, mask = self[0](x, mask)
        return torch.relu(normed(self[1], y, mask)), mask


def conv_norm(i: int, o: int, size: tuple, stride: tuple, padding: tuple, turned: bool) -> ConvNorm:
    return ConvNorm(Sparse(i, o, size, stride, padding, False, turned), nn.BatchNorm1d(o, 1e-3))


def down(i: int, o: int, last: bool, turned: bool) -> ConvNorm:
    return conv_norm(i, o, (3, 3, 3), (2, 2, 2), (0 if last else 1, 1, 1), turned)


def voxels(config: Config, points: Tensor) -> tuple[Tensor, Tensor]:
    """Mean raw points (1, 5, D, H, W), and the mask of filled voxels; points beyond a voxel's limit are dropped."""
    (depth, rows, columns), sides, low = config.model.voxel_grid, config.model.voxel_m, config.model.range_m[:3]
    filled: dict[tuple[int, int, int], list[Tensor]] = {}
    for point in points:
        x, y, z = (math.floor((float(point[k]) - low[k]) / sides[k]) for k in range(3))
        if 0 <= x < columns and 0 <= y < rows and 0 <= z < depth - 1:
            filled.setdefault((z, y, x), []).append(point)
    dense, mask = torch.zeros(1, 5, depth, rows, columns), torch.zeros(1, 1, depth, rows, columns)
    for (z, y, x), inside in filled.items():
        dense[0, :, z, y, x] = torch.stack(inside[: config.model.voxel_points]).mean(0)
        mask[0, 0, z, y, x] = 1
    return dense, mask


class Mm(nn.Module):
    """CenterPoint with mmdetection3d's names."""

    def __init__(self, config: Config, with_z: bool = True) -> None:
        super().__init__()
        self.config = config
        if config.model.lidar == "pillar":
            self.pts_voxel_encoder = Held(pfn_layers=nn.ModuleList([PillarNet(config, with_z)]))
        else:
            channels = config.model.voxel_channels
            layers = nn.ModuleDict()
            for stage, c in enumerate(channels):
                parts: list[nn.Module] = [Residual(c, False, False) for _ in range(2)]
                if stage < len(channels) - 1:
                    parts.append(down(c, channels[stage + 1], stage == len(channels) - 2, False))
                layers[f"encoder_layer{stage + 1}"] = nn.ModuleList(parts)
            self.pts_middle_encoder = Held(
                conv_input=conv_norm(5, channels[0], (3, 3, 3), (1, 1, 1), (1, 1, 1), False),
                encoder_layers=layers,
                conv_out=conv_norm(channels[-1], channels[-1], (3, 1, 1), (2, 1, 1), (0, 0, 0), False),
            )
        self.pts_backbone = Held(blocks=stages_2d(config, pads_apart=False))
        self.pts_neck = Held(deblocks=necks(config, plain_at_one=True))
        width = config.student.head_channels
        self.pts_bbox_head = Held(
            shared_conv=self.module(sum(config.student.neck_channels), width),
            task_heads=nn.ModuleList(
                Held(**{
                    name: nn.Sequential(self.module(width, width), nn.Conv2d(width, n, 3, padding=1))
                    for name, n in {**MM_BRANCHES, "heatmap": len(task)}.items()
                })
                for task in config.tasks
            ),
        )  # fmt: skip

    @staticmethod
    def module(i: int, o: int) -> nn.Module:
        return Held(conv=nn.Conv2d(i, o, 3, padding=1, bias=False), bn=nn.BatchNorm2d(o))

    def forward(self, points: Tensor) -> list[dict[str, Tensor]]:
        if self.config.model.lidar == "pillar":
            bev = self.pts_voxel_encoder.pfn_layers[0](points)
        else:
            encoder = self.pts_middle_encoder
            x, mask = encoder.conv_input.run(*voxels(self.config, points))
            for stage in encoder.encoder_layers.values():
                for part in stage:
                    x, mask = part.run(x, mask) if isinstance(part, ConvNorm) else part(x, mask)
            bev = encoder.conv_out.run(x, mask)[0].flatten(1, 2)

        def run(module: nn.Module, x: Tensor) -> Tensor:
            return torch.relu(module.bn(module.conv(x)))

        shared = run(self.pts_bbox_head.shared_conv, bev_maps(self.pts_backbone.blocks, self.pts_neck.deblocks, bev))
        return [
            {name: branch[1](run(branch[0], shared)) for name, branch in head.named_children()}
            for head in self.pts_bbox_head.task_heads
        ]


class Pc(nn.Module):
    """CenterPoint with OpenPCDet's names: biases before norms, spconv 2's kernels, separate padding layers."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config, channels = config, config.model.voxel_channels
        if config.model.lidar == "pillar":
            self.vfe = Held(pfn_layers=nn.ModuleList([PillarNet(config, True)]))
        else:
            stages = {}
            for stage, c in enumerate(channels):
                parts: list[nn.Module] = [Residual(c, True, True) for _ in range(2)]
                if stage:
                    parts.insert(0, down(channels[stage - 1], c, stage == len(channels) - 1, True))
                stages[f"conv{stage + 1}"] = nn.ModuleList(parts)
            self.backbone_3d = Held(
                conv_input=conv_norm(5, channels[0], (3, 3, 3), (1, 1, 1), (1, 1, 1), True),
                **stages,
                conv_out=conv_norm(channels[-1], channels[-1], (3, 1, 1), (2, 1, 1), (0, 0, 0), True),
            )
        self.backbone_2d = Held(blocks=stages_2d(config, pads_apart=True), deblocks=necks(config, plain_at_one=False))
        width = config.student.head_channels
        self.dense_head = Held(
            shared_conv=self.module(sum(config.student.neck_channels), width),
            heads_list=nn.ModuleList(
                Held(**{
                    name: nn.Sequential(self.module(width, width), nn.Conv2d(width, n, 3, padding=1))
                    for name, n in {**PC_BRANCHES, "hm": len(task)}.items()
                })
                for task in config.tasks
            ),
        )  # fmt: skip
        self.register_buffer("global_step", torch.zeros(1, dtype=torch.long))

    @staticmethod
    def module(i: int, o: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU())

    def forward(self, points: Tensor) -> list[dict[str, Tensor]]:
        if self.config.model.lidar == "pillar":
            bev = self.vfe.pfn_layers[0](points)
        else:
            encoder = self.backbone_3d
            x, mask = encoder.conv_input.run(*voxels(self.config, points))
            for stage in range(len(self.config.model.voxel_channels)):
                for part in getattr(encoder, f"conv{stage + 1}"):
                    x, mask = part.run(x, mask) if isinstance(part, ConvNorm) else part(x, mask)
            bev = encoder.conv_out.run(x, mask)[0].flatten(1, 2)
        shared = self.dense_head.shared_conv(bev_maps(self.backbone_2d.blocks, self.backbone_2d.deblocks, bev))
        return [{name: branch(shared) for name, branch in head.named_children()} for head in self.dense_head.heads_list]
