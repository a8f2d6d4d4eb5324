"""Bad input ends with exit code 2 and a message that names file or key, value and fix, before Ray starts."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from pdetr3d import presets
from pdetr3d.data.index.index import Index
from pdetr3d.data.loading import check
from pdetr3d.data.storage.files import read_parquet
from pdetr3d.exits import BAD_INPUT
from pdetr3d.schema import DataError
from pdetr3d.tracking.runs import Tracker
from pdetr3d.training.run_dir import RunDir, prepare
from ray_jobs.searches.space_files import load_space
from tests.jobs import launch

VERSION = "v1.0-sim"


@pytest.fixture
def world(sim_world: Path, tmp_path: Path) -> Path:
    """A copy of the simulated world made of hard links: replace files, never write into them."""
    shutil.copytree(sim_world, tmp_path / "world", copy_function=os.link)
    return tmp_path / "world"


def replace(file: Path, content: bytes) -> Path:
    file.unlink()
    file.write_bytes(content)
    return file


def first(world: Path, folder: str) -> Path:
    return sorted((world / folder).iterdir())[0]


def edit_table(world: Path, name: str, change: Callable[[list[dict]], object]) -> Path:
    file = world / VERSION / f"{name}.json"
    rows = json.loads(file.read_text())
    change(rows)
    return replace(file, json.dumps(rows).encode())


def cut_lidar(world: Path) -> list[str]:
    file = first(world, "samples/LIDAR_TOP")
    return [replace(file, file.read_bytes()[:-7]).name, "truncated LiDAR file", "not a multiple of 20", "copy it again"]


def cut_sweep(world: Path) -> list[str]:
    file = first(world, "sweeps/LIDAR_TOP")
    return [replace(file, file.read_bytes()[:-1]).name, "truncated LiDAR file", "copy it again"]


def empty_lidar(world: Path) -> list[str]:
    return [replace(first(world, "samples/LIDAR_TOP"), b"").name, "truncated LiDAR file (empty)", "copy it again"]


def unwritten_lidar(world: Path) -> list[str]:
    file = first(world, "samples/LIDAR_TOP")
    count = file.stat().st_size // 20
    whole = file.read_bytes()[: (count - count // 2 - 1) * 20]  # a point less than half, then zeros
    named = f"{count // 2 + 1} of {count} points lie at (0, 0, 0)"
    return [replace(file, whole + bytes(20 * (count // 2 + 1))).name, named, "copy or export it again"]


def missing_lidar(world: Path) -> list[str]:
    file = first(world, "samples/LIDAR_TOP")
    file.unlink()
    return [file.name, "no such LiDAR file", "unpack the file blobs"]


def poison(file: Path, value: float) -> Path:
    """Two thirds of the points, from point 3 on, get a coordinate that is not a number."""
    points = np.fromfile(file, np.float32).reshape(-1, 5)
    points[3 : 3 + 2 * len(points) // 3, 1] = value
    return replace(file, points.tobytes())


def nan_in_points(world: Path) -> list[str]:
    file = poison(first(world, "samples/LIDAR_TOP"), np.nan)
    return [file.name, "not finite", "first point 3", "data.nan_limit=0.5", "export the file again"]


def infinite_sweep_point(world: Path) -> list[str]:
    return [poison(first(world, "sweeps/LIDAR_TOP"), np.inf).name, "not finite", "inf"]


def missing_image(world: Path) -> list[str]:
    file = first(world, "samples/CAM_BACK")
    file.unlink()
    return [file.name, "no such image", "CAM_BACK"]


def cut_image(world: Path) -> list[str]:
    file = first(world, "samples/CAM_FRONT")
    return [replace(file, file.read_bytes()[:-200]).name, "broken JPEG", "truncated", "copy the file again"]


def no_image_at_all(world: Path) -> list[str]:
    return [
        replace(first(world, "samples/CAM_FRONT"), b"text").name,
        "no JPEG or PNG, but a text, 'text'",
        "as PNG or JPEG",
    ]


def wrong_image_size(world: Path) -> list[str]:
    edit_table(world, "sample_data", lambda rows: [row.update(width=320) for row in rows if row["width"]])
    return [".jpg", "image is (160, 90)", "(320, 90)"]


def nan_in_pose(world: Path) -> list[str]:
    edit_table(world, "ego_pose", lambda rows: rows[0].update(translation=[float("nan"), 0.0, 0.0]))
    return ["ego_pose.json", "token", "not finite", "nan"]


def no_tables(world: Path) -> list[str]:
    shutil.rmtree(world / VERSION)
    return [str(world), "no tables here", "13 JSON tables"]


def one_table_missing(world: Path) -> list[str]:
    (world / VERSION / "ego_pose.json").unlink()
    return ["tables missing: ego_pose.json"]


def no_dataroot(world: Path) -> list[str]:
    shutil.rmtree(world)
    return [f"data.dataroot {world}", "no such folder", "samples/, sweeps/ and a folder"]


def named(world: Path, channel: str, filename: str) -> list[str]:
    """The tables name another file for the channel's first sample."""

    def change(rows: list[dict]) -> None:
        next(row for row in rows if f"samples/{channel}/" in row["filename"])["filename"] = filename

    edit_table(world, "sample_data", change)
    return ["sample_data.json", repr(filename), "path escapes dataroot", "relative to it, without '..'"]


