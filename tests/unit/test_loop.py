"""The training loop in one process: resuming, determinism, the guard against non-finite losses, and that it learns."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from pdetr3d.batch import Batch, RankMean, StudentOutput
from pdetr3d.config import OptimConfig, override
from pdetr3d.schema import FALLBACK_SIZE_M
from pdetr3d.training import checkpoint, loop
from pdetr3d.training.build import Losses, Task, build, watch_features
from pdetr3d.training.context import LocalContext
from pdetr3d.training.loop import AMD, LEAST_SCALE, autocast, cpu_vendor, train, train_step
from pdetr3d.training.optim import make_optimizer
from pdetr3d.training.plan import Plan, milestones
from tests.model_cases import make_batch, tiny_config
from tests.training_cases import World, one_thread, open_world, run_locally, task_of

OPTIM = [
    f"{prefix}optim.{key}"
    for prefix in ("", "teacher.")
    for key in ("batch_size=2", "log_every=1", "checkpoints=4", "lr=0.002")
]
STAGES = ("teacher", "student")


@pytest.fixture(scope="module")
def world(sim_world: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world whose config has dropout, so that a resumed run must repeat the dropout masks."""
    return open_world(sim_world, tmp_path_factory.mktemp("loop"), *OPTIM, "teacher.dropout=0.1", "label.ratio=1.0")


class Interrupted(LocalContext):
    """A context in which Ctrl-C arrives while the loop waits for the batch of step 3."""

    def batches(self, start_step: int) -> Iterator[dict[str, NDArray]]:
        for step, arrays in enumerate(super().batches(start_step), start_step):
            if step == 3:
                raise KeyboardInterrupt
            yield arrays


def equal(first: object, second: object) -> bool:
    """Bitwise equality of nested dicts and lists of tensors and plain values."""
    if isinstance(first, Tensor):
        return isinstance(second, Tensor) and torch.equal(first, second)
    if isinstance(first, dict):
        return (
            isinstance(second, dict)
            and first.keys() == second.keys()
            and all(equal(first[k], second[k]) for k in first)
        )
    if isinstance(first, list):
        return isinstance(second, list) and len(first) == len(second) and all(map(equal, first, second))
    return first == second


def test_dropout_depends_on_the_runs_seed() -> None:
    seeds = {loop.dropout_seed(*key) for key in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))}
    assert len(seeds) == 4 and loop.dropout_seed(1, 2, 3) == loop.dropout_seed(1, 2, 3)
    assert build("teacher", tiny_config("run.seed=5"), FALLBACK_SIZE_M).seed == 5


@pytest.mark.parametrize("kind", STAGES)
def test_an_interrupted_training_ends_with_the_same_bits(kind: str, world: World, tmp_path: Path) -> None:
    config = world.run.config
    straight = run_locally(kind, config, world.records, tmp_path / "straight", 6)
    with pytest.raises(KeyboardInterrupt):
        run_locally(kind, config, world.records, tmp_path / "resumed", 6, Interrupted)
    assert [f.name for f in sorted((tmp_path / "resumed").glob("step_*"))] == ["step_0000003"]
    resumed = run_locally(kind, config, world.records, tmp_path / "resumed", 6)

    assert [step for step, _ in straight.history] == [1, 2, 3, 4, 5, 6]
    assert [step for step, _ in resumed.history] == [4, 5, 6]  # went on, did not start again
    for name in ("step_0000004", "step_0000006"):
        one, two = (checkpoint.load(tmp_path / run / name / "checkpoint.pt") for run in ("straight", "resumed"))
        assert one["step"] == int(name[5:])
        assert equal(one["model"], two["model"]) and equal(one["optimizer"], two["optimizer"])
    before, after = (checkpoint.load(tmp_path / "straight" / f"step_000000{n}" / "checkpoint.pt") for n in (3, 6))
    assert not equal(before["model"], after["model"])  # steps 4 to 6 did something


