"""Validation beside training: the driver scores kept checkpoints meanwhile, and may ask workers to stop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from threading import Event

from pdetr3d.training.early_stop import stop_after
from ray_jobs.plug.context import write_stop
from ray_jobs.plug.lanes import run_lanes
from ray_jobs.plug.resume import read_progress

POLL_S = 1.0


class Watcher:
    """Scores a stage's kept checkpoints in a thread of the driver.

    Scoring uses the resources that training leaves free, or waits for some. Workers look for the request to stop at
    each kept checkpoint. Checkpoints after the stop are not in ``files``, so that the result does not depend on timing.

    Args:
        folder: URI of the stage's folder in storage. steps: of its kept checkpoints, ascending.
        collect: copies the checkpoint of a step out of storage. score: of a checkpoint file; higher is better.
        patience: training stops after so many kept checkpoints without a better score; 0: it does not stop.
    """

    def __init__(
        self,
        folder: str,
        steps: Sequence[int],
        collect: Callable[[int], Path],
        score: Callable[[Path], float],
        patience: int,
    ) -> None:
        self.folder, self.steps, self.collect, self.score, self.patience = folder, steps, collect, score, patience
        self.files: list[Path] = []
        self.scores: list[float] = []

    def run_beside(self, training: Callable[[], object]) -> None:
        """Run the training and ``watch``, each in a thread; raises the first error of either, as ``run_lanes``."""
        ended = Event()

        def train() -> None:
            try:
                training()
            finally:
                ended.set()

        run_lanes([train, partial(self.watch, ended)], at_once=2)

    def watch(self, ended: Event) -> None:
        """Score the checkpoints in order, until training should stop, or ``ended`` is set and all are scored."""
        for step in self.steps:
            while read_progress(self.folder) < step:
                if ended.wait(POLL_S) and read_progress(self.folder) < step:
                    return
            self.files.append(self.collect(step))
            self.scores.append(self.score(self.files[-1]))
            print(f"{self.files[-1].parent.name} step {step}: score {self.scores[-1]:.4g}", flush=True)
            if self.patience and stop_after(self.scores, self.patience):
                write_stop(self.folder)
                return