def step_up(world: Path) -> list[str]:
    (world.parent / "secret.pcd.bin").write_bytes(first(world, "samples/LIDAR_TOP").read_bytes())  # readable, whole
    return named(world, "LIDAR_TOP", "samples/../../secret.pcd.bin")


def absolute_path(world: Path) -> list[str]:
    return named(world, "CAM_FRONT", str(first(world, "samples/CAM_FRONT")))


def linked(world: Path, folder: str) -> list[str]:
    """A file of the dataset becomes a link to its own content outside."""
    file, secret = first(world, folder), world.parent / "secret"
    file.rename(secret)
    file.symlink_to(secret)
    return [file.name, f"a link that escapes dataroot, to {secret}", "put the file itself there"]


def linked_sweep(world: Path) -> list[str]:
    return linked(world, "sweeps/LIDAR_TOP")


def linked_image(world: Path) -> list[str]:
    return linked(world, "samples/CAM_BACK")


BROKEN = [step_up, absolute_path, linked_sweep, linked_image]
BROKEN += [cut_lidar, cut_sweep, empty_lidar, unwritten_lidar, missing_lidar, nan_in_points, infinite_sweep_point]
BROKEN += [missing_image, cut_image, no_image_at_all, wrong_image_size, nan_in_pose]
BROKEN += [no_tables, one_table_missing, no_dataroot]


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a job with the given overrides. It must end with code 2 before Ray or its body starts. Returns stderr."""

    def never(*_: object, **__: object) -> None:
        raise AssertionError("bad input went through")

    monkeypatch.setattr("ray.init", never)
    untracked = Tracker("", "", None)  # saves making a database
    monkeypatch.setattr("ray_jobs.start.launch.Tracker.start", lambda *_, **__: nullcontext(untracked))

    def run(*overrides: str) -> str:
        arguments = ["--preset", "quickstart", "--run-dir", str(tmp_path / "run"), "data.num_sweeps=3", *overrides]
        assert launch(never, arguments) == BAD_INPUT
        return capsys.readouterr().err

    return run


@pytest.mark.parametrize("damage", BROKEN, ids=lambda damage: damage.__name__)
def test_broken_data(world: Path, job: Callable[..., str], damage: Callable[[Path], list[str]]) -> None:
    words = damage(world)
    message = job(f"data.dataroot={world}")
    assert "Traceback" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.version=v1.0-smi", ["data.version 'v1.0-smi'", "available: v1.0-sim"]),
        ("data.train_split=sim_trian", ["split 'sim_trian' has no samples", "did you mean 'sim_train'?"]),
        ("data.val_split=mini_val", ["split 'mini_val' has no samples", "'sim_val': 4"]),
        ("data.select_split=sim_slect", ["split 'sim_slect' has no samples", "did you mean 'sim_select'?"]),
        ("label.ratio=0", ["label.ratio = 0", "greater than 0"]),
        ("label.ratio=1.01", ["label.ratio = 1.01", "less than or equal to 1"]),
        ("label.ratoi=0.1", ["unknown config key 'label.ratoi'", "did you mean 'label.ratio'?"]),
        ("optim.batch_size=many", ["optim.batch_size = 'many'", "valid integer"]),
        ("model.pillar_m=0.7", ["model.pillar_m 0.7", "multiple", "change model.pillar_m or model.range_m"]),
        ("student.tasks=[[0,10]]", ["student.tasks", "each class index 0..9 exactly once"]),
    ],
)
def test_bad_values(world: Path, job: Callable[..., str], override: str, words: list[str]) -> None:
    message = job(f"data.dataroot={world}", override)
    assert "Traceback" not in message
    for word in words:
        assert word in message


class Payload:
    """A pickled object that makes a folder when loaded."""

    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.flag),)


@pytest.mark.parametrize("write", [lambda content, file: file.write_bytes(pickle.dumps(content)), torch.save])
def test_a_crafted_file_in_the_place_of_weights(
    write: Callable[..., object], world: Path, job: Callable[..., str], tmp_path: Path
) -> None:
    file, flag = tmp_path / "resnet.pth", tmp_path / "it_ran"
    write({"conv1.weight": Payload(flag)}, file)
    resnet = ["teacher.image_backbone=resnet18", "teacher.image_channels=[128,256,512]"]
    message = job(f"data.dataroot={world}", *resnet, f"teacher.image_weights={file}")
    assert "Traceback" not in message and f"{file} cannot be read as weights only" in message
    assert not flag.exists()
    with suppress(RuntimeError):  # a bare pickle is no checkpoint; by then it has run
        torch.load(file, weights_only=False)
    assert flag.exists()


def test_yaml_makes_no_objects(job: Callable[..., str], tmp_path: Path) -> None:
    """Neither an override, whose value is YAML, nor a search space file can create Python objects."""
    flag = tmp_path / "it_ran"
    crafted = f"!!python/object/apply:os.mkdir ['{flag}']"
    assert presets.load("quickstart", [f"run.name={crafted}"]).run.name == crafted  # texts are not parsed
    message = job(f"run.seed={crafted}")
    assert "Traceback" not in message and "cannot be read" in message and "python/object/apply" in message
    (tmp_path / "space.yaml").write_text(f"question: {crafted}\n")
    with pytest.raises(DataError, match=r"space\.yaml is not YAML.*\n?.*python/object/apply"):
        load_space(str(tmp_path / "space.yaml"))
    assert not flag.exists()
    yaml.unsafe_load(crafted)  # the payload is real
    assert flag.exists()


def test_parquet_makes_no_objects(tmp_path: Path) -> None:
    """Ray Data registers its tensor column types when it is imported; older versions unpickled their metadata."""
    import ray.data  # noqa: F401

    flag, file = tmp_path / "it_ran", tmp_path / "index.arrow"
    crafted = {
        "ARROW:extension:name": "ray.data.arrow_tensor_v2",
        "ARROW:extension:metadata": pickle.dumps(Payload(flag)),
    }
    field = pa.field("points", pa.large_list(pa.float32()), metadata=crafted)
    pq.write_table(pa.table([[[1.0]]], schema=pa.schema([field])), file)
    with pytest.raises(Exception, match="Unable to deserialize"):
        read_parquet(file)
    assert not flag.exists()


def config(world: Path, *overrides: str) -> presets.Config:
    return presets.load("quickstart", [f"data.dataroot={world}", "data.num_sweeps=3", *overrides])


def test_all_broken_files_are_listed_at_once_up_to_twenty(world: Path, job: Callable[..., str]) -> None:
    names = [replace(file, b"text").name for file in sorted((world / "samples/CAM_FRONT").iterdir())]
    names += [poison(file, np.nan).name for file in sorted((world / "samples/LIDAR_TOP").iterdir())]
    message = job(f"data.dataroot={world}")
    assert len(names) == 24 and sum(name in message for name in names) == 20
    assert "24 of " in message and "... and 4 more" in message


def test_a_corrected_call_may_use_the_same_run_directory(world: Path, job: Callable[..., str], tmp_path: Path) -> None:
    """A refused call creates nothing and does not claim the run directory."""
    job(f"data.dataroot={world}", "data.version=v1.0-smi")
    assert len(prepare(RunDir(tmp_path / "run", config(world))).index) == 12


def test_another_config_may_not(world: Path, tmp_path: Path) -> None:
    prepare(RunDir(tmp_path / "run", config(world)))
    with pytest.raises(DataError, match=r"optim.lr: .* there, 0.5 now"):
        RunDir(tmp_path / "run", config(world, "optim.lr=0.5"))


def test_a_check_that_passed_is_not_repeated_but_another_one_is_made(world: Path, tmp_path: Path) -> None:
    index = prepare(RunDir(tmp_path / "run", config(world))).index
    gone = first(world, "samples/CAM_BACK")
    gone.unlink()
    with pytest.raises(
        DataError, match=rf"1 files under .* have changed since .*run was begun:\n  .*{gone.name}: .* gone"
    ):
        prepare(RunDir(tmp_path / "run", config(world)))
    splits = ["sim_train", "sim_select", "sim_val"]
    check.check_files(index, splits[::-1], 3, cameras=True)
    check.check_files(index, splits, 3, cameras=False)
    with pytest.raises(DataError, match="(?s)1 of .*CAM_BACK"):
        check.check_files(index, splits, 3, cameras=True)


def test_only_files_of_the_run_are_looked_at(world: Path, tmp_path: Path) -> None:
    index = prepare(RunDir(tmp_path / "run", config(world))).index
    (tmp_path / "run" / "data" / check.MEMORY).unlink()
    sample = index.tokens("sim_val")[0]
    record = index.record(sample)
    poison(Path(record.lidar_path), np.nan)
    check.check_files(index, ["sim_train"], 3, cameras=True)
    with pytest.raises(DataError, match="1 of "):
        check.check_files(index, ["sim_val"], 3, cameras=True)


def test_sweeps_past_num_sweeps_are_not_looked_at(world: Path, tmp_path: Path) -> None:
    index = prepare(RunDir(tmp_path / "run", config(world))).index
    record = next(r for r in map(index.record, index.tokens("sim_train")) if len(r.sweeps) > 1)
    poison(Path(record.sweeps[1].path), np.nan)
    check.check_files(index, ["sim_train"], 1, cameras=False)
    with pytest.raises(DataError, match="not finite"):
        check.check_files(index, ["sim_train"], 10, cameras=False)


def test_of_many_files_only_the_ends_are_looked_at(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For many files only the ends are checked: this still finds a cut image, a cut sweep and a missing sweep."""
    index: Index = prepare(RunDir(tmp_path / "run", config(world))).index
    monkeypatch.setattr(check, "SWEEPS_READ", 0)
    monkeypatch.setattr(check, "IMAGES_DECODED", 0)
    check.check_files(index, ["sim_train"], 3, cameras=True)
    (tmp_path / "run" / "data" / check.MEMORY).unlink()
    record = next(r for r in map(index.record, index.tokens("sim_train")) if len(r.sweeps) > 1)
    image, sweep, gone = Path(record.cameras[0].path), Path(record.sweeps[0].path), Path(record.sweeps[1].path)
    replace(image, image.read_bytes()[:-100])
    replace(sweep, sweep.read_bytes()[: -100 + 3])
    gone.unlink()
    with pytest.raises(DataError) as caught:
        check.check_files(index, ["sim_train"], 3, cameras=True)
    message = str(caught.value)
    assert "3 of " in message and f"{image}: truncated JPEG (no end marker)" in message
    assert f"{sweep}: truncated LiDAR file" in message and f"{gone}: cannot read LiDAR file" in message
