"""Reading, atomic writing and digests of the files of the data layer.

Tables that are read whole, or copied elsewhere, are Parquet files. Tables with one row per keyframe or click are Arrow
files: they are mapped into memory, so that opening a million rows reads none of them.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import logging
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pdetr3d.schema import DataError

log = logging.getLogger(__name__)
ARROW = b"ARROW1"  # what an Arrow file begins with
CHUNK_ROWS = 16_384  # rows per chunk of an Arrow file: the texts of a chunk must stay below 2 GiB


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` on success, remove it on any exception or Ctrl-C.

    The content is synced to disk before the rename: after a power cut ``path`` is the old file or the whole new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error  # Arrow's error names no file
    finally:
        with suppress(OSError):  # an earlier error must not be hidden by this one
            temporary.unlink(missing_ok=True)


def temporary_name(path: Path) -> Path:
    """A hidden name beside ``path`` that no other process uses, on this host or another one."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk (``fsync``).

    Raises:
        OSError: when it cannot be written (disk full, quota); some file systems report that only here.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):  # the file system has no fsync
            raise
    finally:
        os.close(descriptor)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder beside ``path``; rename it to ``path`` on success, remove it on any exception.

    Raises:
        DataError: when ``path`` exists (``refuse_existing``).
    """
    refuse_existing(path)
    for left in sorted(path.parent.glob(f".{glob.escape(path.name)}.*.tmp")):
        log.warning("%s: a command that was killed, or still runs, began it; remove it if none runs", left)
    temporary = temporary_name(path)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for made in sorted(temporary.rglob("*")):
            if not made.is_symlink():
                sync(made)
        refuse_existing(path)  # another process may have made it in the meantime
        os.rename(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def refuse_existing(path: Path) -> None:
    """Raise DataError when ``path`` exists: earlier output is never overwritten."""
    if path.exists() or path.is_symlink():
        raise DataError(f"{path} exists and is not overwritten; name another place with --out, or remove it")


def refuse_other_file(path: Path, kind: str) -> None:
    """Raise DataError when ``path`` exists and is no Arrow file: only earlier output of the same kind is replaced.

    Args:
        kind: of output, e.g. "index".
    """
    if path.is_dir():
        raise DataError(f"{path} is a folder; name a file for the {kind}, e.g. --out {path / kind}.arrow")
    if path.is_file() and path.stat().st_size:
        with path.open("rb") as file:
            if file.read(len(ARROW)) != ARROW:
                raise DataError(
                    f"{path} exists and is no {kind}, so it is not overwritten; name another place by --out"
                )


def write_parquet(path: Path, table: pa.Table) -> None:
    """Write ``table`` to ``path`` atomically."""
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary)


def read_parquet(path: Path, schema: pa.Schema | None = None) -> pa.Table:
    """Read a Parquet file; with ``schema`` its columns are selected, ordered and cast.

    Raises:
        DataError: when the file is missing, is no Parquet file, or lacks a column of ``schema``.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; it is written by an earlier stage (pseudo_label)")
    try:
        table = pq.read_table(path).combine_chunks()
        if schema is None:
            return table
        missing = [name for name in schema.names if name not in table.column_names]
        if missing:
            raise DataError(
                f"{path}: column(s) {missing} missing, has {table.column_names}; write the file again with this version"
            )
        return table.select(schema.names).cast(schema)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OSError) as error:
        raise DataError(
            f"{path}: not readable as the expected Parquet file ({error}); delete it and run the stage again"
        ) from error


def write_arrow(path: Path, table: pa.Table) -> None:
    """Write ``table`` to ``path`` as an Arrow file, atomically, in chunks of CHUNK_ROWS rows."""
    with atomic_path(path) as temporary, pa.ipc.new_file(str(temporary), table.schema) as writer:
        for chunk in _chunks(table):
            writer.write_table(chunk)


def open_arrow(path: Path, *schemas: pa.Schema) -> pa.Table:
    """Map an Arrow file into memory without reading its rows. Its schema must equal one of ``schemas``, metadata aside.

    Raises:
        DataError: when the file is missing, is no Arrow file, or has other columns.
    """
    if path.is_dir():
        inner = sorted(entry.name for entry in path.glob("*.arrow"))
        raise DataError(f"{path} is a folder; name a file" + (f" in it: {', '.join(inner)}" if inner else ""))
    if not path.is_file():
        raise DataError(f"{path}: no such file; it is written by pdetr3d index or pdetr3d label")
    try:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path}: no Arrow file, or one that was cut ({error}); remove it and run the command again that wrote it"
        ) from error
    if not any(table.schema.equals(schema) for schema in schemas):
        raise DataError(
            f"{path}: columns {_named(table.schema)} instead of {_named(schemas[0])}; write it again with this version"
        )
    return table


def _named(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name}: {field.type}" for field in schema)


def _chunks(table: pa.Table) -> Iterator[pa.Table]:
    """The rows in order, CHUNK_ROWS at a time, however ``table`` is chunked."""
    for start in range(0, table.num_rows, CHUNK_ROWS):
        yield table.slice(start, CHUNK_ROWS).combine_chunks()


class _HashSink:
    """A write-only file object that hashes the bytes written to it."""

    closed = False

    def __init__(self) -> None:
        self.hash = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        return len(data)

    def flush(self) -> None:
        """Do nothing: no bytes are buffered."""

    def close(self) -> None:
        self.closed = True


def text_digest(text: str) -> str:
    """16 hex digits of a text (SHA-256)."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_digest(file: Path) -> str:
    """16 hex digits of a file's content (SHA-256)."""
    return sha256(file)[:16]


def sha256(file: Path) -> str:
    """The 64 hex digits of a file's content, which is not held in memory."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def table_digest(*tables: pa.Table) -> str:
    """Hex digest (16 digits) of schema and values of the tables, independent of file paths and schema metadata."""
    return _digest([(table.schema, _chunks(table)) for table in tables])


def parquet_digest(path: Path) -> str:
    """``table_digest`` of a Parquet file whose row groups have CHUNK_ROWS rows; one group is in memory at a time."""
    with pq.ParquetFile(path) as file:
        groups = (file.read_row_group(number).combine_chunks() for number in range(file.num_row_groups))
        return _digest([(file.schema_arrow, (group for group in groups if group.num_rows))])


def _digest(tables: Sequence[tuple[pa.Schema, Iterable[pa.Table]]]) -> str:
    sink = _HashSink()
    for schema, chunks in tables:
        with pa.ipc.new_stream(pa.PythonFile(sink, mode="w"), schema.remove_metadata()) as writer:
            for chunk in chunks:  # ``take`` copies: a slice's bytes would depend on the array that it is a slice of
                bare = chunk.replace_schema_metadata(None)
                writer.write_table(bare.take(pa.array(range(len(bare)))))
        sink.closed = False
    return sink.hash.hexdigest()[:16]


def write_json(file: Path, value: Any) -> None:
    """Write JSON atomically."""
    with atomic_path(file) as temporary:
        temporary.write_text(json.dumps(value, indent=1, allow_nan=False))