def test_a_point_between_kept_checkpoints_is_continued_from(world: World, tmp_path: Path) -> None:
    """Only the last of six steps is kept. Resumed from the checkpoint of step 2, steps 3 to 6 give the same bits."""
    config = override(world.run.config, ["optim.checkpoints=1", "optim.save_every=2"])
    run_locally("student", config, world.records, tmp_path / "straight", 6)
    with pytest.raises(KeyboardInterrupt):
        run_locally("student", config, world.records, tmp_path / "resumed", 6, Interrupted)
    assert [f.name for f in (tmp_path / "resumed").iterdir() if f.name != "scratch"] == ["resume_0000002.pt"]
    resumed = run_locally("student", config, world.records, tmp_path / "resumed", 6)
    assert [step for step, _ in resumed.history] == [3, 4, 5, 6]
    one, two = (checkpoint.load(tmp_path / run / "step_0000006" / "checkpoint.pt") for run in ("straight", "resumed"))
    assert equal(one["model"], two["model"]) and equal(one["optimizer"], two["optimizer"])
    # Step 4 took the place of step 2; step 6 is kept and needs no such file.
    assert [f.name for f in (tmp_path / "resumed").glob("resume_*")] == ["resume_0000004.pt"]


def test_guidance_with_an_averaged_branch_resumes_with_the_same_bits(world: World, tmp_path: Path) -> None:
    """The averaged weights and the position in the warm-up are part of the checkpoint."""
    keys = ("guidance_branch=ema", "guidance_head=predictor", "guidance_warmup=1.0", "augment_flip=true")
    config = override(world.run.config, [f"student.{key}" for key in keys])
    straight = run_locally("student", config, world.records, tmp_path / "straight", 6)
    with pytest.raises(KeyboardInterrupt):
        run_locally("student", config, world.records, tmp_path / "resumed", 6, Interrupted)
    resumed = run_locally("student", config, world.records, tmp_path / "resumed", 6)
    one, two = (checkpoint.load(tmp_path / run / "step_0000006" / "checkpoint.pt") for run in ("straight", "resumed"))
    assert equal(one, two)
    latest, average = (one["model"][f"{prefix}neck.blocks.0.0.weight"] for prefix in ("", "guidance.average."))
    assert not torch.equal(latest, average)
    terms = [metrics["guidance"] for _, metrics in straight.history]
    assert terms[0] == 0 and all(term > 0 for term in terms[1:])
    assert [metrics["guidance"] for _, metrics in resumed.history] == terms[3:]


@pytest.mark.slow
@pytest.mark.parametrize("kind", STAGES)
def test_the_same_seed_gives_the_same_losses(kind: str, world: World, tmp_path: Path) -> None:
    def losses(name: str, seed: int, steps: int = 20) -> list[dict[str, float]]:
        config = world.run.config.model_copy(update={"run": world.run.config.run.model_copy(update={"seed": seed})})
        history = run_locally(kind, config, world.records, tmp_path / name, steps).history
        timing = ("samples_per_s", "data_s", "step_s", "stall_share", "eta_s", "peak_memory_bytes")
        return [{k: v for k, v in metrics.items() if k not in timing} for _, metrics in history]

    first = losses("first", 0)
    assert len(first) == 20 and {"loss", "grad_norm", "lr", "box"} <= first[0].keys()
    assert losses("second", 0) == first
    assert losses("other", 1, steps=1)[0]["loss"] != first[0]["loss"]


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
@pytest.mark.parametrize("kind", STAGES)
def test_half_precision_resumes_with_the_same_bits(kind: str, amp: str, world: World, tmp_path: Path) -> None:
    config = world.run.config
    optim = {"amp": amp}
    teacher = config.teacher.model_copy(update={"optim": config.teacher.optim.model_copy(update=optim)})
    config = config.model_copy(update={"optim": config.optim.model_copy(update=optim), "teacher": teacher})
    straight = run_locally(kind, config, world.records, tmp_path / "straight", 5)
    with pytest.raises(KeyboardInterrupt):
        run_locally(kind, config, world.records, tmp_path / "resumed", 5, Interrupted)
    run_locally(kind, config, world.records, tmp_path / "resumed", 5)
    one, two = (checkpoint.load(tmp_path / run / "step_0000005" / "checkpoint.pt") for run in ("straight", "resumed"))
    assert equal(one, two) and ("scaler" in one) == (amp == "fp16")
    if amp == "fp16":  # every step either counts towards the next growth of the scale or lowered it
        skipped = [metrics["skipped"] for _, metrics in straight.history]
        assert one["scaler"]["scale"] == 2.0**16 * 0.5 ** sum(skipped) and sum(skipped) < 5
        assert one["scaler"]["_growth_tracker"] == (5 if sum(skipped) == 0 else skipped[::-1].index(1.0))
    assert all(np.isfinite(metrics["loss"]) for _, metrics in straight.history)


