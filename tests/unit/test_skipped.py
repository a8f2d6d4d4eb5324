"""Tests of ``data.on_error=skip``: samples with broken files are left out, once and for all, up to a limit."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pdetr3d.config import Config
from pdetr3d.data.index.index import Index
from pdetr3d.data.loading.check import files_of
from pdetr3d.data.loading.load import load_sample
from pdetr3d.data.loading.skipped import FILE
from pdetr3d.pipeline import scoring
from pdetr3d.pipeline.run import Run
from pdetr3d.pipeline.runner import LocalRunner
from pdetr3d.pseudo_labels import FLOORS
from pdetr3d.schema import Boxes3D, CameraRecord, DataError, SampleRecord
from pdetr3d.tracking.client import connect
from pdetr3d.tracking.runs import Tracker
from pdetr3d.training.run_dir import Data, RunDir, prepare, share_index
from ray_jobs.stages.report import build_report
from ray_jobs.stages.tracked import Tracked
from tests.training_cases import begin_run, world_config
from tests.unit.test_bad_input import poison, replace

SPLITS = ("sim_train", "sim_select", "sim_val")
SKIP = ("data.on_error=skip", "data.skip_limit=0.6", "data.num_sweeps=3")


@pytest.fixture
def broken(sim_world: Path, tmp_path: Path) -> Path:
    """A copy of the simulated world made of hard links: replace files, never write into them."""
    shutil.copytree(sim_world, tmp_path / "world", copy_function=os.link)
    return tmp_path / "world"


def open_run(dataroot: Path, folder: Path, *overrides: str) -> tuple[Config, Data]:
    config = world_config(dataroot, *SKIP, *overrides)
    return config, prepare(RunDir(folder, config))


def readers(index: Index, path: str) -> list[tuple[str, str]]:
    """The (split, token) of the samples that read the file, taken from the index's columns."""
    found = []
    for split in SPLITS:
        for token in index.tokens(split):
            names = [index.value(token, "lidar_path"), *index.value(token, "sweep_path")[:2]]
            names += [name for name in index.value(token, "camera_path") if name is not None]
            if path in [str(index.dataroot / name) for name in names]:
                found.append((split, token))
    return found


def camera_of(record: SampleRecord) -> CameraRecord:
    return next(camera for camera in record.cameras if camera is not None)


