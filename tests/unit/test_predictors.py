"""Tests of student and teacher as functions: their boxes equal evaluation's and labeling's; other files are refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pdetr3d.batch import Batch
from pdetr3d.cli import main
from pdetr3d.config import Config
from pdetr3d.data.loading.records import eval_records
from pdetr3d.inference.student import StudentPredictor
from pdetr3d.inference.teacher import TeacherPredictor
from pdetr3d.schema import Boxes3D, DataError
from pdetr3d.training import checkpoint
from pdetr3d.training.build import Task, build
from pdetr3d.training.plan import BatchLoader
from tests.alike import places_of
from tests.model_cases import shaken
from tests.training_cases import World, open_world

# So low a threshold that untrained heatmaps give boxes; sweeps of both kinds, and everything else as in a real run.
STUDENT = ["student.score_threshold=0.09", "label.ratio=1.0"]


@pytest.fixture(scope="module")
def world(sim_world: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A run directory with a student and a teacher whose weights depend on everything."""
    world = open_world(sim_world, tmp_path_factory.mktemp("predictors") / "run", *STUDENT)
    for folder, kind in (("student_ours", "student"), ("teacher", "teacher")):
        model = shaken(build(kind, world.run.config, world.prior_size_m, guidance=False).model)
        file = checkpoint.save(world.run.path / folder, model, None, 7, world.run.config.to_json())
        file.rename(file.with_name("step_7.pt"))
        world.run.finish(folder, {"checkpoints": ["step_7.pt"]})
    return world


def evaluated(kind: str, world: World, records: list) -> list[Boxes3D]:
    """The boxes of evaluation and labeling (``ray_jobs.plug.inference``) for the records in one batch."""
    config: Config = world.run.config
    cameras = kind == "teacher" and config.teacher.cameras
    folder = "teacher" if kind == "teacher" else "student_ours"
    task: Task = build(kind, config, world.prior_size_m, guidance=False)
    task.model.load_state_dict(checkpoint.load(world.run.path / folder / "step_7.pt")["model"])
    task.model.eval()
    batch = Batch.from_arrays(BatchLoader(config, "predict", cameras=cameras)(records, [0] * len(records)))
    with torch.no_grad():
        return task.predict(task.model(batch), batch)


def assert_same(got: Boxes3D, expected: Boxes3D) -> None:
    """Assert equal boxes in the same order, to 1e-4 [m, rad, m/s]."""
    np.testing.assert_array_equal(got.label, expected.label)
    for name in ("rows", "velocity_m_s", "score"):
        np.testing.assert_allclose(getattr(got, name), getattr(expected, name), rtol=0, atol=1e-4, err_msg=name)


def assert_found(got: Boxes3D, expected: Boxes3D) -> None:
    """Assert that the same boxes were found, sorted by falling score."""
    assert (np.diff(got.score) <= 0).all()
    columns = [np.column_stack([boxes.label, boxes.rows, boxes.score]) for boxes in (expected, got)]
    assert_same(got[places_of(*columns)], expected)


def test_a_student_predicts_what_evaluation_found(world: World, tmp_path: Path) -> None:
    """The student comes from a run, a checkpoint or an export; its input is a sample's files or only its points."""
    records = list(eval_records(world.data.index, "sim_val"))
    expected = evaluated("student", world, records)
    assert min(map(len, expected)) > 5
    assert main(["export", str(world.run.path), "--out", str(tmp_path / "exported")]) == 0
    places = [world.run.path, world.run.path / "student_ours" / "step_7.pt", tmp_path / "exported"]
    loader = BatchLoader(world.run.config, "predict", cameras=False)
    for place in places:
        student = StudentPredictor.load(place)
        assert student.config == world.run.config
        for record, boxes in zip(records, expected, strict=True):
            assert_found(student.boxes(record), boxes)
            assert_found(student.predict(loader([record], [0])["points"]), boxes)


def test_several_samples_at_once_are_predicted_one_by_one_by_an_export(world: World, tmp_path: Path) -> None:
    records = list(eval_records(world.data.index, "sim_val"))
    assert main(["export", str(world.run.path), "--out", str(tmp_path / "exported")]) == 0
    arrays = BatchLoader(world.run.config, "predict", cameras=False)(records, [0] * len(records))
    found = StudentPredictor.load(tmp_path / "exported").detect(Batch.from_arrays(arrays))
    for got, expected in zip(found, evaluated("student", world, records), strict=True):
        assert_found(got, expected)


def test_no_point_is_no_error(world: World) -> None:
    found = StudentPredictor.load(world.run.path).predict(np.zeros((0, 5), np.float32))
    assert isinstance(found, Boxes3D)


def test_a_teacher_answers_each_click_in_order(world: World) -> None:
    teacher = TeacherPredictor.load(world.run.path)
    for record, expected in zip(world.records, evaluated("teacher", world, list(world.records)), strict=True):
        clicks = record.clicks
        assert_same(teacher.boxes(record, clicks.xyz_m, clicks.label), expected)
        back = teacher.boxes(record, clicks.xyz_m[::-1], clicks.label[::-1])
        assert_same(back[::-1] if len(back) else back, expected)
    assert len(teacher.boxes(record, np.zeros((0, 3)), np.zeros(0, np.int64))) == 0


def test_what_is_no_model_is_refused(world: World, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "mlflow").mkdir()
    (tmp_path / "mlflow" / "MLmodel").write_text("flavors: {}")
    (tmp_path / "broken.pt").write_bytes(b"no checkpoint")
    student, teacher = world.run.path / "student_ours" / "step_7.pt", world.run.path / "teacher" / "step_7.pt"
    for place, message in {
        tmp_path / "nowhere": "no such file or folder; allowed are a run directory",
        tmp_path / "empty": "no student is trained there",
        tmp_path / "mlflow": "is an MLflow model",
        tmp_path / "broken.pt": "cannot be read as weights only",
        teacher: "does not hold a student, .* or a student's file, RUN_DIR/student_ours/",
    }.items():
        with pytest.raises(DataError, match=message):
            StudentPredictor.load(place)
    for place, message in {
        tmp_path / "nowhere": "no such file or folder; allowed are a run directory",
        tmp_path / "empty": "no teacher is trained there",
        student: "does not hold a teacher, .* or a teacher's file, RUN_DIR/teacher/",
    }.items():
        with pytest.raises(DataError, match=message):
            TeacherPredictor.load(place)
    with pytest.raises(DataError, match="trained students there: ours"):
        StudentPredictor.load(world.run.path, arm="full")


def test_points_of_another_shape_are_refused(world: World) -> None:
    student = StudentPredictor.load(world.run.path)
    for points in (np.zeros((3, 4), np.float32), np.full((2, 5), np.nan, np.float32)):
        with pytest.raises(DataError, match=r"must be \(P, 5\), finite"):
            student.predict(points)


def test_an_export_of_another_format_is_refused(world: World, tmp_path: Path) -> None:
    assert main(["export", str(world.run.path), "--out", str(tmp_path / "exported")]) == 0
    file = tmp_path / "exported" / "export.json"
    info = json.loads(file.read_text())
    for text, message in {
        json.dumps({**info, "format": 99}): "export.json: format 99; this version reads format 1: export",
        json.dumps({key: info[key] for key in info if key != "format"}): "export.json: format none",
        "[]": "export.json: cannot be read",
        "{": "export.json: cannot be read",
    }.items():
        file.write_text(text)
        with pytest.raises(DataError, match=message):
            StudentPredictor.load(tmp_path / "exported")
