"""Counts parameters and FLOPs of every part of teacher and student for one sample (``pdetr3d show-config --model``).

torch's FlopCounterMode counts matrix products and convolutions, two FLOPs per multiply-add. It does not count norms,
activations and sampling. Dense parts run on the meta device (shapes only); the LiDAR encoder runs on a synthetic cloud.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from rich.table import Table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pdetr3d.batch import Cells
from pdetr3d.config import Config
from pdetr3d.models.box_code import viewing_direction
from pdetr3d.models.click_crops import ClickCrops
from pdetr3d.models.crop_regressor import CropRegressor
from pdetr3d.models.point_crop import find_clicks
from pdetr3d.models.point_query import Queries
from pdetr3d.models.roi_fusion import Views
from pdetr3d.models.student import Student
from pdetr3d.models.teacher import Teacher
from pdetr3d.schema import CAMERAS
from pdetr3d.training.build import build
from pdetr3d.training.flow import SWEEP_POINTS

OBJECTS = 40  # clicks for the teacher, boxes for the student: about as many as in a nuScenes keyframe
META = torch.device("meta")


@dataclass(frozen=True)
class Part:
    """One row of the table: ``name``, number of ``parameters``, ``flops`` of one forward pass of one sample."""

    name: str
    parameters: int
    flops: int


def count(name: str, modules: list[nn.Module], forward: Callable[[], object]) -> Part:
    """Count the parameters of ``modules`` and the FLOPs of ``forward()``."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        forward()
    return Part(name, sum(p.numel() for m in modules for p in m.parameters()), counter.get_total_flops())


def measure(stage: str, config: Config) -> list[Part]:
    """Measure the parts of a model in evaluation mode at batch size one.

    Args:
        stage: "teacher" or "student".

    Returns:
        The parts, in the order in which the data pass them.
    """
    # FlopCounterMode hooks into the gradient graph, which views of parameters lack under no_grad: so no parameter may
    # require a gradient here.
    prior = torch.tensor(config.classes.fallback_size_m)
    model = build(stage, config, config.classes.fallback_size_m).model.eval().requires_grad_(False)
    points, sample = _cloud(config)
    if isinstance(model, CropRegressor):
        heads: list[nn.Module] = [*model.quality_heads]
        return [_crops(model.crops, points, sample, prior), _heads(heads, OBJECTS, config.teacher.channels)]
    assert isinstance(model, Teacher | Student)
    encoder = model.voxels if hasattr(model, "voxels") else model.pillars
    parts = [count("LiDAR encoder", [encoder], lambda: encoder(points, sample, 1))]
    rows, columns = (round(span / config.model.bev_cell_m) for span in reversed(_spans_m(config)))
    bev_shape = (1, config.model.bev_channels, rows, columns)
    if isinstance(model, Teacher) and model.crops is not None:
        parts.append(_crops(model.crops, points, sample, prior))
    model.to(META)
    stages: list[Tensor] = []
    parts.append(
        count("backbone", [model.backbone], lambda: stages.extend(model.backbone(torch.empty(bev_shape, device=META))))
    )
    rest = _teacher(model, config, stages) if isinstance(model, Teacher) else _student(model, config, stages)
    return parts + rest


def size_table(title: str, parts: list[Part]) -> Table:
    """A rich table of the parts and their sums."""
    table = Table("part", title=f"{title}: one sample, forward")
    table.add_column("parameters", justify="right")
    table.add_column("GFLOPs", justify="right")
    total = Part("all", sum(p.parameters for p in parts), sum(p.flops for p in parts))
    for part in [*parts, total]:
        table.add_row(part.name, f"{part.parameters:,}", f"{part.flops / 1e9:,.3f}", end_section=part is parts[-1])
    return table


