"""Tests of refused jobs: they leave the run directory unchanged and begin no MLflow run."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from pdetr3d.config import LabelConfig
from pdetr3d.data.index.index import Index
from pdetr3d.data.index.nuscenes import build_index
from pdetr3d.data.label_manifest import build_manifest
from pdetr3d.pipeline.run import Run
from pdetr3d.schema import DataError
from pdetr3d.tracking.runs import Tracker
from pdetr3d.training import lease
from ray_jobs import search
from ray_jobs.start import launch as launch_module
from ray_jobs.start.refused import refusable
from tests.jobs import launch, parse_search
from tests.people_cases import without_annotations
from tests.training_cases import world_arguments


@pytest.fixture(scope="module")
def words(sim_world: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides with a world, and a manifest of that world from before some of its annotations were deleted."""
    folder = tmp_path_factory.mktemp("refused")
    index = Index.open(build_index(sim_world, "v1.0-sim", folder / "index.arrow"))
    build_manifest(index, "sim_train", LabelConfig(), folder / "labels")
    other = without_annotations(sim_world, folder / "world", index.tokens("sim_train")[:1])
    return world_arguments(other, "label.source=manifest", f"label.manifest={folder / 'labels'}")


@pytest.fixture(autouse=True)
def no_ray_and_no_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch_module, "init_ray", lambda use_gpu: None)
    for module in (launch_module, search):
        monkeypatch.setattr(module.Tracker, "start", lambda *_, **__: pytest.fail("an MLflow run was begun"))


def never(run: Run) -> None:
    raise AssertionError("the job was begun")


def test_a_refused_manifest_leaves_no_directory(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--preset", "quickstart", "--run-dir", str(tmp_path / "runs" / "mine"), *words]
    for more in ([], ["--fresh"]):
        assert launch(never, [*arguments, *more]) == 2
        assert "was made with index" in capsys.readouterr().err
        assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("step", ["pdetr3d.data.index.nuscenes.build_index", "pdetr3d.training.run_dir.summarize"])
def test_a_disk_that_is_full_before_any_work_leaves_no_directory(
    step: str, sim_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The disk is full while the index is written, or later, when the label manifest exists."""

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "some.arrow"))

    monkeypatch.setattr(step, full)
    arguments = ["--preset", "quickstart", "--run-dir", str(tmp_path / "runs" / "mine"), *world_arguments(sim_world)]
    assert launch(never, arguments) == 2
    assert "some.arrow: cannot open this file (No space left on device); the disk is full" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_file_in_the_place_of_the_data_folder_is_named(
    sim_world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message names the first error, not an error of the clean-up after it."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "data").write_text("")
    arguments = ["--preset", "quickstart", "--run-dir", str(tmp_path / "mine"), *world_arguments(sim_world)]
    assert launch(never, arguments) == 2
    assert f"{tmp_path / 'mine' / 'data'}: cannot make this folder (File exists)" in capsys.readouterr().err


def test_what_was_there_stays(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("of the user")
    arguments = ["--preset", "quickstart", "--run-dir", str(tmp_path / "mine"), *words]
    assert launch(never, arguments) == 2 and "was made with index" in capsys.readouterr().err
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    assert launch(never, [*arguments, "--fresh"]) == 2
    assert [file.name for file in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("space", ["fusion", "guidance", "optimizer"])
def test_searches_leave_nothing_either(space: str, words: list[str], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="was made with index"):
        search.run(parse_search([space, "--preset", "quickstart", "--run-dir", str(tmp_path / "runs"), *words]))
    assert not (tmp_path / "runs").exists()


def test_what_a_stage_needs_and_has_not_is_refused_like_input(
    sim_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Scoring untrained students is refused; the error of a job that has trained something removes nothing."""
    monkeypatch.setattr(launch_module.Tracker, "start", lambda *_, **__: Tracker("", "", None))
    arguments = ["--preset", "quickstart", "--run-dir", str(tmp_path / "mistyped"), *world_arguments(sim_world)]
    assert launch(lambda stages: stages.checkpoints("student_ours"), arguments) == 2
    error = capsys.readouterr().err
    assert "mistyped/student_ours is not trained: run python -m ray_jobs.train_student with" in error
    assert list(tmp_path.iterdir()) == []

    def trains_one(run: Run) -> None:
        run.dir.finish("teacher", {"checkpoints": []})
        run.checkpoints("student_ours")

    assert launch(trains_one, arguments) == 2
    assert {file.name for file in (tmp_path / "mistyped").iterdir()} >= {"run.json", "data", "teacher"}


@pytest.mark.parametrize("place", [".", "d_roi/seed0"])
def test_what_another_process_makes_meanwhile_stays(place: str, tmp_path: Path) -> None:
    """If another process holds the directory or has a run in it, this job is refused and removes nothing."""
    with pytest.raises(DataError, match="is in use"), refusable(tmp_path / "runs"):
        (tmp_path / "runs" / place / "data").mkdir(parents=True)
        (tmp_path / "runs" / place / "run.lock").write_text(json.dumps({"token": "another's"}))
        raise DataError("is in use")
    assert (tmp_path / "runs" / place / "data").is_dir()


def test_leases_of_this_process_are_no_reason_to_leave_anything(tmp_path: Path) -> None:
    with pytest.raises(DataError), refusable(tmp_path / "runs"):
        (tmp_path / "runs" / "trials" / "seed0").mkdir(parents=True)
        lease.hold(tmp_path / "runs" / "trials" / "seed0")
        raise DataError("refused")
    assert not (tmp_path / "runs").exists()


def test_files_of_other_programs_stay(tmp_path: Path) -> None:
    """An editor, or a download, writes into the directory while the job's input is checked."""
    with pytest.raises(DataError), refusable(tmp_path / "runs"):
        (tmp_path / "runs" / "data").mkdir(parents=True)
        (tmp_path / "runs" / "thesis.tex").write_text("theirs")
        raise DataError("refused")
    assert [entry.name for entry in (tmp_path / "runs").iterdir()] == ["thesis.tex"]
