"""Tests of ``IgnoredBy``: a stage does not read a key that it ignores, or the key has no effect on its numbers."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

from pdetr3d.batch import Batch
from pdetr3d.config import Config, override
from pdetr3d.config_keys import seen_by
from pdetr3d.config_sections import BOXES_ONLY, PSEUDO_LABELS, TEACHER
from pdetr3d.data.loading.crops import CropLoader, crops_of
from pdetr3d.inference.detector import Detector
from pdetr3d.pseudo_labels import pseudo_label_rows
from pdetr3d.training.build import build
from pdetr3d.training.context import LocalContext
from pdetr3d.training.loop import train
from pdetr3d.training.plan import BatchLoader, Plan
from tests.config_reads import reads
from tests.training_cases import World, one_thread, open_world, weights

SMALL = ["optim.batch_size=2", "teacher.optim.batch_size=2", "optim.ema_decay=0.9", "student.gt_sampling_fade_out=0.1"]
# Keys that a student without clicks and pseudo labels reads without effect, with other values.
OF_NO_EFFECT = {
    "student.guidance_warmup": "0.5",
    "student.mask_sigma_factor": "0.1",
    "student.mask_sigma_floor_m": "0.1",
    "student.pseudo_weight": "0.25",
    "student.score_power": "2",
    "student.unclicked": "ignore",
    "student.unclicked_threshold": "0.01",
    "student.unclicked_radius_m": "0.1",
}


@pytest.fixture(scope="module")
def world(sim_world: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    return open_world(sim_world, tmp_path_factory.mktemp("reads"), *SMALL)


def trained(kind: str, config: Config, world: World, folder: Path) -> dict[str, torch.Tensor]:
    """The weights after two steps on the box-labeled samples."""
    task = build(kind, config, world.prior_size_m, guidance=False)
    loader = task.loader.for_records(world.boxed)
    if kind == "crops":
        crops = crops_of(world.boxed, config.data, world.prior_size_m, cameras=config.teacher.has_pictures)
        cut = CropLoader(crops, config.run.seed, config.label.redraw_clicks)
        plan = Plan(len(crops), 4, 2, config.run.seed)
        context = LocalContext([*range(len(crops))], plan, lambda ids, passes, _: cut(ids, passes), folder)  # type: ignore[list-item, arg-type, return-value]
    else:
        context = LocalContext(world.boxed, Plan(len(world.boxed), 2, 2, config.run.seed), loader, folder)
    with one_thread():
        train(task, context, 2, config.to_json(), folder / "scratch")
    return weights(folder / "step_0000002" / "checkpoint.pt")


def labeled(config: Config, world: World) -> bytes:
    """The digest of an untrained teacher's pseudo labels."""
    record = next(record for record in world.records if record.role == "point" and len(record.clicks))
    state = build("teacher", config, world.prior_size_m).model.state_dict()
    detector = Detector.of("teacher", config, state, torch.device("cpu"), world.prior_size_m)
    arrays = BatchLoader(config, "predict", cameras=config.teacher.cameras)([record], [0])
    with one_thread():
        boxes = detector(Batch.from_arrays(arrays))
    rows = pseudo_label_rows(
        [record], boxes, world.prior_size_m, "t", config.model.range_m, snap=config.label.snap, classes=config.classes
    )
    return hashlib.sha256(rows.to_json().encode()).digest()


def ignored(config: Config, kind: str, found: set[str]) -> set[str]:
    """The keys of ``found`` that this kind of stage ignores, without the keys of a run's place and hardware."""
    return {key for key in found & seen_by(config).keys() if key not in seen_by(config, kind)}


@pytest.mark.parametrize(("kind", "stage"), [("student", BOXES_ONLY), ("teacher", TEACHER), ("crops", TEACHER)])
def test_trainings_ignore_what_they_are_marked_to_ignore(kind: str, stage: str, world: World, tmp_path: Path) -> None:
    config = world.run.config
    with reads() as found:
        before = trained(kind, config, world, tmp_path / "before")
    assert {"run.seed", "data.num_sweeps"} <= found
    if stage == TEACHER:
        assert "teacher.optim.lr" in found or "teacher.crop_optim.lr" in found
        assert ignored(config, stage, found) == set()
        return
    assert "optim.lr" in found and ignored(config, stage, found) <= OF_NO_EFFECT.keys()
    other = override(config, [f"{key}={value}" for key, value in OF_NO_EFFECT.items()])
    after = trained(kind, other, world, tmp_path / "after")
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_labeling_ignores_what_it_is_marked_to_ignore(world: World) -> None:
    with reads() as found:
        before = labeled(world.run.config, world)
    assert {"label.snap", "teacher.channels"} <= found
    assert ignored(world.run.config, PSEUDO_LABELS, found) == set()
    assert ignored(world.run.config, BOXES_ONLY, found) >= {"label.snap", "teacher.channels"}  # a wrong mark is found
    assert labeled(override(world.run.config, ["run.seed=3"]), world) != before
