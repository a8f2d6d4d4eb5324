"""Finished stages that runs share. The first run that needs one makes it, in a folder named by its digest."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from threading import Lock

from pdetr3d.config import Config, override
from pdetr3d.pipeline.graph import digest_of, keys_of, outside
from pdetr3d.pipeline.run import Run
from pdetr3d.run_files import DONE
from pdetr3d.training import lease
from pdetr3d.training.run_dir import link_missing

# Folder of a shared stage, its config, its name -> the run in which it is made.
Begin = Callable[[Path, Config, str], AbstractContextManager[Run]]


class Store:
    """The stages that runs share, in one folder. While a process makes a stage (``lease``), others wait for it.

    Args:
        path: the folder. base: the config that the sharing runs vary. begin: opens the run of a shared stage.
    """

    def __init__(self, path: Path, base: Config, begin: Begin) -> None:
        self.path, self.base, self.begin = path, base, begin
        self.locks: dict[str, Lock] = defaultdict(Lock)  # a lease is a process's, not a thread's

    def config_of(self, stage: str, config: Config) -> Config:
        """The config of a shared stage: ``base`` with the run's values of the keys that the stage depends on.

        It is equal for all runs that may share the stage.
        """
        known = self.base.flat()
        words = [f"{key}={json.dumps(value)}" for key, value in keys_of(stage, config).items() if value != known[key]]
        return override(self.base, words)

    def take(self, stage: str, run: Run, make: Callable[[Run], object]) -> None:
        """Put a finished stage into a run directory, by hard links, or by copies if the storage has none.

        Args:
            stage: its name. run: gets the stage. make: finishes the stage in a run; it is called if the store does not
                have the stage.
        """
        name = f"{stage}-{digest_of(stage, run.config, outside(run.config))}"
        folder = self.path / name
        done = folder / stage / DONE
        with self.locks[name]:
            if not done.exists():
                folder.mkdir(parents=True, exist_ok=True)
                lease.hold(folder, math.inf)
                try:
                    if not done.exists():
                        with self.begin(folder, self.config_of(stage, run.config), name) as other:
                            make(other)
                finally:
                    lease.release(folder)
        files = [file.name for file in done.parent.iterdir() if file.is_file() and file != done]
        link_missing(done.parent, run.path / stage, files)
        run.dir.finish(stage, json.loads(done.read_text()))


def index_folder(path: Path, config: Config) -> Path:
    """The folder of the index, and of the check of its files, under a store's ``path``."""
    return path / f"index-{outside(config)['index']}"
