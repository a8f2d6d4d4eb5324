"""The MLflow model gives the student's boxes, contains no pickled code, and runs in a bare process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import pandas as pd
import pytest
import torch

from pdetr3d.cli import main
from pdetr3d.data.index.index import Index
from pdetr3d.data.index.nuscenes import build_index
from pdetr3d.finished.deploy.box_rows import COLUMNS
from pdetr3d.finished.deploy.mlflow_export import REQUIREMENTS
from pdetr3d.schema import CLASSES, Boxes3D, DataError, SampleRecord
from tests.deploy_cases import BATCH_NORM, VOXEL, own_boxes, points_of, trained_run
from tests.model_cases import make_batch, tiny_config


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with an exported MLflow model in ``model``."""
    folder = tmp_path_factory.mktemp("mlflow")
    trained_run(folder, *BATCH_NORM, "data.num_sweeps=2")
    assert main(["export", str(folder), "--format", "mlflow", "--out", str(folder / "model")]) == 0
    return folder


@pytest.fixture(scope="module")
def model(saved: Path) -> Any:
    return mlflow.pyfunc.load_model(str(saved / "model"))


@pytest.fixture(scope="module")
def record(sim_world: Path, tmp_path_factory: pytest.TempPathFactory) -> SampleRecord:
    """A simulated keyframe with earlier sweeps."""
    index = Index.open(build_index(sim_world, "v1.0-sim", tmp_path_factory.mktemp("index") / "index.arrow"))
    records = [index.record(str(token.as_py()), role="unlabeled") for token in index.table.column("sample_token")]
    return max(records, key=lambda r: len(r.sweeps))


def as_request(record: SampleRecord) -> list[dict[str, Any]]:
    """The record's LiDAR files in the form of a JSON request."""
    earlier = [{"path": s.path, "sweep2lidar": s.sweep2lidar.tolist(), "dt_s": s.dt_s} for s in record.sweeps]
    return [{"path": record.lidar_path}, *earlier]


def check(frame: pd.DataFrame, expected: Boxes3D) -> None:
    assert list(frame.columns) == COLUMNS and len(frame) == len(expected) > 5
    np.testing.assert_array_equal(frame[COLUMNS[1:8]].to_numpy(np.float32), expected.rows)
    np.testing.assert_array_equal(frame[["vx", "vy"]].to_numpy(np.float32), expected.velocity_m_s)
    np.testing.assert_array_equal(frame["score"].to_numpy(np.float32), expected.score)
    assert frame["class"].tolist() == [CLASSES[label] for label in expected.label]


def test_points_give_the_students_own_boxes(saved: Path, model: Any) -> None:
    points = make_batch(1).points
    expected = own_boxes(saved / "student_ours" / "step_1.pt", points)
    check(model.predict({"points": points.numpy()}), expected)
    check(model.predict([{"points": points.tolist()}]), expected)


def test_sweep_files_give_what_evaluation_sees(saved: Path, model: Any, record: SampleRecord) -> None:
    """``data.num_sweeps`` is 2, so a third sweep is not read, as in training and evaluation."""
    assert len(record.sweeps) >= 2
    points = points_of(record, tiny_config("data.num_sweeps=2"))
    expected = own_boxes(saved / "student_ours" / "step_1.pt", points)
    check(model.predict(pd.DataFrame([{"sweeps": as_request(record)}])), expected)
    alone = model.predict({"sweeps": as_request(record)[:1]})
    assert not np.array_equal(alone["x"].to_numpy(), expected.center_m[:, 0])


def test_samples_of_a_frame_keep_their_names_and_order(saved: Path, model: Any, record: SampleRecord) -> None:
    file, points = saved / "student_ours" / "step_1.pt", make_batch(1).points
    frame = pd.DataFrame(
        [{"sample": "b", "points": points.numpy()}, {"sample": "a", "sweeps": as_request(record)}, {"points": []}]
    )
    answer = model.predict(frame)
    assert answer["sample"].drop_duplicates().tolist() == ["b", "a", "2"]
    check(answer[answer["sample"] == "b"], own_boxes(file, points))
    check(answer[answer["sample"] == "2"], own_boxes(file, points[:0]))


