"""The runs and files that a stage's result was made from, stored in its folder for runs that take the stage over."""

from __future__ import annotations

import json
from pathlib import Path

from pdetr3d.config import Config
from pdetr3d.data.storage.files import file_digest, write_json
from pdetr3d.pipeline.training import AGAIN, CROPS, last_crops

LINEAGE = "lineage.json"


def step_of(file: Path) -> int:
    """Optimizer steps behind a kept checkpoint, from its name."""
    return int(file.stem.removeprefix("step_"))


def recall(folder: Path) -> dict[str, str]:
    """The facts that ``remember`` stored in a stage's folder; empty if there are none."""
    file = folder / LINEAGE
    return json.loads(file.read_text()) if file.exists() else {}


def remember(folder: Path, **facts: str) -> None:
    """Store facts that MLflow runs of later stages show as tags. Call it before the stage is marked finished."""
    write_json(folder / LINEAGE, {key: value for key, value in facts.items() if value})


def origins(folder: Path, config: Config, name: str) -> dict[str, str]:
    """The run ids and digests of the stages that a training learns from or starts from, as tags of its MLflow run.

    Args:
        folder: the run directory. config: of the run. name: of the stage.
    """
    if name == "student_ours":  # teacher_run_id, teacher_checkpoint, pseudo_labels
        return recall(folder / "pseudo_labels")
    known = recall(folder / "student_boxes_only")
    first = {key: known[key] for key in ("run_id", "checkpoint") if key in known}
    if name == "student_self_training":
        return {f"labels_{key}": value for key, value in first.items()}
    if name not in ("teacher", AGAIN):
        return {}
    crops = recall(folder / (CROPS if name == AGAIN else last_crops(config.teacher)))
    tags = {f"crops_{key}": crops[key] for key in ("run_id", "checkpoint") if key in crops}
    if name == "teacher" and config.teacher.lidar_init != "none":
        tags |= {f"initial_{key}": value for key, value in first.items()}
    return tags


def trained(folder: Path, config: Config, name: str, file: Path, *, digest: str, run_id: str) -> None:
    """Store the origin of a finished training: its run, its checkpoint, and ``origins``.

    Args:
        folder: the run directory. config: of the run. name: of the stage. file: the last checkpoint. digest: of the
            run. run_id: of the MLflow run, or "".
    """
    known = {"run_id": run_id, "run": digest, "checkpoint": file_digest(file)}
    remember(folder / name, **known, **origins(folder, config, name))


def trained_in(folder: Path, name: str, digest: str) -> str:
    """The digest of the run that trained a stage. It is another run's if this run, ``digest``, took the stage over."""
    return recall(folder / name).get("run", digest)
