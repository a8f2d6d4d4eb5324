"""The interface through which a pipeline reports what it does. The base class prints lines and records nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pdetr3d.data.loading.record_list import Records
from pdetr3d.schema import Boxes3D, SampleRecord

if TYPE_CHECKING:
    from pdetr3d.pipeline.run import Run


class Observer:
    """The methods that a run calls. They do not change its results. ``ray_jobs.stages.tracked`` has one for MLflow."""

    def say(self, text: str) -> None:
        """Show a line of progress."""
        print(text, flush=True)

    def warn(self, text: str) -> None:
        """Show a warning."""
        print(text, flush=True)

    def phase(self, kind: str) -> AbstractContextManager[None]:
        """A context whose time counts as this kind of work ("score", "pictures")."""
        return nullcontext()

    @contextmanager
    def training(self, run: Run, name: str, tags: Mapping[str, Any]) -> Iterator[tuple[str, str] | None]:
        """A context in which the stage ``name`` is trained.

        Args:
            tags: the training's data.

        Yields:
            (tracking URI, MLflow run id), or None without MLflow.
        """
        yield None

    def watches(self, name: str) -> bool:
        """Whether checkpoints of the stage ``name`` must be scored during its training."""
        return False

    def scored(self, run: Run, name: str, file: Path, scores: Mapping[str, Any]) -> None:
        """Receive the scores of a checkpoint on ``data.select_split``, during the training of the stage ``name``."""

    def pictured(self, run: Run) -> list[SampleRecord]:
        """The samples of the val split whose predicted boxes ``evaluated`` needs, with their true boxes."""
        return []

    def clicked(self, run: Run, records: Records) -> tuple[list[SampleRecord], list[SampleRecord]]:
        """The same samples with clicks, for a teacher; and those of them that are not in ``records``.

        Args:
            records: samples that the teacher predicts for other purposes.
        """
        return [], []

    def evaluated(
        self,
        run: Run,
        name: str,
        file: Path,
        report: dict[str, Any],
        prefix: str,
        measured_on: str,
        pictures: Sequence[tuple[SampleRecord, Boxes3D]],
        selection: Mapping[str, dict[str, Any]] | None = None,
        floor: float | None = None,
    ) -> None:
        """Receive the scores of a stage's chosen checkpoint.

        Args:
            name: of the stage. file: the checkpoint. report: its scores. prefix: of the metrics, e.g. "val".
            measured_on: name of the objects that were measured; champions are compared on the same ones. pictures:
                samples and predicted boxes to draw. selection: name of a checkpoint file -> its scores on the select
                split. floor: score of class-mean boxes, which a champion must exceed; None: unknown.
        """
