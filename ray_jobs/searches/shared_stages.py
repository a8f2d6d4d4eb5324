"""What trials of a search have in common is trained once, by one actor, in folders named by what it depends on."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from pdetr3d.config import Config, override
from pdetr3d.config_sections import BOXES_ONLY
from pdetr3d.pipeline.graph import digest_of, keys_of, outside
from pdetr3d.tracking.provenance import log_provenance
from pdetr3d.tracking.runs import Tracker
from pdetr3d.training.run_dir import RunDir
from ray_jobs.plug.stream import quiet_ray_data
from ray_jobs.stages.stages import EXPERIMENT, Stages

BASE = "base"  # run directory of a search's untouched config, prepared by the driver; it trains nothing
WAIT_S = 30.0


@dataclass(frozen=True)
class SearchFolder:
    """Where a search keeps what it makes. ``base``: config that its trials vary. ``parent``: MLflow run id, or ""."""

    path: Path
    base: Config
    parent: str

    def stages(self, folder: Path, config: Config, tracker: Tracker) -> Stages:
        """Stages of a run directory on the search's dataset. A process of the search that was killed may live on for
        some seconds, or be seen as dead only after a minute: it is waited for."""
        prepared = RunDir(self.path / BASE, self.base, reading=True)
        return Stages(RunDir(folder, config, wait_s=WAIT_S), tracker, self.path, like=prepared)

    def tracker(self, folder: Path, config: Config, name: str) -> Tracker:
        """The MLflow run of a trial or of something shared, nested in the search's."""
        tags = {"search": self.path.name}
        tracker = Tracker.start(folder, EXPERIMENT, name, config.flat(), tags, self.parent or None, self.path)
        log_provenance(tracker, config.to_json())
        return tracker


def shared_config(base: Config, config: Config, stage: str) -> Config:
    """``base`` with what the stage depends on: the same for all trials that may share it, whatever else they vary."""
    known = base.flat()
    words = [f"{key}={json.dumps(value)}" for key, value in keys_of(stage, config).items() if value != known[key]]
    return override(base, words)


class SharedStages:
    """Body of the actor. Calls come in threads; a stage that several trials ask for is trained for the first of them,
    while the others wait."""

    def __init__(self, search: SearchFolder) -> None:
        quiet_ray_data()
        self.search = search
        self.locks: dict[str, Lock] = defaultdict(Lock)

    def labels(self, config_json: str) -> Path:
        """Run directory with the pseudo labels that a trial of this config needs, and the teacher that wrote them."""

        def make(stages: Stages) -> None:
            if stages.to_label:
                stages.adopt("teacher", open_shared(self.teacher(config_json), stages.config, "teacher", self.search))
            stages.pseudo_labels()

        return self._once("pseudo_labels", Config.from_json(config_json), make)

    def teacher(self, config_json: str) -> Path:
        """Run directory with the teacher that pseudo labels of this config need; other labels may need it, too."""
        config = Config.from_json(config_json)

        def make(stages: Stages) -> None:
            if config.teacher.lidar_init == "boxes_only":
                pretrained = self.pretraining(config_json)
                stages.adopt("student_boxes_only", open_shared(pretrained, stages.config, BOXES_ONLY, self.search))
            stages.teacher()

        return self._once("teacher", config, make)

    def pretraining(self, config_json: str) -> Path:
        """Run directory with the student that teachers' LiDAR weights start from."""
        return self._once(BOXES_ONLY, Config.from_json(config_json), lambda stages: stages.student("boxes_only"))

    def _once(self, stage: str, config: Config, make: Callable[[Stages], object]) -> Path:
        name = f"{stage}-{digest_of(stage, config, outside(config))}"
        folder = self.search.path / "shared" / name
        with self.locks[name]:
            mine = shared_config(self.search.base, config, stage)
            with self.search.tracker(folder, mine, name) as tracker:
                stages = self.search.stages(folder, mine, tracker)
                with closing(stages.run):
                    make(stages)
        return folder


def open_shared(folder: Path, config: Config, stage: str, search: SearchFolder) -> RunDir:
    """The run directory of something shared, as the trial of ``config`` knows it."""
    return RunDir(folder, shared_config(search.base, config, stage), reading=True)
