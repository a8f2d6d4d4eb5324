"""Reads packs: samples in Parquet shards for object storage. ``data.packed`` names a pack; ``pack.py`` writes it.

A pack is a folder (local, ``s3://``, ``gs://``) with ``shard-00000.parquet`` ..., each sample a row group of its own,
so that reading a sample is one range read; ``index.parquet``, the dataset's index; and ``pack.json``, which is written
last: without it the folder is no pack.
"""

from __future__ import annotations

import json
import re
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow.fs import FileSystem

from pdetr3d.data.index.facts import IndexFacts
from pdetr3d.data.index.index import Index, write_index
from pdetr3d.data.index.rows import INDEX_SCHEMA, REGION_COLUMNS, REGION_SCHEMA
from pdetr3d.schema import DataError

# points: the bytes of rows x, y, z [m] (keyframe's LIDAR_TOP), intensity, dt [s] in the order of ``load_sample``:
# keyframe first, then sweeps, newest first. sweep_points: the number of points of each. images: unchanged JPEG or PNG
# files in the order of CAMERAS; null for a missing camera.
PACK_SCHEMA = pa.schema(
    [
        ("sample_token", pa.string()),
        ("points", pa.large_binary()),
        ("sweep_points", pa.list_(pa.int64())),
        ("images", pa.list_(pa.large_binary())),
    ]
)
LAYOUT = 2  # since 2, pages have checksums and images are checked before packing
MANIFEST, INDEX = "pack.json", "index.parquet"
OPEN_SHARDS = 1024  # shard footers that a process caches (4 kB per sample), as samples come in random order