@pytest.mark.parametrize(
    ("amx", "avx512", "vendor", "native"),
    [
        (False, False, "AuthenticAMD", False),
        (False, True, "AuthenticAMD", True),
        (False, True, "GenuineIntel", False),  # has the instructions, and is faster without them
        (True, True, "GenuineIntel", True),
    ],
)
def test_auto_precision_is_bf16_where_that_is_faster(
    amx: bool, avx512: bool, vendor: str, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(loop, "cpu_vendor", lambda: vendor)
    with autocast("auto", torch.device("cpu")):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == (torch.bfloat16 if native else torch.float32)


def test_the_maker_of_the_cpu(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel\t: 17\n")
    assert cpu_vendor(tmp_path / "cpuinfo") == AMD
    assert cpu_vendor(tmp_path / "missing") == ""


def test_fp16_overflow_skips_the_step_until_the_scale_is_not_to_blame(world: World, tmp_path: Path) -> None:
    task = poisoned(task_of("student", world), "gradient")
    task = replace(task, optim=task.optim.model_copy(update={"amp": "fp16"}))
    context = LocalContext(world.records, Plan(2, 2, 1, 0), task.loader, tmp_path)
    optimizer, scaler = make_optimizer(task.model, task.optim), torch.amp.GradScaler("cpu", init_scale=4 * LEAST_SCALE)
    before = {name: p.detach().clone() for name, p in task.model.named_parameters()}
    batch = make_batch()
    for scale in (4, 2):
        assert scaler.get_scale() == scale * LEAST_SCALE
        terms = train_step(task.model.train(), optimizer, task, batch, context, 0.1, scaler)
        assert terms["skipped"] == 1 and terms["grad_norm"] == 0
    with pytest.raises(FloatingPointError, match="not finite"):
        train_step(task.model, optimizer, task, batch, context, 0.1, scaler)
    assert all(torch.equal(p, before[name]) for name, p in task.model.named_parameters())


def poisoned(task: Task, where: str) -> Task:
    """The task with a NaN loss, or with a finite loss that has infinite gradients."""

    def losses(output: object, batch: Batch, rank_mean: RankMean) -> Losses:
        terms = task.losses(output, batch, rank_mean)
        parameter = next(task.model.parameters())
        bad = parameter.sum() * torch.nan if where == "loss" else (0 * parameter).abs().sqrt().sum()
        return {**terms, "bad": bad}

    return replace(task, losses=losses)


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_non_finite_step_stops_before_the_weights_change(where: str, world: World, tmp_path: Path) -> None:
    task = poisoned(task_of("student", world), where)
    before = {k: v.clone() for k, v in task.model.state_dict().items()}
    plan = Plan(len(world.records), 2, 6, 0)
    context = LocalContext(world.records, plan, task.loader, tmp_path)
    with pytest.raises(FloatingPointError, match="not finite") as caught:
        train(task, context, 6, "{}", tmp_path / "scratch")
    assert equal(dict(task.model.state_dict()), before)
    for index, _ in plan.at(0, 0, 1):
        assert world.records[index].sample_token in str(caught.value)
    assert (tmp_path / "nonfinite" / "step_0000000_rank_0.json").exists()
    assert "'bad'" in str(caught.value) and not list(tmp_path.glob("step_*"))


@pytest.mark.parametrize("amp", ["fp32", "fp16"])
def test_skipped_steps_leave_no_trace_but_a_record(amp: str, world: World, tmp_path: Path) -> None:
    """Step 1 of 3 has a NaN in its batch: it is recorded with its samples and changes no weights and no statistics.

    The other steps equal those of a training without the NaN.
    """
    overrides = ["optim.on_nonfinite=skip", "model.norm=batch", "optim.checkpoints_from=0.1", f"optim.amp={amp}"]
    config = override(world.run.config, overrides)

    class Troubled(LocalContext):
        def batches(self, start_step: int) -> Iterator[dict[str, NDArray]]:
            for step, arrays in enumerate(super().batches(start_step), start_step):
                if step == 1:
                    points = arrays["points"].copy()
                    points[..., 3] = np.nan  # intensities: without a position, a point would be left out
                    arrays = arrays | {"points": points}
                yield arrays

    local = run_locally("student", config, world.records, tmp_path, 3, Troubled)
    states = {step: checkpoint.load(tmp_path / f"step_{step:07d}" / "checkpoint.pt") for step in (1, 2, 3)}
    assert equal(states[1]["model"], states[2]["model"])
    if amp == "fp32":
        assert equal(states[1]["optimizer"], states[2]["optimizer"])
    last = states[3]["model"]
    assert all(bool(torch.isfinite(value).all()) for value in last.values())
    assert not equal(last, states[2]["model"])
    record = json.loads((tmp_path / "nonfinite" / "step_0000001_rank_0.json").read_text())
    wanted = [world.records[i].sample_token for i, _ in Plan(len(world.records), 2, 3, 0).at(1, 0, 1)]
    assert record["sample_tokens"] == wanted and record["terms"]["heatmap"] == "nan"
    assert record["inputs_are_finite"]["points"] is False and record["inputs_are_finite"]["click"] is True
    assert record["parameters_with_such_gradients"]["count"] > 0
    assert [metrics.get("nonfinite_steps") for _, metrics in local.history] == [None, 1.0, 1.0]


def test_more_skipped_steps_than_the_limit_end_training(world: World, tmp_path: Path) -> None:
    task = poisoned(task_of("student", world), "gradient")
    task = replace(task, optim=task.optim.model_copy(update={"on_nonfinite": "skip", "nonfinite_limit": 2}))
    context = LocalContext(world.records, Plan(len(world.records), 2, 6, 0), task.loader, tmp_path)
    with pytest.raises(FloatingPointError, match="step 2: .*3 such steps are more than optim.nonfinite_limit 2"):
        train(task, context, 6, "{}", tmp_path / "scratch")
    assert len(list((tmp_path / "nonfinite").iterdir())) == 3


def test_milestones_by_hand() -> None:
    def at(checkpoints: int, steps: int) -> list[int]:
        return milestones(OptimConfig(checkpoints=checkpoints), steps)

    assert at(1, 12) == [12]
    assert at(2, 12) == [6, 12]
    assert at(3, 12) == [6, 9, 12]
    assert at(4, 6) == [3, 4, 5, 6]
    assert at(3, 1) == [1]  # never a checkpoint of zero steps
    assert at(5, 2) == [1, 2]  # more than there are steps
    curve = OptimConfig(checkpoints=8, checkpoints_from=0.125)
    assert milestones(curve, 80) == [10, 20, 30, 40, 50, 60, 70, 80]
    assert milestones(OptimConfig(checkpoints=3, checkpoints_from=0.0), 12) == [6, 12]
    assert milestones(OptimConfig(checkpoints=1, checkpoints_from=0.125), 80) == [80]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "term", "share"), [("teacher", "box", 0.65), ("student", "loss", 0.3)])
