"""Regions take effect in every step of the pipeline: index, records, batches, losses, pseudo labels, score."""

from __future__ import annotations

import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pdetr3d.batch import StudentOutput
from pdetr3d.class_list import NUSCENES_CLASSES
from pdetr3d.data.draws import keyed_rng
from pdetr3d.data.index.index import Index, write_index
from pdetr3d.data.index.nuscenes import build_index
from pdetr3d.data.index.regions import write_regions
from pdetr3d.data.index.rows import REGION_SCHEMA
from pdetr3d.data.label_manifest import build_manifest, training_records
from pdetr3d.data.labels.manifest import IGNORE_SCHEMA
from pdetr3d.data.labels.summary import summarize
from pdetr3d.data.loading.record_list import within_regions
from pdetr3d.evaluation.nuscenes_eval import score
from pdetr3d.geometry.regions import Regions
from pdetr3d.pseudo_labels import to_pseudo_labels
from pdetr3d.schema import FALLBACK_SIZE_M, Boxes3D, PointLabels
from pdetr3d.training.build import build
from pdetr3d.training.plan import BatchLoader
from tests.model_cases import change, make_batch, same_on_all_ranks
from tests.reference.tiny_nuscenes import annotation
from tests.score_cases import ground_truth_predictions
from tests.training_cases import open_world, run_locally
from tests.unit.test_nuscenes_eval import EGO, SPLIT, VERSION, at, world

RIGHT = np.array([[0.0, -99.0], [99.0, -99.0], [99.0, 99.0], [0.0, 99.0]])  # x > 0
SQUARE = np.array([[2.0, 2.0], [6.0, 2.0], [6.0, 6.0], [2.0, 6.0]])


def test_the_score_leaves_out_what_lies_outside(tmp_path: Path) -> None:
    """Only a square round the car 10 m ahead, LiDAR (0, 10), is annotated.

    A second car is 10 m to the left, (-10, 0). A false detection to the right, (10, 0), has the highest score.
    """
    ahead = np.array([[-3.0, 7.0], [3.0, 7.0], [3.0, 13.0], [-3.0, 13.0]])
    yaw = EGO[1]
    objects = [annotation("car", at(10, yaw + turn), (2, 4, 1.5), yaw_rad=yaw) for turn in (0, np.pi / 2)]
    nusc = world(tmp_path, objects)
    predictions, poses = ground_truth_predictions(nusc, SPLIT, classes=NUSCENES_CLASSES)
    truth = predictions["val-a-0"]
    np.testing.assert_allclose(truth.center_m[:, :2], [[0, 10], [-10, 0]], atol=1e-4)
    ghost = replace(truth[:1], center_m=np.array([[10, 0, -0.8]], np.float32))
    said = Boxes3D.concatenate([ghost, replace(truth, score=np.array([0.5, 0.5], np.float32))])

    def result(regions: dict[str, Regions] | None) -> dict:
        given = (tmp_path / "data", VERSION, SPLIT, {"val-a-0": said}, poses, tmp_path / "out", nusc)
        return score(*given, regions=regions, classes=NUSCENES_CLASSES)

    plain = result(None)
    assert plain["n_gt"]["car"] == 2 and plain["per_class"]["car"]["AP"] < 0.9 and "outside_regions" not in plain
    held = result({"val-a-0": Regions((ahead,))})
    assert held["n_gt"]["car"] == 1 and held["per_class"]["car"]["AP"] == pytest.approx(1)
    assert held["outside_regions"] == {"objects": 1, "predictions": 2}
    ignored = result({"val-a-0": Regions(None, (ahead + [10, -10],))})  # round the ghost alone
    assert ignored["n_gt"]["car"] == 2 and ignored["per_class"]["car"]["AP"] == pytest.approx(1)
    assert ignored["outside_regions"] == {"objects": 0, "predictions": 1}


@pytest.fixture(scope="module")
def half_world(sim_world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Index]:
    """The tests' world with train and select samples annotated only for x > 0, and its index without regions."""
    root = tmp_path_factory.mktemp("half") / "world"
    shutil.copytree(sim_world, root)
    whole = Index.open(build_index(root, "v1.0-sim", root.parent / "whole.arrow"))
    tokens = {*whole.tokens("sim_train"), *whole.tokens("sim_select")}
    write_regions(root / "v1.0-sim", {token: Regions((RIGHT,)) for token in tokens})
    return root, whole


