"""Tests of GT sampling: which objects are cut out, where they are pasted, collisions, and keyed draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pdetr3d import presets
from pdetr3d.batch import Batch
from pdetr3d.data.augmentation.gt_sampling import ObjectDatabase, database_of, open_database, paste
from pdetr3d.data.draws import keyed_rng
from pdetr3d.data.index.index import Index
from pdetr3d.data.label_manifest import training_records
from pdetr3d.data.loading.load import load_sample
from pdetr3d.geometry.boxes import bev_iou_aligned, points_in_boxes
from pdetr3d.schema import CLASSES, SOURCE_HUMAN, SOURCE_PSEUDO, Boxes3D, DataError, PointLabels, Sample, SampleRecord
from pdetr3d.training.build import build
from pdetr3d.training.context import LocalContext
from pdetr3d.training.loop import train
from pdetr3d.training.plan import BatchLoader, Plan
from tests.model_cases import tiny_config
from tests.training_cases import World, one_thread, open_world, poison

CONFIG = tiny_config("student.gt_sampling=[3,3,3,3,3,3,3,3,3,3]")
SIZE = (4.0, 2.0, 1.5)


def boxes(*rows: Sequence[float], label: int | Sequence[int] = 0, source: int = SOURCE_HUMAN) -> Boxes3D:
    """Boxes of rows (x, y, z, yaw) and SIZE; velocity (row number, -1); score 0.5 for pseudo labels."""
    table = np.array(rows, np.float64).reshape(-1, 4)
    n = len(table)
    return Boxes3D.build(
        table[:, :3],
        np.tile(SIZE, (n, 1)),
        table[:, 3],
        np.broadcast_to(label, n),
        velocity_m_s=np.stack([np.arange(n), -np.ones(n)], 1),
        score=np.full(n, 1.0 if source == SOURCE_HUMAN else 0.5),
        source=source,
    )


def cloud_in(box: Boxes3D, count: int, intensity: float) -> NDArray[np.float32]:
    """(count * N, 5) points near the centers of the boxes."""
    places = np.repeat(box.center_m, count, 0) + np.tile(np.linspace(-0.3, 0.3, count)[:, None], (len(box), 3))
    rest = np.tile([intensity, 0.0], (len(places), 1))
    return np.concatenate([places, rest], 1).astype(np.float32)


def record(folder: Path, token: str, labels: Boxes3D, cloud: NDArray, role: str = "box") -> SampleRecord:
    """A sample on disk: one sweep, no cameras."""
    path = folder / f"{token}.pcd.bin"
    cloud.astype(np.float32).tofile(path)
    eye, clicks = np.eye(4), PointLabels.empty()
    return SampleRecord(token, "scene", 0, role, str(path), (), (None,) * 6, eye, eye, labels, clicks)


def database(folder: Path, *records: SampleRecord) -> ObjectDatabase:
    return ObjectDatabase(database_of(folder / "database", records, CONFIG))


def pasted(sample: Sample, source: ObjectDatabase, *counts: int, seed: int = 0) -> Sample:
    """``counts`` of the first classes, none of the others."""
    return paste(sample, source, [*counts, *[0] * (10 - len(counts))], np.random.default_rng(seed))


def target(folder: Path, labels: Boxes3D, cloud: NDArray) -> Sample:
    return load_sample(record(folder, "target", labels, cloud), CONFIG.data, cameras=False)


def test_an_object_is_cut_by_its_turned_box_and_comes_back_where_it_was(tmp_path: Path) -> None:
    """A box at (8, 5, 0.5) heading +y."""
    inside = [[7.1, 6.9, 0.5], [7.1, 6.9, 1.2], [8, 5, 0.5], [8.9, 3.1, -0.2], [8.5, 5, 0.5]]
    outside = [[9.2, 5, 0.5], [8, 7.1, 0.5], [8, 5, 1.3]]  # the first would lie inside at yaw 0
    cloud = np.array([[*p, 10 * i, 0] for i, p in enumerate([*inside[:2], *outside, *inside[2:]])])
    found = database(tmp_path, record(tmp_path, "a", boxes((8, 5, 0.5, np.pi / 2)), cloud))
    assert len(found) == 1
    np.testing.assert_allclose(found.points(0)[:, :3], inside, atol=1e-5)
    assert found.points(0)[:, 3].tolist() == [0, 10, 50, 60, 70]  # in the order of the cloud
    np.testing.assert_allclose(found.boxes.rows[0], [8, 5, 0.5, *SIZE, np.pi / 2], rtol=1e-6)
    assert found.boxes.velocity_m_s.tolist() == [[0, -1]]


def test_objects_of_few_points_and_beyond_the_range_are_left_out(tmp_path: Path) -> None:
    labels = boxes((5, 5, 0, 0), (5, -5, 0, 0), (14, 0, 0, 0))  # the range ends at 12.8 m
    cloud = np.concatenate([cloud_in(labels[[0]], 5, 1), cloud_in(labels[[1]], 4, 2), cloud_in(labels[[2]], 9, 3)])
    assert database(tmp_path, record(tmp_path, "a", labels, cloud)).boxes.center_m.tolist() == [[5, 5, 0]]


@pytest.mark.parametrize(("least_score", "expected"), [(0.0, [5]), (0.6, [5]), (0.5, [5, -5])])
def test_only_boxes_of_people_and_if_asked_for_of_good_pseudo_labels(
    least_score: float, expected: list[float], tmp_path: Path
) -> None:
    """Even a person's box in a point-labeled sample, which no record should contain, is not used."""
    human, pseudo = boxes((5, 5, 0, 0)), boxes((-5, 5, 0, 0), source=SOURCE_PSEUDO)
    records = [
        record(tmp_path, "a", human, cloud_in(human, 9, 1)),
        record(tmp_path, "b", pseudo, cloud_in(pseudo, 9, 1), role="point"),
        record(tmp_path, "c", human, cloud_in(human, 9, 1), role="point"),
    ]
    config = tiny_config(f"student.gt_sampling_pseudo_score={least_score}")
    found = ObjectDatabase(database_of(tmp_path / "database", records, config)).boxes
    assert found.center_m[:, 0].tolist() == expected
    assert found.source.tolist() == [SOURCE_HUMAN, SOURCE_PSEUDO][: len(expected)]
    assert found.score.tolist() == [1, 0.5][: len(expected)]


