"""Decodes the outputs of an exported student to boxes, whatever runtime computed them; reads export.json.

Legend: P points, N peaks of all tasks, T classes of one task, H x W cells of the head's grid.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from pdetr3d.batch import Cells, TaskMaps
from pdetr3d.config import Config
from pdetr3d.finished.deploy.contract import INFO_FILE
from pdetr3d.geometry.center_code import CODE_CHANNELS
from pdetr3d.models.student import CenterDecoder
from pdetr3d.schema import Boxes3D, DataError

FORMAT = 1  # of the exported folder; changes with the model's input and outputs, and with the keys of export.json


def decode_maps(export: str | Path, heatmaps: Sequence[ArrayLike], peak: ArrayLike, regression: ArrayLike) -> Boxes3D:
    """Decode the outputs of an exported student for one sample (``contract.OUTPUTS``): peaks, threshold, NMS.

    Args:
        export: the folder that ``pdetr3d export`` wrote, or its export.json.
        heatmaps: one (1, T, H, W) of logits per task, as arrays or tensors. peak: (N, 3) task, row, column.
        regression: (N, 12) at the peaks.

    Returns:
        Boxes in descending score, in the frame of the points; m, rad (yaw counter-clockwise about z from +x), m/s.

    Raises:
        DataError: for a folder that is no export, or outputs of other shapes than its config gives.
    """
    path = Path(export)
    config = config_of(read_info(path / INFO_FILE if path.is_dir() else path))
    maps = [torch.as_tensor(heatmap) for heatmap in heatmaps]
    places, codes = torch.as_tensor(peak), torch.as_tensor(regression)
    wanted = [(1, len(task), *config.student_grid) for task in config.tasks]
    if [tuple(heatmap.shape) for heatmap in maps] != wanted:
        raise DataError(f"heatmaps of shapes {[tuple(h.shape) for h in maps]}: {path} has {wanted}")
    if tuple(places.shape) != (len(codes), 3) or tuple(codes.shape) != (len(codes), CODE_CHANNELS):
        raise DataError(
            f"peak of shape {tuple(places.shape)} and regression of {tuple(codes.shape)}: allowed (N, 3) and "
            f"(N, {CODE_CHANNELS})"
        )
    return decode(config, maps, places, codes)


@torch.no_grad()
def decode(config: Config, heatmaps: Sequence[Tensor], peak: Tensor, regression: Tensor) -> Boxes3D:
    """As ``decode_maps``, for tensors whose shapes are known to be right."""
    tasks = []
    for number, heatmap in enumerate(heatmaps):
        mine = peak[:, 0] == number
        row, column = peak[mine, 1:].unbind(1)
        tasks.append(TaskMaps(heatmap, Cells(torch.zeros_like(row), row, column), regression[mine]))
    return CenterDecoder(config)(tasks)[0]


def read_info(file: Path) -> dict[str, Any]:
    """Read an export.json.

    Raises:
        DataError: when the file is missing, cannot be read, or has another format than this version reads.
    """
    if not file.is_file():
        raise DataError(f"{file} does not exist: pdetr3d export writes it")
    try:
        info = json.loads(file.read_text())
        found = info.get("format", "none")
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"{file}: cannot be read ({error}); export the student again with pdetr3d export") from error
    if found != FORMAT:
        raise DataError(
            f"{file}: format {found}; this version reads format {FORMAT}: export the student again with pdetr3d export"
        )
    return info


def config_of(info: dict[str, Any]) -> Config:
    """The config in an export.json, ``info``."""
    return Config.from_json(json.dumps(info["config"]))
