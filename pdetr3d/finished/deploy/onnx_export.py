"""Exports the student as an ONNX file with the standard operators of opset 18: points in, maps and peaks out.

The pillar encoder is written anew here (``OnnxPillars``), because ONNX has no operators for runs of equal cells, on
which ``models/pillars.py`` relies. Here all points stay in one table, and points that are left out go to an additional
cell outside the grid. The number of points is thus the only size that depends on the cloud, and no cloud is empty.
onnxruntime compares the file with the student before it is kept.

Legend: P points, C channels, K peaks of one task, H rows (y) and W columns (x) of a grid.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pdetr3d.batch import Cells
from pdetr3d.config import Config
from pdetr3d.data.storage.files import new_folder, sha256
from pdetr3d.finished.deploy.contract import INFO_FILE, ONNX_OUTPUTS, describe
from pdetr3d.finished.deploy.maps import FORMAT
from pdetr3d.finished.deploy.source import TrainedStudent
from pdetr3d.finished.deploy.torchscript import sample_cloud
from pdetr3d.models.pillars import PillarEncoder, scale_points
from pdetr3d.models.student import Student
from pdetr3d.schema import DataError

MODEL_FILE = "student.onnx"
OPSET = 18  # the first opset whose ScatterElements can take maxima
TOLERANCE = 1e-3  # allowed difference of maps to eager inference: onnxruntime's convolutions sum in another order
COUNTS = (0, 1, 2, 500, 5000)  # numbers of points of the clouds that are compared


class ScatterMax(torch.autograd.Function):
    """Scatter with maximum: row n of the result is the maximum of ``grid`` (N, C) row n and of all rows of ``source``
    (P, C) whose ``index`` (P, C) is n.

    It is exported as one operator. torch's export of ``scatter_reduce`` wraps it in a condition on the number of axes,
    whose shapes onnxruntime rejects.
    """

    @staticmethod
    def forward(ctx: Any, grid: Tensor, index: Tensor, source: Tensor) -> Tensor:
        """The result in torch; there is no backward pass."""
        return grid.scatter_reduce(0, index, source, "amax")

    @staticmethod
    def symbolic(g: Any, grid: Any, index: Any, source: Any) -> Any:
        """The operator of the ONNX file."""
        return g.op("ScatterElements", grid, index, source, axis_i=0, reduction_s="max").setType(grid.type())


class OnnxPillars(nn.Module):
    """``PillarEncoder``'s inference on one sample: ``forward(points (P, 5)) -> (1, C, H, W)``."""

    def __init__(self, pillars: PillarEncoder) -> None:
        super().__init__()
        self.pillars = pillars

    def forward(self, points: Tensor) -> Tensor:
        """BEV features (1, C, H, W) of points (P, 5)."""
        mine = self.pillars
        cells = mine.rows * mine.columns  # also the index of the cell outside the grid
        outside = torch.cat([mine.low - 1, mine.low.new_zeros(2)])[None]
        points = torch.cat([points, outside])  # P >= 1
        kept = ((points[:, :3] >= mine.low).int() * (points[:, :3] < mine.high).int()).sum(1) == 3
        column, row = ((points[:, :2] - mine.low[:2]) / mine.pillar_m).long().unbind(1)
        cell = row.clamp(max=mine.rows - 1) * mine.columns + column.clamp(max=mine.columns - 1)
        cell = torch.where(kept, cell, torch.full_like(cell, cells))
        number = torch.arange(points.shape[0], device=points.device)
        _, order = torch.sort(cell * points.shape[0] + number)  # by cell, then in the cloud's order
        points, cell = points[order], cell[order]
        count = self._count(cell, cells)
        rank, of = number - (count.cumsum(0) - count)[cell], count[cell]
        kept = rank * mine.most % of + mine.most >= of  # thins full pillars as pillars.thinned does
        cell = torch.where(kept, cell, torch.full_like(cell, cells))
        features = torch.relu(mine.norm(mine.linear(self._decorate(points, cell, cells))))
        # After the ReLU no feature is below 0, the value of cells without points.
        grid = features.new_zeros(cells + 1, mine.channels)
        grid = ScatterMax.apply(grid, cell[:, None].expand(-1, mine.channels), features)
        return grid[:cells].view(1, mine.rows, mine.columns, mine.channels).permute(0, 3, 1, 2)

    @staticmethod
    def _count(cell: Tensor, cells: int) -> Tensor:
        return torch.zeros(cells + 1, dtype=torch.long, device=cell.device).scatter_add(0, cell, torch.ones_like(cell))

    def _decorate(self, points: Tensor, cell: Tensor, cells: int) -> Tensor:
        mine = self.pillars
        total = points.new_zeros(cells + 1, 3).scatter_add(0, cell[:, None].expand(-1, 3), points[:, :3])
        mean = (total / self._count(cell, cells).clamp(min=1)[:, None].to(total.dtype))[cell]
        row = torch.div(cell, mine.columns, rounding_mode="floor")
        place = torch.stack([cell - row * mine.columns, row], 1).to(points.dtype)
        center = (place + 0.5) * mine.pillar_m + mine.low[:2]
        scaled = scale_points(points, torch.maximum(mine.high, -mine.low))
        return torch.cat([scaled, (points[:, :3] - mean) / mine.pillar_m, (points[:, :2] - center) / mine.pillar_m], 1)