def test_the_index_leaves_out_annotations_and_counts_them(half_world: tuple[Path, Index]) -> None:
    root, whole = half_world
    index = Index.open(build_index(root, "v1.0-sim", root.parent / "half.arrow"))
    lost = 0
    for split in ("sim_train", "sim_select", "sim_val"):
        for token in whole.tokens(split):
            before, now = whole.annotations(token), index.annotations(token)
            right = before.box[:, 0] >= 0 if split != "sim_val" else np.ones(len(before.box), bool)
            assert now.token.tolist() == before.token[right].tolist()
            lost += int((~right).sum())
            regions = index.record(token).regions
            assert (regions is None) == (split == "sim_val")
            if regions is not None:
                assert regions.valid is not None and regions.ignore == ()
                np.testing.assert_array_equal(regions.valid[0], RIGHT)
    assert index.facts.outside == lost > 10 and index.digest != whole.digest
    assert ("left out, regions", f"{lost} outside the valid region or in one to ignore") in summarize(index).rows()
    assert whole.facts.outside == 0 and whole.record(whole.tokens("sim_train")[0]).regions is None


def test_regions_survive_parquet_as_packs_hold_the_index(half_world: tuple[Path, Index], tmp_path: Path) -> None:
    root, _ = half_world
    index = Index.open(build_index(root, "v1.0-sim", tmp_path / "half.arrow"))
    pq.write_table(index.table, tmp_path / "index.parquet")
    table = pq.read_table(tmp_path / "index.parquet", schema=REGION_SCHEMA)
    write_index(tmp_path / "again.arrow", table, index.dataroot, index.version, index.facts)
    again = Index.open(tmp_path / "again.arrow")
    assert again.digest == index.digest
    regions = again.record(index.tokens("sim_train")[0]).regions
    assert (
        regions is not None and regions.valid is not None and again.record(index.tokens("sim_val")[0]).regions is None
    )
    np.testing.assert_array_equal(regions.valid[0], RIGHT)


def test_clicks_and_records_keep_to_the_regions(half_world: tuple[Path, Index], tmp_path: Path) -> None:
    opened = open_world(half_world[0], tmp_path / "run")
    assert opened.records.has_regions
    assert min(x for x in opened.data.manifest.clicks["x"].to_pylist()) > -1.5  # a click beside its box's center
    for record in pickle.loads(pickle.dumps(opened.records.select(np.arange(2)))):
        assert record.regions is not None and (record.clicks.xyz_m[:, 0] >= 0).all()
        assert (record.boxes.center_m[:, 0] >= 0).all()


def test_what_people_were_not_sure_of_is_ignored(sim_world: Path, tmp_path: Path) -> None:
    """An ignore region of 3 m round a sample's first click removes this click and its box, and no others."""
    index = Index.open(build_index(sim_world, "v1.0-sim", tmp_path / "index.arrow"))
    from pdetr3d.config import LabelConfig

    manifest = build_manifest(index, "sim_train", LabelConfig().everywhere, tmp_path / "manifest")
    before = training_records(index, manifest)[0]
    x, y, z = before.clicks.xyz_m[0]
    mark = {name: None for name in IGNORE_SCHEMA.names} | {
        "sample_token": before.sample_token, "x": x, "y": y, "z": z, "radius_m": 3.0,
    }  # fmt: skip
    manifest.ignore = pa.Table.from_pylist([mark], schema=IGNORE_SCHEMA)
    records = training_records(index, manifest)
    assert records.has_regions and records[1].regions is None
    after, rim = records[0], 3 * np.cos(np.pi / 32)  # the polygon lies within the disk
    distance = np.hypot(*(before.clicks.xyz_m[:, :2] - [x, y]).T)
    assert ((distance < rim) | (distance > 3)).all()  # none on the rim: the case is clear
    assert after.clicks.click_id.tolist() == before.clicks.click_id[distance > 3].tolist()
    for number, name in enumerate(after.clicks.click_id):
        old = before.clicks.box_index[before.clicks.click_id.tolist().index(name)]
        new = after.clicks.box_index[number]
        gone = np.hypot(*(before.boxes.center_m[old, :2] - [x, y])) < rim
        assert new == -1 if gone else (after.boxes.center_m[new] == before.boxes.center_m[old]).all()


