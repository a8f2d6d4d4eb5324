"""Tests that people's labels train like simulated ones: equal clicks from a CSV, without other annotations."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pdetr3d.batch import Batch
from pdetr3d.class_list import NUSCENES_CLASSES
from pdetr3d.config import Config
from pdetr3d.data.index.index import Index
from pdetr3d.data.index.nuscenes import build_index
from pdetr3d.data.label_manifest import training_records, write_pseudo_labels
from pdetr3d.data.labels.people_manifest import import_clicks
from pdetr3d.data.loading.crops import CropLoader, Crops, crops_of
from pdetr3d.pseudo_labels import to_pseudo_labels
from pdetr3d.schema import SampleRecord
from pdetr3d.training.build import build
from pdetr3d.training.plan import BatchLoader
from tests.people_cases import of_role, without_annotations, write_clicks
from tests.training_cases import World, one_thread, open_world, run_locally, weights

LABELS = ("label.ratio=0.3", "label.seed=4")
TRAINING = (
    *("optim.batch_size=2", "optim.log_every=1", "optim.lr=0.01"),
    *("teacher.optim.batch_size=2", "teacher.optim.log_every=1", "teacher.optim.lr=0.01"),
)


@pytest.fixture(scope="module", params=["global", "lidar"])
def worlds(
    request: pytest.FixtureRequest, sim_world: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[World, World]]:
    """World A has simulated labels. In world B the tables lack annotations of A's point-labeled samples.

    Instead B has A's clicks of these samples, imported from a CSV in this frame.
    """
    folder = tmp_path_factory.mktemp(f"equal-{request.param}")
    first = open_world(sim_world, folder / "a", *LABELS, *TRAINING)
    clicks = write_clicks(first.data.index, first.data.manifest, folder / "clicks.csv", request.param)
    tables = without_annotations(sim_world, folder / "world", of_role(first.data.manifest, "point"))
    index = Index.open(build_index(tables, "v1.0-sim", folder / "index.arrow"))
    import_clicks(index, "sim_train", first.run.config.label, clicks, folder / "labels")
    second = open_world(tables, folder / "b", "label.source=manifest", f"label.manifest={folder / 'labels'}", *TRAINING)
    yield first, second


def _same_records(mine: list[SampleRecord], other: list[SampleRecord]) -> None:
    assert len(mine) == len(other) > 0
    for a, b in zip(mine, other, strict=True):
        assert (a.sample_token, a.role) == (b.sample_token, b.role)
        for name in ("rows", "label", "score", "source", "velocity_m_s"):
            np.testing.assert_array_equal(getattr(a.boxes, name), getattr(b.boxes, name))
        for name in ("xyz_m", "label", "box_index"):  # float64, bit by bit; only the names of clicks differ
            np.testing.assert_array_equal(getattr(a.clicks, name), getattr(b.clicks, name))


def _same_batches(kind: str, mine: World, other: World, a: list[SampleRecord], b: list[SampleRecord]) -> None:
    for number in range(2):  # of the pass, which keys the draws
        arrays = [
            BatchLoader(world.run.config, kind, cameras=kind == "teacher", weak_view=kind == "student")(
                records[:2], [number, number]
            )
            for world, records in ((mine, a[::-1]), (other, b[::-1]))
        ]
        assert arrays[0].keys() == arrays[1].keys()
        for name, array in arrays[0].items():
            assert array.tobytes() == arrays[1][name].tobytes(), name


def _same_crops(mine: World, other: World) -> None:
    """Assert equal training data of the crop branch: the cut crops, and their draws in two passes."""
    cut = [crops_of(world.boxed, world.run.config.data, world.prior_size_m, cameras=True) for world in (mine, other)]
    assert len(cut[0]) == len(cut[1]) > 10
    for field in dataclasses.fields(Crops):
        np.testing.assert_array_equal(getattr(cut[0], field.name), getattr(cut[1], field.name), err_msg=field.name)
    for number in range(2):
        arrays = [CropLoader(crops, seed=4)(range(len(crops)), [number] * len(crops)) for crops in cut]
        for name, array in arrays[0].items():
            assert array.tobytes() == arrays[1][name].tobytes(), name


def _trained(kind: str, world: World, records: list[SampleRecord], folder: Path) -> dict[str, torch.Tensor]:
    run_locally(kind, world.run.config, records, folder, 2)
    return weights(folder / "step_0000002" / "checkpoint.pt")


def _pseudo_labels(world: World, state: dict[str, torch.Tensor]) -> pd.DataFrame:
    config: Config = world.run.config
    task = build("teacher", config, world.prior_size_m)
    task.model.load_state_dict(state)
    task.model.eval()
    tables = []
    for record in (record for record in world.records if record.role == "point"):
        batch = Batch.from_arrays(BatchLoader(config, "predict", cameras=True)([record], [0]))
        with one_thread(), torch.no_grad():
            boxes = task.predict(task.model(batch), batch)[0]
        tables.append(
            to_pseudo_labels(
                record, boxes, world.prior_size_m, "teacher", config.model.range_m, classes=NUSCENES_CLASSES
            )
        )
    return pd.concat(tables, ignore_index=True)


def test_every_stage_is_the_same_bit_by_bit(
    worlds: tuple[World, World], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    first, second = worlds
    assert first.data.manifest.roles == second.data.manifest.roles
    point = of_role(second.data.manifest, "point")
    assert len(point) == 4 and all(len(second.data.index.annotations(token).token) == 0 for token in point)
    assert all(len(first.data.index.annotations(token).token) > 0 for token in point)
    np.testing.assert_array_equal(first.prior_size_m, second.prior_size_m)
    _same_records(list(first.records), list(second.records))
    _same_crops(first, second)
    _same_batches("teacher", first, second, first.boxed, second.boxed)
    if request.node.callspec.params["worlds"] == "lidar":  # records and batches of the other frame: no need to train
        return
    teachers = [_trained("teacher", w, w.boxed, tmp_path / f"teacher{i}") for i, w in enumerate(worlds)]
    assert all(torch.equal(value, teachers[1][name]) for name, value in teachers[0].items())
    tables = [_pseudo_labels(world, state) for world, state in zip(worlds, teachers, strict=True)]
    assert len(tables[0]) == sum(len(r.clicks) for r in first.records if r.role == "point") > 0
    pd.testing.assert_frame_equal(*(table.drop(columns="click_id") for table in tables), check_exact=True)
    learned = []
    for i, (world, table) in enumerate(zip(worlds, tables, strict=True)):
        table["accepted"] |= np.arange(len(table)) % 2 == 0  # two steps make no good teacher
        file = write_pseudo_labels(tmp_path / f"labels{i}.parquet", table, classes=NUSCENES_CLASSES)
        learned.append(list(training_records(world.data.index, world.data.manifest, file)))
    assert sum(len(record.boxes) for record in learned[0] if record.role == "point") > 0
    _same_records(*learned)
    _same_batches("student", first, second, *learned)
    students = [_trained("student", w, learned[i], tmp_path / f"student{i}") for i, w in enumerate(worlds)]
    assert all(torch.equal(value, students[1][name]) for name, value in students[0].items())
