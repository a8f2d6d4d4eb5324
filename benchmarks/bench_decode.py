"""Measures decoding and NMS at full size on a CPU, with the many peaks of an untrained student.

The goal is of the real keyframe (PDETR3D_REAL_DATA). Without it the benchmark only prints.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.bench_steps import median_s
from benchmarks.goals import Goal, hold
from pdetr3d import presets
from pdetr3d.batch import StudentOutput
from pdetr3d.config import Config
from pdetr3d.data.index.index import Index
from pdetr3d.data.index.nuscenes import build_index
from pdetr3d.data.loading.load import load_sample
from pdetr3d.models.student import CenterDecoder, Student
from pdetr3d.schema import FALLBACK_SIZE_M
from pdetr3d.training.build import build
from tests.model_cases import change, make_batch

DECODING_S = 0.1  # goal
# An untrained student has peaks of every class near the threshold of 0.1 all over the map, so all six tasks decode
# their most cells. Boxes of about 1 m hardly overlap; boxes of a bus's size overlap a dozen others. (name, bus,
# overrides)
CASES = [
    ("boxes of 1 m", False, []),
    ("boxes of 1 m, circle NMS", False, ["student.nms=circle"]),
    ("boxes of a bus's size", True, []),
    ("boxes of a bus's size, circle NMS", True, ["student.nms=circle"]),
]


def cloud(config: Config, folder: Path) -> Tensor:
    """Points (P, 5) of the real keyframe if PDETR3D_REAL_DATA is set, else random ones over the whole range."""
    root = os.environ.get("PDETR3D_REAL_DATA", "")
    if not root:
        return make_batch(1, points=35_000).points * torch.tensor([4.0, 4, 1, 1, 1])
    index = Index.open(build_index(Path(root), "v1.0-mini", folder / "index.arrow"))
    token = str(index.table.column("sample_token")[0].as_py())
    return torch.from_numpy(load_sample(index.record(token, role="unlabeled"), config.data, cameras=False).points)


@pytest.fixture(scope="module")
def student() -> Student:
    """An untrained full-size pillar student."""
    model = build("student", presets.load("nuscenes-pillar"), FALLBACK_SIZE_M, guidance=False).model.eval()
    assert isinstance(model, Student)
    return model


def enlarge(student: Student) -> None:
    """Make the untrained regression predict about the size of a bus."""
    for regression in student.head.regressions:
        size = regression.get_submodule("outputs.size")
        assert isinstance(size, torch.nn.Conv2d) and size.bias is not None
        size.bias.data = torch.from_numpy(FALLBACK_SIZE_M[3]).log()


def test_print_costs_of_decoding(student: Student, tmp_path: Path) -> None:
    """Print the table; the goal is of all cases on the real keyframe."""
    points = cloud(student.config, tmp_path)
    batch = make_batch(1)
    batch = change(batch, points=points, point_sample=torch.zeros(len(points), dtype=torch.long))
    slowest_s = 0.0
    table = Table("case", "peaks", "boxes", "decoding and NMS, ms", title=f"nuscenes-pillar, {len(points)} points, CPU")
    for name, bus, overrides in CASES:
        if bus:
            enlarge(student)
        with torch.no_grad():
            output = student(batch)
        assert isinstance(output, StudentOutput)
        decoder = CenterDecoder(presets.load("nuscenes-pillar", overrides))
        boxes, seconds = decoder(output.tasks)[0], median_s(lambda d=decoder, o=output: d(o.tasks))
        peaks = sum(len(task.cells.row) for task in output.tasks)
        table.add_row(name, str(peaks), str(len(boxes)), f"{1000 * seconds:.0f}")
        assert len(boxes) and seconds > 0
        slowest_s = max(slowest_s, seconds)
    Console(width=100).print(table)
    if os.environ.get("PDETR3D_REAL_DATA"):
        hold(Goal("decoding and NMS, slowest case [s]", slowest_s, DECODING_S, least=False))
