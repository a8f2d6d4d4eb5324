"""Tests of recomputed activations and compiled parts: losses, gradients, statistics and names do not change."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from pdetr3d.models.recompute import compile_dense, run_stage
from pdetr3d.schema import FALLBACK_SIZE_M
from pdetr3d.training.build import build
from tests.model_cases import make_batch, same_on_all_ranks, tiny_config

RESNET = ["teacher.image_backbone=resnet18", "teacher.image_channels=[128,256,512]"]


def gradients_and_state(
    stage: str, *overrides: str, compiled: bool = False
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    config = tiny_config("model.norm=batch", *overrides)
    task, batch = build(stage, config, FALLBACK_SIZE_M), make_batch()
    task.model.train()
    if compiled:
        assert compile_dense(task.model, backend="eager")
    torch.manual_seed(0)
    torch.stack(list(task.losses(task.model(batch), batch, same_on_all_ranks).values())).sum().backward()
    gradients = {name: p.grad for name, p in task.model.named_parameters() if p.grad is not None}
    return gradients, task.model.state_dict()


@pytest.mark.parametrize(
    ("stage", "overrides", "compiled"),
    [
        ("teacher", (), False),
        ("teacher", RESNET, False),
        ("student", (), False),
        pytest.param("teacher", (), True, marks=pytest.mark.slow),
        pytest.param("student", (), True, marks=pytest.mark.slow),
    ],
    ids=["small", "resnet", "student", "small-compiled", "student-compiled"],
)
def test_recomputation_changes_neither_gradients_nor_statistics(
    stage: str, overrides: tuple[str, ...], compiled: bool
) -> None:
    """The same holds together with ``optim.compile``."""
    plain, state = gradients_and_state(stage, *overrides)
    again, again_state = gradients_and_state(stage, *overrides, "model.checkpoint_activations=true", compiled=compiled)
    assert plain.keys() == again.keys() and len(plain) > 10
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, rtol=1e-5, atol=1e-7, msg=name)
    for name, value in state.items():  # running means and variances, and the count of batches
        assert torch.equal(again_state[name], value), name
    assert state["backbone.stages.0.0.1.num_batches_tracked"] >= 1


def test_the_stage_runs_twice_and_counts_once() -> None:
    """Activations are really recomputed; otherwise the test above would prove nothing."""
    runs = []
    stage = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU())
    stage[0].register_forward_hook(lambda *_: runs.append(1))
    x = torch.randn(5, 3)
    reference = copy.deepcopy(stage)
    run_stage(reference, x, recompute=False)
    runs.clear()
    run_stage(stage, x, recompute=True).sum().backward()
    assert len(runs) == 2 and stage[1].num_batches_tracked == 1 and stage[1].momentum == 0.1
    assert torch.equal(stage[1].running_mean, reference[1].running_mean)
    runs.clear()
    with torch.no_grad():
        run_stage(stage, x, recompute=True)
    run_stage(stage.eval(), x, recompute=True)
    assert len(runs) == 2  # once each


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "parts"),
    [
        ("teacher", ["backbone", "fpn", "images.backbone", "images.fpn"]),
        ("student", ["backbone", "neck", "head.shared", "head.heatmaps.0"]),
    ],
)
def test_compiled_parts_keep_names_and_numbers(stage: str, parts: list[str]) -> None:
    """The test uses the backend that runs the traced graph unchanged, since only the selection of parts matters."""
    task, batch = build(stage, tiny_config(), FALLBACK_SIZE_M), make_batch()
    names = list(task.model.state_dict())
    with torch.no_grad():
        expected = task.losses(task.model.train()(batch), batch, same_on_all_ranks)
        assert compile_dense(task.model, backend="eager") == parts
        got = task.losses(task.model(batch), batch, same_on_all_ranks)
    assert list(task.model.state_dict()) == names
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value)
