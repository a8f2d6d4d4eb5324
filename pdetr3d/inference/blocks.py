"""Writes predictions as one Parquet file per block of samples, and does not predict finished blocks again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pdetr3d.data.storage.files import atomic_path, write_json
from pdetr3d.finished.deploy.box_rows import join_frames, to_frame
from pdetr3d.finished.deploy.contract import INFO_FILE
from pdetr3d.finished.deploy.exported import MODEL_FILES
from pdetr3d.inference.frames import FileFrame, SplitFrames
from pdetr3d.inference.output import SCHEMA
from pdetr3d.inference.predict import Counts, predict_frames
from pdetr3d.inference.student import StudentPredictor
from pdetr3d.schema import DataError

IDENTITY, SUMMARY = "_predictions.json", "_summary.json"  # readers of Parquet folders ignore names with "_"
SAMPLES, COUNTS = b"samples", b"counts"  # keys of a block file's metadata: its samples' names, and its ``Counts``


Frames = Sequence[FileFrame] | SplitFrames


@dataclass(frozen=True)
class Blocks:
    """The frames to predict, in blocks 0 .. count - 1 of ``size`` samples (the last may have fewer).

    Attributes:
        folder: of the blocks' files. frames: all frames. size: samples per block.
    """

    folder: Path
    frames: Frames
    size: int

    @property
    def count(self) -> int:
        """The number of blocks."""
        return -(-len(self.frames) // self.size)

    def file(self, block: int) -> Path:
        """The file of a block's boxes, with the columns ``box_rows.COLUMNS``."""
        return self.folder / f"block-{block:06d}.parquet"

    def todo(self) -> list[int]:
        """The blocks whose file does not exist yet."""
        return [block for block in range(self.count) if not self.file(block).exists()]

    def predict(self, block: int, student: StudentPredictor, min_score: float) -> Counts:
        """Predict one block and write its file atomically.

        Args:
            min_score: boxes of a lower score are left out.

        Raises:
            DataError: for a frame that cannot be read.
        """
        frames, counts = self.frames[block * self.size : (block + 1) * self.size], Counts()
        found = predict_frames(student, frames, counts, min_score)
        table = join_frames([to_frame(boxes, frame.name, student.config.classes) for frame, _, boxes in found])
        extra = {SAMPLES: json.dumps([frame.name for frame in frames]), COUNTS: json.dumps(asdict(counts))}
        schema = SCHEMA.with_metadata({**(SCHEMA.metadata or {}), **extra})
        with atomic_path(self.file(block)) as temporary:
            pq.write_table(pa.Table.from_pandas(table, schema=schema, preserve_index=False), temporary)
        return counts

    def counted(self, block: int) -> Counts:
        """The counts in a finished block's file.

        Raises:
            DataError: when the file is no block of predictions.
        """
        try:
            return Counts(**json.loads(pq.read_schema(self.file(block)).metadata[COUNTS]))
        except (OSError, ValueError, TypeError, KeyError, pa.ArrowException) as error:
            raise DataError(
                f"{self.file(block)}: no block of predictions ({error}); remove it, and run again"
            ) from error

    def total(self) -> Counts:
        """The counts of all blocks together; all must be finished."""
        counts = Counts()
        for block in range(self.count):
            counts.merge(self.counted(block))
        return counts


def identity(model: Path, frames: Frames, asked: dict[str, Any]) -> dict[str, Any]:
    """The facts that determine the predictions: digests of the model's files and of the frames, and the options.

    LiDAR files count by their names, sizes and times, not by their content.

    Args:
        model: a checkpoint file, or an exported folder. frames: to predict. asked: options of the command.
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
    """Create the folder, or check that it holds predictions of the same identity.

    Temporary files that a killed process left are removed.

    Args:
        now: from ``identity``.

    Raises:
        DataError: when the folder holds other predictions (the message names the differences), or something else.
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
