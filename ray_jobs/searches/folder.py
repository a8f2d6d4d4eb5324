"""The run directory of a search: opens the runs of its trials, and has the stages and the index that they share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pdetr3d.config import Config
from pdetr3d.pipeline.run import Run
from pdetr3d.pipeline.store import Store, index_folder
from pdetr3d.tracking.provenance import log_provenance
from pdetr3d.tracking.runs import Tracker
from pdetr3d.training import lease
from pdetr3d.training.run_dir import RunDir
from ray_jobs.stages.ray_runner import RayRunner
from ray_jobs.stages.tracked import EXPERIMENT, Tracked

BASE = "base"  # run directory of the config that all trials vary; the driver checks the dataset in it, trains nothing
SHARED = "shared"  # folder of the stages that trials share
WAIT_S = 30.0  # how long a trial waits for another process to release its run directory


@dataclass(frozen=True)
class SearchFolder:
    """The run directory of a search.

    Attributes:
        path: of the directory. base: config that trials vary. parent: id of the search's MLflow run, or "".
    """

    path: Path
    base: Config
    parent: str

    @property
    def store(self) -> Store:
        """The store of the stages that trials share."""
        return Store(self.path / SHARED, self.base, self.opened)

    def run(self, folder: Path, config: Config, tracker: Tracker) -> Run:
        """Open a run on the search's dataset.

        It waits up to WAIT_S for the directory, because a killed process of the search may live on for some seconds.

        Args:
            folder: the run's directory. config: of the run. tracker: its MLflow run.

        Raises:
            DataError: when another process still holds the directory, or the directory has another config.
        """
        run_dir, told = RunDir(folder, config, wait_s=WAIT_S), Tracked(tracker, self.path)
        run = Run(run_dir, RayRunner(), told, index_folder(self.path / SHARED, run_dir.config))
        told.left_out(run)
        return run

    @contextmanager
    def opened(self, folder: Path, config: Config, name: str, title: str = "") -> Iterator[Run]:
        """A context with the run of a trial or of a shared stage. Its MLflow run is nested in that of the search.

        Args:
            folder: the run's directory. config: of the run. name: of the MLflow run. title: its name in the UI, default
                ``name``.
        """
        try:
            with self.tracker(folder, config, name, title) as tracker:
                yield self.run(folder, config, tracker)
        finally:  # this process will run other trials; a released directory has an ended MLflow run
            lease.release(folder)

    def tracker(self, folder: Path, config: Config, name: str, title: str = "") -> Tracker:
        """Start or continue the MLflow run of a trial or of a shared stage, nested in that of the search."""
        tags = {"search": self.path.name}
        tracker = Tracker.start(folder, EXPERIMENT, name, config.flat(), tags, self.parent or None, self.path, title)
        log_provenance(tracker, config.to_json())
        return tracker
