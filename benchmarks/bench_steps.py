"""Measures a training step at quickstart size, and the shares of guidance and D-RoI. It asserts no time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from pdetr3d import presets
from pdetr3d.batch import Batch
from pdetr3d.models.fusion import Fusion
from pdetr3d.models.student import Student
from pdetr3d.schema import FALLBACK_SIZE_M
from pdetr3d.training.build import Task, build
from pdetr3d.training.context import LocalContext
from pdetr3d.training.loop import train_step
from pdetr3d.training.optim import make_optimizer
from pdetr3d.training.plan import Plan
from tests.model_cases import change, make_batch, ring_cameras

CONFIG = presets.load("quickstart")
REPEATS = 5


def realistic_batch(clicks: int = 20) -> Batch:
    """A batch of the preset's size: 10,000 points and some clicks per sample over the whole range, six images."""
    samples, (width, height) = CONFIG.optim.batch_size, CONFIG.data.image_size_px
    batch = make_batch(samples, clicks=clicks, points=10_000)
    spread = torch.tensor([4.0, 4, 1, 1, 1])
    return change(
        batch,
        points=batch.points * spread,
        weak_points=batch.weak_points * spread,
        images=torch.randint(0, 256, (samples, 6, height, width, 3), dtype=torch.uint8),
        lidar2img=ring_cameras(width, height).repeat(samples, 1, 1, 1),
    )


def median_s(body: Callable[[], object]) -> float:
    """The median wall time [s] of a few calls after an uncounted one."""
    times = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        body()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def step_s(task: Task, batch: Batch, folder: Path) -> float:
    """The time of one optimizer step [s]."""
    context = LocalContext([], Plan(1, 1, 1, 0), task.loader, folder)
    optimizer = make_optimizer(task.model, task.optim)
    task.model.train()
    return median_s(lambda: train_step(task.model, optimizer, task, batch, context, 1e-6))


def fusion_s(task: Task, batch: Batch) -> tuple[float, float]:
    """Times [s] of all D-RoI modules of the teacher's decoder: forward alone, forward and backward."""
    calls: list[tuple[Fusion, tuple[object, ...]]] = []
    modules = [module for module in task.model.modules() if isinstance(module, Fusion)]
    handles = [module.register_forward_hook(lambda m, inputs, _: calls.append((m, inputs))) for module in modules]
    task.model(batch)
    for handle in handles:
        handle.remove()
    leaves = [(module, tuple(_leaf(value) for value in inputs)) for module, inputs in calls]
    assert leaves, "the teacher called no D-RoI module"

    def forward() -> Tensor:
        return torch.stack([module(*inputs).sum() for module, inputs in leaves]).sum()

    with torch.no_grad():
        alone = median_s(forward)
    return alone, median_s(lambda: forward().backward())


def _leaf(value: object) -> object:
    """The same input detached from the graph, with a gradient if it had one."""
    if isinstance(value, Tensor):
        return value.detach().requires_grad_(value.requires_grad)
    return type(value)(_leaf(item) for item in value) if isinstance(value, (list, tuple)) else value


def test_print_costs_of_a_step(tmp_path: Path) -> None:
    """Print the table; run it on an idle machine."""
    batch = realistic_batch()
    plain = build("student", CONFIG, FALLBACK_SIZE_M, guidance=False)
    guided = build("student", CONFIG, FALLBACK_SIZE_M, guidance=True)
    unguided_batch = change(batch, weak_points=batch.weak_points[:0], weak_point_sample=batch.weak_point_sample[:0])
    teacher = build("teacher", CONFIG, FALLBACK_SIZE_M)
    assert isinstance(plain.model, Student)
    student_model = plain.model
    with torch.no_grad():
        features = median_s(lambda: student_model.features(batch.points, batch.point_sample, len(batch)))
    without, with_guidance = step_s(plain, unguided_batch, tmp_path), step_s(guided, batch, tmp_path)
    teacher_step = step_s(teacher, batch, tmp_path)
    roi_forward, roi_both = fusion_s(teacher, batch)

    table = Table("what", "ms", "share", title=f"one step, {CONFIG.preset}, batch {len(batch)}, amp {CONFIG.optim.amp}")
    rows = [
        ("student: features, forward only", features, without),
        ("student: step without guidance", without, without),
        ("student: step with guidance", with_guidance, without),
        ("teacher: step", teacher_step, teacher_step),
        ("teacher: D-RoI forward", roi_forward, teacher_step),
        ("teacher: D-RoI forward and backward", roi_both, teacher_step),
    ]
    for name, seconds, whole in rows:
        table.add_row(name, f"{1000 * seconds:.0f}", f"{seconds / whole:.2f}")
    Console(width=100).print(table)
    assert all(seconds > 0 for _, seconds, _ in rows)