DAMAGE: dict[str, tuple[Callable[[SampleRecord], str], Callable[[Path], object], str]] = {
    "cut cloud": (lambda r: r.lidar_path, lambda f: replace(f, f.read_bytes()[:-7]), "truncated LiDAR file"),
    "no number": (lambda r: r.lidar_path, lambda f: poison(f, np.nan), "not finite"),
    "shared sweep": (lambda r: r.sweeps[0].path, lambda f: poison(f, np.inf), "not finite"),
    "cut image": (lambda r: camera_of(r).path, lambda f: replace(f, f.read_bytes()[:-300]), "broken JPEG"),
    "missing": (lambda r: camera_of(r).path, lambda f: f.unlink(), "cannot read image file"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_the_samples_that_read_a_broken_file_are_left_out_and_no_others(
    damage: str, broken: Path, tmp_path: Path
) -> None:
    choose, hurt, reason = DAMAGE[damage]
    index = open_run(broken, tmp_path / "whole")[1].index
    # The second keyframe of a scene: the sweeps before it are the first one's, too, where sweeps reach back so far.
    record = index.record(index.tokens("sim_train")[1])
    path = choose(record)
    hurt(Path(path))
    config, data = open_run(broken, tmp_path / "run")
    assert [(s.split, s.sample_token) for s in data.skipped] == readers(index, path)
    assert len(data.skipped) >= 1 and all(s.file == path and reason in s.reason for s in data.skipped)
    gone = {s.sample_token for s in data.skipped}
    for token in (t for split in SPLITS for t in index.tokens(split)):
        if token in gone:
            with pytest.raises(DataError):
                load_sample(index.record(token), config.data, cameras=True)
        else:
            load_sample(index.record(token), config.data, cameras=True)


def test_files_of_are_those_that_the_loader_reads(broken: Path, tmp_path: Path) -> None:
    index = open_run(broken, tmp_path / "run")[1].index
    record = max((index.record(token) for token in index.tokens("sim_train")), key=lambda r: len(r.sweeps))
    assert len(files_of(record, 1, cameras=False)) == 1 and len(record.sweeps) >= 2
    assert files_of(record, 3, cameras=False) == [record.lidar_path, record.sweeps[0].path, record.sweeps[1].path]
    assert files_of(record, 1, cameras=True)[1:] == [c.path for c in record.cameras if c is not None]


def test_what_was_decided_stays_so_when_files_are_mended_or_break(broken: Path, tmp_path: Path) -> None:
    index = open_run(broken, tmp_path / "whole")[1].index
    first, second = (Path(index.record(token).lidar_path) for token in index.tokens("sim_val")[1:4:2])
    content = first.read_bytes()
    replace(first, b"")
    before = open_run(broken, tmp_path / "run")[1].skipped
    assert [s.file for s in before] == [str(first)]
    assert [s["sample_token"] for s in json.loads((tmp_path / "run" / "data" / FILE).read_text())] == [
        s.sample_token for s in before
    ]
    replace(first, content)
    replace(second, b"")
    assert open_run(broken, tmp_path / "run")[1].skipped == before
    # A study's other runs take the decision over with the index.
    config = world_config(broken, *SKIP)
    share_index(RunDir(tmp_path / "run", config), tmp_path / "shared")
    assert prepare(RunDir(tmp_path / "other", config), tmp_path / "shared").skipped == before
    assert [s.file for s in open_run(broken, tmp_path / "fresh")[1].skipped] == [str(second)]


def test_more_than_the_limit_is_refused_and_decides_nothing(broken: Path, tmp_path: Path) -> None:
    index = open_run(broken, tmp_path / "whole")[1].index
    for token in index.tokens("sim_val")[:3]:  # 3 of 4
        replace(Path(index.record(token).lidar_path), b"")
    with pytest.raises(DataError, match=r"3 of 4 samples of split 'sim_val' .*data.skip_limit=0.6") as caught:
        open_run(broken, tmp_path / "run")
    assert all(token in str(caught.value) for token in index.tokens("sim_val")[:3])
    assert not (tmp_path / "run" / "data" / FILE).exists()
    assert len(open_run(broken, tmp_path / "run", "data.skip_limit=0.75")[1].skipped) == 3


def test_a_run_trains_without_them_and_scores_them_with_no_boxes(
    broken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = open_run(broken, tmp_path / "whole")[1].index
    train, val = index.tokens("sim_train"), index.tokens("sim_val")
    boxed = {r.sample_token for r in begin_run(broken, tmp_path / "all", *SKIP).records if r.role == "box"}
    lost = next(token for token in train if token not in boxed)
    for token in (lost, val[2]):
        replace(Path(index.record(token).lidar_path), b"")
    replace(Path(camera_of(index.record(val[0])).path), b"")  # an image: students do not look at it
    stages = begin_run(broken, tmp_path / "run", *SKIP, "data.select_split=sim_val")
    assert {(s.sample_token, s.image) for s in stages.data.skipped} == {(lost, False), (val[2], False), (val[0], True)}
    assert {r.sample_token for r in stages.records} == set(train) - {lost}
    assert {r.sample_token for r in stages.known_records} == set(train) - {lost}
    one = Boxes3D.build([[1, 2, 0]], [[4, 2, 1]], [0.0], [0])
    scored: list[dict[str, Boxes3D]] = []
    monkeypatch.setattr(stages.runner, "predict", lambda *a, **_: [{r.sample_token: one for r in a[4]}])
    monkeypatch.setattr("pdetr3d.evaluation.nuscenes_eval.score", lambda *a, **_: scored.append(a[3]) or {"SPNDS": 0.5})
    student: Any = SimpleNamespace(name="student_x", kind="student")
    assert scoring.checkpoint_score(stages)(student, tmp_path / "student_x" / "step_1.pt") == 0.5
    assert {token: len(boxes) for token, boxes in scored[0].items()} == {t: int(t != val[2]) for t in val}
    for token in boxed:
        replace(Path(index.record(token).lidar_path), b"")
    with pytest.raises(DataError, match=r"all box-labeled samples read broken files .*skipped.json"):
        begin_run(broken, tmp_path / "none", *SKIP, "data.skip_limit=1.0")


def test_report_and_mlflow_have_their_count_and_list(broken: Path, tmp_path: Path, tracking_dir: Path) -> None:
    """Both hold them once, however the job ends, and also if a rerun or a study's other runs skip the same samples."""
    index = open_run(broken, tmp_path / "whole")[1].index
    token = index.tokens("sim_val")[1]
    broken_file = Path(camera_of(index.record(token)).path)
    replace(broken_file, b"")
    run = RunDir(tmp_path / "run", world_config(broken, *SKIP))
    for _ in range(2):
        with pytest.raises(RuntimeError, match="ends early"):
            with Tracker.start(run.path, "test", "job", {}, {}, tracking_dir=tracking_dir) as parent:
                stages = Run(run, LocalRunner(), Tracked(parent))
                for each in (stages, Run(RunDir(tmp_path / "other", run.config), LocalRunner(), Tracked(parent))):
                    Tracked(parent).left_out(each)
                raise RuntimeError("ends early")
    quality = {"teacher": {}, "accepted": 0, **dict.fromkeys(FLOORS)}
    listed = build_report(stages, {}, quality, 0, 0.0)["data"]["skipped_samples"]
    assert [(entry["sample_token"], entry["file"]) for entry in listed] == [(token, str(broken_file))]
    client = connect(parent.uri)
    assert [point.value for point in client.get_metric_history(parent.run_id, "skipped_samples")] == [1.0]
    artifacts = Path(client.get_run(parent.run_id).info.artifact_uri.removeprefix("file://"))
    assert json.loads((artifacts / "data" / FILE).read_text()) == listed
