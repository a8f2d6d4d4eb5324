"""Tests of the label manifest: split, clicks, and the separation of hidden annotations from training."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import truncnorm

from pdetr3d.class_list import NUSCENES_CLASSES
from pdetr3d.config import LabelConfig
from pdetr3d.data.index.index import Index, write_index
from pdetr3d.data.index.nuscenes import build_index
from pdetr3d.data.index.rows import INDEX_SCHEMA
from pdetr3d.data.label_manifest import (
    LabelManifest,
    build_manifest,
    eval_records,
    inspection_record,
    prior_size_m,
    read_pseudo_labels,
    redraw_clicks,
    training_records,
    write_pseudo_labels,
)
from pdetr3d.data.labels.click_matching import match_clicks
from pdetr3d.data.labels.clicks import draw_click, place_clicks
from pdetr3d.data.labels.manifest import SAMPLES_SCHEMA
from pdetr3d.data.labels.roles import box_labeled
from pdetr3d.data.storage.files import open_arrow, write_arrow
from pdetr3d.geometry.boxes import points_in_boxes
from pdetr3d.schema import CLASSES, FALLBACK_SIZE_M, SOURCE_HUMAN, SOURCE_PSEUDO, Boxes3D, DataError, SampleRecord
from tests.model_cases import tiny_config


@pytest.fixture(scope="module")
def index(sim_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Index:
    return Index.open(build_index(sim_world, "v1.0-sim", tmp_path_factory.mktemp("index") / "index.arrow"))


@pytest.fixture(scope="module")
def manifest(index: Index, tmp_path_factory: pytest.TempPathFactory) -> LabelManifest:
    return build_manifest(index, "sim_train", LabelConfig(ratio=0.3), tmp_path_factory.mktemp("manifest"))


# 10 scenes of 3 samples in time order.
TOKENS = [f"t{i:02d}" for i in range(30)]
SCENES = [f"s{i // 3}" for i in range(30)]


def _split(ratio: float, split_by: str, seed: int = 0, order: slice = slice(None)) -> set[str]:
    config = LabelConfig(ratio=ratio, seed=seed, split_by=split_by)  # type: ignore[arg-type]
    return box_labeled(TOKENS[order], SCENES[order], list(range(30))[order], config, classes=NUSCENES_CLASSES)


def test_split_by_scene_takes_whole_scenes_and_just_enough() -> None:
    for ratio, size in ((0.001, 3), (0.1, 3), (0.11, 6), (0.5, 15), (1.0, 30)):
        chosen = _split(ratio, "scene")
        assert len(chosen) == size
        assert all(sum(token in chosen for token in TOKENS[s : s + 3]) in (0, 3) for s in range(0, 30, 3))


@pytest.mark.parametrize("split_by", ["scene", "keyframe", "prefix"])
def test_splits_are_nested_and_do_not_depend_on_order(split_by: str) -> None:
    sets = [_split(ratio, split_by) for ratio in (0.02, 0.1, 0.2, 0.35, 0.7, 1.0)]
    assert all(small <= large for small, large in zip(sets, sets[1:], strict=False)) and len(sets[-1]) == 30
    assert _split(0.35, split_by, order=slice(None, None, -1)) == sets[3]
    differs = [_split(0.35, split_by, seed) != sets[3] for seed in range(1, 6)]
    assert not any(differs) if split_by == "prefix" else any(differs)


def test_split_sizes_by_keyframe_and_prefix() -> None:
    assert len(_split(0.11, "keyframe")) == 4 and len(_split(0.001, "keyframe")) == 1  # ceil(3.3)
    assert _split(0.11, "prefix") == {"t00", "t01", "t02"} and _split(0.001, "prefix") == {"t00"}  # int(3.3)
    assert len(_split(0.7, "keyframe")) == 21  # 0.7 * 30 is 21.000000000000004 or less: no extra sample


def test_manifest_files(index: Index, manifest: LabelManifest, tmp_path: Path) -> None:
    assert list(manifest.roles) == index.tokens("sim_train")
    assert sorted(manifest.roles.values()) == ["box"] * 2 + ["point"] * 4 and manifest.achieved_ratio == pytest.approx(
        1 / 3
    )
    again = build_manifest(index, "sim_train", LabelConfig(ratio=0.3), tmp_path / "again")
    assert again.digest == manifest.digest and LabelManifest.open(tmp_path / "again").roles == manifest.roles
    other = build_manifest(index, "sim_train", LabelConfig(ratio=0.3, seed=1), tmp_path / "other")
    assert other.digest != manifest.digest
    assert not set(other.clicks["click_id"].to_pylist()) & set(manifest.clicks["click_id"].to_pylist())
    with pytest.raises(DataError, match="split 'nope'"):
        build_manifest(index, "nope", LabelConfig(), tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_clicks_do_not_depend_on_the_ratio(index: Index, manifest: LabelManifest, tmp_path: Path) -> None:
    full = build_manifest(index, "sim_train", LabelConfig(ratio=1.0, split_by="keyframe"), tmp_path)
    assert full.clicks.equals(manifest.clicks) and set(full.roles.values()) == {"box"}


def test_fewer_clicks_are_drawn_by_object_and_those_of_boxes_stay(index: Index, tmp_path: Path) -> None:
    whole, three, one = (
        build_manifest(index, "sim_train", LabelConfig(ratio=0.3, click_share=share), tmp_path / str(share))
        for share in (1.0, 0.75, 0.25)
    )
    assert whole.roles == three.roles == one.roles

    def ids(manifest: LabelManifest, role: str) -> set[str]:
        names, tokens = (manifest.clicks[name].to_pylist() for name in ("click_id", "sample_token"))
        return {name for name, token in zip(names, tokens, strict=True) if manifest.roles[token] == role}

    assert ids(one, "box") == ids(three, "box") == ids(whole, "box") != set()
    assert ids(one, "point") < ids(three, "point") < ids(whole, "point")
    shares = [len(ids(manifest, "point")) / len(ids(whole, "point")) for manifest in (three, one)]
    deviation = (0.75 * 0.25 / len(ids(whole, "point"))) ** 0.5
    np.testing.assert_allclose(shares, [0.75, 0.25], atol=3 * deviation)


# Class counts of four scenes of one sample each; classes 0 (car), 6 (motorcycle) and 7 (bicycle).
COUNTS = np.zeros((4, 10), np.int64)
COUNTS[:, [0, 6, 7]] = [[9, 0, 0], [9, 1, 0], [2, 0, 2], [30, 0, 0]]


def _choose(ratio: float, **choice: object) -> set[str]:
    config = LabelConfig(ratio=ratio, **choice)  # type: ignore[arg-type]
    return box_labeled(list("abcd"), list("wxyz"), [0, 1, 2, 3], config, COUNTS, classes=NUSCENES_CLASSES)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_balanced_scenes_bring_rare_classes_first(seed: int) -> None:
    """The sums of log(1 + boxes) are a 2.30, b 3.00, c 2.20 and d 3.43, so d is first.

    Together with d they are a 3.69, b 4.38, c 4.60, so c is next; together with d and c: a 4.84, b 5.53.
    """
    assert _choose(0.25, balance=True, seed=seed) == {"d"}
    assert _choose(0.5, balance=True, seed=seed) == {"d", "c"}
    assert _choose(0.75, balance=True, seed=seed) == {"d", "c", "b"}


def test_scenes_that_show_a_class_are_left_without_boxes() -> None:
    assert _choose(0.5, no_boxes_of=("motorcycle", "bicycle")) == {"a", "d"}
    assert _choose(0.75, no_boxes_of=("bicycle",)) == {"a", "b", "d"}
    with pytest.raises(DataError, match=r"only 2 of 4 samples .* lower label.ratio to at most 0.5"):
        _choose(0.75, no_boxes_of=("motorcycle", "bicycle"))


def test_the_index_knows_the_classes_of_a_scene(index: Index, tmp_path: Path) -> None:
    plain = build_manifest(index, "sim_train", LabelConfig(ratio=0.3), tmp_path / "plain")
    seen = {
        scene: {CLASSES[c] for t in tokens for c in index.annotations(t).label[index.annotations(t).kept]}
        for scene, tokens in _by_scene(plain).items()
    }
    rare = next(name for name in CLASSES if 0 < sum(name in classes for classes in seen.values()) < len(seen))
    lacking = {scene for scene, classes in seen.items() if rare not in classes}
    config = LabelConfig(ratio=len(lacking) / len(seen), no_boxes_of=(rare,))  # scenes are equally long: all of them
    without = build_manifest(index, "sim_train", config, tmp_path / "without")
    boxed = {scene for scene, tokens in _by_scene(without).items() if without.roles[tokens[0]] == "box"}
    assert boxed == lacking


def _by_scene(manifest: LabelManifest) -> dict[str, list[str]]:
    scenes: dict[str, list[str]] = {}
    for token, scene in zip(*(manifest.samples[n].to_pylist() for n in ("sample_token", "scene_token")), strict=True):
        scenes.setdefault(scene, []).append(token)
    return scenes


def test_the_first_samples_are_not_chosen_by_class() -> None:
    with pytest.raises(ValueError, match=r"label.split_by=prefix takes the first ones"):
        LabelConfig(split_by="prefix", balance=True)


def test_an_unknown_class_is_refused_with_those_there_are() -> None:
    with pytest.raises(DataError, match="'cyclist' is no class.*; allowed are car, truck, .*traffic_cone"):
        tiny_config("label.no_boxes_of=[cyclist]")


def test_boxes_everywhere_leave_nothing_to_choose() -> None:
    chosen = LabelConfig(seed=3, split_by="keyframe", balance=True, no_boxes_of=("bus",), click_share=0.5)
    assert chosen.everywhere == LabelConfig(ratio=1.0, seed=3, split_by="keyframe", click_share=0.5)


def test_interrupted_manifest_is_refused(index: Index, tmp_path: Path) -> None:
    config = LabelConfig(ratio=0.3)
    build_manifest(index, "sim_train", config, tmp_path)
    samples = open_arrow(tmp_path / "samples.arrow", SAMPLES_SCHEMA)
    write_arrow(tmp_path / "samples.arrow", samples.slice(1))
    with pytest.raises(DataError, match=r"differ from manifest\.json"):
        LabelManifest.open(tmp_path)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"manifest\.json: no label manifest"):
        LabelManifest.open(tmp_path)


def test_one_click_per_kept_object_inside_its_box(index: Index, manifest: LabelManifest) -> None:
    clicks = manifest.clicks.to_pandas()
    for token, part in clicks.groupby("sample_token"):
        annotations = index.annotations(str(token))
        kept = annotations.token[annotations.kept].tolist()
        assert sorted(part["annotation_token"]) == sorted(kept)
        order = [kept.index(name) for name in part["annotation_token"]]
        label = annotations.label[annotations.kept][order]
        assert part["class"].tolist() == [CLASSES[label] for label in label]
        rows = list(zip(label, part["x"], part["y"], part["z"], strict=True))
        assert rows == sorted(rows)  # by class and place, not by the order of the annotations
        box = annotations.box[annotations.kept][order]
        # |offset| <= size / 6 along every axis of the box itself: in the box shrunk to a third (places: 1e-6 m).
        inside = points_in_boxes(part[["x", "y", "z"]].to_numpy(), box[:, :3], box[:, 3:6] / 3 + 2e-6, box[:, 6])
        assert np.diag(inside).all()
    assert (
        len(clicks) == sum(index.annotations(t).kept.sum() for t in manifest.roles) and clicks["track_id"].isna().all()
    )
    assert any(not index.annotations(t).kept.all() for t in manifest.roles)  # else nothing was left out here


def test_clicks_turn_with_the_box() -> None:
    size, uniform = np.array([12.0, 3.0, 3.5]), np.array([0.999, 0.5, 0.5])
    straight = place_clicks(np.zeros(3), size, np.array(0.0), uniform)
    crossing = place_clicks(np.zeros(3), size, np.array(np.pi / 2), uniform)
    assert straight[0] > 1.9 and straight[1] == pytest.approx(0) and straight[2] == pytest.approx(0)
    np.testing.assert_allclose(crossing, [0, straight[0], 0], atol=1e-12)


def test_clicks_are_distributed_as_method_1_3_says() -> None:
    n = 20_000
    size = np.tile([6.0, 3.0, 1.5], (n, 1))
    clicks = draw_click(np.zeros((n, 3)), size, np.zeros(n), np.random.default_rng(0))
    u = clicks / (size / 2) * 3
    assert np.abs(u).max() <= 1 and np.abs(u).max() > 0.99
    np.testing.assert_allclose(u.std(0), 0.4775, atol=0.01)  # [T] in method.md
    np.testing.assert_allclose(u.mean(0), 0, atol=0.015)
    assert np.abs(np.corrcoef(u.T) - np.eye(3)).max() < 0.03
    expected = truncnorm(-1 / 0.6, 1 / 0.6, scale=0.6).ppf([0.05, 0.25, 0.75, 0.95])
    np.testing.assert_allclose(
        np.quantile(u, [0.05, 0.25, 0.75, 0.95], axis=0), np.tile(expected[:, None], 3), atol=0.02
    )


def test_training_records(index: Index, manifest: LabelManifest) -> None:
    records = training_records(index, manifest)
    assert [record.sample_token for record in records] == list(manifest.roles)
    for record in records:
        annotations = index.annotations(record.sample_token)
        kept = annotations.kept
        assert record.role == manifest.roles[record.sample_token] and len(record.clicks) == kept.sum()
        np.testing.assert_array_equal(record.clicks.label, np.sort(annotations.label[kept]))
        if record.role == "point":
            assert len(record.boxes) == 0 and (record.clicks.box_index == -1).all()
            continue
        np.testing.assert_array_equal(record.boxes.label, annotations.label[kept])
        np.testing.assert_allclose(record.boxes.center_m, annotations.box[kept, :3], rtol=1e-6)
        assert (record.boxes.source == SOURCE_HUMAN).all()
        # Each click lies in the box that it points to.
        boxes = record.boxes[record.clicks.box_index]
        np.testing.assert_array_equal(boxes.label, record.clicks.label)
        assert np.diag(points_in_boxes(record.clicks.xyz_m, boxes.center_m, boxes.size_m, boxes.yaw_rad)).all()


def _poison(index: Index, tokens: set[str], path: Path) -> Index:
    """An index in which all fields of the annotations of ``tokens`` differ, except token, class and kept."""
    rows = index.table.to_pylist()
    rng = np.random.default_rng(0)
    for row in rows:
        if row["sample_token"] in tokens:
            n = len(row["ann_token"])
            box = np.array(row["ann_box"]) + rng.uniform(5, 50, (n, 7))
            row["ann_box"] = box.tolist()
            row["ann_velocity_m_s"] = rng.uniform(-9, 9, (n, 2)).tolist()
            row["ann_num_lidar_pts"] = [7 * count for count in row["ann_num_lidar_pts"]]
    write_index(path, pa.Table.from_pylist(rows, schema=INDEX_SCHEMA), index.dataroot, index.version)
    return Index.open(path)


def _bytes(records: list[SampleRecord]) -> list[bytes]:
    return [pickle.dumps(dataclasses.asdict(record)) for record in records]


def test_poisoned_boxes_of_point_labeled_samples_reach_nothing(
    index: Index, manifest: LabelManifest, tmp_path: Path
) -> None:
    pseudo = write_pseudo_labels(tmp_path / "pseudo.parquet", _pseudo_rows(manifest), classes=NUSCENES_CLASSES)
    point = {token for token, role in manifest.roles.items() if role == "point"}
    poisoned = _poison(index, point, tmp_path / "poisoned.arrow")
    token = min(point)
    assert not np.allclose(poisoned.annotations(token).box, index.annotations(token).box)
    for file in (None, pseudo):
        clean, dirty = training_records(index, manifest, file), training_records(poisoned, manifest, file)
        assert _bytes(clean) == _bytes(dirty)
        assert [
            p.tobytes()
            for p in (
                prior_size_m(clean, classes=NUSCENES_CLASSES)[0],
                prior_size_m(dirty, classes=NUSCENES_CLASSES)[0],
            )
        ] == [prior_size_m(clean, classes=NUSCENES_CLASSES)[0].tobytes()] * 2
        for a, b in zip(clean, dirty, strict=True):
            np.testing.assert_array_equal(redraw_clicks(a, 0, 1).xyz_m, redraw_clicks(b, 0, 1).xyz_m)
    # The detector of this test: poison in a box-labeled sample does show.
    everything = _poison(index, set(manifest.roles), tmp_path / "everything.arrow")
    assert _bytes(training_records(everything, manifest)) != _bytes(training_records(index, manifest))


def test_redrawn_clicks(index: Index, manifest: LabelManifest) -> None:
    records = training_records(index, manifest)
    boxed = next(record for record in records if record.role == "box")
    first, again, later = redraw_clicks(boxed, 0, 1), redraw_clicks(boxed, 0, 1), redraw_clicks(boxed, 0, 2)
    np.testing.assert_array_equal(first.xyz_m, again.xyz_m)
    moved = np.linalg.norm(first.xyz_m - later.xyz_m, axis=1)
    assert (moved > 0).all() and (np.linalg.norm(first.xyz_m - boxed.clicks.xyz_m, axis=1) > 0).all()
    boxes = boxed.boxes[boxed.clicks.box_index]
    assert np.diag(points_in_boxes(first.xyz_m, boxes.center_m, boxes.size_m / 3 + 1e-5, boxes.yaw_rad)).all()
    # Keyed by click: leaving clicks out changes no other.
    few = dataclasses.replace(boxed, clicks=boxed.clicks[np.array([3, 1])])
    np.testing.assert_array_equal(redraw_clicks(few, 0, 1).xyz_m, first.xyz_m[[3, 1]])
    point = next(record for record in records if record.role == "point")
    assert redraw_clicks(point, 0, 1) is point.clicks
    human = dataclasses.replace(
        boxed.clicks, click_id=np.array([f"human-{i}" for i in range(len(boxed.clicks))], object)
    )
    assert redraw_clicks(dataclasses.replace(boxed, clicks=human), 0, 1) is human


def test_prior_is_the_mean_of_box_labeled_boxes(index: Index, manifest: LabelManifest) -> None:
    records = training_records(index, manifest)
    prior, absent = prior_size_m(records, classes=NUSCENES_CLASSES)
    sizes = {label: [] for label in range(10)}  # type: dict[int, list]
    for token, role in manifest.roles.items():
        annotations = index.annotations(token)
        for label, box, kept in zip(annotations.label, annotations.box, annotations.kept, strict=True):
            if role == "box" and kept:
                sizes[int(label)].append(box[3:6])
    for label, name in enumerate(CLASSES):
        assert (name in absent) == (not sizes[label])
        np.testing.assert_allclose(
            prior[label], np.mean(sizes[label], 0) if sizes[label] else FALLBACK_SIZE_M[label], rtol=1e-5
        )
    listed, missing = prior_size_m(list(records), classes=NUSCENES_CLASSES)
    np.testing.assert_array_equal(listed, prior)
    assert missing == absent
    prior, absent = prior_size_m([], classes=NUSCENES_CLASSES)
    np.testing.assert_array_equal(prior, FALLBACK_SIZE_M)
    assert absent == list(CLASSES)


def test_eval_and_inspection_records(index: Index, manifest: LabelManifest) -> None:
    for record in eval_records(index, "sim_val"):
        assert record.role == "unlabeled" and len(record.boxes) == len(record.clicks) == 0
    token = next(token for token, role in manifest.roles.items() if role == "point")
    record = inspection_record(index, token, manifest)
    assert record.role == "point" and len(record.boxes) == len(record.clicks) == index.annotations(token).kept.sum()
    assert len(inspection_record(index, token).clicks) == 0


def _pseudo_rows(manifest: LabelManifest) -> list[dict]:
    rows = []
    for i, click in enumerate(manifest.clicks.to_pylist()):
        size = {"l": 4.0 + i, "w": 2.0, "h": 1.5}
        rows.append(
            {key: click[key] for key in ("click_id", "sample_token", "class", "x", "y", "z")}
            | size
            | {
                "yaw": 0.1,
                "vx": None,
                "vy": None,
                "score": 0.5,
                "accepted": i % 3 != 0,
                "reason": "",
                "teacher_digest": "t",
            }
        )
    return rows[::-1]  # the join is by id, not by position


def test_pseudo_labels_join_by_click_id(index: Index, manifest: LabelManifest, tmp_path: Path) -> None:
    rows = _pseudo_rows(manifest)
    path = write_pseudo_labels(tmp_path / "pseudo.parquet", rows, classes=NUSCENES_CLASSES)
    assert read_pseudo_labels(path, classes=NUSCENES_CLASSES).num_rows == len(rows)
    length = {row["click_id"]: row["l"] for row in rows if row["accepted"]}
    for record in training_records(index, manifest, path):
        if record.role == "box":
            assert (record.boxes.source == SOURCE_HUMAN).all()
            continue
        expected = [length[name] for name in record.clicks.click_id if name in length]
        np.testing.assert_allclose(record.boxes.size_m[:, 0], expected)
        assert (record.boxes.source == SOURCE_PSEUDO).all() and np.isnan(record.boxes.velocity_m_s).all()
        assert (record.boxes.score == 0.5).all() and (record.clicks.box_index == -1).all()


def test_labels_with_the_surest_directions_teach_them(index: Index, manifest: LabelManifest, tmp_path: Path) -> None:
    rows = [row | {"accepted": True, "direction": 0.6 + 0.001 * i} for i, row in enumerate(_pseudo_rows(manifest))]
    path = write_pseudo_labels(tmp_path / "pseudo.parquet", rows, classes=NUSCENES_CLASSES)
    surest = sorted(row["direction"] for row in rows if row["class"] not in ("barrier", "traffic_cone"))[-20:]
    sure = {row["click_id"] for row in rows if row["direction"] >= surest[0]}
    point = [row for row in rows if row["class"] not in ("barrier", "traffic_cone")]
    records = training_records(index, manifest, path, direction_share=20 / len(point))
    for record in records:
        known = record.boxes.direction == 1
        if record.role == "point":
            assert known.tolist() == [click in sure for click in record.clicks.click_id]
        assert record.role == "point" or known.all()


def test_bad_pseudo_labels(index: Index, manifest: LabelManifest, tmp_path: Path) -> None:
    rows, path = _pseudo_rows(manifest), tmp_path / "p.parquet"
    good = next(i for i, row in enumerate(rows) if row["accepted"])
    for change, message in (
        ({"l": -1.0}, "l, w, h > 0"),
        ({"x": float("nan")}, "must be finite"),
        ({"direction": 1.5}, r"score and direction in \[0, 1\]"),
        ({"class": "tank"}, "class 'tank'"),
        ({"click_id": rows[good + 1]["click_id"]}, "more than once"),
    ):
        with pytest.raises(DataError, match=message):
            write_pseudo_labels(path, [*rows[:good], rows[good] | change, *rows[good + 1 :]], classes=NUSCENES_CLASSES)
    assert not path.exists()
    foreign = write_pseudo_labels(path, [rows[good] | {"click_id": "sim-x"}], classes=NUSCENES_CLASSES)
    with pytest.raises(DataError, match="'sim-x'; they were made from another manifest"):
        training_records(index, manifest, foreign)
    other = next(row["sample_token"] for row in rows if row["sample_token"] != rows[good]["sample_token"])
    with pytest.raises(DataError, match="but its click in"):
        training_records(
            index, manifest, write_pseudo_labels(path, [rows[good] | {"sample_token": other}], classes=NUSCENES_CLASSES)
        )
    with pytest.raises(DataError, match=r"column\(s\) \['score'\] missing"):
        write_pseudo_labels(
            path, [{key: value for key, value in rows[0].items() if key != "score"}], classes=NUSCENES_CLASSES
        )
    none = write_pseudo_labels(path, [], classes=NUSCENES_CLASSES)
    assert read_pseudo_labels(none, classes=NUSCENES_CLASSES).num_rows == 0
    assert all(len(record.boxes) == 0 for record in training_records(index, manifest, none) if record.role == "point")


def test_manifest_of_another_index(index: Index, manifest: LabelManifest, tmp_path: Path) -> None:
    write_index(tmp_path / "part.arrow", index.table.slice(1), index.dataroot, index.version)
    with pytest.raises(DataError, match="1 samples are not in"):
        training_records(Index.open(tmp_path / "part.arrow"), manifest)


def _match(place: list[float], label: int, boxes: Boxes3D) -> int:
    return int(match_clicks(np.array([place]), np.array([label]), boxes)[0])


def test_match_clicks() -> None:
    cars = np.array([[0.0, 0, 0], [6, 0, 0], [0, 9, 0], [1, 0.5, 0]])
    boxes = Boxes3D.build(cars, np.tile([4.0, 2, 1.5], (4, 1)), np.zeros(4), np.array([0, 0, 8, 0]))
    assert _match([0.1, 0.1, 0], 0, boxes) == 0  # in boxes 0 and 3: the nearer center
    assert _match([1.2, 0.6, 0], 0, boxes) == 3
    assert _match([6.0, 1.5, 0], 0, boxes) == 1  # outside by 0.5 m, within half a diagonal (2.36 m)
    assert _match([6.0, 2.5, 0], 0, boxes) == -1
    assert _match([0.0, 9, 0], 0, boxes) == -1  # a pedestrian stands there, no car
    assert _match([0.0, 0, 0], 0, Boxes3D.empty()) == -1
    # Containing wins over nearer: a long truck's end against a short one's side.
    trucks = Boxes3D.build(
        np.array([[0.0, 0, 0], [5, 1.6, 0]]), np.array([[12.0, 2, 2], [3, 1, 2]]), np.zeros(2), np.ones(2)
    )
    assert _match([5.0, 0.9, 0], 1, trucks) == 0


def test_a_box_is_meant_by_one_click() -> None:
    """Each click gets the box that contains it, though both are nearer to the first of two overlapping boxes' centers.

    One of the two clicks lies in both boxes. A third click, in the first box, gets no box.
    """
    boxes = Boxes3D.build(
        np.array([[0.0, 0, 0], [1.5, 0, 0]]), np.tile([2.0, 2, 2], (2, 1)), np.zeros(2), np.array([8, 8])
    )
    clicks = np.array([[0.7, 0.0, 0.0], [0.1, 0.0, 0.0], [-0.5, 0.0, 0.0]])
    np.testing.assert_array_equal(match_clicks(clicks, np.full(3, 8), boxes), [1, 0, -1])
    np.testing.assert_array_equal(match_clicks(clicks[::-1], np.full(3, 8), boxes), [-1, 0, 1])
    np.testing.assert_array_equal(match_clicks(clicks[:1], np.array([8]), boxes), [0])
    assert len(match_clicks(np.zeros((0, 3)), np.zeros(0, np.int64), boxes)) == 0
