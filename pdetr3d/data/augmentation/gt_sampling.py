"""GT sampling (SECOND, Yan et al. 2018; method.md 2.9, 5.3): pastes objects of labeled samples into other samples.

An object is pasted at the place where it was recorded, because the density of its points fits that distance. The
database of objects is an Arrow file that all processes of a node map into memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pdetr3d.config import Config
from pdetr3d.data.loading.load import load_sample
from pdetr3d.data.storage.files import atomic_path
from pdetr3d.geometry.boxes import bev_overlaps, points_in_each_box, rotate_z
from pdetr3d.schema import BOX_COLUMNS, SOURCE_HUMAN, SOURCE_PSEUDO, Boxes3D, DataError, Sample, SampleRecord

MIN_POINTS = 5  # points of all sweeps that an object needs (method.md 2.9)
THREADS = 4  # threads that read samples while the database is built

_NUMBERS = (*BOX_COLUMNS, "vx", "vy", "score", "direction")  # as in Boxes3D; velocity NaN = unknown
# points: the bytes of (P, 5) float32 x, y, z [m] in the box frame (origin at the center, x along the heading),
# intensity, dt [s], in the order of the cloud.
DATABASE_SCHEMA = pa.schema(
    [
        *((name, pa.float32()) for name in _NUMBERS),
        ("label", pa.int64()),
        ("source", pa.int8()),
        ("points", pa.large_binary()),
    ]
)


def eligible(record: SampleRecord, pseudo_score: float) -> Boxes3D:
    """The record's boxes that may enter the database.

    These are human boxes of box-labeled samples, and, if ``pseudo_score`` > 0, pseudo labels of at least that score.
    """
    boxes = record.boxes
    human = (boxes.source == SOURCE_HUMAN) & (record.role == "box")
    pseudo = (boxes.source == SOURCE_PSEUDO) & (boxes.score >= pseudo_score) & (pseudo_score > 0)
    return boxes[human | pseudo]


def database_of(folder: Path, records: Sequence[SampleRecord], config: Config) -> Path:
    """The database file in ``folder`` with the eligible objects of these records; it is built when missing.

    Its name is a digest of the boxes: runs with the same boxes share a file, others never do.

    Raises:
        DataError: for a LiDAR file that cannot be read.
    """
    distinct = {record.sample_token: record for record in records}  # CBGS repeats them
    sources = [distinct[token] for token in sorted(distinct)]
    digest = hashlib.sha256()
    for record in sources:
        boxes = eligible(record, config.student.gt_sampling_pseudo_score)
        digest.update(record.sample_token.encode() + b"".join(values.tobytes() for values in vars(boxes).values()))
    path = folder / f"{digest.hexdigest()[:16]}.arrow"
    if not path.exists():
        _build(path, sources, config)
    return path


def _build(path: Path, records: Sequence[SampleRecord], config: Config) -> None:
    """Cut out the eligible objects whose center lies in ``model.range_m``, and write them atomically."""
    low, high = np.asarray(config.model.range_m, np.float32).reshape(2, 3)
    score = config.student.gt_sampling_pseudo_score

    def cut(record: SampleRecord) -> pa.RecordBatch:
        boxes = eligible(record, score)
        inside = ((boxes.center_m >= low) & (boxes.center_m < high)).all(1)
        return _cut(load_sample(record, config.data, cameras=False), boxes[inside])

    with (
        atomic_path(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, DATABASE_SCHEMA) as writer,
        ThreadPoolExecutor(THREADS) as pool,
    ):
        for batch in pool.map(cut, [record for record in records if len(eligible(record, score))]):
            writer.write_batch(batch)


def _cut(sample: Sample, boxes: Boxes3D) -> pa.RecordBatch:
    """The boxes of one sample with at least MIN_POINTS points, and these points, as rows of DATABASE_SCHEMA."""
    inside = points_in_each_box(sample.points, boxes.center_m, boxes.size_m, boxes.yaw_rad)
    enough = [i for i, index in enumerate(inside) if len(index) >= MIN_POINTS]
    kept = boxes[np.array(enough, np.int64)]
    numbers = np.concatenate([kept.rows, kept.velocity_m_s, kept.score[:, None], kept.direction[:, None]], 1)
    return pa.record_batch(
        [
            *(pa.array(column) for column in np.ascontiguousarray(numbers.T)),
            pa.array(kept.label),
            pa.array(kept.source),
            pa.array([_to_box_frame(sample.points[inside[i]], boxes, i).tobytes() for i in enough], pa.large_binary()),
        ],
        schema=DATABASE_SCHEMA,
    )


def _to_box_frame(points: NDArray[np.float32], boxes: Boxes3D, index: int) -> NDArray[np.float32]:
    """Move the points (P, 5) of box ``index`` to the box frame: origin at the center, x along the heading."""
    result = points.copy()
    result[:, :3] = rotate_z(points[:, :3] - boxes.center_m[index].astype(np.float64), -boxes.yaw_rad[index])
    return result


class ObjectDatabase:
    """The objects of a file of ``database_of``.

    Attributes:
        boxes: N boxes, each in the LIDAR_TOP frame of the sample it was cut from. of_class: label -> (n,) its rows.

    Raises:
        DataError: when the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        try:
            table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(
                f"{path}: objects for student.gt_sampling cannot be read here ({error}); with several nodes, --run-dir "
                "must be a folder that all of them see, as the dataset is"
            ) from error
        numbers = np.stack([table[name].to_numpy() for name in _NUMBERS], 1)
        self._points = table["points"]
        self.boxes = replace(
            Boxes3D.build(
                numbers[:, :3],
                numbers[:, 3:6],
                numbers[:, 6],
                table["label"].to_numpy(),
                velocity_m_s=numbers[:, 7:9],
                score=numbers[:, 9],
                direction=numbers[:, 10],
            ),
            source=table["source"].to_numpy(),
        )
        labels = np.unique(self.boxes.label).tolist()
        self.of_class = {label: np.flatnonzero(self.boxes.label == label) for label in labels}

    def __len__(self) -> int:
        return len(self.boxes)

    def points(self, row: int) -> NDArray[np.float32]:
        """Points (P, 5) of one object where they were recorded: x, y, z [m] in LIDAR_TOP, intensity, dt [s]."""
        points = np.frombuffer(self._points[row].as_buffer(), np.float32).reshape(-1, 5).copy()
        points[:, :3] = rotate_z(points[:, :3], self.boxes.yaw_rad[row]) + self.boxes.center_m[row]
        return points

    def _rows_of(self, label: int) -> NDArray[np.int64]:
        return self.of_class.get(label, np.zeros(0, np.int64))

    def draw(self, present: Boxes3D, counts: Sequence[int], rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw objects for a sample that holds the boxes ``present``; returns their rows (n,), ordered by class.

        Of each class the sample's missing objects up to ``counts`` (C,) are drawn, or all of the class if it has fewer.
        An object whose footprint overlaps a box of the sample, or an object kept before, is dropped without
        replacement.
        """
        lacking = np.maximum(np.asarray(counts) - np.bincount(present.label, minlength=len(counts)), 0)
        drawn = np.concatenate(
            [
                rng.choice(rows, min(number, len(rows)), replace=False)
                for number, rows in zip(lacking, map(self._rows_of, range(len(counts))), strict=True)
            ]
        )
        rows = self.boxes[drawn].rows
        overlaps = bev_overlaps(rows, np.concatenate([rows, present.rows]))
        taken = np.arange(len(rows) + len(present)) >= len(rows)
        for i in range(len(rows)):
            taken[i] = not (overlaps[i] & taken).any()
        return drawn[taken[: len(rows)]]


@lru_cache(maxsize=4)
def open_database(path: Path) -> ObjectDatabase:
    """The database of a file, opened once per process."""
    return ObjectDatabase(path)


def paste(sample: Sample, database: ObjectDatabase, counts: Sequence[int], rng: np.random.Generator) -> Sample:
    """Paste objects of the database (``ObjectDatabase.draw``) into a sample.

    The sample's points inside the pasted boxes are removed. The objects' points come first in the cloud, because a cap
    on the number of voxels drops its end. The objects' boxes come after the sample's, so that ``clicks.box_index``
    stays valid. Pasted objects have no clicks: guidance applies only to objects that people clicked.
    """
    chosen = database.draw(sample.boxes, counts, rng)
    if len(chosen) == 0:
        return sample
    boxes = database.boxes[chosen]
    covered = points_in_each_box(sample.points, boxes.center_m, boxes.size_m, boxes.yaw_rad)
    background = np.delete(sample.points, np.concatenate(covered), axis=0)
    return replace(
        sample,
        points=np.concatenate([*(database.points(int(row)) for row in chosen), background]),
        boxes=Boxes3D.concatenate([sample.boxes, boxes]),
    )
