"""Tests of the simulated world on disk, read only with the nuScenes devkit."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from nuscenes.nuscenes import NuScenes
from nuscenes.utils.data_classes import LidarPointCloud
from nuscenes.utils.geometry_utils import points_in_box, view_points
from nuscenes.utils.splits import get_scenes_of_split
from pyquaternion import Quaternion

from pdetr3d.config import SimConfig
from pdetr3d.geometry.rigid import chain, rigid
from pdetr3d.schema import CAMERAS, CLASSES, DataError
from pdetr3d.simulator import constants as const
from pdetr3d.simulator import simulate as module
from pdetr3d.simulator.camera import render
from pdetr3d.simulator.objects import CLUTTER
from pdetr3d.simulator.scene import SceneJob, build_world
from pdetr3d.simulator.simulate import simulate
from pdetr3d.simulator.subtypes import SUBTYPES, Sizes
from pdetr3d.simulator.tables import calibration
from pdetr3d.simulator.world import World

pytestmark = pytest.mark.xdist_group("simulate")  # the fixtures of this file take seconds

CONFIG = SimConfig(
    scenes=3,
    select_scenes=1,
    val_scenes=1,
    keyframes=3,
    sweeps_per_keyframe=2,
    image_size_px=(96, 54),
    lidar_azimuth_steps=360,
    processes=1,
)
TABLES = (
    "attribute", "calibrated_sensor", "category", "ego_pose", "instance", "log", "map", "sample", "sample_annotation",
    "sample_data", "scene", "sensor", "visibility",
)  # fmt: skip


@pytest.fixture(scope="module")
def dataroot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sim") / "world"
    simulate(root, CONFIG)
    return root


@pytest.fixture(scope="module")
def nusc(dataroot: Path) -> NuScenes:
    return NuScenes("v1.0-sim", str(dataroot), verbose=False)


def world_of(scene: str) -> World:
    """The simulator's world of a scene on disk."""
    names = ["sim-train-0000", "sim-train-0001", "sim-train-0002", "sim-select-0000", "sim-val-0000"]
    split = ["sim-train", "sim-select", "sim-val"].index(scene[:-5])
    return build_world(
        CONFIG.seed, SceneJob(scene, split, int(scene[-4:]), names.index(scene)), (CONFIG.keyframes - 1) * 0.5
    )


def checksums(root: Path) -> dict[str, str]:
    files = (p for p in sorted(root.rglob("*")) if p.is_file())
    return {str(p.relative_to(root)): hashlib.md5(p.read_bytes()).hexdigest() for p in files}


def test_tables_files_and_splits(nusc: NuScenes, dataroot: Path) -> None:
    assert {p.stem for p in (dataroot / "v1.0-sim").glob("*.json")} == {*TABLES, "splits"}
    assert get_scenes_of_split("sim_train", nusc) == ["sim-train-0000", "sim-train-0001", "sim-train-0002"]
    assert get_scenes_of_split("sim_select", nusc) == ["sim-select-0000"]
    assert get_scenes_of_split("sim_val", nusc) == ["sim-val-0000"]
    assert len(nusc.sample) == 15 and len(nusc.sample_data) == 15 * (3 + 6)
    for sample in nusc.sample:
        assert set(sample["data"]) == {"LIDAR_TOP", *CAMERAS}
    for data in nusc.sample_data:
        path = dataroot / data["filename"]
        if data["fileformat"] == "jpg":
            assert cv2.imread(str(path)).shape == (54, 96, 3) == (data["height"], data["width"], 3)
        else:
            points = np.fromfile(path, np.float32).reshape(-1, 5)
            assert np.isfinite(points).all() and 3000 < len(points) <= 32 * 360
            assert 0 <= points[:, 3].min() and points[:, 3].max() <= 255
            assert set(np.unique(points[:, 4])) <= set(range(32))
    assert (dataroot / nusc.map[0]["filename"]).is_file() and nusc.map[0]["mask"].mask().max() > 0


