"""Tests of batch inference: every sample is predicted once; a killed job continues and predicts nothing twice."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pdetr3d.config import ScalingConfig
from pdetr3d.pipeline import labels
from pdetr3d.pipeline.execute import execute
from pdetr3d.pipeline.run import Run
from pdetr3d.schema import Boxes3D
from pdetr3d.training.run_dir import RunDir
from ray_jobs.plug.context import STATS
from ray_jobs.plug.inference import BATCH_SIZE, gpu_beside, kept_batches, predict
from ray_jobs.stages.ray_runner import RayRunner
from ray_jobs.stages.tracked import Tracked
from tests.training_cases import World, open_world, run_locally, world_config

pytestmark = [pytest.mark.ray, pytest.mark.slow]
QUICK = ("scaling.cpus_per_worker=0.5", "scaling.data_cpus=0.25", "scaling.threads_per_worker=1", "label.ratio=1.0")
TEACHER = (*QUICK, "teacher.optim.batch_size=2", "teacher.fusion=none")


@pytest.fixture(scope="module")
def trained(sim_world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[World, Path]:
    """The tests' world, and a teacher trained for one step."""
    folder = tmp_path_factory.mktemp("inference")
    world = open_world(sim_world, folder / "run", *TEACHER)
    local = run_locally("teacher", world.run.config, world.boxed, folder / "fit", 1)
    return world, sorted(local.folder.glob("step_*/checkpoint.pt"))[-1]


def rows(boxes: dict[str, Boxes3D]) -> dict[str, list[list[float]]]:
    return {token: np.column_stack([b.rows, b.score]).tolist() for token, b in boxes.items()}


def test_a_killed_job_goes_on_and_predicts_nothing_twice(
    trained: tuple[World, Path], ray_local: None, tmp_path: Path
) -> None:
    world, checkpoint = trained
    records, keep = world.records, tmp_path / "batches"
    arguments = ("teacher", world.run.config, world.prior_size_m, [checkpoint], records)
    whole = predict(*arguments, keep)[0]
    assert rows(whole) == rows(predict(*arguments)[0]) and whole.keys() == {r.sample_token for r in records}
    assert [len(whole[r.sample_token]) for r in records] == [len(r.clicks) for r in records]
    files = sorted(keep.glob("*.parquet"))
    assert len(files) == -(-len(records) // BATCH_SIZE) == 2
    # The state after a kill: one batch is finished, the other half-written. A mark in the first shows that it is read.
    files[1].rename(keep / f".{files[1].name}.123.tmp")
    table = pq.read_table(files[0])
    marked = pc.add(table["score"], 10.0)
    pq.write_table(table.set_column(table.schema.get_field_index("score"), "score", marked), files[0])
    before = files[0].stat().st_mtime_ns
    again = predict(*arguments, keep)[0]
    for i, record in enumerate(records):
        b, expected = again[record.sample_token], whole[record.sample_token]
        np.testing.assert_allclose(b.score, expected.score + (10 if i < BATCH_SIZE else 0), rtol=1e-6)
        np.testing.assert_array_equal(b.rows, expected.rows)
    assert files[0].stat().st_mtime_ns == before and files[1].exists()


def test_labels_that_were_never_finished_are_not_predicted_again(
    trained: tuple[World, Path], ray_local: None, sim_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job is killed after its predictions and before ``done.json``, while it measures their quality for minutes."""
    run = RunDir(tmp_path / "run", world_config(sim_world, *TEACHER, "label.pseudo_for=all"))
    run.finish("teacher", {"checkpoints": ["step_0000001.pt"]})
    shutil.copyfile(trained[1], run.path / "teacher" / "step_0000001.pt")
    work = Run(run, RayRunner(), Tracked())
    batches = run.path / "pseudo_labels" / "batches"
    seen: list[dict[str, int]] = []

    def quality(*_: object) -> dict[str, dict[str, float]]:
        seen.append({file.name: file.stat().st_mtime_ns for file in batches.glob("*.parquet")})
        if len(seen) == 1:
            raise RuntimeError("killed")
        return {name: {"bev_iou": 0.5} for name in ("teacher", "class_mean", "class_mean_pca")}

    monkeypatch.setattr(labels, "quality_at_clicks", quality)
    monkeypatch.setattr(work.observer, "evaluated", lambda *_, **__: None)

    def label() -> dict[str, Any]:
        execute(["pseudo_labels"], work)
        return work.finished("pseudo_labels")

    with pytest.raises(RuntimeError, match="killed"):
        label()
    stats = (run.path / "pseudo_labels" / STATS).read_text()
    assert "ReadSamples" in stats and "Predictor" in stats
    report = label()
    assert seen[0] == seen[1] and len(seen[0]) == 3  # 6 train samples, 4 for pictures: nothing was written anew
    assert run.result("pseudo_labels") == report and report["teacher"] == {"bev_iou": 0.5}
    assert (run.path / "pseudo_labels" / STATS).read_text() == stats and not batches.exists()
    batches.mkdir()  # killed just after it was finished
    assert label() == report and len(seen) == 2 and not batches.exists()


@pytest.mark.parametrize(
    ("share", "workers", "gpus", "expected"),
    [
        (1.0, 7, 8, 1.0),  # one GPU is free
        (1.0, 8, 8, 0.0),
        (1.0, 1, 1, 0.0),
        (0.8, 8, 8, 0.2),  # 1.6 GPUs are free, but 0.2 of each
        (0.8, 7, 8, 0.8),
        (0.5, 15, 8, 0.5),
        (0.5, 16, 8, 0.0),
        (0.1, 10, 1, 0.0),  # in floating point, ten times 0.1 is not quite 1
        (0.1, 9, 1, 0.1),
    ],
)
def test_what_is_left_of_the_gpus_beside_a_training(
    share: float, workers: int, gpus: float, expected: float, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gpu_beside(ScalingConfig(use_gpu=True, gpus_per_worker=share, workers=workers), gpus) == expected
    said = capsys.readouterr().out
    assert ("on the CPU" in said and "scaling.gpus_per_worker=0.8" in said) == (expected == 0)
    if workers % 2 == 0:  # two stages at once, each with workers of its own
        halves = ScalingConfig(use_gpu=True, gpus_per_worker=share, workers=workers // 2, concurrent_stages=2)
        assert gpu_beside(halves, gpus) == expected


def test_batches_of_another_model_config_or_sample_are_removed(trained: tuple[World, Path], tmp_path: Path) -> None:
    world, checkpoint = trained
    config, keep = world.run.config, tmp_path / "batches"
    tokens = world.records.token_column

    def kept(**changes: object) -> list[int]:
        asked = {"config": config, "checkpoints": [checkpoint], "tokens": tokens} | changes
        return list(kept_batches(keep, "teacher", **asked))  # type: ignore[arg-type]

    other = tmp_path / "other.pt"
    other.write_bytes(checkpoint.read_bytes() + b"x")
    moved = config.model_copy(update={"data": config.data.model_copy(update={"num_sweeps": 1})})
    elsewhere = config.model_copy(update={"scaling": config.scaling.model_copy(update={"workers": 7})})
    assert kept() == []
    for changes in ({"checkpoints": [other]}, {"config": moved}, {"tokens": tokens.slice(1)}):
        kept()
        pq.write_table(pa.table({"a": [1]}), keep / "00000003.parquet")
        assert kept() == [3] and kept(config=elsewhere) == [3]
        assert kept(**changes) == []
