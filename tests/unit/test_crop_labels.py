"""Tests of the crop branch's second training: which clicks it labels, with which boxes, and from which weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pdetr3d.batch import Batch
from pdetr3d.config import override
from pdetr3d.data.loading.crops import CropLoader, crops_of
from pdetr3d.pipeline.crop_labels import drawn_clicks, labeled_crops
from pdetr3d.pipeline.execute import execute
from pdetr3d.pipeline.lineage import recall
from pdetr3d.pipeline.runner import LocalRunner
from pdetr3d.pipeline.training import Training, started
from pdetr3d.pseudo_labels import contains_click
from pdetr3d.schema import SOURCE_HUMAN, Boxes3D
from pdetr3d.training import checkpoint
from pdetr3d.training.build import build
from tests.training_cases import begin_run, open_world

WORDS = ("teacher.lidar_init=none", "teacher.crop_optim.epochs=2", "teacher.crop_optim.batch_size=4")
WORDS += ("teacher.optim.epochs=1", "teacher.optim.batch_size=2")


@pytest.fixture(scope="module")
def world(sim_world: Path, tmp_path_factory: pytest.TempPathFactory):  # noqa: ANN201
    return open_world(sim_world, tmp_path_factory.mktemp("labels") / "run")


def test_whole_samples_are_drawn_until_there_are_enough_clicks(world) -> None:  # noqa: ANN001
    asked = [record for record in world.records if record.role == "point"]
    counts = {record.sample_token: len(record.clicks) for record in asked}
    assert len(asked) >= 3 and min(counts.values()) > 0

    def drawn(most: int, seed: int = 0) -> list[str]:
        words = [f"teacher.crop_self_labels={most}", f"run.seed={seed}"]
        return drawn_clicks(world.records, override(world.run.config, words)).tokens

    assert drawn(10_000) == [record.sample_token for record in asked] and drawn(0) == []
    for most in range(10, sum(counts.values()), 7):
        some = drawn(most)
        assert sum(counts[token] for token in some) <= most and set(some) <= set(drawn(most + 7))
    assert len({tuple(drawn(sum(counts.values()) // 2, seed)) for seed in range(6)}) > 1


def test_labels_are_the_branchs_boxes_with_the_surest_directions(world, tmp_path: Path) -> None:  # noqa: ANN001
    """Each label equals the branch's box for that click alone. Some 7 of 10 directions are taken as known."""
    config, prior = world.run.config, world.prior_size_m
    task = build("crops", config, prior)
    with torch.no_grad():
        for parameter in task.model.parameters():
            parameter.add_(
                0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
            )
    file = checkpoint.save(
        tmp_path / "step", task.model, torch.optim.AdamW(task.model.parameters()), 1, config.to_json()
    )
    records = world.records.select(np.array([record.role == "point" for record in world.records]))
    crops = crops_of(records, config.data, prior, cameras=config.teacher.has_pictures, boxed=False)
    found = labeled_crops(records, file, config, prior)
    task.model.eval()
    alone = []
    for number in range(len(crops)):
        batch = Batch.from_arrays(CropLoader(crops, 0).as_stored([number]))
        with torch.no_grad():
            alone += task.predict(task.model(batch), batch)
    boxes = Boxes3D.concatenate(alone)
    kept = np.flatnonzero(np.isin(crops.click_id, found.click_id))
    assert 5 < len(found) == len(kept) and contains_click(boxes[kept], crops.click[kept]).all()
    np.testing.assert_allclose(found.box, boxes[kept].rows, atol=1e-4)
    directed = ~np.isin(found.label, config.classes.labels("axis", "none"))
    sure = found.direction[directed] == 1
    assert set(found.direction) == {0.5, 1.0} and abs(sure.sum() - 0.7 * directed.sum()) <= 1
    odds = boxes[kept].direction[directed]
    assert odds[sure].min() >= odds[~sure].max()
    assert not found.redrawn.any()


class Recorder(LocalRunner):
    """Keeps the description of each training, and trains."""

    def __init__(self) -> None:
        super().__init__()
        self.trained: dict[str, Training] = {}

    def fit(self, work: Training, *rest: Any) -> list[Path]:
        self.trained[work.name] = work
        return super().fit(work, *rest)


def test_a_teacher_starts_from_the_branch_that_was_trained_twice(sim_world: Path, tmp_path: Path) -> None:
    runner = Recorder()
    run = begin_run(sim_world, tmp_path, *WORDS, "teacher.crop_self_labels=40", runner=runner)
    execute(["teacher"], run)
    first, again = runner.trained["crops"], runner.trained["crops_again"]
    assert first.crops is not None and again.crops is not None and first.crop_init is None
    human = again.crops.source == SOURCE_HUMAN
    assert human.sum() == len(first.crops) and 0 < (~human).sum() <= 40
    assert again.crop_init == run.checkpoints("crops")[-1] and again.steps == first.steps // 2 > 0
    assert runner.trained["teacher"].crop_init == run.checkpoints("crops_again")[-1]
    assert recall(tmp_path / "crops_again")["crops_checkpoint"] == recall(tmp_path / "crops")["checkpoint"]
    assert recall(tmp_path / "teacher")["crops_checkpoint"] == recall(tmp_path / "crops_again")["checkpoint"]
    given = checkpoint.load(run.checkpoints("crops")[-1])["model"]
    now = started("crops", run.config, run.prior, {}, {"crops": given}).model.state_dict()
    fresh = build("crops", run.config, run.prior).model.state_dict()
    assert all(torch.equal(now[name], given[name]) for name in given) and now.keys() == given.keys()
    assert any(not torch.equal(now[name], fresh[name]) for name in given if name.startswith("quality_heads."))


def test_without_clicks_the_second_training_has_the_human_boxes_alone(sim_world: Path, tmp_path: Path) -> None:
    runner = Recorder()
    words = ("teacher.crop_self_labels=40", "label.ratio=1.0", "teacher.model=crop")
    run = begin_run(sim_world, tmp_path, *WORDS, *words, runner=runner)
    execute(["teacher"], run)
    first, second = runner.trained["crops"], runner.trained["teacher"]
    assert first.crops is not None and second.crops is not None
    assert second.crops.click_id.tolist() == first.crops.click_id.tolist()
    assert second.crop_init == run.checkpoints("crops")[-1] and second.steps == first.steps // 2