class OnnxStudent(nn.Module):
    """Inference on one sample: ``forward(points (P, 5)) -> *heatmaps, peak, regression`` (``contract.ONNX_OUTPUTS``).

    It differs from ``torchscript.ExportedStudent`` in that every task has exactly K peaks, with those below the score
    threshold.
    """

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student, self.pillars = student, OnnxPillars(student.pillars)

    def forward(self, points: Tensor) -> tuple[Tensor, ...]:
        """``contract.ONNX_OUTPUTS`` of points (P, 5)."""
        student = self.student
        shared, heatmaps = student.head(student.neck(student.backbone(self.pillars(points))))
        peaks, codes = [], []
        for number, (heatmap, regression) in enumerate(zip(heatmaps, student.head.regressions, strict=True)):
            cells = self._peaks(heatmap)
            peaks.append(torch.stack([torch.full_like(cells.row, number), cells.row, cells.column], 1))
            codes.append(regression(shared, cells))
        return (*heatmaps, torch.cat(peaks), torch.cat(codes))

    def _peaks(self, heatmap: Tensor) -> Cells:
        score = heatmap.sigmoid()
        score = score * (score == F.max_pool2d(score, 3, 1, 1)).to(score.dtype)
        rows, columns = self.student.config.student_grid
        most = min(2 * self.student.config.student.max_boxes, rows * columns)
        _, flat = score.amax(1).flatten().topk(most)
        row = torch.div(flat, columns, rounding_mode="floor")
        return Cells(torch.zeros_like(flat), row, flat - row * columns)


def check_runtime() -> None:
    """Check that the packages of the extra ``onnx`` are installed.

    Raises:
        DataError: names the missing packages and the command that installs them.
    """
    missing = [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise DataError(f"an ONNX student needs {', '.join(missing)}: pip install 'pdetr3d[onnx]'")


def export_onnx(trained: TrainedStudent, out: Path) -> dict[str, Any]:
    """Write ``out``/student.onnx and ``out``/export.json, after comparing with eager inference.

    Returns:
        The content of export.json.

    Raises:
        DataError: for a voxel student, with ``model.pad_pillars``, without onnxruntime, or when ``out`` exists.
        RuntimeError: when onnxruntime's outputs differ from the student's.
    """
    check_runtime()
    config = trained.config
    refused = {
        f"model.lidar={config.model.lidar}": config.model.lidar != "pillar",
        "model.pad_pillars=true": config.model.pad_pillars,
    }
    if what := [name for name, there in refused.items() if there]:
        raise DataError(
            f"{what[0]} cannot be exported as ONNX; allowed: pillar students without padding. Export it with "
            "--format mlflow"
        )
    model = OnnxStudent(trained.model).eval().requires_grad_(False)
    names = [*(f"heatmap_{number}" for number in range(len(config.tasks))), "peak", "regression"]
    with new_folder(out) as folder:
        _write(model, sample_cloud(config, 2000), folder / MODEL_FILE, names)
        difference = compare(trained.model, OnnxRunner(folder / MODEL_FILE), config)
        info = {
            "kind": "pdetr3d student, ONNX",
            "format": FORMAT,
            "opset": OPSET,
            "torch": torch.__version__,
            "device": "cpu",
            "checkpoint": trained.file.name,
            "sha256": sha256(folder / MODEL_FILE),
            "max_difference_to_eager": difference,
            **describe(config, ONNX_OUTPUTS),
        }
        (folder / INFO_FILE).write_text(json.dumps(info, indent=1, allow_nan=False))
    return info


def _write(model: OnnxStudent, points: Tensor, file: Path, names: list[str]) -> None:
    # The exporter works on a trace: the one on torch.export needs two more packages and gives poorer messages.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        torch.onnx.export(
            model, (points,), str(file), dynamo=False, opset_version=OPSET, input_names=["points"], output_names=names,
            dynamic_axes={"points": {0: "P"}},
        )  # fmt: skip


class OnnxRunner:
    """Runs an ONNX student on the CPU: ``runner(points (P, 5)) -> (heatmaps, peak, regression)``, as TorchScript's."""

    def __init__(self, file: Path) -> None:
        check_runtime()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = torch.get_num_threads()
        self.session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def __call__(self, points: Tensor) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
        answer = self.session.run(None, {"points": points.detach().cpu().float().numpy()})
        *heatmaps, peak, regression = (torch.from_numpy(part) for part in answer)
        return tuple(heatmaps), peak, regression


@torch.no_grad()
def compare(student: Student, exported: OnnxRunner, config: Config) -> float:
    """The largest difference to eager inference, of the heatmaps and of the regression at the exported peaks.

    Raises:
        RuntimeError: when it exceeds TOLERANCE, or when shapes differ.
    """
    worst = 0.0
    for count in COUNTS:
        points = sample_cloud(config, count)
        heatmaps, peak, regression = exported(points)
        sample = torch.zeros(count, dtype=torch.long)
        shared, wanted = student.head(student.features(points, sample, 1))
        pairs = list(zip(wanted, heatmaps, strict=True))
        for number, branch in enumerate(student.head.regressions):
            mine = peak[:, 0] == number
            row, column = peak[mine, 1:].unbind(1)
            pairs.append((branch(shared, Cells(torch.zeros_like(row), row, column)), regression[mine]))
        for ours, theirs in pairs:
            same = ours.shape == theirs.shape
            difference = (ours - theirs).abs().max().item() if same else float("inf")
            if not difference <= TOLERANCE:
                raise RuntimeError(
                    f"exported maps of {count} points: {tuple(theirs.shape)}, eager {tuple(ours.shape)}, difference "
                    f"{difference:g}; allowed {TOLERANCE:g}"
                )
            worst = max(worst, difference)
    return worst
