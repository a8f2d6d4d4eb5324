"""Measures the memory of a driver that labels and scores SMALL and LARGE replicated keyframes, and tests its growth.

Keyframes are those of the simulated world under other tokens (``bench_million``); predictions are stood in for by
class-mean boxes at the clicks, or true boxes, since only memory is measured. Each part of the driver's work runs in
a process of its own. PDETR3D_DRIVER_KEYFRAMES="10000 100000" sets the numbers. Not measured: the devkit's tables, which
scoring reads whole (``Tables`` below gives the same rows to every copy; its tokens are subtracted), and pictures.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console
from rich.table import Table

from benchmarks.bench_million import write
from pdetr3d.class_list import NUSCENES_CLASSES
from pdetr3d.data.index.index import FILE, Index
from pdetr3d.data.label_manifest import inspection_records, training_records
from pdetr3d.data.labels.manifest import LabelManifest
from pdetr3d.data.loading.record_list import Records
from pdetr3d.data.storage.box_table import COLUMNS, SCHEMA, BoxTable, BoxTableWriter
from pdetr3d.data.storage.row_table import TextPlaces
from pdetr3d.evaluation import nuscenes_eval, pseudo_label_quality
from pdetr3d.pseudo_labels import class_mean_boxes, pseudo_label_rows
from pdetr3d.schema import FALLBACK_SIZE_M, Boxes3D

SELF = "benchmarks.bench_driver_memory"
SMALL, LARGE = (int(word) for word in os.environ.get("PDETR3D_DRIVER_KEYFRAMES", "10000 100000").split())
HOLDERS = ("boxes", "read tasks", "pseudo labels", "quality at clicks", "scoring")


def anonymous_mib() -> float:
    """The memory without pages of mapped files, which the kernel can free."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1024


class Peak:
    """Measures the highest ``anonymous_mib`` in its context."""

    def __enter__(self) -> Peak:
        self.before = self.mib = anonymous_mib()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            self.mib = max(self.mib, anonymous_mib())

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.mib = max(self.mib, anonymous_mib())


def predicted(records: Records) -> BoxTable:
    """Class-mean boxes at the clicks of all records, as if actors had sent them."""
    writer = BoxTableWriter(TextPlaces(records.token_column), 1)
    for start in range(0, len(records), 256):
        part = list(records[start : start + 256])
        made = [class_mean_boxes(record.clicks, FALLBACK_SIZE_M) for record in part]
        boxes = Boxes3D.concatenate(made)
        numbers = np.concatenate([boxes.rows, boxes.velocity_m_s, boxes.label[:, None], boxes.score[:, None]], 1)
        columns: dict[str, Any] = dict(zip(COLUMNS, numbers.T.astype(np.float64), strict=True))
        columns["label"] = boxes.label
        columns["sample_token"] = np.repeat([record.sample_token for record in part], [len(one) for one in made])
        columns["checkpoint"] = np.zeros(len(boxes), np.int64)
        writer.add(pa.table({name: pa.array(columns[name], SCHEMA.field(name).type) for name in SCHEMA.names}))
    return writer.close()[0]


class Tables:
    """The devkit's tables of the world, in which TOKEN-NUMBER is a copy of the sample TOKEN."""

    def __init__(self, nusc: Any, tokens: pa.ChunkedArray) -> None:
        before = anonymous_mib()
        self.nusc, self.tokens = nusc, tokens.to_pylist()
        self.mib = anonymous_mib() - before
        self.attribute, self.version, self.dataroot = nusc.attribute, nusc.version, nusc.dataroot
        self.box_velocity = nusc.box_velocity

    @property
    def sample(self) -> Iterator[dict[str, str]]:
        """The rows of samples, with the entries that scoring needs."""
        return ({"token": t, "scene_token": self.get("sample", t)["scene_token"]} for t in self.tokens)

    def get(self, table: str, token: str) -> dict[str, Any]:
        """One row of a table."""
        return self.nusc.get(table, token.rsplit("-", 1)[0] if table == "sample" else token)


