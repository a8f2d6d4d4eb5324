"""A folder of predictions, one Parquet file per block of samples: what is there is not predicted again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pdetr3d.data.storage.files import atomic_path
from pdetr3d.finished.deploy.box_rows import join_frames, to_frame
from pdetr3d.finished.deploy.contract import INFO_FILE
from pdetr3d.finished.deploy.exported import MODEL_FILES
from pdetr3d.inference.frames import FileFrame, SplitFrames
from pdetr3d.inference.output import SCHEMA
from pdetr3d.inference.predict import Counts, predict_frames
from pdetr3d.inference.student import StudentPredictor
from pdetr3d.schema import DataError
from pdetr3d.training.run_dir import write_json

IDENTITY, SUMMARY = "_predictions.json", "_summary.json"  # readers of Parquet folders pass over such names
SAMPLES, COUNTS = b"samples", b"counts"  # keys of a block file's metadata: names of its samples, and ``Counts``


Frames = Sequence[FileFrame] | SplitFrames


@dataclass(frozen=True)
class Blocks:
    """Blocks 0 .. count - 1 of the frames, ``size`` samples each (the last may have fewer); files in ``folder``."""

    folder: Path
    frames: Frames
    size: int

    @property
    def count(self) -> int:
        """How many blocks there are."""
        return -(-len(self.frames) // self.size)

    def file(self, block: int) -> Path:
        """Where a block's boxes are: rows of ``box_rows.COLUMNS``."""
        return self.folder / f"block-{block:06d}.parquet"

    def todo(self) -> list[int]:
        """Blocks whose file is not there."""
        return [block for block in range(self.count) if not self.file(block).exists()]

    def predict(self, block: int, student: StudentPredictor, min_score: float) -> Counts:
        """Predict one block and write its file, atomically; DataError for a frame that cannot be read."""
        frames, counts = self.frames[block * self.size : (block + 1) * self.size], Counts()
        found = predict_frames(student, frames, counts, min_score)
        table = join_frames([to_frame(boxes, frame.name, student.config.classes) for frame, _, boxes in found])
        extra = {SAMPLES: json.dumps([frame.name for frame in frames]), COUNTS: json.dumps(asdict(counts))}
        schema = SCHEMA.with_metadata({**(SCHEMA.metadata or {}), **extra})
        with atomic_path(self.file(block)) as temporary:
            pq.write_table(pa.Table.from_pandas(table, schema=schema, preserve_index=False), temporary)
        return counts

    def counted(self, block: int) -> Counts:
        """What a finished block's file says of itself; DataError when it is none."""
        try:
            return Counts(**json.loads(pq.read_schema(self.file(block)).metadata[COUNTS]))
        except (OSError, ValueError, TypeError, KeyError, pa.ArrowException) as error:
            raise DataError(
                f"{self.file(block)}: no block of predictions ({error}); remove it, and run again"
            ) from error

    def total(self) -> Counts:
        """Of all blocks together."""
        counts = Counts()
        for block in range(self.count):
            counts.merge(self.counted(block))
        return counts


def identity(model: Path, frames: Frames, asked: dict[str, Any]) -> dict[str, Any]:
    """What predictions depend on: the model's bytes, the frames' names and sweeps, and what else was ``asked``.

    Of LiDAR files their sizes and times count, not their content.
    """
    names = [*MODEL_FILES, INFO_FILE]
    files = [model / name for name in names if (model / name).is_file()] if model.is_dir() else [model]
    weights, digest = hashlib.sha256(), hashlib.sha256()
    for file in files:
        weights.update(file.read_bytes())
    keys = [(frames.digest, frames.split)] if isinstance(frames, SplitFrames) else (f.key() for f in frames)
    for key in keys:
        digest.update(repr(key).encode())
    return {"model": weights.hexdigest()[:16], "samples": len(frames), "frames": digest.hexdigest()[:16], **asked}


def open_folder(folder: Path, now: dict[str, Any]) -> None:
    """Make the folder, or check that it holds these predictions; leftovers of a killed process are removed.

    Raises:
        DataError: when it holds others (names what differs), or something else.
    """
    file = folder / IDENTITY
    if file.is_file():
        before = json.loads(file.read_text())
        differing = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
        if differing:
            lines = "\n".join(f"  {key}: {before.get(key)} there, {now.get(key)} now" for key in differing)
            raise DataError(
                f"{folder} holds other predictions; they differ in\n{lines}\nName another folder with --out, or remove "
                "this one."
            )
        for leftover in folder.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"--out {folder} exists and holds no predictions; name another folder, or remove it")
    if not folder.parent.is_dir():
        raise DataError(f"--out {folder}: the folder {folder.parent} does not exist; make it, or name another")
    folder.mkdir(exist_ok=True)
    write_json(file, now)
