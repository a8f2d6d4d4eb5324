"""Writes a file of any of Arrow's file systems, e.g. S3, such that nobody sees a part of it."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path

from pyarrow import NativeFile
from pyarrow.fs import FileSelector, FileSystem, LocalFileSystem

from pdetr3d.data.storage.files import sync

TEMPORARY = ".tmp"  # end of the names of files that are not complete


@contextlib.contextmanager
def whole_file(filesystem: FileSystem, path: str) -> Iterator[NativeFile]:
    """Yield a stream to a temporary file, which becomes ``path`` when the body has ended without an error.

    No other process, on this host or another one, uses the temporary name. On a local file system the content is on
    the disk before the file gets its name.
    """
    folder, name = path.rsplit("/", 1)
    filesystem.create_dir(folder, recursive=True)
    temporary = f"{folder}/.{name}.{uuid.uuid4().hex[:12]}{TEMPORARY}"
    try:
        with filesystem.open_output_stream(temporary) as stream:
            yield stream
        if isinstance(filesystem, LocalFileSystem):
            sync(Path(temporary))
        filesystem.move(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):  # an earlier error must not be hidden by this one
            filesystem.delete_file(temporary)
        raise
    if isinstance(filesystem, LocalFileSystem):
        sync(Path(folder))


def remove_unfinished(filesystem: FileSystem, folder: str) -> None:
    """Delete the temporary files that killed processes left in a folder. No process may be writing there."""
    for info in filesystem.get_file_info(FileSelector(folder)):
        if info.base_name.startswith(".") and info.base_name.endswith(TEMPORARY):
            filesystem.delete_file(info.path)