def test_equal_boxes_share_a_file_in_any_order_and_number(tmp_path: Path) -> None:
    a, b = (boxes((x, 5, 0, 0)) for x in (5, -5))
    records = [record(tmp_path, name, box, cloud_in(box, 9, 1)) for name, box in (("a", a), ("b", b))]
    pseudo = record(tmp_path, "p", boxes((0, -5, 0, 0), source=SOURCE_PSEUDO), cloud_in(a, 9, 1), role="point")
    first = database_of(tmp_path / "one", records, CONFIG)
    other = database_of(tmp_path / "two", [records[1], records[0], records[1]], CONFIG)
    assert first.name == other.name and first.read_bytes() == other.read_bytes()
    before = first.stat().st_mtime_ns
    assert database_of(tmp_path / "one", records, CONFIG) == first and first.stat().st_mtime_ns == before
    assert database_of(tmp_path / "one", records[:1], CONFIG) != first
    assert database_of(tmp_path / "one", [*records, replace(pseudo, boxes=Boxes3D.empty())], CONFIG) != first
    assert not list(tmp_path.glob("*/.*"))  # no temporary file stays


def test_pasting_by_hand(tmp_path: Path) -> None:
    """One car is pasted at (5, 5): its points come first, and the two background points inside its box are removed."""
    car = boxes((5, 5, 0, 0))
    source = database(tmp_path, record(tmp_path, "a", car, cloud_in(car, 6, 77)))
    rows = [[-5, 5, 0], [5, 5, 0.7], [9, 9, 0], [6.9, 4.1, -0.7], [7.1, 5, 0], [5, 5, 0.8]]
    cloud = np.array([[*p, i, 0] for i, p in enumerate(rows)])
    sample = target(tmp_path, boxes((-5, 5, 0, 0), label=1), cloud)
    clicks = PointLabels(np.array(["c"], object), np.array([[-5.0, 5, 0]]), np.array([1]), np.array([0]))
    sample = replace(sample, clicks=clicks)
    result = pasted(sample, source, 2)
    assert result.points[:, 3].tolist() == [77] * 6 + [0, 2, 4, 5]
    np.testing.assert_allclose(result.points[:6, :3], cloud_in(car, 6, 77)[:, :3], atol=1e-6)
    assert result.points.dtype == np.float32
    assert result.boxes.label.tolist() == [1, 0] and result.boxes.center_m[:, 0].tolist() == [-5, 5]
    assert result.clicks is clicks and result.boxes.label[clicks.box_index].tolist() == [1]
    assert len(sample.boxes) == 1 and len(sample.points) == 6  # the given one is untouched


