"""Exported labels load in the devkit with the right values, and no other labels are exported."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from nuscenes import NuScenes
from nuscenes.eval.common.loaders import load_prediction
from nuscenes.eval.detection.data_classes import DetectionBox
from nuscenes.eval.detection.utils import category_to_detection_name
from nuscenes.utils.data_classes import LidarPointCloud
from nuscenes.utils.geometry_utils import points_in_box

from pdetr3d.config import DataConfig
from pdetr3d.data.index.nuscenes import build_index
from pdetr3d.finished.labels import export_tables as module
from pdetr3d.finished.labels.export_results import export_results
from pdetr3d.finished.labels.export_tables import export_tables
from pdetr3d.finished.labels.run_labels import RunLabels
from pdetr3d.geometry.rigid import chain
from pdetr3d.schema import DataError
from tests.label_cases import simulated_run, tracked_run

Exported = tuple[RunLabels, NuScenes, NuScenes]  # run, the dataset, what was exported


@pytest.fixture(scope="module", params=["scene", "keyframe", "tracks"])
def exported(request: pytest.FixtureRequest, sim_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("run")
    if request.param == "tracks":
        labels = tracked_run(folder / "run", sim_world)
    else:
        ratio = {"scene": 0.3, "keyframe": 0.5}[request.param]  # 3 of 6 keyframes: a scene of two is cut
        labels = simulated_run(folder / "run", sim_world, f"label.split_by={request.param}", f"label.ratio={ratio}")
    told = export_tables(labels, folder / "out")
    assert sorted(path.name for path in folder.iterdir()) == ["out", "run"]
    before, after = (NuScenes("v1.0-sim", str(root), verbose=False) for root in (sim_world, folder / "out"))
    assert told["human boxes"] + told["pseudo boxes"] == len(after.sample_annotation)  # type: ignore[operator]
    assert told["pseudo boxes"] == labels.table["accepted"].sum() > 50
    return labels, before, after


def bare(row: dict) -> dict:
    """An annotation without the fields that depend on its neighbors and without those that the devkit adds."""
    return {key: value for key, value in row.items() if key not in ("prev", "next", "category_name")}


def test_human_boxes_are_unchanged_and_point_labeled_samples_hold_pseudo_labels_alone(exported: Exported) -> None:
    labels, before, after = exported
    accepted = labels.table[labels.table["accepted"]].groupby("sample_token")["click_id"].apply(set)
    dropped = set()
    for sample in before.sample:
        own = {token: before.get("sample_annotation", token) for token in sample["anns"]}
        mine = {token: after.get("sample_annotation", token) for token in after.get("sample", sample["token"])["anns"]}
        if labels.role_of.get(sample["token"]) == "point":
            assert {row["click_id"] for row in mine.values()} == accepted[
                sample["token"]
            ] and not own.keys() & mine.keys()
            dropped |= own.keys()
        else:  # box-labeled, or outside the train split
            assert {token: bare(row) for token, row in mine.items()} == {token: bare(row) for token, row in own.items()}
            assert sample["token"] in labels.role_of or len(own)
    assert len(dropped) > 50
    written = "".join((Path(after.table_root) / f"{name}.json").read_text() for name in module.WRITTEN)
    assert not [token for token in dropped if token in written]
    points = [t for t, role in labels.role_of.items() if role == "point"]
    gone = {before.get("sample_annotation", token)["instance_token"] for token in dropped}
    gone -= {row["instance_token"] for row in before.sample_annotation if row["sample_token"] not in points}
    assert not [token for token in gone if token in written]


def test_whole_scenes_keep_their_chains_as_they_are(exported: Exported) -> None:
    labels, before, after = exported
    for row in after.sample_annotation:
        if "click_id" not in row and labels.config["label.split_by"] == "scene":
            assert row == before.get("sample_annotation", row["token"])
    cut = [
        r for r in after.sample_annotation if "click_id" not in r and r != before.get("sample_annotation", r["token"])
    ]
    assert (len(cut) > 0) == (labels.config["label.split_by"] == "keyframe")


def test_instances_are_chains_in_order_of_time(exported: Exported) -> None:
    _, _, after = exported
    seen = set()
    for instance in after.instance:
        token, previous, time_us, count = instance["first_annotation_token"], "", -1, 0
        while token:
            row = after.get("sample_annotation", token)
            assert row["prev"] == previous and row["instance_token"] == instance["token"]
            stamp = after.get("sample", row["sample_token"])["timestamp"]
            assert stamp > time_us
            seen.add(token)
            previous, token, time_us, count = token, row["next"], stamp, count + 1
        assert (previous, count) == (instance["last_annotation_token"], instance["nbr_annotations"])
    assert len(seen) == len(after.sample_annotation)
    assert all(len(row["token"]) == 32 for table in (after.instance, after.sample_annotation) for row in table)


def test_pseudo_boxes_are_those_of_the_run_with_their_points(exported: Exported) -> None:
    labels, _, after = exported
    rows = labels.table.set_index("click_id")
    counts = []
    for token in [token for token, role in labels.role_of.items() if role == "point"]:
        lidar = after.get("sample", token)["data"]["LIDAR_TOP"]
        path, boxes, _ = after.get_sample_data(lidar)  # in the LiDAR frame
        points = LidarPointCloud.from_file(path).points[:3]
        for box in boxes:
            annotation = after.get("sample_annotation", box.token)
            row = rows.loc[annotation["click_id"]]
            np.testing.assert_allclose(box.center, row[["x", "y", "z"]].to_numpy(float), atol=1e-5)
            np.testing.assert_allclose(box.wlh, row[["w", "l", "h"]].to_numpy(float), atol=1e-6)
            heading = box.rotation_matrix @ [1, 0, 0]
            np.testing.assert_allclose(heading, [np.cos(row["yaw"]), np.sin(row["yaw"]), 0], atol=1e-6)
            assert category_to_detection_name(annotation["category_name"]) == row["class"]
            assert annotation["score"] == pytest.approx(row["score"]) and annotation["num_radar_pts"] == 0
            assert annotation["num_lidar_pts"] == points_in_box(box, points).sum()
            counts.append(annotation["num_lidar_pts"])
    assert len(counts) > 50 and max(counts) > 20


def test_the_devkit_measures_the_velocities_of_tracks(exported: Exported) -> None:
    labels, _, after = exported
    record_of = {record.sample_token: record for record in labels.records}
    known = 0
    for click, token, vx, vy in labels.accepted[["click_id", "sample_token", "vx", "vy"]].itertuples(index=False):
        annotation = next(r for r in after.sample_annotation if r.get("click_id") == click)
        lidar2global = chain(record_of[token].lidar2ego, record_of[token].ego2global)
        velocity = (lidar2global[:3, :3].T @ after.box_velocity(annotation["token"]))[:2]
        np.testing.assert_allclose([vx, vy], velocity, atol=1e-3)
        names = [after.get("attribute", name)["name"] for name in annotation["attribute_tokens"]]
        moving = {"vehicle.moving", "pedestrian.moving", "cycle.with_rider"} & set(names)
        assert bool(moving) == bool(np.hypot(vx, vy) > 0.2) or not names
        assert np.isfinite(vx) or not names
        known += bool(np.isfinite(vx))
    assert (known > 20) == (len(labels.manifest.track_of) > 0)


def test_the_devkit_draws_and_our_index_reads_the_exported_tables(exported: Exported, tmp_path: Path) -> None:
    labels, _, after = exported
    token = next(token for token, role in labels.role_of.items() if role == "point")
    data = after.get("sample", token)["data"]
    for channel in ("LIDAR_TOP", "CAM_FRONT"):
        after.render_sample_data(data[channel], out_path=str(tmp_path / f"{channel}.png"), verbose=False)
        assert (tmp_path / f"{channel}.png").stat().st_size > 10_000
    after.render_annotation(after.get("sample", token)["anns"][0], out_path=str(tmp_path / "one.png"))
    assert build_index(Path(after.dataroot), "v1.0-sim", tmp_path / "index.arrow").is_file()


def test_an_existing_place_is_never_written_to(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels, _, _ = exported
    (tmp_path / "out").mkdir()
    (tmp_path / "out.json").write_text("mine")
    for export, name in ((export_tables, "out"), (export_results, "out.json")):
        with pytest.raises(DataError, match=f"{name} exists and is not overwritten"):
            export(labels, tmp_path / name)
    assert list((tmp_path / "out").iterdir()) == [] and (tmp_path / "out.json").read_text() == "mine"

    def broken(path: Path, data: DataConfig) -> None:
        raise DataError("cut")

    monkeypatch.setattr(module, "read_lidar", broken)
    with pytest.raises(DataError, match="cut"):
        export_tables(labels, tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.json"]


def test_the_devkit_loads_the_results(exported: Exported, tmp_path: Path) -> None:
    labels, _, after = exported
    export_results(labels, tmp_path / "deep" / "results.json")
    results, meta = load_prediction(str(tmp_path / "deep" / "results.json"), 500, DetectionBox)
    assert meta["use_lidar"] and meta["use_camera"] and meta["use_external"] and not meta["use_map"]
    assert results.sample_tokens == labels.index.tokens("sim_train")
    for record in labels.records:
        boxes = results[record.sample_token]
        rows = [after.get("sample_annotation", name) for name in after.get("sample", record.sample_token)["anns"]]
        rows = [row for row in rows if record.role == "point" or row["num_lidar_pts"] + row["num_radar_pts"]]
        assert len(boxes) == len(rows) and all(box.detection_score == 1 for box in boxes if record.role == "box")
        mine, theirs = (np.array(sorted(x)) for x in ([b.translation for b in boxes], [r["translation"] for r in rows]))
        np.testing.assert_allclose(mine, theirs, atol=1e-3)


def test_all_samples_are_point_labeled_with_pseudo_for_all(sim_world: Path, tmp_path: Path) -> None:
    labels = simulated_run(tmp_path / "run", sim_world, "label.pseudo_for=all")
    assert set(labels.role_of.values()) == {"point"} and len(labels.role_of) == 6
    told = export_tables(labels, tmp_path / "out")
    assert told["pseudo boxes"] == labels.table["accepted"].sum()
    rows = json.loads((tmp_path / "out" / "v1.0-sim" / "sample_annotation.json").read_text())
    assert {"click_id" in row for row in rows if row["sample_token"] in labels.role_of} == {True}


def test_a_run_without_pseudo_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"run\.json is missing.*ray_jobs\.pseudo_label"):
        RunLabels.open(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(DataError, match=r"pseudo_labels\.parquet is missing"):
        RunLabels.open(tmp_path)