def test_every_reference_resolves_and_every_token_is_unique(dataroot: Path) -> None:
    rows = {name: json.loads((dataroot / "v1.0-sim" / f"{name}.json").read_text()) for name in TABLES}
    tokens = {name: {row["token"] for row in table} for name, table in rows.items()}
    assert all(len(tokens[name]) == len(rows[name]) > 0 for name in TABLES)
    targets = {
        "first_sample": "sample",
        "last_sample": "sample",
        "first_annotation": "sample_annotation",
        "last_annotation": "sample_annotation",
    }
    checked = 0
    for name, table in rows.items():
        for row in table:
            for key, value in row.items():
                field = key.removesuffix("_token").removesuffix("_tokens")
                if field in ("prev", "next"):
                    assert value == "" or value in tokens[name]
                elif key != "token" and (key.endswith("_token") or key.endswith("_tokens")):
                    wanted = tokens[targets.get(field, field)]
                    assert set([value] if isinstance(value, str) else value) <= wanted, (name, key)
                    checked += 1
    assert checked > 1000
    instances = {row["token"]: row for row in rows["instance"]}
    for token, row in instances.items():
        mine = [a for a in rows["sample_annotation"] if a["instance_token"] == token]
        assert len(mine) == row["nbr_annotations"]
        assert mine[0]["token"] == row["first_annotation_token"] and mine[-1]["token"] == row["last_annotation_token"]


def test_sweeps_are_chained_at_equal_spacing(nusc: NuScenes) -> None:
    for scene in nusc.scene:
        data = nusc.get("sample_data", nusc.get("sample", scene["first_sample_token"])["data"]["LIDAR_TOP"])
        while data["prev"]:
            data = nusc.get("sample_data", data["prev"])
        times, keys = [], []
        while True:
            times.append(data["timestamp"])
            keys.append(data["is_key_frame"])
            assert nusc.get("ego_pose", data["ego_pose_token"])["timestamp"] == data["timestamp"]
            if not data["next"]:
                break
            assert nusc.get("sample_data", data["next"])["prev"] == data["token"]
            data = nusc.get("sample_data", data["next"])
        assert keys == [False, False, True] * 3
        assert np.abs(np.diff(times) - 1e6 / 6).max() <= 1
        keyframes = [s["timestamp"] for s in nusc.sample if s["scene_token"] == scene["token"]]
        assert keyframes == times[2::3] and np.diff(keyframes).tolist() == [500_000, 500_000]


def test_point_counts_equal_the_devkits(nusc: NuScenes) -> None:
    hit = 0
    for sample in nusc.sample:
        path, boxes, _ = nusc.get_sample_data(sample["data"]["LIDAR_TOP"])
        points = LidarPointCloud.from_file(path).points[:3]
        for box in boxes:
            count = int(points_in_box(box, points).sum())
            assert nusc.get("sample_annotation", box.token)["num_lidar_pts"] == count
            hit += count > 0
    assert hit > 150


def test_velocity_and_pose_are_the_simulated_ones(nusc: NuScenes) -> None:
    moving = 0
    for scene in nusc.scene:
        world = world_of(scene["name"])
        by_place: dict[str, int] = {}
        poses = [world.poses(0.5 * k) for k in range(CONFIG.keyframes)]
        samples = [s for s in nusc.sample if s["scene_token"] == scene["token"]]
        for k, sample in enumerate(samples):
            for token in sample["anns"]:
                annotation = nusc.get("sample_annotation", token)
                i = int(np.argmin(np.hypot(*(poses[k][:, :2] - annotation["translation"][:2]).T)))
                actor = world.actors[i]
                np.testing.assert_allclose(annotation["translation"][:2], poses[k][i, :2], atol=1e-6)
                assert annotation["size"] == [actor.size_m[1], actor.size_m[0], actor.size_m[2]]
                assert annotation["category_name"] == const.CATEGORY[actor.kind]
                yaw = Quaternion(annotation["rotation"]).yaw_pitch_roll[0]
                assert abs(np.angle(np.exp(1j * (yaw - poses[k][i, 2])))) < 1e-6
                assert by_place.setdefault(annotation["instance_token"], i) == i
                if annotation["prev"] and annotation["next"] and actor.yaw_rate_rad_s == 0.0:
                    expected = actor.speed_m_s * np.array([np.cos(poses[k][i, 2]), np.sin(poses[k][i, 2])])
                    np.testing.assert_allclose(nusc.box_velocity(token)[:2], expected, atol=1e-5)
                    moving += actor.speed_m_s > 0
                attributes = [nusc.get("attribute", t)["name"] for t in annotation["attribute_tokens"]]
                assert attributes == ([actor.attribute] if actor.attribute else [])
                assert (actor.kind in ("barrier", "traffic_cone")) == (not attributes)
                assert actor.attribute.endswith(".moving") <= (actor.speed_m_s > 0)
    assert moving > 15


