"""Reads run directories: config, finished stages, checkpoints, scores. Nothing is written here."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from pdetr3d.errors import DataError
from pdetr3d.json_files import read_json

CONFIG, REPORT, DONE = "run.json", "report.json", "done.json"
FRESH = "fresh"  # entry of run.json, a random text: it makes the digest of a run with --fresh unique
SEED = "seed"  # the parameter of a search's trial that sets run.seed and label.seed
VARIANT = "variant"  # the parameter of a search's trial that is the name of its variant
# Stage that measures the teacher's boxes -> the keys of the quality in its result. The stages are those of a pipeline,
# of the first teacher of label.holdout, of a search's trial, and of train_teacher.
TEACHER_QUALITY: dict[str, tuple[str, ...]] = {
    "pseudo_labels": ("teacher",),
    "holdout": ("teacher",),
    "trial": ("final", "teacher"),
    "evaluate_teacher": (),
}


class RunFiles:
    """The files of a run directory.

    Properties raise DataError when a file cannot be read; the message names it.

    Attributes:
        path: the directory. Only ``open`` checks that it holds a run.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @staticmethod
    def open(path: Path) -> RunFiles:
        """Open a run directory.

        Raises:
            DataError: when the folder is no run directory; the message names the run directories in it.
        """
        if not is_run(path):
            inner = sorted(str(f.parent.relative_to(path)) for at in ("*", "*/*") for f in path.glob(f"{at}/{CONFIG}"))
            hint = f"it holds the runs {', '.join(inner)}: name one of them" if inner else "name a job's --run-dir"
            missing = f"not a run directory ({CONFIG} is missing)" if path.is_dir() else "no such folder"
            raise DataError(f"{path}: {missing}; {hint} (trials of a search are SEARCH/trials/NAME)")
        return RunFiles(path)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The content of ``run.json``: the flat config keys that change a run's results, the versions of the stages
        ("code"), and the digest of the dataset's tables ("tables")."""
        return {key: value for key, value in read_object(self.path / CONFIG).items() if key != FRESH}

    @cached_property
    def report(self) -> dict[str, Any]:
        """A pipeline's ``report.json``; empty if no pipeline has ended."""
        return read_object(self.path / REPORT)

    def stage(self, name: str) -> dict[str, Any]:
        """The stored result of a finished stage; empty if the stage is not finished."""
        return read_object(self.path / name / DONE)

    def checkpoints(self, stage: str) -> list[Path]:
        """Kept checkpoints of a training stage, oldest first; empty if the stage is not finished."""
        return [self.path / stage / str(name) for name in self.stage(stage).get("checkpoints", ())]

    @property
    def finished(self) -> list[str]:
        """Sorted names of the finished stages."""
        return sorted(file.parent.name for file in self.path.glob(f"*/{DONE}"))

    @property
    def trained(self) -> list[str]:
        """Names of the trained student arms."""
        return [name.removeprefix("student_") for name in self.finished if name.startswith("student_")]

    @property
    def scored(self) -> list[str]:
        """Names of the models that are scored on the val split: student arms, "teacher"."""
        return [name.removeprefix("evaluate_") for name in self.finished if name.startswith("evaluate_")]

    def scores(self, arm: str) -> dict[str, Any]:
        """The devkit scores of an arm on the val split; for "teacher" the quality of its boxes at the split's clicks.

        Empty if the arm is not scored.
        """
        final = self.stage("trial").get("final") or {}
        found = self.stage(f"evaluate_{arm}") or final.get(arm) or self.report.get("arms", {}).get(arm)
        return dict(found or {})

    def teacher(self, stage: str) -> dict[str, Any]:
        """Quality of the teacher's boxes by a stage of TEACHER_QUALITY; empty if the stage did not measure it."""
        quality = self.stage(stage)
        for key in TEACHER_QUALITY[stage]:
            quality = quality.get(key) or {}
        return quality

    @cached_property
    def teacher_stage(self) -> str:
        """The stage whose measurement of the teacher is used: the first finished one of TEACHER_QUALITY that measured
        clicks with a known true box, else the first finished one; "" if none is finished."""
        done = [stage for stage in TEACHER_QUALITY if (self.path / stage / DONE).is_file()]
        return next((stage for stage in done if self.teacher(stage).get("n")), done[0] if done else "")


def is_run(path: Path) -> bool:
    """Whether a folder is a run directory."""
    return (path / CONFIG).is_file()


def read_object(file: Path) -> dict[str, Any]:
    """Read a JSON object of a run directory; a missing file gives an empty one.

    Raises:
        DataError: when the file cannot be read as a JSON object.
    """
    value = read_json(file, "remove it and run its job again") if file.is_file() else {}
    if not isinstance(value, dict):
        raise DataError(f"{file}: holds {type(value).__name__}, not a JSON object")
    return value