def test_clicks_point_at_the_boxes_that_are_left() -> None:
    boxes = Boxes3D.build(np.array([[1, 0, 0], [-1, 0, 0], [3, 0, 0]]), np.ones((3, 3)), np.zeros(3), np.zeros(3))
    clicks = PointLabels(
        np.array(list("abcd"), object),
        np.array([[1.1, 0, 0], [0.1, 0, 0], [3.1, 0, 0], [-0.2, 0, 0]]),
        np.zeros(4, np.int64),
        np.array([0, 1, 2, -1]),
    )
    from tests.unit.test_augment import RECORD

    got = within_regions(replace(RECORD, boxes=boxes, clicks=clicks, regions=Regions((RIGHT,))))
    assert got.boxes.center_m[:, 0].tolist() == [1, 3]
    assert got.clicks.click_id.tolist() == ["a", "b", "c"]  # d lies outside
    assert got.clicks.box_index.tolist() == [0, -1, 1]  # b's box lies outside


def test_masks_move_with_the_points(half_world: tuple[Path, Index], tmp_path: Path) -> None:
    """A cell of the augmented view is valid if its place before augmentation had x >= 0."""
    opened = open_world(
        half_world[0], tmp_path / "run", "student.augment_rotation_rad=1.5", "student.augment_flip=true"
    )
    config, records = opened.run.config, list(opened.records)[:2]
    loader = BatchLoader(config, "student", cameras=False, weak_view=True)
    with pytest.raises(ValueError, match="has regions, but the loader was not made by"):
        loader(records, [1, 1])
    arrays = loader.for_records(opened.records)(records, [1, 1])
    assert arrays["known"].shape == (2, 32, 32) and arrays["known"].dtype == bool
    for b, record in enumerate(records):
        matrix = loader.augment_range().draw(keyed_rng(config.run.seed, 1, record.sample_token, "augment"))
        for row in range(32):
            for column in range(32):
                center = np.array([(column + 0.5) * 0.8 - 12.8, (row + 0.5) * 0.8 - 12.8, 0, 1])
                x = (np.linalg.inv(matrix) @ center)[0]
                assert abs(x) < 1e-9 or arrays["known"][b, row, column] == (x > 0)
    assert "known" not in BatchLoader(config, "teacher", cameras=False).for_records(records)(records, [1, 1])


def test_no_loss_where_labels_do_not_hold() -> None:
    """Labels are valid in columns 16 .. 31 (x > 0); heatmap, box and guidance losses ignore the other columns."""
    from tests.model_cases import tiny_config

    config = tiny_config("student.guidance=full")
    known = torch.zeros(2, 32, 32, dtype=torch.bool)
    known[:, :, 16:] = True
    batch = change(make_batch(clicks=4), known=known)
    cells, index = batch.objects((-12.8, -12.8), 0.8, (32, 32), tuple(range(10)))
    right = [(b, n) for b in range(2) for n in range(4) if batch.box[b, n, 0] >= 0]
    assert list(zip(cells.sample.tolist(), index.tolist(), strict=True)) == right and 0 < len(right) < 8
    task = build("student", config, FALLBACK_SIZE_M)
    output = task.model.train()(batch)
    assert isinstance(output, StudentOutput)
    output.tasks[0].heatmap.retain_grad()
    output.strong.retain_grad()
    losses = task.losses(output, batch, same_on_all_ranks)
    (losses["heatmap"] + 0 * losses["guidance"]).backward(retain_graph=True)
    of_heatmap = output.tasks[0].heatmap.grad.abs().sum((0, 1, 2))
    assert (of_heatmap[:16] == 0).all() and (of_heatmap[16:] > 0).all()
    output.strong.grad = None
    losses["guidance"].backward()
    of_features = output.strong.grad.abs().sum((0, 1, 2))
    assert (of_features[:16] == 0).all() and (of_features[16:] > 0).all()


def test_a_student_learns_in_a_half_world(half_world: tuple[Path, Index], tmp_path: Path) -> None:
    opened = open_world(half_world[0], tmp_path / "run", "optim.batch_size=2")
    local = run_locally("student", opened.run.config, opened.records, tmp_path / "student", 1)
    assert np.isfinite([values["loss"] for _, values in local.history]).all()


def test_pseudo_labels_outside_are_not_accepted() -> None:
    from tests.unit.test_augment import RECORD

    center = np.array([[3.0, 0, 0], [4.0, 4.0, 0]])
    boxes = Boxes3D.build(center, FALLBACK_SIZE_M[[0, 0]], np.zeros(2), np.zeros(2))
    clicks = PointLabels(np.array(["a", "b"], object), center, np.zeros(2, np.int64), np.array([-1, -1]))
    record = replace(RECORD, clicks=clicks, regions=Regions(None, (SQUARE,)))
    table = to_pseudo_labels(record, boxes, FALLBACK_SIZE_M, "t", classes=NUSCENES_CLASSES)
    assert table["reason"].tolist() == ["", "outside regions"] and table["accepted"].tolist() == [True, False]