def test_boxes_project_onto_their_objects_pixels(nusc: NuScenes) -> None:
    """The devkit's projection of a box, by each camera's ego pose, equals the place of the drawn object."""
    scene, checked = nusc.scene[0], 0
    world = world_of(scene["name"])
    sample = nusc.get("sample", scene["first_sample_token"])
    for channel in CAMERAS:
        data = nusc.get("sample_data", sample["data"][channel])
        t_s = (data["timestamp"] - sample["timestamp"]) * 1e-6
        assert -0.05 < t_s < 0
        sensor, ego = (nusc.get(n, data[f"{n}_token"]) for n in ("calibrated_sensor", "ego_pose"))
        cam2global = chain(*(rigid(row["rotation"], row["translation"]) for row in (sensor, ego)))
        intrinsic = np.array(calibration((480, 270))[channel]["camera_intrinsic"])
        _, actor, silhouette = render(world, cam2global, intrinsic, (480, 270), t_s, np.random.default_rng(0))
        visible = np.bincount(actor[actor >= 0], minlength=len(world.actors))
        for box in nusc.get_sample_data(data["token"])[1]:
            annotation = nusc.get("sample_annotation", box.token)
            i = int(np.argmin(np.hypot(*(world.poses(0.0)[:, :2] - annotation["translation"][:2]).T)))
            if visible[i] < 60 or visible[i] < 0.95 * silhouette[i] or world.actors[i].speed_m_s:
                continue
            # Boxes are given at LiDAR time: standing objects, entirely visible, must fill the hull of their box.
            corners = view_points(box.corners(), intrinsic, normalize=True)[:2].T
            if corners.min() < 1 or (corners > (479, 269)).any():
                continue
            v, u = np.nonzero(actor == i)
            assert (u.min() + 1 >= corners[:, 0].min()) and (u.max() <= corners[:, 0].max())
            assert (v.min() + 1 >= corners[:, 1].min()) and (v.max() <= corners[:, 1].max())
            if world.actors[i].kind in ("car", "bus", "truck", "trailer", "barrier"):  # solid all through
                assert np.ptp(u) + 2 > 0.7 * np.ptp(corners[:, 0]) and np.ptp(v) + 2 > 0.7 * np.ptp(corners[:, 1])
                center = view_points(box.center[:, None], intrinsic, normalize=True)[:2, 0].astype(int)
                assert actor[center[1], center[0]] == i
            checked += 1
    assert checked >= 5


