"""The runs and files that a stage's result was made from, stored in its folder for runs that take the stage over."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from pdetr3d.pipeline.training import CROPS
from pdetr3d.training.run_dir import write_json

if TYPE_CHECKING:
    from pdetr3d.pipeline.run import Run

LINEAGE = "lineage.json"


def step_of(file: Path) -> int:
    """Optimizer steps behind a kept checkpoint, from its name."""
    return int(file.stem.removeprefix("step_"))


def file_digest(file: Path) -> str:
    """16 hex digits of a file's content."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]


def recall(folder: Path) -> dict[str, str]:
    """What ``remember`` kept in a stage's folder."""
    file = folder / LINEAGE
    return json.loads(file.read_text()) if file.exists() else {}


def remember(folder: Path, **facts: str) -> None:
    """Store facts that MLflow runs of later stages show as tags. Call it before the stage is marked finished."""
    write_json(folder / LINEAGE, {key: value for key, value in facts.items() if value})


def ancestors(run: Run, name: str) -> dict[str, str]:
    """Tags that lead from a stage's run to what it learned from: run ids and digests."""
    if name == "student_ours":  # teacher_run_id, teacher_checkpoint, pseudo_labels
        return recall(run.path / "pseudo_labels")
    known = recall(run.path / "student_boxes_only")
    crops = recall(run.path / CROPS)
    first = {key: known[key] for key in ("run_id", "checkpoint") if key in known}
    if name == "student_self_training":
        return {f"labels_{key}": value for key, value in first.items()}
    if name != "teacher":
        return {}
    tags = {f"crops_{key}": crops[key] for key in ("run_id", "checkpoint") if key in crops}
    if run.config.teacher.lidar_init != "none":
        tags |= {f"initial_{key}": value for key, value in first.items()}
    return tags


def trained(run: Run, name: str, file: Path, run_id: str) -> None:
    """Store the run and the checkpoint of a finished training, and those that it started from."""
    known = {"run_id": run_id, "run": run.dir.digest, "checkpoint": file_digest(file)}
    remember(run.path / name, **known, **ancestors(run, name))


def trained_in(run: Run, name: str) -> str:
    """Digest of the run that trained a stage: another one where the stage was taken over."""
    return recall(run.path / name).get("run", run.dir.digest)
