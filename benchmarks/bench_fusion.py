"""Measures the cost of D-RoI: against mmcv's deformable attention, against simpler fusions, and by clicks."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from benchmarks.bench_steps import CONFIG, median_s, realistic_batch, step_s
from benchmarks.goals import Goal, hold
from pdetr3d import presets
from pdetr3d.config import TeacherConfig
from pdetr3d.models.deformable import deformable_sample
from pdetr3d.schema import FALLBACK_SIZE_M
from pdetr3d.training.build import build
from tests.model_cases import same_on_all_ranks
from tests.reference.mmcv_deformable import flatten_maps, mmcv_deformable

CLICKS = (1, 100, 150, 200, 250, 300)
FULL = presets.NUSCENES_PILLAR.teacher  # 65 samples, 256 channels, 4 levels
SELF = "benchmarks.bench_fusion"


def show(title: str, header: list[str], rows: list[list[str]]) -> None:
    """Print a table."""
    table = Table(*map(escape, header), title=title)
    for row in rows:
        table.add_row(*row)
    Console(width=100).print(table)


def sampling_case(
    teacher: TeacherConfig, maps: int, queries: int, shapes: list[tuple[int, int]]
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Values, location and weight of a teacher's size, all with gradients."""
    samples = teacher.roi_grid**2 + teacher.free_points
    values = [torch.randn(maps, teacher.channels, *shape, requires_grad=True) for shape in shapes]
    location = torch.rand(maps, queries, teacher.heads, len(shapes), samples, 2, requires_grad=True)
    weight = torch.rand(maps, queries, teacher.heads, len(shapes), samples, requires_grad=True)
    return values, location, weight


def test_print_sampling_against_mmcv() -> None:
    """The sampling in D-RoI, forward and backward, with equal numbers of samples."""
    reference, rows, goals = mmcv_deformable(), [], []
    # One sample at full size: a BEV map of 102.4 m with cells of 0.4 m, images of 832 x 512 px at strides 8 to 64.
    cases = {
        "LiDAR": (CONFIG.teacher, 2, 20, [(100, 100), (50, 50), (25, 25)]),
        "cameras": (CONFIG.teacher, 12, 20, [(36, 64), (18, 32), (9, 16)]),
        "LiDAR, full size": (FULL, 1, 40, [(side, side) for side in (256, 128, 64, 32)]),
        "cameras, full size": (FULL, 6, 40, [(512 // stride, 832 // stride) for stride in (8, 16, 32, 64)]),
    }
    for name, case in cases.items():
        (values, location, weight), heads = sampling_case(*case), case[0].heads

        def ours(values=values, location=location, weight=weight) -> None:
            deformable_sample(values, location, weight).sum().backward()

        def theirs(values=values, location=location, weight=weight, heads=heads) -> None:
            value, shapes = flatten_maps(values, heads)
            reference(value, shapes, location, weight).sum().backward()

        got, expected = median_s(ours), median_s(theirs)
        rows.append([name, f"{1000 * got:.1f}", f"{1000 * expected:.1f}", f"{got / expected:.2f}"])
        goals.append(Goal(f"{name}: deformable sampling by mmcv's", got / expected, 1.0, least=False))
    show("deformable sampling, forward + backward", ["maps", "ours [ms]", "mmcv [ms]", "ratio"], rows)
    hold(*goals)


def test_print_fusions(tmp_path: Path) -> None:
    """A training step, and the number of parameters, of none, concat and d_roi."""
    batch, rows = realistic_batch(), []
    for fusion in ("none", "concat", "d_roi"):
        task = build("teacher", presets.load(CONFIG.preset, [f"teacher.fusion={fusion}"]), FALLBACK_SIZE_M)
        count = sum(p.numel() for p in task.model.parameters())
        rows.append([fusion, f"{1000 * step_s(task, batch, tmp_path):.0f}", f"{count:,}"])
    show(f"teacher step, batch {len(batch)}, 20 clicks each", ["fusion", "step [ms]", "parameters"], rows)
    assert len({row[2] for row in rows}) == 3


def test_print_cost_by_clicks() -> None:
    """Forward and backward, and peak memory of a new process, by clicks per sample; memory should be linear."""
    rows, peaks = [], []
    for clicks in CLICKS:
        command = [sys.executable, "-m", SELF, str(clicks)]
        seconds, peak = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-2:]
        rows.append([str(clicks), f"{1000 * float(seconds):.0f}", f"{float(peak):.0f}"])
        peaks.append(float(peak))
    show("teacher by clicks per sample", ["clicks", "forward + backward [ms]", "peak RSS [MiB]"], rows)
    slope, off = straight_line(CLICKS, peaks)
    print(f"peak RSS: {slope:.2f} MiB a click, at most {off:.0f} MiB off that straight line")
    assert len(rows) == len(CLICKS)


def straight_line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """The slope of the least-squares line through points, and the largest distance of a point from it."""
    slope, start = np.polyfit(x, y, 1)
    return float(slope), float(np.abs(np.array(y) - start - slope * np.array(x)).max())


def measure(clicks: int) -> None:
    """Print the seconds and peak MiB of this process."""
    torch.set_num_threads(2)
    task, batch = build("teacher", CONFIG, FALLBACK_SIZE_M), realistic_batch(clicks)

    def step() -> None:
        torch.stack(list(task.losses(task.model(batch), batch, same_on_all_ranks).values())).sum().backward()

    seconds = median_s(step)
    print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


if __name__ == "__main__":
    measure(int(sys.argv[1]))
