"""A job whose input is refused, or whose disk is full by then, leaves its run directory as it found it: the command may
use the same one when that is mended."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pdetr3d.exits import explain
from pdetr3d.training import lease
from pdetr3d.training.run_dir import free_path
from ray_jobs.terminal.console import FOLDER as LOGS

PREPARED = {"data", "artifacts", LOGS}  # folders of a run directory that exist before its first stage


def worked_on(folder: Path) -> bool:
    """Whether a stage of the run directory has begun."""
    return any(entry.is_dir() and entry.name not in PREPARED for entry in folder.iterdir())


@contextmanager
def refusable(folder: Path, fresh: bool = False, unless: Callable[[Path], bool] = lambda _: False) -> Iterator[Path]:
    """Yield the run directory, which need not exist. Where a DataError, or an OSError
    that the user can mend (a full disk), leaves the body, remove what it has put there,
    and the folders that it made, unless ``unless`` says of the directory that it holds work by then.

    What the directory held before stays. Files that the body adds to a folder which was there are not removed, and
    nothing is where another process has a lease on the directory, or on one in it: what came meanwhile may be its.

    Args:
        fresh: the directory is ``free_path(folder)``, which is made.
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
                if entry.name not in before:
                    _remove(entry)
            with suppress(OSError):  # something else was put there meanwhile
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