def test_ego_motion_compensation_stacks_static_points(nusc: NuScenes) -> None:
    """In the devkit's sweeps facades are planes up to the range noise, on a turning drive and on a straight one."""
    checked = 0
    for scene in nusc.scene:
        world = world_of(scene["name"])
        sample = nusc.get("sample", scene["last_sample_token"])
        points, times = LidarPointCloud.from_file_multisweep(nusc, sample, "LIDAR_TOP", "LIDAR_TOP", nsweeps=6)
        assert len(np.unique(times.round(3))) == 6
        data = nusc.get("sample_data", sample["data"]["LIDAR_TOP"])
        to_global = chain(
            *(
                rigid(r["rotation"], r["translation"])
                for r in (nusc.get(n, data[f"{n}_token"]) for n in ("calibrated_sensor", "ego_pose"))
            )
        )
        xyz = points.points[:3].T @ to_global[:3, :3].T + to_global[:3, 3]
        for actor, (x, y, yaw) in zip(world.actors, world.poses(0.0), strict=True):
            if actor.kind != "building":
                continue
            c, s = np.cos(yaw), np.sin(yaw)
            local = (xyz - (x, y, 0)) @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
            half = np.array(actor.size_m[:2]) / 2
            on = (
                (np.abs(local[:, :2]) < half + 0.3).all(axis=1)
                & (local[:, 2] > 0.3)
                & (local[:, 2] < actor.size_m[2] - 0.3)
            )
            on &= (np.abs(local[:, :2]) > half - 0.3).any(axis=1)
            if on.sum() < 100 or len(np.unique(times[0, on].round(3))) < 6:
                continue
            off = np.abs(np.abs(local[on, :2]) - half).min(axis=1)
            assert np.percentile(off, 95) < 0.06, actor
            checked += 1
    assert checked >= 3


def test_same_seed_same_bytes_whatever_the_number_of_processes(dataroot: Path, tmp_path: Path) -> None:
    simulate(tmp_path / "two", CONFIG.model_copy(update={"processes": 2}))
    assert checksums(tmp_path / "two") == checksums(dataroot)


def test_another_seed_is_another_world_and_more_train_scenes_leave_val_alone(dataroot: Path, tmp_path: Path) -> None:
    small = {"scenes": 1, "select_scenes": 1, "keyframes": 1, "processes": 1}
    clouds = {}
    for name, change in {"base": {}, "seed": {"seed": 1}, "more": {"scenes": 2}}.items():
        simulate(tmp_path / name, CONFIG.model_copy(update={**small, **change}))
        files = sorted((tmp_path / name / "samples" / "LIDAR_TOP").glob("sim-val*"))
        clouds[name] = [f.read_bytes() for f in files]
    assert clouds["base"] == clouds["more"] != clouds["seed"]


def test_an_existing_world_is_kept_or_refused(dataroot: Path, tmp_path: Path) -> None:
    before = dataroot.stat()
    simulate(dataroot, CONFIG.model_copy(update={"processes": 2}))
    assert (dataroot.stat().st_ino, dataroot.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    with pytest.raises(DataError, match=r"another simulated world \(.*seed: 0 there, 7 asked for"):
        simulate(dataroot, CONFIG.model_copy(update={"seed": 7}))
    (tmp_path / "photo.png").write_bytes(b"mine")
    with pytest.raises(DataError, match="holds no simulated world"):
        simulate(tmp_path, CONFIG)


def test_a_failing_run_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(root: Path, *_: object) -> None:
        (root / "half").write_text("x")
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "write_world", fail)
    with pytest.raises(KeyboardInterrupt):
        simulate(tmp_path / "world", CONFIG)
    assert os.listdir(tmp_path) == []


def test_a_scene_of_one_keyframe_has_velocities(tmp_path: Path) -> None:
    """The velocities come from the same drive half a second later, which is in no split and has no images."""
    config = CONFIG.model_copy(update={"scenes": 2, "keyframes": 1})
    simulate(tmp_path / "world", config)
    nusc = NuScenes("v1.0-sim", str(tmp_path / "world"), verbose=False)
    names = [name for split in ("sim_train", "sim_select", "sim_val") for name in get_scenes_of_split(split, nusc)]
    assert {scene["name"] for scene in nusc.scene} == {*names, *(f"{name}-later" for name in names)}
    moving = 0
    for scene in nusc.scene:
        sample = nusc.get("sample", scene["first_sample_token"])
        assert scene["nbr_samples"] == 1 and not sample["prev"] and not sample["next"]
        if scene["name"] not in names:
            assert set(sample["data"]) == {"LIDAR_TOP"}
            continue
        assert set(sample["data"]) == {"LIDAR_TOP", *CAMERAS}
        split, number = ["sim-train", "sim-select", "sim-val"].index(scene["name"][:-5]), int(scene["name"][-4:])
        world = build_world(CONFIG.seed, SceneJob(scene["name"], split, number, names.index(scene["name"])), 0.5)
        poses, later = world.poses(0.0), world.poses(0.5)
        for token in sample["anns"]:
            i = int(np.argmin(np.hypot(*(poses[:, :2] - nusc.get("sample_annotation", token)["translation"][:2]).T)))
            velocity = nusc.box_velocity(token)[:2]
            np.testing.assert_allclose(velocity, (later[i, :2] - poses[i, :2]) / 0.5, atol=1e-5)
            moving += np.hypot(*velocity) > 0.5
    assert moving > 10


