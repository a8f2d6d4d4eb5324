"""The index against the devkit: on the real keyframe, on a simulated world, and on damaged copies of it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from nuscenes import NuScenes
from nuscenes.eval.common.utils import quaternion_yaw
from nuscenes.eval.detection.utils import category_to_detection_name
from pyquaternion import Quaternion

from pdetr3d.config import DataConfig
from pdetr3d.data.index.index import Index, rounded_digest, write_index
from pdetr3d.data.index.nuscenes import build_index
from pdetr3d.data.index.rows import INDEX_SCHEMA
from pdetr3d.data.loading.check import check_files
from pdetr3d.data.storage.files import write_arrow
from pdetr3d.geometry.rigid import yaw_of
from pdetr3d.schema import CAMERAS, CLASSES, DataError


@pytest.fixture(scope="module")
def sim_index(sim_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Index:
    return Index.open(build_index(sim_world, "v1.0-sim", tmp_path_factory.mktemp("index") / "index.arrow"))


def _assert_boxes_equal_devkit(index: Index, nusc: NuScenes) -> int:
    count = 0
    for sample in nusc.sample:
        ours = index.annotations(sample["token"])
        _, boxes, _ = nusc.get_sample_data(sample["data"]["LIDAR_TOP"])
        boxes = [box for box in boxes if category_to_detection_name(box.name) is not None]
        assert [box.token for box in boxes] == ours.token.tolist()
        lidar = nusc.get("sample_data", sample["data"]["LIDAR_TOP"])
        ego = nusc.get("ego_pose", lidar["ego_pose_token"])
        sensor = nusc.get("calibrated_sensor", lidar["calibrated_sensor_token"])
        for i, box in enumerate(boxes):
            np.testing.assert_allclose(ours.box[i, :3], box.center, atol=1e-6)
            np.testing.assert_allclose(ours.box[i, 3:6], box.wlh[[1, 0, 2]])
            assert abs(np.exp(1j * ours.box[i, 6]) - np.exp(1j * quaternion_yaw(box.orientation))) < 1e-6
            assert CLASSES[ours.label[i]] == category_to_detection_name(box.name)
            velocity = nusc.box_velocity(box.token)
            for pose in (ego, sensor):
                velocity = Quaternion(pose["rotation"]).inverse.rotate(velocity)
            np.testing.assert_allclose(ours.velocity_m_s[i], velocity[:2], atol=1e-6)
            record = nusc.get("sample_annotation", box.token)
            counts = (record["num_lidar_pts"], record["num_radar_pts"])
            assert (ours.num_lidar_pts[i], ours.num_radar_pts[i]) == counts
            assert ours.kept[i] == (sum(counts) > 0)
            count += 1
    return count


def test_real_keyframe(real_data: Path, tmp_path: Path) -> None:
    index = Index.open(build_index(real_data, "v1.0-mini", tmp_path / "index.arrow"))
    assert _assert_boxes_equal_devkit(index, NuScenes("v1.0-mini", str(real_data), verbose=False)) == 68
    (token,) = index.tokens("mini_train")
    assert index.tokens("train") == [token]  # scene-0061 is in both
    record, annotations = index.record(token), index.annotations(token)
    # Frames (design 5): LIDAR_TOP +x -> ego -y, +y -> ego +x, z up.
    np.testing.assert_allclose(record.lidar2ego[:3, :3], [[0, 1, 0], [-1, 0, 0], [0, 0, 1]], atol=0.03)
    assert yaw_of(record.lidar2ego) == pytest.approx(-np.pi / 2, abs=0.02)
    # Cars ahead on our side of the road drive ahead: yaw near +pi/2.
    cars = annotations.box[
        (annotations.label == 0) & (annotations.box[:, 1] > 20) & (np.abs(annotations.box[:, 0]) < 5)
    ]
    assert len(cars) == 2
    np.testing.assert_allclose(cars[:, 6], np.pi / 2, atol=0.15)
    assert len(annotations.label) - annotations.kept.sum() == 3
    assert record.sweeps == () and all(record.cameras) and record.role == "unlabeled"
    assert len(record.boxes) == 0 and len(record.clicks) == 0


def test_sim_boxes_and_velocities_equal_devkit(sim_index: Index, sim_world: Path) -> None:
    nusc = NuScenes("v1.0-sim", str(sim_world), verbose=False)
    assert _assert_boxes_equal_devkit(sim_index, nusc) > 200
    speed = np.concatenate([sim_index.annotations(sample["token"]).velocity_m_s for sample in nusc.sample])
    assert np.nanmax(np.abs(speed)) > 1  # some objects move; otherwise the comparison of velocities would prove nothing


def test_rows(sim_index: Index) -> None:
    tokens = sim_index.tokens("sim_train")
    assert len(tokens) == 6 and len(sim_index.tokens("sim_select")) == 2 and len(sim_index.tokens("sim_val")) == 4
    first, second = (sim_index.record(token) for token in tokens[:2])
    assert first.scene_token == second.scene_token and second.timestamp_us - first.timestamp_us == 500_000
    # The second keyframe's sweeps: two of its own, the first keyframe, and two before that; newest first.
    assert [sweep.path for sweep in second.sweeps][2] == first.lidar_path
    times = [sweep.dt_s for sweep in second.sweeps]
    assert times == sorted(times) and times[0] > 0 and times[2] == pytest.approx(0.5)
    assert [Path(camera.path).parent.name for camera in first.cameras if camera] == list(CAMERAS)
    assert sim_index.value(tokens[0], "splits") == ["sim_train"]


def test_digest_is_of_the_content(sim_index: Index, sim_world: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(sim_world, moved)
    again = Index.open(build_index(moved, "v1.0-sim", tmp_path / "again.arrow"))
    assert again.digest == sim_index.digest and again.dataroot != sim_index.dataroot
    column = sim_index.table.column("timestamp_us").to_numpy() + np.eye(1, len(sim_index), 3, dtype=np.int64)[0]
    changed = sim_index.table.set_column(6, "timestamp_us", pa.array(column))
    write_index(tmp_path / "changed.arrow", changed, sim_index.dataroot, sim_index.version)
    assert Index.open(tmp_path / "changed.arrow").digest != sim_index.digest


def test_unknown_split_and_token(sim_index: Index) -> None:
    with pytest.raises(DataError, match=r"'sim_vall'.*did you mean 'sim_val'.*'sim_train': 6"):
        sim_index.tokens("sim_vall")
    with pytest.raises(DataError, match="'abc' is not in"):
        sim_index.record("abc")


def test_not_an_index(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing\.arrow: no such file"):
        Index.open(tmp_path / "nothing.arrow")
    (tmp_path / "text.arrow").write_text("hello")
    with pytest.raises(DataError, match=r"text\.arrow: no Arrow file"):
        Index.open(tmp_path / "text.arrow")
    write_arrow(tmp_path / "other.arrow", pa.table({"a": [1]}))
    with pytest.raises(DataError, match=r"other\.arrow: columns a: int64 instead of sample_token: string, "):
        Index.open(tmp_path / "other.arrow")
    write_arrow(tmp_path / "old.arrow", INDEX_SCHEMA.empty_table())
    with pytest.raises(DataError, match=r"old\.arrow: not an index of this version \(layout None"):
        Index.open(tmp_path / "old.arrow")


def _edit(table: str, change: Callable[[list], None]) -> Callable[[Path], None]:
    def edit(root: Path) -> None:
        path = root / "v1.0-sim" / f"{table}.json"
        rows = json.loads(path.read_text())
        change(rows)
        path.write_text(json.dumps(rows))

    return edit


def _sensor_file(rows: list, channel: str, key_frame: bool = True) -> dict:
    return next(row for row in rows if f"/{channel}/" in row["filename"] and row["is_key_frame"] == key_frame)


def _rename(channel: str, filename: str) -> Callable[[Path], None]:
    return _edit("sample_data", lambda rows: _sensor_file(rows, channel).update(filename=filename))


def _damage(channel: str, content: bytes | None) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        path = sorted((root / "samples" / channel).iterdir())[0]
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content)

    return damage


def _link(channel: str) -> Callable[[Path], None]:
    """The first file of a channel becomes a link to its own content outside."""

    def damage(root: Path) -> None:
        path = sorted((root / "samples" / channel).iterdir())[0]
        path.rename(root.parent / "secret")
        path.symlink_to(root.parent / "secret")

    return damage


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no tables": (lambda root: shutil.rmtree(root / "v1.0-sim"), r"no tables here.*13 JSON tables"),
    "two tables gone": (
        lambda root: [(root / "v1.0-sim" / f"{name}.json").unlink() for name in ("ego_pose", "log")],
        r"tables missing: ego_pose\.json, log\.json.*nuScenes dataroot holds",
    ),
    "broken JSON": (
        lambda root: (root / "v1.0-sim" / "sample.json").write_text("[{"),
        r"sample\.json: cannot be read as JSON \(Expecting.*unpack the metadata",
    ),
    "dangling token": (_edit("sample_data", lambda rows: rows[0].update(ego_pose_token="gone")), "gone.*incomplete"),
    "broken splits": (
        lambda root: (root / "v1.0-sim" / "splits.json").write_text('{"a": "b"}'),
        r"splits\.json: must be",
    ),
    "splits twice": (
        lambda root: (root / "v1.0-sim" / "splits.json").write_text('{"a": ["x"], "b": [], "a": []}'),
        r"splits\.json: cannot be read as JSON \(these keys stand there twice: a; keep one of each\); it holds",
    ),
    "scene twice": (
        lambda root: (root / "v1.0-sim" / "splits.json").write_text('{"a": ["x", "y", "x"]}'),
        r"splits\.json: scene 'x' stands twice in split 'a'; keep one of each",
    ),
    "parent path": (_rename("LIDAR_TOP", "samples/../../secret.pcd.bin"), "path escapes dataroot"),
    "absolute path": (_rename("LIDAR_TOP", "/etc/passwd"), "'/etc/passwd': path escapes dataroot"),
    "camera path": (_rename("CAM_BACK", "../a.jpg"), "path escapes dataroot"),
    "link out": (_link("LIDAR_TOP"), r"a link that escapes dataroot, to .*secret"),
    "image link out": (_link("CAM_BACK"), r"a link that escapes dataroot, to .*secret"),
    "LiDAR missing": (_damage("LIDAR_TOP", None), r"\.pcd\.bin: no such LiDAR file"),
    "LiDAR cut": (_damage("LIDAR_TOP", b"\0" * 41), "41 bytes, not a multiple of 20"),
    "LiDAR empty": (_damage("LIDAR_TOP", b""), r"truncated LiDAR file \(empty\)"),
    "JPEG missing": (_damage("CAM_FRONT", None), r"\.jpg: no such image \(CAM_FRONT"),
    "NaN pose": (
        _edit("ego_pose", lambda rows: [r["translation"].__setitem__(0, float("nan")) for r in rows]),
        r"ego_pose\.json.*nan",
    ),
    "NaN calibration": (
        _edit("calibrated_sensor", lambda rows: [row["rotation"].__setitem__(1, float("inf")) for row in rows]),
        r"calibrated_sensor\.json.*not finite",
    ),
    "flat box": (
        _edit("sample_annotation", lambda rows: rows[0].update(size=[0, 1, 1])),
        r"sample_annotation .*sides > 0",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_dataset_is_refused(name: str, sim_world: Path, tmp_path: Path) -> None:
    damage, message = DAMAGES[name]
    root, out = tmp_path / "world", tmp_path / "out" / "index.arrow"
    shutil.copytree(sim_world, root)
    damage(root)
    with pytest.raises(DataError, match=message):
        build_index(root, "v1.0-sim", out)
    assert not out.parent.exists() or not list(out.parent.iterdir())


@pytest.mark.parametrize("escape", ["/etc/passwd", "../secret", "samples/../../secret", "C:/secret", "..\\\\secret"])
@pytest.mark.parametrize("column", ["lidar_path", "sweep_path", "camera_path"])
def test_an_index_from_elsewhere_reads_no_other_files(
    column: str, escape: str, sim_index: Index, tmp_path: Path
) -> None:
    """An index file's paths were not checked against the tables; it may not lead outside. Dots in names are allowed."""
    file, table = tmp_path / "index.arrow", sim_index.table
    rows = table[column].to_pylist()
    for last in ("samples/a..b/..c.bin", escape):
        changed = [*rows[:-1], last if column == "lidar_path" else [*rows[-1][:-1], last]]
        place = table.schema.get_field_index(column)
        changed_table = table.set_column(place, table.schema.field(column), [changed])
        write_index(file, changed_table, sim_index.dataroot, sim_index.version)
        index, token = Index.open(file), table["sample_token"][-1].as_py()
        if last != escape:
            assert "a..b" in str(index.record(token))
    with pytest.raises(DataError, match=re.escape(f"{file}: {column} {escape!r}: path escapes dataroot")):
        index.record(token)
    with pytest.raises(DataError, match="path escapes dataroot"):  # before anything is trained
        check_files(index, ["sim_val"], 10, cameras=True)


