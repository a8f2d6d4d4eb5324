"""Tests of the training-only parts of point guidance: gradients, norm statistics, and loading for inference."""

from __future__ import annotations

import pytest
import torch

from pdetr3d.batch import Batch
from pdetr3d.schema import FALLBACK_SIZE_M
from pdetr3d.training.build import Task, build
from tests.model_cases import change, make_batch, same_on_all_ranks, tiny_config

BRANCHES = {
    "plain": [],
    "simsiam": ["student.guidance_head=predictor"],
    "average": ["student.guidance_branch=ema"],
    "byol": ["student.guidance_head=predictor", "student.guidance_branch=ema"],
}
MASKS = ["full", "partial", "gaussian", "box", "segmentation"]


def student(branch: str, *overrides: str, guidance: bool = True) -> Task:
    return build("student", tiny_config(*BRANCHES[branch], *overrides), FALLBACK_SIZE_M, guidance=guidance)


def mirrored(batch: Batch) -> Batch:
    """The strong view is flipped along x, so that it differs from the weak one."""
    flip = torch.diag(torch.tensor([-1.0, 1, 1, 1])).repeat(len(batch), 1, 1)
    return change(batch, points=batch.points * torch.tensor([-1.0, 1, 1, 1, 1]), augmentation=flip)


@pytest.mark.parametrize("branch", BRANCHES)
@pytest.mark.parametrize("mask", MASKS)
def test_the_strong_view_learns_and_the_weak_one_does_not(mask: str, branch: str) -> None:
    task, batch = student(branch, f"student.guidance={mask}"), mirrored(make_batch(clicks=10))
    output = task.model(batch)
    output.strong.retain_grad()
    term = task.losses(output, batch, same_on_all_ranks)["guidance"]
    assert term > 0 and not output.weak.requires_grad
    term.backward()
    assert output.strong.grad.abs().max() > 0
    without = {name for name, p in task.model.named_parameters() if p.grad is None}
    assert all(name.startswith(("head.", "guidance.average")) for name in without)
    assert not any(p.requires_grad for name, p in task.model.named_parameters() if name.startswith("guidance.average"))


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("what", ["no objects", "padding only", "no points"])
def test_loss_is_finite_without_objects_clicks_and_points(what: str, mask: str) -> None:
    batch = make_batch(clicks=0 if what == "no objects" else 3)
    if what == "padding only":
        batch = change(batch, box_valid=batch.box_valid & False, click_valid=batch.click_valid & False)
    if what == "no points":
        names = ("points", "point_sample", "weak_points", "weak_point_sample")
        batch = change(batch, **{name: getattr(batch, name)[:0] for name in names})
    task = student("simsiam", f"student.guidance={mask}")
    terms = task.losses(task.model(batch), batch, same_on_all_ranks)
    assert all(torch.isfinite(value) for value in terms.values())
    if what != "no points" and mask in ("partial", "gaussian", "box"):
        assert terms["guidance"] == 0
    sum(terms.values()).backward()
    # DDP waits for every parameter's gradient; another test covers encoders on empty clouds.
    parameters = [(name, p.grad) for name, p in task.model.named_parameters()]
    assert [name for name, grad in parameters if grad is None or not torch.isfinite(grad).all()] == []


@pytest.mark.parametrize("branch", BRANCHES)
def test_the_weak_view_moves_no_statistics(branch: str) -> None:
    batch = mirrored(make_batch())
    guided, alone = (student(branch, "model.norm=batch", guidance=on).model.train() for on in (True, False))
    fresh = {k: v.clone() for k, v in alone.state_dict().items() if "running" in k}
    assert guided(batch).weak is not None and alone(batch).weak is None
    moved = alone.state_dict()
    assert any(not torch.equal(fresh[k], moved[k]) for k in fresh)
    for key, value in guided.state_dict().items():
        if "running" in key and not key.startswith("guidance."):
            assert torch.equal(value, moved[key]), key
        if "running" in key and key.startswith("guidance.average"):
            assert torch.equal(value, torch.full_like(value, float(key.endswith("var")))), key


