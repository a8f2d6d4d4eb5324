"""``pdetr3d pack``: writes the samples of a dataset as a pack (``data/loading/packed.py``), shard by shard, resumable.

A shard is written to a local temporary file, copied to the pack under a temporary name and renamed. Then its note
(samples, bytes, SHA-256) is written, which marks the shard as finished.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FileSystem, FileType

from pdetr3d.data.index.index import Index
from pdetr3d.data.loading.check import check_image_data
from pdetr3d.data.loading.load import read_sweeps
from pdetr3d.data.loading.packed import INDEX, LAYOUT, MANIFEST, PACK_SCHEMA, Pack, resolve
from pdetr3d.data.storage.files import sha256
from pdetr3d.data.storage.points import read_file
from pdetr3d.data.storage.whole_file import remove_unfinished, whole_file
from pdetr3d.progress import tracked
from pdetr3d.schema import CameraRecord, DataError

PLAN = "plan.json"  # the arguments of the pack; a call with other arguments is refused
COPY_BYTES = 16 * 2**20  # copied at a time


def pack(
    index_file: Path,
    splits: Sequence[str] | None,
    uri: str,
    *,
    num_sweeps: int = 10,
    points: str = "float32",
    shard_samples: int = 64,
    processes: int = 0,
) -> Pack:
    """Pack the samples of the splits. The same call continues an interrupted one.

    Args:
        index_file: of the dataset. splits: None: all splits of the index. uri: a folder, ``s3://...`` or ``gs://...``.
        num_sweeps: LiDAR sweeps per sample, as ``data.num_sweeps``; a run may read fewer.
        points: dtype of the stored points. float16 halves their size and rounds coordinates to multiples of 1/64 m from
            16 m on, and of 1/32 m from 32 m on.
        shard_samples: samples per shard. processes: number of processes; 0: one per CPU core.

    Raises:
        DataError: for an unknown split, a broken file, or when ``uri`` holds a pack with other arguments (lists them).
    """
    index = Index.open(index_file)
    splits = sorted(set(splits or index.splits))
    tokens = list(dict.fromkeys(token for split in splits for token in index.tokens(split)))
    plan = {
        "layout": LAYOUT,
        "index": index.digest,
        "version": index.version,
        "splits": splits,
        "num_sweeps": num_sweeps,
        "points": points,
        "shard_samples": shard_samples,
    }
    filesystem, path = resolve(uri)
    filesystem.create_dir(path, recursive=True)
    _claim(filesystem, path, uri, plan)
    remove_unfinished(filesystem, path)
    chunks = [tokens[i : i + shard_samples] for i in range(0, len(tokens), shard_samples)]
    jobs = [
        (number, chunk) for number, chunk in enumerate(chunks) if not _exists(filesystem, f"{path}/{_note(number)}")
    ]
    work = partial(_write_shard, index_file, uri, num_sweeps, points)
    with ProcessPoolExecutor(processes or os.cpu_count() or 1, mp_context=get_context("spawn")) as pool:
        for _ in tracked(pool.map(work, jobs), "packing", len(jobs), "shards"):
            pass
    shards = [json.loads(_read(filesystem, f"{path}/{_note(number)}")) for number in range(len(chunks))]
    _put_index(index, filesystem, path)
    _write(filesystem, f"{path}/{MANIFEST}", json.dumps({**plan, "shards": shards}).encode())
    return Pack(uri)


def _put_index(index: Index, filesystem: FileSystem, path: str) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        local = Path(scratch) / INDEX
        pq.write_table(index.table, local)
        _copy(local, filesystem, f"{path}/{INDEX}")


def verify(uri: str) -> Pack:
    """Read every shard of a pack and compare its SHA-256.

    Raises:
        DataError: names the shards that differ.
    """
    opened, broken = Pack(uri), []
    for shard in tracked(opened.info["shards"], "verifying", len(opened.info["shards"]), "shards"):
        try:
            digest = hashlib.sha256(opened.read_bytes(shard["file"])).hexdigest()
        except OSError as error:
            digest = str(error)
        if digest != shard["sha256"]:
            broken.append(shard["file"])
    if broken:
        raise DataError(
            f"{uri}: {len(broken)} of {len(opened.info['shards'])} shards are not what was written: {', '.join(broken)}"
            "; copy them again, or remove them, their .json and pack.json and run the same pdetr3d pack again"
        )
    return opened


def _claim(filesystem: FileSystem, path: str, uri: str, plan: dict[str, Any]) -> None:
    """Write the plan, or raise DataError if the pack there has another one."""
    file = f"{path}/{PLAN}"
    if not _exists(filesystem, file):
        _write(filesystem, file, json.dumps(plan, indent=1).encode())
        return
    before = json.loads(_read(filesystem, file))
    differing = [f"  {key}: {before.get(key)} there, {plan[key]} now" for key in plan if before.get(key) != plan[key]]
    if differing:
        lines = "\n".join(differing)
        raise DataError(f"{uri} holds another pack; it differs in\n{lines}\nName another --out, or remove this one.")


def _write_shard(index_file: Path, uri: str, num_sweeps: int, points: str, job: tuple[int, list[str]]) -> None:
    """Write one shard and its note; runs in a process of its own."""
    number, tokens = job
    index = _open_index(index_file)
    filesystem, path = resolve(uri)
    name = f"shard-{number:05d}.parquet"
    with tempfile.TemporaryDirectory() as scratch:
        local = Path(scratch) / name
        # No compression: JPEG does not shrink, and reading must be fast. No statistics: they would put the smallest and
        # the largest values, whole images, into the footer. Every read compares the pages' checksums.
        plain = {"compression": "none", "use_dictionary": False, "write_statistics": False}
        with pq.ParquetWriter(local, PACK_SCHEMA, write_page_checksum=True, **plain) as writer:
            for token in tokens:
                writer.write_table(packed_row(index, token, num_sweeps, points))  # a row group of its own
        _copy(local, filesystem, f"{path}/{name}")
        note = {"file": name, "bytes": local.stat().st_size, "sha256": sha256(local), "samples": tokens}
    _write(filesystem, f"{path}/{_note(number)}", json.dumps(note).encode())


@lru_cache(maxsize=1)
def _open_index(index_file: Path) -> Index:
    """Open the index once per process instead of once per shard."""
    return Index.open(index_file)


def packed_row(index: Index, token: str, num_sweeps: int, points: str) -> pa.Table:
    """The row of a sample: its sweeps as ``points`` (float32 or float16), and its images' files.

    Raises:
        DataError: for a file that is missing, cut or damaged.
    """
    record = index.record(token)
    sweeps = read_sweeps(record, index.reading.model_copy(update={"num_sweeps": num_sweeps}))
    images = [None if camera is None else _whole_image(camera) for camera in record.cameras]
    row = {
        "sample_token": token,
        "points": b"".join(sweep.astype(points).tobytes() for sweep in sweeps),
        "sweep_points": [len(sweep) for sweep in sweeps],
        "images": images,
    }
    return pa.Table.from_pylist([row], PACK_SCHEMA)


def _whole_image(camera: CameraRecord) -> bytes:
    """The content of an image file that decodes without error, so that later readers of the pack need not check it."""
    jpeg = read_file(Path(camera.path), "image")
    check_image_data(camera, jpeg)
    return jpeg


def _note(number: int) -> str:
    return f"shard-{number:05d}.json"


def _exists(filesystem: FileSystem, file: str) -> bool:
    return filesystem.get_file_info(file).type != FileType.NotFound


def _read(filesystem: FileSystem, file: str) -> bytes:
    with filesystem.open_input_stream(file) as stream:
        return stream.read()


def _write(filesystem: FileSystem, file: str, content: bytes) -> None:
    with whole_file(filesystem, file) as stream:
        stream.write(content)


def _copy(local: Path, filesystem: FileSystem, file: str) -> None:
    with local.open("rb") as source, whole_file(filesystem, file) as sink:
        shutil.copyfileobj(source, sink, COPY_BYTES)