def test_classes_are_filled_up(tmp_path: Path) -> None:
    """The database has eight cars and two buses. The sample has one car, so [3, 0, 0, 4] lacks 2 cars and 4 buses."""
    places = [(x, y, 0, 0) for x in (-9, -3, 3, 9) for y in (-9, -5)]
    cars, buses = boxes(*places), boxes((-5, 9, 0, 0), (5, 9, 0, 0), label=3)
    labels = Boxes3D.concatenate([cars, buses])
    source = database(tmp_path, record(tmp_path, "a", labels, cloud_in(labels, 5, 1)))
    present = boxes((0, 2, 0, 0), label=0)
    sample = target(tmp_path, present, cloud_in(present, 5, 1))
    assert pasted(sample, source, 3, 0, 0, 4).boxes.label.tolist() == [0, 0, 0, 3, 3]
    assert pasted(sample, source, 1) is sample  # nothing lacks
    assert pasted(sample, source, 0, 5) is sample  # no truck to choose from
    chosen = {tuple(pasted(sample, source, 2, seed=seed).boxes.center_m[1, :2]) for seed in range(60)}
    assert len(chosen) == 8  # each can be drawn


def test_collisions_are_rejected(tmp_path: Path) -> None:
    """Boxes collide where their footprints overlap; an overlap of their axis-aligned rectangles is no collision."""
    diagonal = np.pi / 4
    labels = boxes((4, 4, 0, diagonal), (6, 2, 0, diagonal), (2.5, 5, 9, 0))  # high above the first: still in its way
    source = database(tmp_path, record(tmp_path, "a", labels[[0, 1]], cloud_in(labels[[0, 1]], 5, 1)))
    nothing = Boxes3D.empty()
    far = np.array([[-9.0, -9, 0, 0, 0]])
    assert len(pasted(target(tmp_path, nothing, far), source, 2).boxes) == 2  # 2.83 m apart, 2 m wide
    blocked = pasted(target(tmp_path, replace(labels[[2]], label=np.array([5])), far), source, 2)
    assert blocked.boxes.center_m.tolist() == [[2.5, 5, 9], [6, 2, 0]]
    twins = [record(tmp_path, name, labels[[0]], cloud_in(labels[[0]], 5, 1)) for name in "bcd"]
    assert len(pasted(target(tmp_path, nothing, far), database(tmp_path, *twins), 3).boxes) == 1


def test_nothing_to_paste_is_normal(tmp_path: Path) -> None:
    empty = database(tmp_path, record(tmp_path, "a", Boxes3D.empty(), cloud_in(boxes((5, 5, 0, 0)), 5, 1)))
    sample = target(tmp_path, boxes((-5, 5, 0, 0)), np.array([[-9.0, -9, 0, 0, 0]]))
    assert len(empty) == 0 and pasted(sample, empty, 9, 9) is sample


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--run-dir must be a folder that all of them see"):
        ObjectDatabase(tmp_path / "none.arrow")