def test_folders_of_the_dataroot_may_be_links(sim_world: Path, tmp_path: Path) -> None:
    """Large datasets are spread over several disks in this way."""
    root = tmp_path / "world"
    root.mkdir()
    for folder in sim_world.iterdir():
        (root / folder.name).symlink_to(folder)
    linked, real = (
        build_index(r, "v1.0-sim", tmp_path / f"{r.name}.parquet") for r in (root, sim_world.parent / "world")
    )
    assert Index.open(linked).digest == Index.open(real).digest


def test_wrong_folder_or_version(sim_world: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder; a nuScenes dataroot holds"):
        build_index(tmp_path / "nowhere", "v1.0-sim", tmp_path / "i.arrow")
    with pytest.raises(DataError, match="~/world: no such folder; ~ stands for no folder here, write the whole path"):
        build_index(Path("~/world"), "v1.0-sim", tmp_path / "i.arrow")
    with pytest.raises(DataError, match="data.version 'v1.0-mini'.*available: v1.0-sim"):
        build_index(sim_world, "v1.0-mini", tmp_path / "i.arrow")
    with pytest.raises(DataError, match="data.version 'v1.0-sim/': write the folder's name alone, 'v1.0-sim'"):
        build_index(sim_world, "v1.0-sim/", tmp_path / "i.arrow")
    made = build_index(sim_world, "v1.0-sim", tmp_path / "i.arrow")
    with pytest.raises(DataError, match="is a folder; name a file in it: i.arrow"):
        Index.open(made.parent)


def test_missing_sweep_and_camera_are_left_out(
    sim_world: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "world"
    shutil.copytree(sim_world, root)
    before = Index.open(build_index(root, "v1.0-sim", tmp_path / "before.arrow"))
    token = before.tokens("sim_train")[1]
    gone = before.record(token).sweeps[1]
    Path(gone.path).unlink()
    image = Path(before.record(token).cameras[2].path).relative_to(root).as_posix()  # type: ignore[union-attr]
    _edit("sample_data", lambda rows: rows.remove(next(row for row in rows if row["filename"] == image)))(root)
    for table in ("sample_data",):  # no dangling prev/next
        _edit(
            table, lambda rows: [row.update(prev="", next="") for row in rows if "CAM_FRONT_LEFT" in row["filename"]]
        )(root)
    record = Index.open(build_index(root, "v1.0-sim", tmp_path / "after.arrow")).record(token)
    assert "1 sweep files are missing" in caplog.text
    expected = [sweep.path for sweep in before.record(token).sweeps if sweep.path != gone.path]
    assert [sweep.path for sweep in record.sweeps] == expected
    assert [camera is None for camera in record.cameras] == [False, False, True, False, False, False]


def _lidar(root: Path, change: Callable[[list[dict]], object]) -> None:
    """Change the LiDAR rows of the first scene's keyframe and its sweeps, from the earliest on."""
    path = root / "v1.0-sim" / "sample_data.json"
    rows = json.loads(path.read_text())
    keyframe = next(row for row in rows if row["is_key_frame"] and row["prev"] and "LIDAR_TOP" in row["filename"])
    chain = [keyframe]
    while chain[0]["prev"]:
        chain.insert(0, next(row for row in rows if row["token"] == chain[0]["prev"]))
    camera = next(row for row in rows if "CAM_FRONT/" in row["filename"])
    change([*chain, camera])
    path.write_text(json.dumps(rows))


WRONG_SWEEPS: dict[str, tuple[Callable[[list[dict]], object], str]] = {
    "later": (
        lambda rows: rows[-3].update(timestamp=rows[-2]["timestamp"] + 1),
        "timestamp: [0-9]+ is -1e-06 s before",
    ),
    "nanoseconds": (
        lambda rows: [row.update(timestamp=1000 * row["timestamp"]) for row in rows],
        r"must be a whole number of microseconds, below 10\*\*17",
    ),
    "seconds": (
        lambda rows: [row.update(timestamp=row["timestamp"] // 10**6) for row in rows],
        "s from that of its sample",
    ),
    "itself": (lambda rows: rows[-2].update(prev=rows[-2]["token"]), "is 0 s before"),
    "a camera": (lambda rows: rows[-2].update(prev=rows[-1]["token"]), "is of CAM_FRONT, but must be .* LIDAR_TOP"),
}


@pytest.mark.parametrize("name", WRONG_SWEEPS)
def test_sweeps_that_are_not_before(name: str, sim_world: Path, tmp_path: Path) -> None:
    change, message = WRONG_SWEEPS[name]
    shutil.copytree(sim_world, tmp_path / "world")
    _lidar(tmp_path / "world", change)
    with pytest.raises(DataError, match=message):
        build_index(tmp_path / "world", "v1.0-sim", tmp_path / "index.arrow")
    assert not (tmp_path / "index.arrow").exists()


def test_a_camera_that_no_name_fits_is_told(sim_world: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copytree(sim_world, tmp_path / "world")
    path = tmp_path / "world" / "v1.0-sim" / "sensor.json"
    path.write_text(path.read_text().replace("CAM_FRONT_LEFT", "front left"))
    build_index(tmp_path / "world", "v1.0-sim", tmp_path / "index.arrow")
    assert "are not used: front left; data.cameras=FILE" in caplog.text
    names = tmp_path / "names.yaml"
    names.write_text("front left: null\n")
    caplog.clear()
    build_index(tmp_path / "world", "v1.0-sim", tmp_path / "index.arrow", DataConfig(cameras=str(names)))
    assert "are not used" not in caplog.text


@pytest.mark.parametrize("name", ["samples/\0.bin", "samples/\ud800.bin"])
def test_a_name_that_no_file_can_have(name: str, sim_world: Path, tmp_path: Path) -> None:
    shutil.copytree(sim_world, tmp_path / "world")
    _lidar(tmp_path / "world", lambda rows: rows[-2].update(filename=name))
    with pytest.raises(DataError, match="no file can have this name"):
        build_index(tmp_path / "world", "v1.0-sim", tmp_path / "index.arrow")


def test_links_in_a_circle(sim_world: Path, tmp_path: Path) -> None:
    shutil.copytree(sim_world, tmp_path / "world")
    file = sorted((tmp_path / "world" / "samples" / "CAM_BACK").iterdir())[0]
    file.unlink()
    file.symlink_to(file)
    with pytest.raises(DataError, match=f"{re.escape(file.name)}: its links lead in a circle"):
        build_index(tmp_path / "world", "v1.0-sim", tmp_path / "index.arrow")


def test_the_digest_does_not_see_how_a_cpu_rounds() -> None:
    """Last bits, the sign of zero and of an angle of pi change no digest; 10 micrometers and other lists do."""
    plain = {"box": [[[0.0, 1.5, 3.141592653589793]], []], "name": ["a", "b"]}
    same = {"box": [[[-0.0, 1.5 + 1e-12, -3.141592653589793]], []], "name": ["a", "b"]}
    schema = pa.schema({"box": pa.list_(pa.list_(pa.float64(), 3)), "name": pa.string()})
    digest = {
        what: rounded_digest(pa.table(columns, schema))
        for what, columns in {
            "plain": plain,
            "same": same,
            "moved": plain | {"box": [[[0.0, 1.50001, 3.141592653589793]], []]},
            "elsewhere": plain | {"box": [[], [[0.0, 1.5, 3.141592653589793]]]},
            "named": plain | {"name": ["a", "c"]},
        }.items()
    }
    assert digest["plain"] == digest["same"] and len(set(digest.values())) == 4
    parts = pa.concat_tables([pa.table(plain, schema).slice(0, 1), pa.table(plain, schema).slice(1)])
    assert rounded_digest(parts) == digest["plain"]


def test_a_cpu_of_another_type_makes_the_same_digest(sim_world: Path, tmp_path: Path) -> None:
    """The linear algebra of an old type of CPU, which rounds differently than that of new ones."""
    here = Index.open(build_index(sim_world, "v1.0-sim", tmp_path / "here.arrow"))
    code = "import sys; from pathlib import Path; from pdetr3d.data.index.nuscenes import build_index; "
    code += "build_index(Path(sys.argv[1]), 'v1.0-sim', Path(sys.argv[2]))"
    words = [sys.executable, "-c", code, str(sim_world), str(tmp_path / "there.arrow")]
    subprocess.run(words, env=os.environ | {"OPENBLAS_CORETYPE": "Prescott"}, check=True)
    assert Index.open(tmp_path / "there.arrow").digest == here.digest
