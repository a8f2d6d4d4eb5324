"""What a training worker stores to continue from: the newest complete file counts, older ones go."""

from __future__ import annotations

from pathlib import Path

import pytest
import ray.train

from ray_jobs import context as module
from ray_jobs.context import RayContext, read_progress


def new_context(folder: Path, scratch: Path) -> RayContext:
    """A worker's context, as after a (re)start: it knows nothing but the folders."""
    context = object.__new__(RayContext)
    context.folder, context.restored = f"file://{folder}", scratch / "restored"
    return context


def written(scratch: Path, step: int) -> Path:
    """A checkpoint file as the loop hands it over."""
    file = scratch / f"step_{step:07d}" / "checkpoint.pt"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"%d" % step)
    return file


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Stands for Ray Train: copies a reported checkpoint into the stage's folder."""
    names: list[str] = []

    def report(metrics: dict[str, float], checkpoint: ray.train.Checkpoint, checkpoint_dir_name: str) -> None:
        names.append(checkpoint_dir_name)
        target = tmp_path / "stage" / checkpoint_dir_name
        target.mkdir()
        (target / "checkpoint.pt").write_bytes((Path(checkpoint.path) / "checkpoint.pt").read_bytes())

    monkeypatch.setattr(module.ray.train, "report", report)
    return names


def test_the_newest_file_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    stage, scratch = tmp_path / "stage", tmp_path / "scratch"
    context = new_context(stage, scratch)
    assert context.resume_file() is None
    for step in (500, 1000):
        file = written(scratch, step)
        context.save(file, step)
        assert not file.exists() and read_progress(context.folder) == step
        resumed = new_context(stage, scratch).resume_file()
        assert resumed is not None and resumed.read_bytes() == b"%d" % step
    assert sorted(f.name for f in stage.iterdir()) == ["progress.txt", "resume_0001000.pt"]


def test_a_file_that_was_cut_does_not_count(tmp_path: Path) -> None:
    stage, scratch = tmp_path / "stage", tmp_path / "scratch"
    new_context(stage, scratch).save(written(scratch, 500), 500)
    (stage / "resume_0001000.pt").write_bytes(b"10")  # killed while it was written
    resumed = new_context(stage, scratch).resume_file()
    assert resumed is not None and resumed.read_bytes() == b"500"
    new_context(stage, scratch).save(written(scratch, 1500), 1500)
    assert sorted(f.name for f in stage.iterdir()) == ["progress.txt", "resume_0001500.pt"]


def test_a_kept_checkpoint_takes_its_place_too(tmp_path: Path, reported: list[str]) -> None:
    stage, scratch = tmp_path / "stage", tmp_path / "scratch"
    context = new_context(stage, scratch)
    context.save(written(scratch, 500), 500)
    context.report({"step": 600.0}, written(scratch, 600).parent)
    assert reported == ["step_0000600"] and read_progress(context.folder) == 600
    assert sorted(f.name for f in stage.iterdir()) == ["progress.txt", "step_0000600"]
    resumed = new_context(stage, scratch).resume_file()
    assert resumed is not None and resumed.read_bytes() == b"600"
