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
    """Is told what a run does; nothing that it does changes a number. ``ray_jobs.stages.tracked`` has MLflow's."""

    def say(self, text: str) -> None:
        """A line of progress."""
        print(text, flush=True)

    def warn(self, text: str) -> None:
        """A line that a person should read."""
        print(text, flush=True)

    def phase(self, kind: str) -> AbstractContextManager[None]:
        """What is done inside is of this kind ("score", "pictures"), to tell where the time goes."""
        return nullcontext()

    @contextmanager
    def training(self, run: Run, name: str, tags: Mapping[str, Any]) -> Iterator[tuple[str, str] | None]:
        """A stage is trained inside. ``tags``: what it is trained on. Yields (URI, MLflow run id), None without."""
        yield None

    def watches(self, name: str) -> bool:
        """Whether it wants a stage's checkpoints scored while the stage is trained."""
        return False

    def scored(self, run: Run, name: str, file: Path, scores: Mapping[str, Any]) -> None:
        """A checkpoint of a training that goes on was scored on ``data.select_split``."""

    def pictured(self, run: Run) -> list[SampleRecord]:
        """Samples of the val split whose predictions it wants, with their true boxes."""
        return []

    def clicked(self, run: Run, records: Records) -> tuple[list[SampleRecord], list[SampleRecord]]:
        """The same with clicks, for a teacher; and those of them that ``records``, predicted anyway, lacks."""
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
        """A stage's chosen checkpoint was scored.

        Args:
            name: of the stage. report: of the evaluation. prefix: of the metrics, e.g. "val". measured_on: which
                objects; champions are compared on the same ones. pictures: predictions to draw. selection: reports on
                the select split by name of the checkpoint file. floor: what boxes that need no training reach of the
                figure that a champion is chosen by; None: unknown.
        """
