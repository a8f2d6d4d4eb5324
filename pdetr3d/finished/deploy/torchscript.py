"""Exports the student as TorchScript: points in, maps and peaks out.

``torch.jit.trace`` is used although torch deprecates it in favor of ``torch.export``. Clouds differ in size and may be
empty, and the numbers of pillars and peaks depend on values. A trace records all of that as operators, the same that
eager inference runs. ``torch.export`` (2.13) fails, because its batch norm must know at export whether a cloud is empty
("Could not guard on data-dependent expression"); and its file runs outside Python only after another compilation.

Legend: P points, N peaks of all tasks.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pdetr3d.config import Config
from pdetr3d.data.storage.files import new_folder, sha256
from pdetr3d.finished.deploy.contract import INFO_FILE, OUTPUTS, describe, refuse_no_ages
from pdetr3d.finished.deploy.maps import FORMAT
from pdetr3d.finished.deploy.source import TrainedStudent
from pdetr3d.models.student import Student
from pdetr3d.schema import DataError

MODEL_FILE = "student.pt"
TOLERANCE = 1e-4  # allowed difference of the outputs to eager inference


class ExportedStudent(nn.Module):
    """Inference on one sample: ``forward(points (P, 5)) -> heatmaps, peak, regression`` (``contract.OUTPUTS``).

    Everything that has weights or handles single points is inside, so that a caller needs only points; NMS is outside.
    The regression is computed at the peaks alone, as in eager mode: dense maps would cost several times the head.
    """

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            self.checked = torch.jit.script(refuse_no_ages)  # a trace alone would not record the check

    def forward(self, points: Tensor) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
        """``contract.OUTPUTS`` of points (P, 5)."""
        points = self.checked(points)
        sample = torch.zeros_like(points[:, 0], dtype=torch.long)
        shared, heatmaps = self.student.head(self.student.features(points, sample, 1))
        peaks, codes = [], []
        for number, (heatmap, regression) in enumerate(zip(heatmaps, self.student.head.regressions, strict=True)):
            cells = self.student.peak_cells(heatmap)
            peaks.append(torch.stack([torch.full_like(cells.row, number), cells.row, cells.column], 1))
            codes.append(regression(shared, cells))
        return tuple(heatmaps), torch.cat(peaks), torch.cat(codes)


def known_device(name: str) -> torch.device:
    """The device of a name.

    Raises:
        DataError: for an unknown name, or a GPU that torch does not see.
    """
    if name.split(":")[0] not in ("cpu", "cuda") or name.startswith("cuda") and not torch.cuda.is_available():
        raise DataError(f"--device {name}: allowed cpu, and cuda where torch sees a GPU")
    return torch.device(name)


def export_torchscript(trained: TrainedStudent, out: Path, device: torch.device) -> dict[str, Any]:
    """Write ``out``/student.pt and ``out``/export.json, after comparing with eager inference.

    Args:
        device: where the exported model will run: a trace creates its tensors on this device.

    Returns:
        The content of export.json.

    Raises:
        DataError: for a voxel student, or when ``out`` exists.
        RuntimeError: when the outputs of the written file differ from the student's.
    """
    if trained.config.model.lidar != "pillar":
        raise DataError(
            f"model.lidar={trained.config.model.lidar} cannot be exported as TorchScript: its sparse encoder looks up "
            "neighbors cloud by cloud in Python, or in mmcv's kernels; allowed: pillar. Export it with --format mlflow"
        )
    eager = ExportedStudent(trained.model).to(device).eval().requires_grad_(False)
    with new_folder(out) as folder:
        trace(eager, sample_cloud(trained.config, 2000).to(device)).save(str(folder / MODEL_FILE))
        difference = compare(eager, read(folder / MODEL_FILE, device), trained.config)
        info = {
            "kind": "pdetr3d student, TorchScript",
            "format": FORMAT,
            "torch": torch.__version__,
            "device": str(device),
            "checkpoint": trained.file.name,
            "sha256": sha256(folder / MODEL_FILE),
            "max_difference_to_eager": difference,
            **describe(trained.config),
        }
        (folder / INFO_FILE).write_text(json.dumps(info, indent=1, allow_nan=False))
    return info


@torch.no_grad()
def trace(eager: ExportedStudent, points: Tensor) -> torch.jit.ScriptModule:
    """Trace the student. It is an error if pdetr3d's code would fix a size that depends on ``points``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # warnings of torch's own checks of shapes
        # The head is excepted: its grid is the same for all clouds, so that its number of cells may be fixed.
        ours = r"pdetr3d\.(?!models\.center_head)"
        warnings.filterwarnings("error", module=ours, category=torch.jit.TracerWarning)
        return torch.jit.trace(eager, (points,), check_trace=False)


def read(file: Path, device: torch.device) -> torch.jit.ScriptModule:
    """Load the TorchScript module of a file to a device."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.load(str(file), map_location=device)


@torch.no_grad()
def compare(eager: ExportedStudent, exported: torch.nn.Module, config: Config) -> float:
    """The largest difference of the outputs, for no point, one point, and clouds of other sizes than the traced one.

    Raises:
        RuntimeError: when it exceeds TOLERANCE, or when shapes differ.
    """
    worst = 0.0
    for count in (0, 1, 2, 500, 5000):
        points = sample_cloud(config, count).to(next(eager.parameters()).device)
        for name, ours, theirs in zip(OUTPUTS, flat(eager(points)), flat(exported(points)), strict=True):
            same = ours.shape == theirs.shape
            difference = (ours - theirs).abs().max().item() if same and ours.numel() else 0.0
            if not same or difference > TOLERANCE:
                raise RuntimeError(
                    f"exported {name} of {count} points: {tuple(theirs.shape)}, eager {tuple(ours.shape)}, difference "
                    f"{difference:g}; allowed {TOLERANCE:g}"
                )
            worst = max(worst, difference)
    return worst


def flat(answer: tuple[tuple[Tensor, ...], Tensor, Tensor]) -> list[Tensor]:
    """The three outputs, the heatmaps as one vector."""
    heatmaps, *rest = answer
    return [torch.cat([heatmap.flatten() for heatmap in heatmaps]), *rest]


def sample_cloud(config: Config, count: int) -> Tensor:
    """Random points (count, 5) float32 in the columns of ``Batch.points``, within the range and slightly beyond."""
    generator, span = torch.Generator().manual_seed(count), torch.tensor(config.model.range_m).view(2, 3)
    unit = torch.rand(count, 5, generator=generator)
    xyz = span[0] + (unit[:, :3] * 1.1 - 0.05) * (span[1] - span[0])
    return torch.cat([xyz, unit[:, 3:] * torch.tensor([255, 0.5])], 1)
