"""The folder of a search: runs on its dataset, and the stages and the index that they share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pdetr3d.config import Config
from pdetr3d.pipeline.run import Run
from pdetr3d.pipeline.store import Store, index_folder
from pdetr3d.tracking.provenance import log_provenance
from pdetr3d.tracking.runs import Tracker
from pdetr3d.training.run_dir import RunDir
from ray_jobs.stages.ray_runner import RayRunner
from ray_jobs.stages.tracked import EXPERIMENT, Tracked

BASE = "base"  # run directory of a search's untouched config, prepared by the driver; it trains nothing
SHARED = "shared"
WAIT_S = 30.0


@dataclass(frozen=True)
class SearchFolder:
    """Where a search keeps what it makes. ``base``: config that its trials vary. ``parent``: MLflow run id, or ""."""

    path: Path
    base: Config
    parent: str

    @property
    def store(self) -> Store:
        """The stages that trials share."""
        return Store(self.path / SHARED, self.base, self.opened)

    def run(self, folder: Path, config: Config, tracker: Tracker) -> Run:
        """A run on the search's dataset. A process of the search that was killed may live on for some seconds, or be
        seen as dead only after a minute: it is waited for."""
        run_dir, told = RunDir(folder, config, wait_s=WAIT_S), Tracked(tracker, self.path)
        run = Run(run_dir, RayRunner(), told, index_folder(self.path / SHARED, run_dir.config))
        told.left_out(run)
        return run

    @contextmanager
    def opened(self, folder: Path, config: Config, name: str) -> Iterator[Run]:
        """The run directory of a trial or of something shared, whose MLflow run is nested in the search's."""
        with self.tracker(folder, config, name) as tracker:
            run = self.run(folder, config, tracker)
            with closing(run.dir):  # this process goes on with other trials
                yield run

    def tracker(self, folder: Path, config: Config, name: str) -> Tracker:
        """The MLflow run of a trial or of something shared, nested in the search's."""
        tags = {"search": self.path.name}
        tracker = Tracker.start(folder, EXPERIMENT, name, config.flat(), tags, self.parent or None, self.path)
        log_provenance(tracker, config.to_json())
        return tracker
