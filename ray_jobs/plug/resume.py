"""Finds the checkpoint from which a stage continues: the newest whole one in its storage folder.

``torch.save`` writes a checkpoint as a ZIP file with a checksum of every part, so a cut or damaged file is recognized.
``progress.txt`` names the newest complete checkpoint for processes that wait for one. A resume does not rely on it but
checks the files.
"""

from __future__ import annotations

import contextlib
import zipfile
from typing import NamedTuple

from pyarrow.fs import FileSelector, FileSystem, FileType

from pdetr3d.data.storage.whole_file import remove_unfinished, whole_file
from pdetr3d.schema import DataError
from pdetr3d.training.checkpoint import FILE

RESUME = "resume_"  # beginning of the names of checkpoints that are only there to continue from
KEPT = "step_"  # beginning of the names of folders of kept checkpoints
PROGRESS = "progress.txt"
RAYS_RECORD = "checkpoint_manager_snapshot.json"
READ_BYTES = 16 * 2**20  # read at a time
SPARE = 2  # the number of newest checkpoints (kept ones count) that stay, so that one may be broken


class Point(NamedTuple):
    """A checkpoint to continue from: finished steps, and its path in the folder's file system."""

    step: int
    path: str


def checkpoint_name(step: int) -> str:
    """The name of the folder of a kept checkpoint."""
    return f"{KEPT}{step:07d}"


def checkpoint_uri(folder: str, step: int) -> str:
    """The URI of the stage's kept checkpoint of a step."""
    return f"{folder}/{checkpoint_name(step)}"


def points(filesystem: FileSystem, path: str) -> list[Point]:
    """All files in a stage's folder that are named like checkpoints, newest first."""
    found = []
    for info in filesystem.get_file_info(FileSelector(path, allow_not_found=True)):
        name = info.base_name
        with contextlib.suppress(ValueError):  # temporary files have no number
            if name.startswith(RESUME) and name.endswith(".pt"):
                found.append(Point(int(name.removeprefix(RESUME).removesuffix(".pt")), info.path))
            elif name.startswith(KEPT) and info.type == FileType.Directory:
                file = f"{info.path}/{FILE}"
                if filesystem.get_file_info(file).type == FileType.File:
                    found.append(Point(int(name.removeprefix(KEPT)), file))
    return sorted(found, reverse=True)


def broken(filesystem: FileSystem, path: str) -> str:
    """The problem of a checkpoint file, or "" for a whole one. It reads the whole file.

    Raises:
        OSError: when the file cannot be read (permissions, disk, network), so that nothing is known of its content.
    """
    try:
        with filesystem.open_input_file(path) as stream, zipfile.ZipFile(stream) as archive:
            part = archive.testzip()
            return f"its part {part} does not match its checksum" if part else ""
    except (zipfile.BadZipFile, EOFError, OSError, ValueError) as error:
        with filesystem.open_input_stream(path) as stream:  # a wrong offset in a broken file is an OSError, too
            while stream.read(READ_BYTES):
                pass
        return str(error) or type(error).__name__


def resume_point(folder: str, say: bool = False) -> Point | None:
    """The newest whole checkpoint of a stage, or None if the stage has never written one.

    Args:
        folder: URI of the stage's folder. say: print which checkpoints are broken and which one is used; also remove
            broken RESUME files, and correct ``progress.txt``.

    Raises:
        DataError: when checkpoints exist, or ``progress.txt`` names one, but none is whole: a stage that had begun must
            not silently begin again.
        OSError: when a checkpoint cannot be read. It is kept, and no older one is used in its place.
    """
    filesystem, path = FileSystem.from_uri(folder)
    there, written = points(filesystem, path), read_progress(folder)
    for point in there:
        if problem := broken(filesystem, point.path):
            if say:
                print(f"checkpoint {point.path} is broken ({problem}): the one before is used", flush=True)
                if point.path.rsplit("/", 1)[-1].startswith(RESUME):
                    filesystem.delete_file(point.path)
            continue
        if say and point.step != written:
            told = f"names step {written}" if written else "is missing or cannot be read"
            print(f"{path}/{PROGRESS} {told}; the newest whole checkpoint is of step {point.step}", flush=True)
            write_progress(folder, point.step)
        return point
    if there or written:
        raise DataError(
            f"{path} holds no whole checkpoint ({len(there)} broken ones; {PROGRESS} names step {written}), so this "
            "stage cannot be continued: copy a checkpoint back from elsewhere, or remove this folder to train the "
            "stage from its beginning"
        )
    return None


def forget(folder: str) -> None:
    """Delete the RESUME files that are not among the SPARE newest checkpoints, and what killed processes left."""
    filesystem, path = FileSystem.from_uri(folder)
    for point in points(filesystem, path)[SPARE:]:
        if point.path.rsplit("/", 1)[-1].startswith(RESUME):
            filesystem.delete_file(point.path)
    remove_unfinished(filesystem, path)


def forget_rays_record(folder: str) -> None:
    """Delete Ray Train's record of checkpoints before it starts.

    A resume does not use it, and a record that is cut (full disk) or written by another version of Ray would end the
    training.
    """
    filesystem, path = FileSystem.from_uri(f"{folder}/{RAYS_RECORD}")
    if filesystem.get_file_info(path).type == FileType.File:
        filesystem.delete_file(path)


def write_progress(folder: str, step: int) -> None:
    """Write the step of the newest complete checkpoint to ``progress.txt``."""
    filesystem, path = FileSystem.from_uri(f"{folder}/{PROGRESS}")
    with whole_file(filesystem, path) as stream:
        stream.write(str(step).encode())


def read_progress(folder: str) -> int:
    """The step that ``progress.txt`` names; 0 if the file is missing or cannot be read."""
    filesystem, path = FileSystem.from_uri(f"{folder}/{PROGRESS}")
    with contextlib.suppress(FileNotFoundError, ValueError), filesystem.open_input_stream(path) as stream:
        return max(0, int(stream.read().decode()))
    return 0