def _teacher(model: Teacher, config: Config, stages: list[Tensor]) -> list[Part]:
    bev: list[Tensor] = []
    parts = [count("neck", [model.fpn], lambda: bev.extend(model.fpn(stages)))]
    images, views = None, None
    if model.images is not None:
        encoder, (width, height) = model.images, config.data.image_size_px
        pixels = torch.empty(1, len(CAMERAS), height, width, 3, dtype=torch.uint8, device=META)
        levels: list[Tensor] = []
        whole = count("images", [encoder], lambda: levels.extend(encoder(pixels)))
        padded = encoder.padded_size(pixels)
        flat = torch.empty(len(CAMERAS), 3, padded[1], padded[0], device=META)
        backbone = count("image backbone", [encoder.backbone], lambda: encoder.backbone(flat))
        neck = Part("image neck", whole.parameters - backbone.parameters, whole.flops - backbone.flops)
        parts += [backbone, neck]
        cameras = torch.empty(1, len(CAMERAS), 4, 4, device=META)
        size = torch.empty(2, device=META)
        images, views = levels, Views(cameras, cameras[..., 0, 0] > 0, size, size)
    click, label = torch.empty(1, OBJECTS, 3, device=META), torch.zeros(1, OBJECTS, dtype=torch.long, device=META)
    query: list[Queries] = []
    parts.append(count("query", [model.query], lambda: query.append(model.query(click, label))))
    decoder = model.decoder

    def decode() -> None:
        valid, axis = torch.ones_like(query[0].click, dtype=torch.bool), torch.zeros_like(query[0].anchor[..., :2])
        decoder(query[0], valid, axis, bev, model.range_m, images, views)

    whole = count("decoder", [decoder], decode)
    heads = [*decoder.box_heads, *decoder.quality_heads, *decoder.class_heads]
    head = _heads(heads, query[0].content.shape[1], config.teacher.channels)
    return [*parts, Part("decoder", whole.parameters - head.parameters, whole.flops - head.flops), head]


def _crops(crops: ClickCrops, points: Tensor, sample: Tensor, prior_size_m: Tensor) -> Part:
    click = points[None, :: len(points) // OBJECTS, :3][:, :OBJECTS]
    label = torch.zeros(click.shape[:2], dtype=torch.long)
    clicks = find_clicks(points, sample, click, label, label == 0, prior_size_m)
    frame = viewing_direction(click)
    return count("click crops", [crops], lambda: [crops(stage, clicks, frame) for stage in range(len(crops.heads))])


def _heads(heads: list[nn.Module], queries: int, channels: int) -> Part:
    for module in heads:
        module.to(META)
    hidden = torch.empty(1, queries, channels, device=META)
    return count("heads", heads, lambda: [module(hidden) for module in heads])


def _student(model: Student, config: Config, stages: list[Tensor]) -> list[Part]:
    maps: list[Tensor] = []
    parts = [count("neck", [model.neck], lambda: maps.append(model.neck(stages)))]
    zero = torch.zeros(OBJECTS, dtype=torch.long, device=META)

    def head() -> None:
        shared, _ = model.head(maps[0])
        for regression in model.head.regressions:
            regression(shared, Cells(zero, zero, zero))

    return [*parts, count("heads", [model.head], head)]


def _spans_m(config: Config) -> tuple[float, float]:
    x0, y0, x1, y1 = config.model.bev_range_m
    return x1 - x0, y1 - y0


def _cloud(config: Config) -> tuple[Tensor, Tensor]:
    """A synthetic cloud, which gets sparser with distance like that of a rotating LiDAR on flat ground.

    Returns:
        Points (P, 5) float32 in the columns of ``Batch.points``, and their sample index (P,) int64, all 0.
    """
    generator = torch.Generator().manual_seed(0)
    n = SWEEP_POINTS * config.data.num_sweeps
    uniform = torch.rand(n, 4, generator=generator)
    distance = 2.0 * (max(_spans_m(config)) / 4) ** uniform[:, 0]  # 2 m to half the span, log-uniform
    azimuth = 2 * torch.pi * uniform[:, 1]
    height = config.model.range_m[2] + uniform[:, 2] ** 2 * (config.model.range_m[5] - config.model.range_m[2])
    columns = [distance * azimuth.cos(), distance * azimuth.sin(), height, 255 * uniform[:, 3], torch.zeros(n)]
    return torch.stack(columns, 1), torch.zeros(n, dtype=torch.long)
