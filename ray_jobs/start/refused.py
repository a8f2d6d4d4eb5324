"""Cleans up after a refused job: its run directory is left as it was found, so a corrected command can use it again.

This holds for refused input and for a disk that is full before any work.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pdetr3d.exits import explain
from pdetr3d.run_files import CONFIG
from pdetr3d.tracking.runs import RUN_FILE
from pdetr3d.training import lease
from pdetr3d.training.run_dir import free_path
from ray_jobs.terminal.console import FOLDER as LOGS

PREPARED = {"data", "artifacts", LOGS}  # folders of a run directory that exist before its first stage
# All that jobs make in the run directory before their first stage, or before a search's first trial.
MADE = PREPARED | {CONFIG, lease.FILE, "world", "mlflow.db", RUN_FILE, "asked.json"}
MADE |= {"base", "shared", "trials", "tune"}


def worked_on(folder: Path) -> bool:
    """Whether a stage of the run directory has begun."""
    return any(entry.is_dir() and entry.name not in PREPARED for entry in folder.iterdir())


@contextmanager
def refusable(folder: Path, fresh: bool = False, unless: Callable[[Path], bool] = lambda _: False) -> Iterator[Path]:
    """Yield the run directory, which need not exist, and undo the body's additions to it if the input is refused.

    This happens if the body raises a DataError, or an OSError that a user can mend (a full disk). Then the new entries
    of the directory that are named as in MADE are removed, and newly created folders that are empty then. Entries that
    existed before stay, with all files that the body added to them, as do entries of other programs. Nothing is removed
    if another process has a lease on the directory or on a run in it, since new entries may belong to that process.

    Args:
        folder: the run directory.
        fresh: use ``free_path(folder)`` instead, which is created.
        unless: tells of the directory whether it contains work by now; if so, nothing is removed.
    """
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    if fresh:
        folder = free_path(folder)
        missing = [folder, *(place for place in missing if place != folder)]
    before = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
    try:
        yield folder
    except Exception as error:
        if explain(error) is not None and folder.is_dir() and not unless(folder) and not _shared(folder):
            for entry in folder.iterdir():
                if entry.name in MADE - before:
                    _remove(entry)
            with suppress(OSError):  # another process has added an entry
                for place in missing:
                    place.rmdir()
        raise


def _shared(folder: Path) -> bool:
    places = [folder, *folder.glob("*/"), *folder.glob("*/*/"), *folder.glob("*/*/*/")]  # a search's runs
    return any(lease.of_another(place) for place in places)


def _remove(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry, ignore_errors=True)
    else:
        entry.unlink(missing_ok=True)