@pytest.fixture(scope="module")
def world(sim_world: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    counts = "student.gt_sampling=[9,3,3,3,3,9,3,3,9,9]"
    return open_world(sim_world, tmp_path_factory.mktemp("world"), counts, "student.gt_sampling_fade_out=0.3")


def loader(world: World, steps: int = 10) -> BatchLoader:
    config = world.run.config
    plain = BatchLoader(config, "student", cameras=False, weak_view=True)
    return plain.pasting(database_of(world.run.path / "gt_database", world.records, config), steps)


def boxed_and_pointed(world: World) -> tuple[SampleRecord, SampleRecord]:
    return world.boxed[0], next(r for r in world.records if r.role == "point")


def one(arrays: dict[str, NDArray], place: int) -> list[bytes]:
    """The bytes of the points of both views and of the boxes of one sample of the batch."""
    valid = arrays["box_valid"][place]
    views = [arrays[f"{v}points"][arrays[f"{v}point_sample"] == place] for v in ("", "weak_")]
    return [a.tobytes() for a in (*views, arrays["box"][place][valid], arrays["velocity"][place][valid])]


def test_the_key_alone_decides_what_is_pasted(world: World) -> None:
    load, (box, point) = loader(world), boxed_and_pointed(world)
    together, alone = load([box, point], [4, 7], 0), load([point], [7], 5)
    open_database.cache_clear()  # as in another process
    swapped = loader(world)([point, box], [7, 4], 3)
    assert one(together, 1) == one(alone, 0) == one(swapped, 0)
    assert one(together, 0) == one(swapped, 1) != one(together, 1)
    plain = BatchLoader(world.run.config, "student", cameras=False, weak_view=True)
    assert together["box_valid"].sum() > plain([box, point], [4, 7])["box_valid"].sum()
    assert one(load([point], [8], 0), 0)[2] != one(alone, 0)[2]


def test_the_last_steps_are_without(world: World) -> None:
    load, (_, point) = loader(world, steps=10), boxed_and_pointed(world)
    counts = [load([point], [0], step)["box_valid"].sum() for step in range(10)]
    assert len(point.boxes) == 0 and counts[0] > 0
    assert counts == [counts[0]] * 7 + [0] * 3
    assert replace(load, gt_database=None)([point], [0], 0)["box_valid"].sum() == 0


def test_a_mean_teachers_point_labeled_samples_get_nothing(world: World) -> None:
    """The mean teacher's boxes replace all labels, so the points of pasted objects would be trained as background."""
    whole, (box, point) = loader(world), boxed_and_pointed(world)
    alone = BatchLoader(world.run.config, "student", cameras=False, weak_view=True)
    pasted = alone.pasting(whole.gt_database, 10, everywhere=False)
    assert one(pasted([point], [0], 0), 0) == one(alone([point], [0], 0), 0)
    assert one(pasted([box], [0], 0), 0) == one(whole([box], [0], 0), 0) != one(alone([box], [0], 0), 0)


def test_both_views_hold_the_same_objects_and_no_click_is_added(world: World) -> None:
    load, (_, point) = loader(world), boxed_and_pointed(world)
    arrays = load([point], [0], 0)
    motion = arrays["augmentation"][0]
    moved = arrays["weak_points"][:, :3] @ motion[:3, :3].T + motion[:3, 3]
    np.testing.assert_allclose(arrays["points"][:, :3], moved, atol=1e-4)
    batch = Batch.from_arrays(arrays)
    assert batch.click_valid.sum() == len(point.clicks)
    assert (batch.box_score[batch.box_valid] == 1).all() and (batch.box_source[batch.box_valid] == SOURCE_HUMAN).all()
    assert abs(batch.box[0, :, :3].numpy() @ np.linalg.inv(motion[:3, :3]).T).max() < 14  # of the tiny range
    rows = arrays["box"][0]
    first, second = np.triu_indices(len(rows), 1)
    assert len(first) and bev_iou_aligned(rows[first], rows[second]).max() == 0


def test_poisoned_boxes_of_point_labeled_samples_change_no_bit(world: World, tmp_path: Path) -> None:
    config, path = world.run.config, tmp_path / "index.arrow"
    tokens = {r.sample_token for r in world.records if r.role == "point"}
    poison(world.data.index, tokens, path)
    dirty, manifest = Index.open(path), world.data.manifest

    def file(index: Index, full: bool, name: str) -> bytes:
        records = training_records(index, manifest, boxes_everywhere=full)
        return database_of(tmp_path / name, records, config).read_bytes()

    assert file(dirty, False, "dirty") == file(world.data.index, False, "clean")
    assert file(dirty, True, "dirty") != file(world.data.index, True, "clean")  # the poison is there
    point = boxed_and_pointed(world)[1]
    poisoned = next(r for r in training_records(dirty, manifest) if r.sample_token == point.sample_token)
    assert one(loader(world)([poisoned], [0], 0), 0) == one(loader(world)([point], [0], 0), 0)


def test_the_draw_is_keyed_as_documented_and_comes_first_in_the_cloud(world: World) -> None:
    load, (_, point) = loader(world), boxed_and_pointed(world)
    assert load.gt_database is not None
    rng = keyed_rng(0, 6, point.sample_token, "gt_sampling")
    sample = load_sample(point, world.run.config.data, cameras=False)
    expected = paste(sample, open_database(load.gt_database), world.run.config.student.gt_sampling, rng)
    assert load([point], [6], 0)["weak_points"].tobytes() == expected.points.tobytes()
    box = (expected.boxes.center_m, expected.boxes.size_m, expected.boxes.yaw_rad)
    background = sample.points[~points_in_boxes(sample.points, *box).any(0)]
    front = len(expected.points) - len(background)
    assert front >= 5 * len(expected.boxes) > 0  # that points in their boxes go: test_pasting_by_hand
    assert expected.points[front:].tobytes() == background.tobytes()
    loose = (expected.boxes.center_m, expected.boxes.size_m + 1e-3, expected.boxes.yaw_rad)  # rounding in the box frame
    assert points_in_boxes(expected.points[:front], *loose).any(0).all()


def test_a_student_trains_on_pasted_objects_until_they_fade_out(world: World, tmp_path: Path) -> None:
    """All samples are point-labeled, so the loss sees only pasted boxes. Of three steps the last 30 % paste nothing."""
    config = world.run.config
    task = build("student", config, world.prior_size_m)
    file = database_of(world.run.path / "gt_database", world.records, config)
    records = [r for r in world.records if r.role == "point"]
    task = replace(task, loader=task.loader.pasting(file, 3), optim=task.optim.model_copy(update={"log_every": 1}))
    context = LocalContext(records, Plan(len(records), 2, 3, 0), task.loader, tmp_path)
    with one_thread():
        train(task, context, 3, "{}", tmp_path / "scratch")
    box = [metrics["box"] for _, metrics in context.history]
    assert box[0] > 0 and box[1] > 0 and box[2] == 0
    assert all(np.isfinite(metrics["loss"]) for _, metrics in context.history)


def test_presets() -> None:
    """The presets' counts equal method.md 2.9; the smallest presets, which overfit a frame, paste nothing."""
    counts = {"car": 2, "truck": 3, "construction_vehicle": 7, "bus": 4, "trailer": 6, "barrier": 2}
    counts |= {"motorcycle": 6, "bicycle": 6, "pedestrian": 2, "traffic_cone": 2}
    for name in ("nuscenes-pillar", "nuscenes-voxel"):
        assert dict(zip(CLASSES, presets.PRESETS[name].student.gt_sampling, strict=True)) == counts
    assert presets.PRESETS["real-smoke"].student.gt_sampling == ()
