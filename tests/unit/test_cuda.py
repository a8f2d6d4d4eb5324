"""Tests on a GPU: training and inference equal the CPU's, in every precision and through Ray Train."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from pdetr3d.schema import FALLBACK_SIZE_M
from pdetr3d.training.build import build
from pdetr3d.training.context import LocalContext
from pdetr3d.training.loop import train_step
from pdetr3d.training.optim import make_optimizer
from pdetr3d.training.plan import Plan
from tests.model_cases import change, make_batch, tiny_config

pytestmark = pytest.mark.gpu
CASES = {
    "teacher, D-RoI": ("teacher", []),
    "teacher, concat": ("teacher", ["teacher.fusion=concat"]),
    "teacher, learned queries": (
        "teacher",
        ["teacher.query_init=learned", "teacher.matching=hungarian", "teacher.learned_queries=9"],
    ),
    "student, gaussian": ("student", []),
    "student, segmentation": ("student", ["student.guidance=segmentation"]),
    "student, voxels": (
        "student",
        ["model.lidar=voxel", "model.backbone_channels=[8,8]", "model.backbone_layers=[1,1]"]
        + ["model.backbone_strides=[1,2]", "student.neck_channels=[8,8]", "student.neck_strides=[1,2]"],
    ),
}


def trained(
    kind: str, overrides: list[str], device: str, folder: Path, amp: str = "fp32", steps: int = 2
) -> tuple[dict, Tensor]:
    """(loss terms of the last optimizer step, predicted boxes); the initial state is the same on every device."""
    amp = f"{'teacher.' if kind == 'teacher' else ''}optim.amp={amp}"
    torch.manual_seed(0)
    task = build(kind, tiny_config(*overrides, amp), FALLBACK_SIZE_M)
    context = LocalContext([], Plan(1, 1, 2, 0), task.loader, folder, device)
    batch = make_batch()
    batch = change(batch, weak_points=batch.weak_points * torch.tensor([1, 1, 1, 0.5, 1])).to(context.device)
    model = task.model.to(device).train()
    optimizer = make_optimizer(model, task.optim)
    scaler = torch.amp.GradScaler(device, enabled=task.optim.amp == "fp16")
    for step in range(steps):
        torch.manual_seed(step)
        task.before_step(99 + step, 101)  # guidance has its whole weight
        terms = train_step(model, optimizer, task, batch, context, 1e-3, scaler)
    with torch.no_grad():
        boxes = task.predict(model.eval()(batch), batch)[0]
    return {name: value.float().cpu() for name, value in terms.items()}, torch.from_numpy(boxes.rows)


@pytest.fixture(autouse=True)
def _whole_float32():
    """Compute convolutions in float32 instead of TF32, whose mantissa has only ten bits."""
    was = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = was


@pytest.mark.parametrize("case", CASES)
def test_two_steps_are_those_of_the_cpu(case: str, tmp_path: Path) -> None:
    kind, overrides = CASES[case]
    (expected, expected_boxes), (got, boxes) = (trained(kind, overrides, d, tmp_path) for d in ("cpu", "cuda"))
    assert got.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], atol=1e-3, rtol=1e-2, msg=lambda m, n=name: f"{n}: {m}")
    if kind == "teacher":  # a box per click; a student's candidates may change places at equal scores
        torch.testing.assert_close(boxes[:, :6], expected_boxes[:, :6], atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
@pytest.mark.parametrize("case", ["teacher, D-RoI", "student, gaussian", "student, voxels"])
def test_a_step_in_half_precision(case: str, amp: str, tmp_path: Path) -> None:
    """Run one step. With fp16 the first steps may overflow; they are skipped until the loss scale is small enough."""
    kind, overrides = CASES[case]
    expected, _ = trained(kind, overrides, "cuda", tmp_path, steps=1)
    got, boxes = trained(kind, overrides, "cuda", tmp_path, amp, steps=1)
    assert abs(got["loss"] / expected["loss"] - 1) < 0.05 and torch.isfinite(boxes).all()
