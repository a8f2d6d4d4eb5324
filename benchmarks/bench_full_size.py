"""Measures the parts of training steps and of inference: quickstart, and full size on the real keyframe.

Each case runs in its own process, whose peak memory is measured. Without PDETR3D_REAL_DATA only the quickstart runs.
A GPU, if there is one, trains on as many copies of the keyframe as a worker of the preset has in its batch, and the
memory is that of its allocator. A CPU trains on one copy.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from benchmarks.bench_steps import realistic_batch
from pdetr3d import presets
from pdetr3d.batch import Batch
from pdetr3d.class_list import NUSCENES_CLASSES
from pdetr3d.data.index.index import Index
from pdetr3d.data.index.nuscenes import build_index
from pdetr3d.data.label_manifest import prior_size_m, training_records
from pdetr3d.data.labels.manifest import build_manifest
from pdetr3d.models.fusion import Fusion
from pdetr3d.models.recompute import compile_dense
from pdetr3d.schema import FALLBACK_SIZE_M
from pdetr3d.training.build import Task, build
from pdetr3d.training.context import LocalContext
from pdetr3d.training.loop import autocast, peak_memory_bytes, train_step
from pdetr3d.training.optim import make_optimizer
from pdetr3d.training.plan import Plan

SELF = "benchmarks.bench_full_size"
# Like tests/unit/test_full_size.py, with the presets' full image size.
KEYFRAME = ["student.gt_sampling=[]", "label.ratio=1.0", "data.train_split=mini_train"]
# The activations of six full images take 20 GB; with recomputation a teacher fits into a small memory.
SMALL_MEMORY = ["model.checkpoint_activations=true"]
STUDENT, TEACHER = "student", "teacher"
GPU = torch.cuda.is_available()
STUDENTS = [(f"nuscenes-{lidar}", STUDENT, amp, 3) for lidar in ("pillar", "voxel") for amp in ("fp32", "bf16")]
TEACHERS = [(f"nuscenes-{lidar}", TEACHER, "bf16", 5 if GPU else 1) for lidar in ("pillar", "voxel")]
QUICKSTART = [("quickstart", TEACHER, amp, 5) for amp in ("fp32", "bf16")]
# unguided: without the second view, as usual for CenterPoint; inference: boxes of a batch without training
CASES = [  # preset, stage, amp, counted steps, special settings
    *[(*case, "") for case in QUICKSTART + STUDENTS + TEACHERS],
    *[(*case, "unguided") for case in STUDENTS],
    *[(*case, "inference") for case in STUDENTS + TEACHERS],
    *([("nuscenes-pillar", STUDENT, "bf16", 3, "compiled")] if GPU else []),
]


def measured_parts(model: nn.Module) -> dict[str, nn.Module]:
    """Name -> module whose forward passes are timed; the time of a nested module counts for both."""
    images = getattr(model, "images", None)
    nested = {f"  images.{name}": module for name, module in (images.named_children() if images else [])}
    fusions = {f"  {n}": m for n, m in model.named_modules() if isinstance(m, Fusion)}
    return {**dict(model.named_children()), **nested, **fusions}


def now() -> float:
    """The time [s] after all work of the GPU is done."""
    if GPU:
        torch.cuda.synchronize()
    return time.perf_counter()


class Clock:
    """Measures seconds per name over all calls of the hooked modules since the last ``take``."""

    def __init__(self, model: nn.Module) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        for name, module in measured_parts(model).items():
            module.register_forward_pre_hook(lambda *_, n=name: self._add(n, -now()))
            module.register_forward_hook(lambda *_, n=name: self._add(n, now()))

    def _add(self, name: str, seconds: float) -> None:
        self.seconds[name] += seconds

    def take(self) -> dict[str, float]:
        taken = dict(self.seconds)
        self.seconds.clear()
        return taken


def time_steps(task: Task, batch: Batch, steps: int, folder: Path) -> dict[str, float]:
    """Median seconds of the parts, the whole step, and the rest beside forward ("losses, backward, optimizer")."""
    context = LocalContext([], Plan(1, 1, 1, 0), task.loader, folder, "cuda" if GPU else "cpu")
    model, batch = task.model.to(context.device).train(), batch.to(context.device)
    if task.optim.compile:
        compile_dense(model)
    optimizer, clock, taken = make_optimizer(model, task.optim), Clock(model), []
    for _ in range(steps + 1):  # the first is not counted
        begin = now()
        train_step(model, optimizer, task, batch, context, 1e-6)
        step, parts = now() - begin, clock.take()
        forward = sum(seconds for name, seconds in parts.items() if not name.startswith(" "))
        taken.append({**parts, "losses, backward, optimizer": step - forward, "step": step})
    return {name: statistics.median(one[name] for one in taken[1:]) for name in taken[0]}


def time_inference(task: Task, batch: Batch, steps: int) -> dict[str, float]:
    """Median seconds of the parts, the whole, and the rest after the forward pass ("boxes"): decoding, NMS.

    With initial weights all scores are near 0.1, so that there are many more candidates than with a trained student.
    """
    device = torch.device("cuda" if GPU else "cpu")
    model, batch = task.model.to(device).eval(), batch.to(device)
    clock, taken = Clock(model), []
    for _ in range(steps + 1):  # the first is not counted
        begin = now()
        with torch.no_grad(), autocast(task.optim.amp, device):
            output = model(batch)
        forward = now() - begin
        task.predict(output, batch)
        whole = now() - begin
        taken.append({**clock.take(), "boxes": whole - forward, "inference": whole})
    return {name: statistics.median(one[name] for one in taken[1:]) for name in taken[0]}


def real_batch(preset: str, stage: str, overrides: list[str], folder: Path) -> tuple[Task, Batch]:
    """The preset's task, and a batch of the real keyframe: one copy, or a GPU's batch size."""
    config = presets.load(preset, overrides)
    index = Index.open(build_index(Path(os.environ["PDETR3D_REAL_DATA"]), "v1.0-mini", folder / "index.arrow"))
    record = training_records(index, build_manifest(index, "mini_train", config.label, folder / "manifest"))[0]
    task = build(stage, config, prior_size_m([record], classes=NUSCENES_CLASSES)[0])
    count = task.optim.batch_size // config.scaling.workers if GPU else 1
    return task, Batch.from_arrays(task.loader([record] * count, list(range(count)), 0))


def measure(preset: str, stage: str, amp: str, steps: int, special: str) -> None:
    """Print a line per part (name, seconds), the batch size, and the peak memory [bytes] of this process or GPU."""
    torch.set_num_threads(2)
    optim = f"{'teacher.' if stage == TEACHER else ''}optim"
    chosen = [f"{optim}.amp={amp}", f"{optim}.compile={str(special == 'compiled').lower()}"]
    chosen += ["student.guidance=none"] if special == "unguided" else []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if preset == "quickstart":
            task, batch = build(stage, presets.load(preset, chosen), FALLBACK_SIZE_M), realistic_batch()
        else:
            memory = SMALL_MEMORY if stage == TEACHER and not GPU else []
            task, batch = real_batch(preset, stage, [*KEYFRAME, *chosen, *memory], folder)
        inference = special == "inference"
        timed = time_inference(task, batch, steps) if inference else time_steps(task, batch, steps, folder)
        for part, seconds in timed.items():
            print(f"PART\t{part}\t{seconds}")
    print(f"BATCH\t{len(batch)}")
    print(f"PEAK\t{peak_memory_bytes()}")


def measured(preset: str, stage: str, amp: str, steps: int, special: str = "") -> dict[str, Any]:
    """A case, measured in a process of its own: its name, "batch", "parts_s" (part -> s), and "peak_bytes"."""
    command = [sys.executable, "-m", SELF, preset, stage, amp, str(steps), special]
    lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    parts = {name: float(s) for name, s in (line.split("\t")[1:] for line in lines if line.startswith("PART\t"))}
    batch, peak = int(lines[-2].removeprefix("BATCH\t")), float(lines[-1].removeprefix("PEAK\t"))
    return {"preset": preset, "stage": stage, "amp": amp, "batch": batch, "parts_s": parts, "peak_bytes": peak}


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("preset", "stage", "amp", "steps", "special"), CASES)
def test_print_step_by_part(preset: str, stage: str, amp: str, steps: int, special: str) -> None:
    """Print a table per case."""
    if preset != "quickstart" and not os.environ.get("PDETR3D_REAL_DATA"):
        pytest.skip("PDETR3D_REAL_DATA is not set: name a nuScenes v1.0-mini folder to run this benchmark")
    found = measured(preset, stage, amp, steps, special)
    parts, peak = found["parts_s"], found["peak_bytes"]
    what = f"{preset} {stage}, {amp}{f', {special}' if special else ''}, batch {found['batch']}"
    table = Table("part", "ms", "share", title=f"{what}: peak {peak / 2**30:.1f} GiB")
    for name, seconds in parts.items():
        table.add_row(name, f"{1000 * seconds:.0f}", f"{seconds / list(parts.values())[-1]:.2f}")
    Console(width=100).print(table)
    assert min(parts.values()) > 0 and peak > 0


if __name__ == "__main__":
    measure(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5])
