"""Finds and loads the student to export: a checkpoint, or the one that a run's evaluation chose."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pdetr3d.config import Config
from pdetr3d.models.student import Student
from pdetr3d.run_files import RunFiles
from pdetr3d.schema import DataError
from pdetr3d.training import checkpoint


@dataclass(frozen=True)
class TrainedStudent:
    """A trained student.

    Attributes:
        model: in evaluation mode, on the CPU. config: that of its training. file: the checkpoint.
    """

    model: Student
    config: Config
    file: Path

    @staticmethod
    def load(file: Path) -> TrainedStudent:
        """Load a checkpoint, weights-only.

        Raises:
            DataError: for a file that is no checkpoint, or is a teacher's.
        """
        state = checkpoint.load(file)
        config = checkpoint.config_of(state, file)
        model = Student(config)  # without training/build.py, which imports the teacher's parts and with them mmcv
        try:
            model.load_state_dict(checkpoint.best_weights(state))
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise DataError(f"checkpoint {file} does not hold a student of its own config ({reason})") from error
        return TrainedStudent(model.eval(), config, file)


def chosen_checkpoint(run_dir: Path, arm: str) -> Path:
    """The checkpoint of a student that its evaluation chose; without an evaluation the last one.

    Args:
        run_dir: the run directory. arm: the student's name, e.g. "ours".

    Raises:
        DataError: when the run has no trained student of this name; the message names those that it has.
    """
    run, folder = RunFiles(run_dir), run_dir / f"student_{arm}"
    files = run.checkpoints(folder.name)
    if not files:
        has = f"trained students there: {', '.join(run.trained)}" if run.trained else "no student is trained there"
        raise DataError(
            f"{folder} holds no trained student: {has}; name one with --arm, or a checkpoint file (.pt) instead of the "
            "run (pdetr3d export: with --checkpoint)"
        )
    return folder / str(run.scores(arm).get("checkpoint", files[-1].name))
