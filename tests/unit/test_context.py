"""Tests of a training worker's resume checkpoints: the newest complete file is used, older ones are removed."""

from __future__ import annotations

import errno
import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray.train
import torch

from pdetr3d.schema import DataError
from ray_jobs.plug import context as module
from ray_jobs.plug.context import RayContext
from ray_jobs.plug.resume import broken, forget_rays_record, read_progress, resume_point


def new_context(folder: Path, scratch: Path) -> RayContext:
    """A worker's context as after a (re)start: it knows only the folders."""
    context = object.__new__(RayContext)
    context.folder, context.restored, context.rank = f"file://{folder}", scratch / "restored", 0
    context.watchdog, context.asked = SimpleNamespace(beat=lambda *_: None), None
    return context


def written(scratch: Path, step: int) -> Path:
    """A checkpoint file as the training loop writes it."""
    file = scratch / f"step_{step:07d}" / "checkpoint.pt"
    file.parent.mkdir(parents=True)
    torch.save({"step": step, "weights": torch.arange(300.0)}, file)
    return file


def resumed_step(folder: Path, scratch: Path) -> int:
    """The step that a restarted worker continues from."""
    file = new_context(folder, scratch).resume_file()
    assert file is not None
    return int(torch.load(file)["step"])


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Stand-in for Ray Train: copies a reported checkpoint into the stage's folder."""
    names: list[str] = []

    def report(metrics: dict[str, float], checkpoint: ray.train.Checkpoint, checkpoint_dir_name: str) -> None:
        names.append(checkpoint_dir_name)
        target = tmp_path / "stage" / checkpoint_dir_name
        target.mkdir()
        (target / "checkpoint.pt").write_bytes((Path(checkpoint.path) / "checkpoint.pt").read_bytes())

    monkeypatch.setattr(module.ray.train, "report", report)
    return names


def test_the_newest_file_counts_and_the_one_before_stays(tmp_path: Path) -> None:
    stage, scratch = tmp_path / "stage", tmp_path / "scratch"
    context = new_context(stage, scratch)
    assert context.resume_file() is None
    for step in (500, 1000, 1500):
        file = written(scratch, step)
        context.save(file, step)
        assert not file.exists() and read_progress(context.folder) == step
        assert resumed_step(stage, scratch) == step
    assert sorted(f.name for f in stage.iterdir()) == ["progress.txt", "resume_0001000.pt", "resume_0001500.pt"]


def test_a_kept_checkpoint_counts_too(tmp_path: Path, reported: list[str]) -> None:
    stage, scratch = tmp_path / "stage", tmp_path / "scratch"
    context = new_context(stage, scratch)
    for step in (400, 500):
        context.save(written(scratch, step), step)
    context.report({"step": 600.0}, written(scratch, 600).parent)
    assert reported == ["step_0000600"] and read_progress(context.folder) == 600
    assert sorted(f.name for f in stage.iterdir()) == ["progress.txt", "resume_0000500.pt", "step_0000600"]
    assert resumed_step(stage, scratch) == 600


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    place = content.index(torch.arange(300.0).numpy().tobytes()) + 100
    content[place] ^= 1
    file.write_bytes(bytes(content))


@pytest.mark.parametrize("damage", [cut, flip_a_bit, lambda file: file.write_bytes(b"")])
def test_a_broken_newest_checkpoint_gives_way_to_the_one_before(
    damage: Callable[[Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage, scratch = tmp_path / "stage", tmp_path / "scratch"
    context = new_context(stage, scratch)
    for step in (500, 1000):
        context.save(written(scratch, step), step)
    damage(stage / "resume_0001000.pt")
    found = resume_point(context.folder)  # the stream's first step, known before any worker runs
    assert found is not None and found.step == 500 and read_progress(context.folder) == 1000
    assert resumed_step(stage, scratch) == 500
    said = capsys.readouterr().out
    assert (
        f"checkpoint {stage}/resume_0001000.pt is broken" in said and "newest whole checkpoint is of step 500" in said
    )
    assert read_progress(context.folder) == 500  # watchers of a later step keep waiting
    new_context(stage, scratch).save(written(scratch, 1500), 1500)
    assert sorted(f.name for f in stage.iterdir()) == ["progress.txt", "resume_0000500.pt", "resume_0001500.pt"]


def test_a_checkpoint_that_cannot_be_read_is_kept(tmp_path: Path) -> None:
    """A disk or a network that fails for a while says nothing of the file: no older one is used in its place."""
    stage, scratch = tmp_path / "stage", tmp_path / "scratch"
    context = new_context(stage, scratch)
    for step in (500, 1000):
        context.save(written(scratch, step), step)
    file = stage / "resume_0001000.pt"
    content = file.read_bytes()
    file.unlink()
    file.mkdir()  # for every user, root too: opening a folder is an OSError
    with pytest.raises(OSError, match="resume_0001000"):
        resumed_step(stage, scratch)
    file.rmdir()
    file.write_bytes(content)
    assert resumed_step(stage, scratch) == 1000


def test_a_disk_that_fails_while_a_checkpoint_is_read() -> None:
    """The file opens; the first read and every later one fail."""

    class Failing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError(errno.EIO, "Input/output error")

    disk = SimpleNamespace(open_input_file=lambda path: Failing(b"PK"), open_input_stream=lambda path: Failing(b"PK"))
    with pytest.raises(OSError, match="Input/output error"):
        broken(disk, "resume_0001000.pt")  # type: ignore[arg-type]


def test_what_a_killed_process_left_is_removed_at_the_next_save(tmp_path: Path) -> None:
    stage, scratch = tmp_path / "stage", tmp_path / "scratch"
    context = new_context(stage, scratch)
    context.save(written(scratch, 500), 500)
    (stage / ".resume_0001000.pt.0123456789ab.tmp").write_bytes(b"half")
    context.save(written(scratch, 1000), 1000)
    assert sorted(f.name for f in stage.iterdir()) == ["progress.txt", "resume_0000500.pt", "resume_0001000.pt"]


@pytest.mark.parametrize("content", ["", "7x", "99999", None])
def test_progress_that_tells_nothing_or_wrong_is_put_right(
    content: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage, scratch = tmp_path / "stage", tmp_path / "scratch"
    new_context(stage, scratch).save(written(scratch, 500), 500)
    if content is None:
        (stage / "progress.txt").unlink()
    else:
        (stage / "progress.txt").write_text(content)
    assert resumed_step(stage, scratch) == 500
    assert "newest whole checkpoint is of step 500" in capsys.readouterr().out
    assert (stage / "progress.txt").read_text() == "500"


def test_a_stage_that_had_begun_never_begins_again_silently(tmp_path: Path) -> None:
    stage, scratch = tmp_path / "stage", tmp_path / "scratch"
    context = new_context(stage, scratch)
    context.save(written(scratch, 500), 500)
    cut(stage / "resume_0000500.pt")
    with pytest.raises(DataError, match=f"{stage} holds no whole checkpoint .1 broken ones.*names step 500"):
        resume_point(context.folder)
    (stage / "resume_0000500.pt").unlink()
    with pytest.raises(DataError, match="0 broken ones; progress.txt names step 500.*remove this folder"):
        context.resume_file()


def test_rays_own_record_is_not_read(tmp_path: Path) -> None:
    forget_rays_record(f"file://{tmp_path}")
    (tmp_path / "checkpoint_manager_snapshot.json").write_text("{")
    forget_rays_record(f"file://{tmp_path}")
    assert not list(tmp_path.iterdir())