def test_one_batch_can_be_overfitted(kind: str, term: str, share: float, world: World, tmp_path: Path) -> None:
    """Train for thirty steps on two samples of random points without augmentation."""
    task, batch = task_of(kind, world), make_batch()
    held = {f.name: getattr(batch, f.name) for f in fields(batch)}
    arrays = {name: np.asarray(value) for name, value in held.items() if value is not None}
    optim = task.optim.model_copy(update={"lr": 0.01, "checkpoints": 1, "warmup_share": 0.05})
    context = LocalContext(world.records[:2], Plan(2, 2, 30, 0), lambda *_: arrays, tmp_path)
    with one_thread():
        train(replace(task, optim=optim), context, 30, "{}", tmp_path / "scratch")
    values = [metrics[term] for _, metrics in context.history]
    assert np.mean(values[-3:]) < share * values[0]


def test_what_a_student_logs_of_its_features(world: World, tmp_path: Path) -> None:
    """Channel 0 has equally many zeros and twos (standard deviation 1); channel 1 is constant (0)."""
    strong = torch.stack([torch.tensor([[[0.0, 2.0]], [[7.0, 7.0]]]), torch.tensor([[[2.0, 0.0]], [[7.0, 7.0]]])])
    assert watch_features(StudentOutput([], strong.requires_grad_(), None)) == {"feature_std": torch.tensor(0.5)}
    logged = run_locally("student", world.run.config, world.records, tmp_path / "student", 1).history[0][1]
    terms = {key: logged[key] for key in ("heatmap", "box", "direction", "guidance")}
    assert logged["feature_std"] > 0.1 and logged["loss"] == pytest.approx(sum(terms.values()), rel=1e-5)
    shares = {f"share_{key}": value / logged["loss"] for key, value in terms.items()}
    assert {k: v for k, v in logged.items() if k.startswith("share_")} == pytest.approx(shares, rel=1e-5)
    assert "feature_std" not in run_locally("teacher", world.run.config, world.boxed, tmp_path / "t", 1).history[0][1]
