"""The student as TorchScript: points in, maps and peaks out.

Why ``torch.jit.trace``, although torch calls it deprecated in favor of ``torch.export``: clouds differ in size and may
be empty, and the number of pillars and peaks depends on values. The trace records all of that as operators, the same
that eager inference runs. ``torch.export`` (2.13) refuses: its batch norm must know at export whether a cloud is empty
("Could not guard on data-dependent expression"); and its file runs outside Python only after another compilation.

Legend: P points, N peaks of all tasks.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pdetr3d.config import Config
from pdetr3d.data.storage.files import new_folder
from pdetr3d.finished.deploy.contract import INFO_FILE, OUTPUTS, describe, refuse_no_ages
from pdetr3d.finished.deploy.maps import FORMAT
from pdetr3d.finished.deploy.source import TrainedStudent
from pdetr3d.models.student import Student
from pdetr3d.schema import DataError

MODEL_FILE = "student.pt"
TOLERANCE = 1e-4  # of maps, exported against eager


class ExportedStudent(nn.Module):
    """``forward(points (P, 5)) -> heatmaps, peak, regression`` (``contract.OUTPUTS``): inference on one sample.

    The cut: everything that has weights or touches every point is inside, so that a caller needs nothing but points;
    NMS is outside. Regression stays at the peaks, as in eager mode (dense maps would cost several times the head).
    """

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            self.checked = torch.jit.script(refuse_no_ages)  # a trace alone would forget the check

    def forward(self, points: Tensor) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
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
    """The device of this name.

    Raises:
        DataError: when there is none, or it is a GPU that is not here.
    """
    if name.split(":")[0] not in ("cpu", "cuda") or name.startswith("cuda") and not torch.cuda.is_available():
        raise DataError(f"--device {name}: allowed cpu, and cuda where torch sees a GPU")
    return torch.device(name)


def export_torchscript(trained: TrainedStudent, out: Path, device: torch.device) -> dict[str, Any]:
    """Write ``out``/student.pt and ``out``/export.json, after comparing with eager inference; returns the JSON.

    Args:
        device: where the exported model will run: a trace makes its tensors there.

    Raises:
        DataError: for a voxel student, or when ``out`` exists.
        RuntimeError: when the file, read back, does not answer as the student does.
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
            "sha256": hashlib.sha256((folder / MODEL_FILE).read_bytes()).hexdigest(),
            "max_difference_to_eager": difference,
            **describe(trained.config),
        }
        (folder / INFO_FILE).write_text(json.dumps(info, indent=1, allow_nan=False))
    return info


@torch.no_grad()
def trace(eager: ExportedStudent, points: Tensor) -> torch.jit.ScriptModule:
    """The trace. Where our code would fix a size that ``points`` decides, that is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # torch's own checks of shapes
        # Not in the head: its grid is the same for all clouds, so its number of cells may be fixed.
        ours = r"pdetr3d\.(?!models\.center_head)"
        warnings.filterwarnings("error", module=ours, category=torch.jit.TracerWarning)
        return torch.jit.trace(eager, (points,), check_trace=False)


def read(file: Path, device: torch.device) -> torch.jit.ScriptModule:
    """The TorchScript module in a file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.load(str(file), map_location=device)


@torch.no_grad()
def compare(eager: ExportedStudent, exported: torch.nn.Module, config: Config) -> float:
    """The largest difference of the outputs: of no point, of one, and of clouds of other sizes than the trace's."""
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
    """Random points (count, 5) in range and somewhat beyond."""
    generator, span = torch.Generator().manual_seed(count), torch.tensor(config.model.range_m).view(2, 3)
    unit = torch.rand(count, 5, generator=generator)
    xyz = span[0] + (unit[:, :3] * 1.1 - 0.05) * (span[1] - span[0])
    return torch.cat([xyz, unit[:, 3:] * torch.tensor([255, 0.5])], 1)