def test_no_samples_and_no_boxes_are_an_empty_table(tmp_path: Path, model: Any) -> None:
    assert model.predict([]).shape == (0, len(COLUMNS))
    trained_run(tmp_path, *BATCH_NORM, "student.score_threshold=0.99")
    assert main(["export", str(tmp_path), "--format", "mlflow", "--out", str(tmp_path / "model")]) == 0
    answer = mlflow.pyfunc.load_model(str(tmp_path / "model")).predict({"points": make_batch(1).points.numpy()})
    assert answer.shape == (0, len(COLUMNS)) and answer["x"].dtype == float


def test_a_voxel_student_is_supported_here(tmp_path: Path) -> None:
    trained_run(tmp_path, *VOXEL, *BATCH_NORM)
    assert main(["export", str(tmp_path), "--format", "mlflow", "--out", str(tmp_path / "model")]) == 0
    points = make_batch(1).points
    answer = mlflow.pyfunc.load_model(str(tmp_path / "model")).predict({"points": points.numpy()})
    check(answer, own_boxes(tmp_path / "student_ours" / "step_1.pt", points))


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ({}, "give either points or sweeps"),
        ({"points": [[1.0] * 5], "sweeps": [{"path": "a"}]}, "give either points or sweeps"),
        ({"points": [[1.0, 2, 3]]}, "points have shape (1, 3)"),
        ({"points": [[1.0, 2, 3, 4, float("nan")]]}, "finite"),
        ({"points": [[1, 2, 3, 4, "x"]]}, "no table of numbers"),
        ({"sweeps": []}, "its first entry must be the keyframe"),
        ({"sweeps": ["a.pcd.bin"]}, "a sweep is 'a.pcd.bin'; it must have path"),
        ({"sweeps": [{"path": "a", "dt": 1}]}, "may have sweep2lidar and dt_s"),
        ({"sweeps": [{"path": "a", "dt_s": 0.5}]}, "the first sweep is the keyframe"),
        ({"sweeps": [{"path": "a"}, {"path": "b", "dt_s": -1}]}, "dt_s at least 0"),
        ({"sweeps": [{"path": "a"}, {"path": "b", "sweep2lidar": [[1, 0], [0, 1]]}]}, "must be 4 x 4"),
        ({"sweeps": [{"path": "nowhere.pcd.bin"}]}, "nowhere.pcd.bin: cannot read LiDAR file"),
    ],
)
def test_a_wrong_sample_is_named(model: Any, sample: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as caught:
        model.predict([{"sample": "s7", **sample}])
    assert message in str(caught.value)


def test_nothing_in_it_is_pickled_code(saved: Path) -> None:
    files = {p.relative_to(saved / "model").as_posix() for p in (saved / "model").rglob("*") if p.is_file()}
    assert {"mlflow_model.py", "artifacts/checkpoint.pt", "MLmodel"} <= files
    assert [f for f in files if f.endswith((".pkl", ".pickle", ".joblib"))] == []
    weights = saved / "model" / "artifacts" / "checkpoint.pt"
    assert zipfile.is_zipfile(weights) and set(torch.load(weights, weights_only=True)) == {"model", "step", "config"}


ELSEWHERE = """
import json, sys
import mlflow.pyfunc
answer = mlflow.pyfunc.load_model(sys.argv[1]).predict({"points": json.loads(sys.argv[2])})
import pdetr3d
unwanted = [m for m in ("ray", "nuscenes", "typer", "mmcv") if m in sys.modules]
print(json.dumps([pdetr3d.__file__, answer["x"].tolist(), unwanted]))
"""


def test_it_loads_without_this_installation(saved: Path) -> None:
    """The model loads in another folder without PYTHONPATH and without pickles: it runs its own copy of the package."""
    points = make_batch(1).points[:50]
    arguments = [sys.executable, "-W", "ignore", "-c", ELSEWHERE, str(saved / "model"), json.dumps(points.tolist())]
    bare = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=280, cwd=saved, env=bare)
    assert done.returncode == 0, done.stderr
    origin, x, unwanted = json.loads(done.stdout.splitlines()[-1])
    assert Path(origin).is_relative_to(saved / "model") and unwanted == []
    expected = own_boxes(saved / "student_ours" / "step_1.pt", points)
    np.testing.assert_array_equal(np.float32(x), expected.center_m[:, 0])


def test_the_requirements_are_pinned_releases(saved: Path) -> None:
    lines = (saved / "model" / "requirements.txt").read_text().split()
    assert [line.split("==")[0] for line in lines] == REQUIREMENTS
    assert all("+" not in line and "==" in line for line in lines)
