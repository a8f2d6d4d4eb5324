"""A run directory, as everybody reads it: config, finished stages, checkpoints, scores. Nothing is written there."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

from pdetr3d.errors import DataError

CONFIG, REPORT, DONE = "run.json", "report.json", "done.json"
FRESH = "fresh"  # entry of run.json that only keeps runs begun anew apart
# Stage that measured the teacher's boxes -> where its result holds their quality: a pipeline's labels, the first
# teacher of label.holdout, a search's trial, train_teacher.
TEACHER_QUALITY: dict[str, tuple[str, ...]] = {
    "pseudo_labels": ("teacher",),
    "holdout": ("teacher",),
    "trial": ("final", "teacher"),
    "evaluate_teacher": (),
}


class RunFiles:
    """Files of a run directory.

    Each property raises DataError when a file cannot be read, with its name.

    Attributes:
        path: the directory, which need not hold a run (``open`` refuses that).
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @staticmethod
    def open(path: Path) -> RunFiles:
        """The run in a directory.

        Raises:
            DataError: for a folder that is no run directory (names those in it).
        """
        if not is_run(path):
            inner = sorted(str(f.parent.relative_to(path)) for at in ("*", "*/*") for f in path.glob(f"{at}/{CONFIG}"))
            hint = f"it holds the runs {', '.join(inner)}: name one of them" if inner else "name a job's --run-dir"
            missing = f"not a run directory ({CONFIG} is missing)" if path.is_dir() else "no such folder"
            raise DataError(f"{path}: {missing}; {hint} (trials of a search are SEARCH/trials/NAME)")
        return RunFiles(path)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """``run.json``: flat config without what does not change a run's results, versions of the stages' formats
        ("code") and the digest of the dataset's tables ("tables")."""
        return {key: value for key, value in read_json(self.path / CONFIG).items() if key != FRESH}

    @cached_property
    def report(self) -> dict[str, Any]:
        """A pipeline's ``report.json``; empty where none has ended."""
        return read_json(self.path / REPORT)

    def stage(self, name: str) -> dict[str, Any]:
        """What a finished stage stored; empty where it is not finished."""
        return read_json(self.path / name / DONE)

    def checkpoints(self, stage: str) -> list[Path]:
        """Kept checkpoints of a training stage, oldest first; empty where it is not finished."""
        return [self.path / stage / str(name) for name in self.stage(stage).get("checkpoints", ())]

    @property
    def finished(self) -> list[str]:
        """Finished stages, by name."""
        return sorted(file.parent.name for file in self.path.glob(f"*/{DONE}"))

    @property
    def trained(self) -> list[str]:
        """Student arms that are trained."""
        return [name.removeprefix("student_") for name in self.finished if name.startswith("student_")]

    @property
    def scored(self) -> list[str]:
        """What is scored on the val split: student arms, "teacher"."""
        return [name.removeprefix("evaluate_") for name in self.finished if name.startswith("evaluate_")]

    def scores(self, arm: str) -> dict[str, Any]:
        """Devkit scores of an arm on the val split; of "teacher": quality of its boxes at that split's clicks. Empty
        where nothing scored it."""
        final = self.stage("trial").get("final") or {}
        found = self.stage(f"evaluate_{arm}") or final.get(arm) or self.report.get("arms", {}).get(arm)
        return dict(found or {})

    def teacher(self, stage: str) -> dict[str, Any]:
        """Quality of the teacher's boxes, as a stage of TEACHER_QUALITY measured it; empty where it did not."""
        quality = self.stage(stage)
        for key in TEACHER_QUALITY[stage]:
            quality = quality.get(key) or {}
        return quality

    @cached_property
    def teacher_stage(self) -> str:
        """The stage that tells most of the teacher: the first of TEACHER_QUALITY that knows the true box of a click,
        else the first that is finished; "" without any."""
        done = [stage for stage in TEACHER_QUALITY if (self.path / stage / DONE).is_file()]
        return next((stage for stage in done if self.teacher(stage).get("n")), done[0] if done else "")


def is_run(path: Path) -> bool:
    """Whether a folder is a run's."""
    return (path / CONFIG).is_file()


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object of a run directory; empty where there is no such file.

    Raises:
        DataError: when it cannot be read as one.
    """
    try:
        value = json.loads(file.read_text()) if file.is_file() else {}
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: not readable as JSON ({error}); remove it and run its job again") from error
    if not isinstance(value, dict):
        raise DataError(f"{file}: holds {type(value).__name__}, not a JSON object")
    return value
