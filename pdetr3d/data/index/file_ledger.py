"""The ledger of a dataset's files: size, time and content of each, the digest over them, and the changes since.

It is stored beside the index as ``files.arrow``, with one row per file that the index names.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pdetr3d.data.index.index import Index
from pdetr3d.data.storage.files import open_arrow, write_arrow
from pdetr3d.progress import tracked
from pdetr3d.schema import DataError
from pdetr3d.words import listed

FILE = "files.arrow"
SCHEMA = pa.schema(
    [
        ("path", pa.string()),  # relative to the dataroot, ascending
        ("bytes", pa.int64()),  # -1: the file is missing
        ("mtime_ns", pa.int64()),
        ("digest", pa.string()),  # of the content; null: the file was not read
    ]
)
CONTENT_BYTES = 4 * 1024**3  # all files are read up to this total; of a larger dataset only a sample of the files is
THREADS = 16  # the work is waiting for the disk, or hashing, which releases the GIL
CHUNK = 1000  # files per task when sizes are looked up

T = TypeVar("T")
R = TypeVar("R")


class FileLedger:
    """Size, time and content of every file that an index names.

    Attributes:
        table: of SCHEMA. digest: 16 hex digits over the names and sizes of all files, the content of those that were
            read, and the time of change (whole seconds) of the others. It stays the same when a dataset is moved or
            copied, if all its files were read or the copy keeps times (``mv``, ``cp -p``, ``rsync -a``, ``tar``).
    """

    def __init__(self, table: pa.Table, times: bool) -> None:
        self.table = table
        known = table["digest"].to_pylist()
        seconds = (table["mtime_ns"].to_numpy() // 10**9).tolist()
        hashed = hashlib.sha256()
        rows = zip(table["path"].to_pylist(), table["bytes"].to_pylist(), known, seconds, strict=True)
        for path, size, content, second in rows:
            hashed.update(f"{path}\0{size}\0{content or (second if times else '')}\n".encode())
        self.digest = hashed.hexdigest()[:16]

    def words(self) -> str:
        """The numbers of files, of files that were read, and of missing files, in words."""
        read = self.table.num_rows - self.table["digest"].null_count
        missing = pc.sum(pc.equal(self.table["bytes"], -1)).as_py() or 0
        return f"{self.table.num_rows} files, the content of {read}" + (f"; {missing} missing" if missing else "")

    def twins(self) -> list[tuple[str, str]]:
        """Pairs (file, earlier file) of equal content, among the files that were read."""
        first: dict[str, str] = {}
        rows = zip(self.table["path"].to_pylist(), self.table["digest"].to_pylist(), strict=True)
        pairs = [(path, first.setdefault(digest, path)) for path, digest in rows if digest is not None]
        return [(path, other) for path, other in pairs if path != other]

    @staticmethod
    def open(index: Index, times: bool = True) -> FileLedger | None:
        """The ledger beside an index, or None if there is none yet.

        Args:
            times: whether times count in the digest; False for a simulated world, whose files are made anew.
        """
        file = index.path.with_name(FILE)
        return FileLedger(open_arrow(file, SCHEMA), times) if file.exists() else None

    @staticmethod
    def take(index: Index, deep: bool = False, times: bool = True) -> FileLedger:
        """Look at all files of an index now, and write the ledger beside the index.

        Args:
            deep: read the content of all files, however large the dataset is. times: see ``open``.
        """
        paths = _paths(index)
        sizes, changed = _stats(index.dataroot, paths)
        read = np.flatnonzero(sizes >= 0) if deep else _sample(paths, sizes)
        content: list[str | None] = [None] * len(paths)
        files = [index.dataroot / paths[i] for i in read]
        for place, digest in zip(read, _each(_hash, files, "reading for the digest"), strict=True):
            content[place] = digest
        table = pa.table([paths, sizes, changed, content], schema=SCHEMA)
        write_arrow(index.path.with_name(FILE), table)
        return FileLedger(table, times)

    def changed(self, dataroot: Path, deep: bool = False) -> list[str]:
        """Describe each file that has changed: its size, its content if it was read before, else its time.

        Args:
            deep: read a file again also if its size and time are the same.
        """
        paths, before = self.table["path"].to_pylist(), self.table["bytes"].to_numpy()
        sizes, times = _stats(dataroot, paths)
        content = self.table["digest"].to_pylist()
        touched = times != self.table["mtime_ns"].to_numpy()
        again = [i for i in np.flatnonzero((sizes == before) & (sizes >= 0)) if content[i] and (deep or touched[i])]
        now = dict(zip(again, _each(_hash, [dataroot / paths[i] for i in again], "reading again"), strict=True))
        found = []
        for i, path in enumerate(paths):
            if sizes[i] != before[i]:
                found.append(f"{path}: {_size(int(before[i]))} before, {_size(int(sizes[i]))} now")
            elif i in now and now[i] != content[i]:
                found.append(f"{path}: another content")
            elif touched[i] and content[i] is None:
                found.append(f"{path}: written to since")
        return found


def refuse_changed(ledger: FileLedger, index: Index, allowed: bool = False) -> None:
    """Raise DataError when files of a dataset have changed since the run began; with ``allowed`` only print them."""
    changed = ledger.changed(index.dataroot)
    if changed and allowed:
        print(f"{len(changed)} files under {index.dataroot} have changed since this run was begun, e.g. {changed[0]}")
    elif changed:
        raise DataError(
            f"{len(changed)} files under {index.dataroot} have changed since {index.path.parent.parent} was begun:"
            f"{listed(changed)}\nA run is not continued on other data: bring the files back, or choose another "
            "--run-dir (--fresh: the next free one)"
        )


def _paths(index: Index) -> list[str]:
    columns = [index.table["lidar_path"], *(pc.list_flatten(index.table[n]) for n in ("sweep_path", "camera_path"))]
    found = set().union(*(pc.unique(column).to_pylist() for column in columns))
    return sorted(path for path in found if path is not None)


def _stats(root: Path, paths: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Sizes [bytes] and times of change [ns] of files; -1 and 0 for a missing one."""

    def one(path: str) -> tuple[int, int]:
        try:
            found = os.stat(root / path)
        except OSError:
            return -1, 0
        return found.st_size, found.st_mtime_ns

    chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    with ThreadPoolExecutor(THREADS) as pool:
        found = [pair for pairs in pool.map(lambda chunk: [one(path) for path in chunk], chunks) for pair in pairs]
    values = np.array(found, np.int64).reshape(-1, 2)
    return values[:, 0], values[:, 1]


def _sample(paths: list[str], sizes: np.ndarray) -> np.ndarray:
    """Indices of the files to read: all if they have up to CONTENT_BYTES, else those with the smallest name digests."""
    there = np.flatnonzero(sizes >= 0)
    if sizes[there].sum() <= CONTENT_BYTES:
        return there
    order = sorted(there.tolist(), key=lambda i: hashlib.blake2b(paths[i].encode(), digest_size=8).digest())
    return np.array(order)[np.cumsum(sizes[order]) <= CONTENT_BYTES]


def _hash(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "blake2b").hexdigest()[:16]
    except OSError as error:
        return f"unreadable ({error.strerror})"


def _each(act: Callable[[T], R], items: list[T], words: str) -> Iterable[R]:
    if not items:
        return []
    with ThreadPoolExecutor(THREADS) as pool:
        return list(tracked(pool.map(act, items), words, len(items), "files"))


def _size(size_bytes: int) -> str:
    return "gone" if size_bytes < 0 else f"{size_bytes} bytes"