def test_the_projectors_statistics_are_the_strong_views() -> None:
    task, batch = student("simsiam", "model.norm=batch"), mirrored(make_batch())
    model, seen = task.model.train(), []
    convolution, norm = model.guidance.projector[:2]  # type: ignore[union-attr,index]
    convolution.register_forward_hook(lambda module, inputs, output: seen.append(output.detach()))
    model(batch)
    assert len(seen) == 2  # both views
    torch.testing.assert_close(norm.running_mean, norm.momentum * seen[0].mean((0, 2, 3)))
    assert (seen[0].mean((0, 2, 3)) - seen[1].mean((0, 2, 3))).abs().max() > 1e-5


@pytest.mark.parametrize("branch", BRANCHES)
def test_inference_neither_has_nor_needs_the_branch(branch: str) -> None:
    batch, trained = make_batch(), student(branch, "run.seed=1")
    with torch.no_grad():
        for parameter in trained.model.parameters():
            parameter.add_(0.01)
    plain = student(branch, guidance=False)
    assert not [name for name in plain.model.state_dict() if "guidance" in name]
    assert [name for name in trained.model.state_dict() if "guidance" in name] or branch == "plain"
    plain.model.load_state_dict(trained.model.state_dict())
    expected, got = (task.model.eval()(batch) for task in (trained, plain))
    assert torch.equal(expected.tasks[0].heatmap, got.tasks[0].heatmap)
    assert torch.equal(got.strong, expected.strong) and got.weak is expected.weak is None
    with pytest.raises(RuntimeError, match="other"):
        plain.model.load_state_dict({**trained.model.state_dict(), "other": torch.zeros(1)})


def test_the_branch_changes_no_first_weight_of_the_student() -> None:
    plain = student("plain").model.state_dict()
    for branch in BRANCHES:
        state = student(branch).model.state_dict()
        assert all(torch.equal(state[name], value) for name, value in plain.items())


def test_the_average_by_hand() -> None:
    """The momentum at step s is the smaller of the config value and s / (s + 10)."""
    model = student("byol", "student.guidance_momentum=0.6").model
    branch, name = model.guidance, "neck.blocks.0.0.weight"
    pairs = [
        (model.get_parameter(name), branch.average.get_parameter(name)),  # type: ignore[union-attr]
        (branch.projector[0].weight, branch.average_projector[0].weight),  # type: ignore[union-attr,index]
    ]
    assert all(torch.equal(latest, average) for latest, average in pairs)
    start = [average.clone() for _, average in pairs]
    with torch.no_grad():
        for latest, _ in pairs:
            latest.add_(1.0)
    branch.follow(model, 10)  # type: ignore[union-attr,operator]  # momentum 10 / 20 = 0.5
    for (_, average), first in zip(pairs, start, strict=True):
        torch.testing.assert_close(average, first + 0.5)
    branch.follow(model, 90)  # type: ignore[union-attr,operator]  # momentum 0.6: 0.5 x 0.6 are still missing
    for (_, average), first in zip(pairs, start, strict=True):
        torch.testing.assert_close(average, first + 0.7)
    branch.follow(model, 0)  # type: ignore[union-attr,operator]
    assert all(torch.equal(latest, average) for latest, average in pairs)


def test_the_average_sees_the_weak_view() -> None:
    task, batch = student("average"), make_batch()
    before = task.model(batch)
    with torch.no_grad():
        task.model.get_parameter("neck.blocks.0.0.weight").mul_(-1)
    after = task.model(batch)
    assert torch.equal(before.weak, after.weak) and not torch.equal(before.strong, after.strong)
    task.before_step(0, 10)
    assert torch.equal(task.model(batch).weak, after.strong)  # no augmentation: both views are the same cloud


def test_the_weight_warms_up() -> None:
    task, batch = student("plain", "student.guidance_warmup=0.5"), mirrored(make_batch())
    output = task.model(batch)

    def term() -> float:
        return task.losses(output, batch, same_on_all_ranks)["guidance"].item()

    whole = term()  # without a loop
    shares = []
    for step in (0, 1, 2, 4, 7):
        task.before_step(step, 8)
        shares.append(term() / whole)
    assert shares == pytest.approx([0, 0.25, 0.5, 1, 1])
    constant = student("plain")
    constant.before_step(0, 8)
    assert constant.losses(output, batch, same_on_all_ranks)["guidance"].item() == whole > 0
