"""Batch inference: every sample once, in whatever batches; a job that was killed goes on and predicts nothing twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pdetr3d.schema import Boxes3D
from ray_jobs.inference import BATCH_SIZE, kept_batches, predict
from tests.training_cases import World, open_world, run_locally

pytestmark = [pytest.mark.ray, pytest.mark.slow]
QUICK = ("scaling.cpus_per_worker=0.5", "scaling.data_cpus=0.25", "scaling.threads_per_worker=1", "label.ratio=1.0")


@pytest.fixture(scope="module")
def trained(sim_world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[World, Path]:
    """The tests' world and a teacher of one step."""
    folder = tmp_path_factory.mktemp("inference")
    world = open_world(sim_world, folder / "run", *QUICK, "teacher.optim.batch_size=2", "teacher.fusion=none")
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
    # As a kill leaves it: one batch is there, the other half-written. A mark in the first shows that it is read.
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


def test_batches_of_another_model_config_or_sample_are_removed(trained: tuple[World, Path], tmp_path: Path) -> None:
    world, checkpoint = trained
    config, keep = world.run.config, tmp_path / "batches"
    tokens = [r.sample_token for r in world.records]

    def kept(**changes: object) -> list[int]:
        asked = {"config": config, "checkpoints": [checkpoint], "tokens": tokens} | changes
        return list(kept_batches(keep, "teacher", **asked))  # type: ignore[arg-type]

    other = tmp_path / "other.pt"
    other.write_bytes(checkpoint.read_bytes() + b"x")
    moved = config.model_copy(update={"data": config.data.model_copy(update={"num_sweeps": 1})})
    elsewhere = config.model_copy(update={"scaling": config.scaling.model_copy(update={"workers": 7})})
    assert kept() == []
    for changes in ({"checkpoints": [other]}, {"config": moved}, {"tokens": tokens[1:]}):
        kept()
        pq.write_table(pa.table({"a": [1]}), keep / "00000003.parquet")
        assert kept() == [3] and kept(config=elsewhere) == [3]
        assert kept(**changes) == []