class Pack:
    """Read-only view of a pack. ``open_pack`` opens it once per process.

    Attributes:
        uri: as given. info: the content of pack.json: ``version``, ``index`` (digest), ``num_sweeps``, ``points``
            (dtype), ``shards``.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.filesystem, self.path = resolve(uri)
        try:
            self.info: dict[str, Any] = json.loads(self.read_bytes(MANIFEST))
        except (OSError, ValueError) as error:
            raise DataError(
                f"data.packed {uri}: no finished pack here ({MANIFEST}: {error}); run pdetr3d pack --out {uri}, which "
                "continues an interrupted one"
            ) from error
        if self.info["layout"] != LAYOUT:
            raise DataError(f"{uri}: a pack of layout {self.info['layout']}, not {LAYOUT}; pack the dataset again")
        for shard in self.info["shards"]:
            if not re.fullmatch(r"[\w-]+\.parquet", shard["file"]):
                raise DataError(f"{uri}/{MANIFEST}: shard {shard['file']!r} is not a file of the pack; pack it again")

    @cached_property
    def places(self) -> dict[str, tuple[str, int]]:
        """sample_token -> (shard file, row group)."""
        return {
            token: (shard["file"], row) for shard in self.info["shards"] for row, token in enumerate(shard["samples"])
        }

    def read_bytes(self, name: str) -> bytes:
        """The content of a file of the pack."""
        with self.filesystem.open_input_stream(f"{self.path}/{name}") as stream:
            return stream.read()

    def read(self, token: str, num_sweeps: int, cameras: bool) -> tuple[NDArray[np.float32], list[bytes | None] | None]:
        """Read one sample: points (P, 5) float32 of up to ``num_sweeps`` sweeps, and the image files.

        Returns:
            The points, the keyframe's first; and the image files in the order of CAMERAS, or None without ``cameras``.

        Raises:
            DataError: when the pack lacks the sample, or the shard cannot be read or fails its checksum.
        """
        if token not in self.places:
            raise DataError(f"data.packed {self.uri}: sample {token!r} is not in it; pack this split, too")
        file, row = self.places[token]
        columns = ["points", "sweep_points", *(["images"] if cameras else [])]
        try:
            shard = pq.ParquetFile(
                self._open(file), metadata=footer(self.uri, file), pre_buffer=True, page_checksum_verification=True
            )
            table = shard.read_row_group(row, columns=columns)
            return self._points(table, num_sweeps), table["images"][0].as_py() if cameras else None
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:  # a damaged footer raises the last three
            raise DataError(
                f"{self.uri}/{file}: cannot read ({error}); see pdetr3d pack --verify {self.uri}"
            ) from error

    def _points(self, table: pa.Table, num_sweeps: int) -> NDArray[np.float32]:
        """Points (P, 5) of the first sweeps.

        Raises:
            ValueError: when the number of stored points differs from the sum over the sweeps.
        """
        sweeps, values = table["sweep_points"][0].as_py(), table["points"][0].as_buffer()
        dtype = np.dtype(self.info["points"])
        if values.size != 5 * dtype.itemsize * sum(sweeps):
            raise ValueError(f"{values.size} bytes of points, but its sweeps have {sum(sweeps)} points")
        used = sum(sweeps[:num_sweeps])
        return np.frombuffer(values, dtype, count=5 * used).reshape(-1, 5).astype(np.float32)

    def _open(self, file: str) -> pa.NativeFile:
        return self.filesystem.open_input_file(f"{self.path}/{file}")


def resolve(uri: str) -> tuple[FileSystem, str]:
    """The pyarrow file system of a URI or local path, and the path in that file system.

    Raises:
        DataError: for a scheme that pyarrow does not know.
    """
    try:
        return FileSystem.from_uri(uri if "://" in uri else str(Path(uri).resolve()))
    except pa.ArrowInvalid as error:
        raise DataError(f"{uri}: not a place to keep a pack ({error}); use a folder, s3://... or gs://...") from error


@lru_cache(maxsize=4)
def open_pack(uri: str) -> Pack:
    """Open a pack once per process."""
    return Pack(uri)


@lru_cache(maxsize=OPEN_SHARDS)
def footer(uri: str, file: str) -> pq.FileMetaData:
    """The footer of the shard ``file`` of the pack at ``uri``; a process reads it once."""
    pack = open_pack(uri)
    with pack._open(file) as source:
        return pq.read_metadata(source)


def index_of_pack(pack: Pack, dataroot: Path, out: Path) -> None:
    """Write the pack's index to ``out``, with ``dataroot`` as its root. The dataset's files need not exist there.

    Raises:
        DataError: when its digest differs from the one in pack.json.
    """
    stored = pa.BufferReader(pack.read_bytes(INDEX))
    regions = set(REGION_COLUMNS) <= set(pq.read_schema(stored).names)
    table = pq.read_table(stored, schema=REGION_SCHEMA if regions else INDEX_SCHEMA)
    facts = IndexFacts.from_json((pq.read_schema(stored).metadata or {}).get(b"facts", b"{}").decode())
    write_index(out, table, dataroot.absolute(), pack.info["version"], facts)
    if Index.open(out).digest != pack.info["index"]:
        out.unlink()
        raise DataError(f"{pack.uri}/{INDEX} is not what {MANIFEST} says; copy it again, or pack the dataset again")


def check_pack(pack: Pack, version: str, tokens: list[str], num_sweeps: int) -> None:
    """Check that a pack suffices for a run: version, samples, number of sweeps, and the size of every shard.

    Raises:
        DataError: names the key, its value and the pack's value, or the shard.
    """
    info, where = pack.info, f"data.packed {pack.uri}"
    if info["version"] != version:
        raise DataError(f"{where}: holds data.version={info['version']}, not {version}")
    if info["num_sweeps"] < num_sweeps:
        raise DataError(
            f"{where}: holds {info['num_sweeps']} sweeps a sample, but data.num_sweeps={num_sweeps}: lower that, or "
            f"pack the dataset again with --num-sweeps {num_sweeps}"
        )
    absent = [token for token in tokens if token not in pack.places]
    if absent:
        raise DataError(
            f"{where}: {len(absent)} of the run's {len(tokens)} samples are not in it, e.g. {absent[0]!r}; it holds "
            f"the splits {', '.join(info['splits'])}"
        )
    found = pack.filesystem.get_file_info([f"{pack.path}/{shard['file']}" for shard in info["shards"]])
    for shard, file in zip(info["shards"], found, strict=True):
        if file.size != shard["bytes"]:
            raise DataError(
                f"{pack.uri}/{shard['file']}: {file.size} bytes instead of {shard['bytes']}; copy the shard again"
            )