def test_subtypes_tie_sizes_together_and_worlds_differ() -> None:
    """A car's subtype fixes its size to a few percent; class means differ from the documented ones and by seed."""
    cars = [a for i in range(40) for a in build_world(0, SceneJob("s", 0, i, i), 0.5).actors if a.kind == "car"]
    sizes, names = np.log([a.size_m for a in cars]), np.array([a.subtype for a in cars])
    within = np.concatenate([sizes[names == name] - sizes[names == name].mean(0) for name in set(names)])
    explained = 1 - within.var(0) / sizes.var(0)
    assert set(names) == {subtype.name for subtype in SUBTYPES["car"]} and len(cars) > 300
    assert (explained > 0.85).all(), explained
    scales = np.stack([Sizes(seed).scale for seed in range(20)])
    assert (np.abs(np.log(scales)) >= 0.03 - 1e-9).all() and (np.abs(np.log(scales)) <= 0.13 + 1e-9).all()
    assert len(np.unique(scales[:, 0, 0])) == 20 and 0.2 < (scales[:, :, 0] > 1).mean() < 0.8
    np.testing.assert_array_equal(Sizes(3).scale, scales[3])


def test_streets_are_populated_as_promised() -> None:
    """In ten scenes of the default world most streets have all classes, with objects all around, and clutter."""
    worlds = [build_world(0, SceneJob(f"s{i}", 2, i, i), 1.5) for i in range(10)]
    kinds = [a.kind for w in worlds for a in w.actors]
    assert set(kinds) == {*CLASSES, *CLUTTER}
    objects = [k for k in kinds if k in CLASSES]
    assert all(objects.count(c) >= 0.012 * len(objects) for c in CLASSES)
    assert 35 <= len(objects) / 10 <= 75
    assert {w.ego.turn for w in worlds} == {-1, 0, 1}


def _write_half(dataroot: Path) -> None:
    def half(root: Path, *_: object) -> None:
        (root / "half").write_text("x")
        time.sleep(60)

    module.write_world = half  # type: ignore[assignment]  # in a process of its own
    simulate(dataroot, CONFIG)


def test_what_a_killed_process_left_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A partial folder of this world is removed once its process is dead; folders of other names stay."""
    monkeypatch.setattr(module, "write_world", lambda root, *_: (root / "whole").write_text("x"))
    other = tmp_path / ".another world.partial-abc"
    other.mkdir()
    (other / "half").write_text("x")
    writer = multiprocessing.get_context("fork").Process(target=_write_half, args=(tmp_path / "world",))
    writer.start()
    try:
        deadline = time.monotonic() + 30
        while not (halves := list(tmp_path.glob(".world.partial-*/half"))) and time.monotonic() < deadline:
            time.sleep(0.01)
        simulate(tmp_path / "world", CONFIG)
        assert [half.exists() for half in halves] == [True]
    finally:
        writer.kill()  # SIGKILL: nothing cleans up
        writer.join()
    assert halves[0].exists()
    simulate(tmp_path / "world", CONFIG)  # already there: nothing to do, nothing looked at
    (tmp_path / "world" / "whole").unlink()
    (tmp_path / "world" / module.STAMP).unlink()
    simulate(tmp_path / "world", CONFIG)
    assert not halves[0].parent.exists() and (other / "half").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [other.name, "world"]