def hold(holder: str, folder: Path) -> int:
    """Do one part of a driver's work with all samples of ``folder``; returns the number of objects."""
    from pdetr3d.pipeline import labeling, quality
    from pdetr3d.pipeline.scoring import OfTokens
    from ray_jobs.plug.inference import BATCH_SIZE, EXECUTION
    from ray_jobs.plug.stream import BatchSource, Part

    index, manifest = Index.open(folder / FILE), LabelManifest.open(folder)
    records = training_records(index, manifest)
    records = records.select(records.clicked & ~records.boxed)
    if holder == "boxes":
        return sum(len(boxes) for boxes in predicted(records).values()), 0.0
    if holder == "read tasks":  # for one execution after the other, as in ``predict``
        size = BATCH_SIZE * EXECUTION
        for start in range(0, len(records), size):
            begins = range(start, min(start + size, len(records)), BATCH_SIZE)
            parts = [[Part(list(records[i : i + BATCH_SIZE]), [0], 0, 0)] for i in begins]
            BatchSource(lambda number, parts=parts: parts, len).get_read_tasks(1)  # type: ignore[misc]
        return len(records), 0.0
    boxes = predicted(records)
    if holder == "pseudo labels":

        def rows_of(some: list[Any], theirs: list[Boxes3D]) -> Any:
            return pseudo_label_rows(some, theirs, FALLBACK_SIZE_M, "teacher", classes=NUSCENES_CLASSES)

        written = labeling.write_labels(
            folder / "labels.parquet", records, boxes, rows_of, manifest.track_of, classes=NUSCENES_CLASSES
        )
        return written[0], 0.0
    if holder == "quality at clicks":
        # A cheap overlap replaces exact polygons, which take 1 ms per box; the memory is the same.
        pseudo_label_quality.bev_iou = lambda one, other: one.size_m[:, 0] / (1.0 + other.size_m[:, 0])
        known = quality.KnownClicks(
            records,
            lambda piece: inspection_records(index, [r.sample_token for r in piece], manifest),
            classes=NUSCENES_CLASSES,
        )
        return int(known.quality(boxes)["n"]), 0.0
    nusc = nuscenes_eval.load_tables(index.dataroot, index.version, classes=NUSCENES_CLASSES)
    matrix = index.records.rows.matrix

    def poses(token: str) -> Any:
        return tuple(matrix(name, index.row(token)) for name in ("lidar2ego", "ego2global"))

    where = OfTokens(boxes.place, poses)
    tables = Tables(nusc, records.token_column)
    place = (index.dataroot, index.version, "sim_train")
    report = nuscenes_eval.score(*place, boxes, where, folder / "score", tables, bins=False, classes=NUSCENES_CLASSES)  # type: ignore[arg-type]
    return int(sum(report["n_gt"].values())), tables.mib


def measured(holder: str, folder: Path) -> dict[str, Any]:
    """Measure in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", SELF, holder, str(folder)], stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("holder", HOLDERS)
def test_memory_does_not_grow_with_the_number_of_keyframes(holder: str, sim_world: Path, tmp_path: Path) -> None:
    """With ten times the keyframes the driver's peak grows by less than a tenth."""
    from pdetr3d.data.index.nuscenes import build_index

    index, found = Index.open(build_index(sim_world, "v1.0-sim", tmp_path / "one.arrow")), []
    for keyframes in (SMALL, LARGE):
        (tmp_path / str(keyframes)).mkdir()
        write(index, tmp_path / str(keyframes), keyframes)
        found.append(measured(holder, tmp_path / str(keyframes)))
    table = Table("keyframes", "objects", "before [MiB]", "peak [MiB]", "seconds", title=holder)
    for keyframes, one in zip((SMALL, LARGE), found, strict=True):
        table.add_row(f"{keyframes:,}", *(f"{one[key]:,.0f}" for key in ("objects", "before", "peak", "seconds")))
    Console(width=100).print(table)
    assert found[1]["objects"] > 9 * found[0]["objects"]
    assert found[1]["peak"] < 1.1 * found[0]["peak"]


if __name__ == "__main__":
    began = time.monotonic()
    with Peak() as peak:
        objects, tables = hold(sys.argv[1], Path(sys.argv[2]))
    seconds = time.monotonic() - began
    print(json.dumps({"objects": objects, "before": peak.before, "peak": peak.mib - tables, "seconds": seconds}))
