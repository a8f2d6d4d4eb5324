"""Atomic output and content digests: what every file of the data layer goes through."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pdetr3d.schema import DataError


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path``; renamed to ``path`` on success, removed on any exception, Ctrl-C too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder beside ``path``; renamed to ``path`` on success, removed on any exception.

    Raises:
        DataError: when ``path`` exists (``refuse_existing``).
    """
    refuse_existing(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        refuse_existing(path)  # made by someone else in the meantime
        os.rename(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def refuse_existing(path: Path) -> None:
    """Raise DataError when there is something at ``path``: what people asked for earlier is never overwritten."""
    if path.exists() or path.is_symlink():
        raise DataError(f"{path} exists and is not overwritten; name another place with --out, or remove it")


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
        raise DataError(
            f"{path}: no such file; it is written by an earlier stage (pdetr3d index, pdetr3d label, pseudo_label)"
        )
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


class _HashSink:
    """A write-only file object that hashes what it is given."""

    closed = False

    def __init__(self) -> None:
        self.hash = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        return len(data)

    def flush(self) -> None:
        """Nothing is buffered."""

    def close(self) -> None:
        self.closed = True


def table_digest(*tables: pa.Table) -> str:
    """Hex digest (16 digits) of schema and values of the tables, independent of file paths and schema metadata."""
    sink = _HashSink()
    for table in tables:
        bare = table.combine_chunks().replace_schema_metadata(None)
        with pa.ipc.new_stream(pa.PythonFile(sink, mode="w"), bare.schema) as writer:
            writer.write_table(bare)
        sink.closed = False
    return sink.hash.hexdigest()[:16]
