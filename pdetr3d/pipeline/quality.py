"""Measures boxes at clicks against the true boxes of those clicks. Training uses no result of this module."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdetr3d.class_list import ClassList
from pdetr3d.config import Config
from pdetr3d.data.loading.load import load_sample
from pdetr3d.evaluation.column_files import ColumnFiles
from pdetr3d.evaluation.pseudo_label_quality import measures, pseudo_label_quality, report_of
from pdetr3d.pipeline.runner import Runner
from pdetr3d.pseudo_labels import FLOORS, class_mean_boxes, class_mean_pca_boxes
from pdetr3d.schema import Boxes3D, SampleRecord

CHUNK = 16  # samples of one task
PIECE = 1024  # samples whose true boxes are held at a time

# Some records -> token -> boxes of each, one per click and in the order of the clicks.
Predicted = Callable[[Sequence[SampleRecord]], Mapping[str, Boxes3D]]


class KnownClicks:
    """The clicks of ``records`` whose true box is known.

    Each measurement reads the true boxes again, piece by piece, so that a split of any size needs the same memory.

    Args:
        records: samples with clicks.
        known: some of the records -> the same samples with all boxes (role "box") and ``box_index`` of their clicks.
            None: the records have these.
        classes: of the labels.
    """

    def __init__(
        self,
        records: Sequence[SampleRecord],
        known: Callable[[list[SampleRecord]], Sequence[SampleRecord]] | None = None,
        *,
        classes: ClassList,
    ) -> None:
        self.records, self.known = records, known or (lambda piece: piece)
        self.classes = classes

    def __bool__(self) -> bool:
        """Whether the true box of any click is known."""
        return next(self.pieces(), None) is not None

    def pieces(self) -> Iterator[tuple[list[SampleRecord], list[NDArray[np.int64]], Boxes3D]]:
        """Yield pieces: records, the places of their known clicks (K_i,), and the true boxes of all known clicks."""
        for start in range(0, len(self.records), PIECE):
            piece = list(self.records[start : start + PIECE])
            kept, rows, truth = [], [], []
            for record, true in zip(piece, self.known(piece), strict=True):
                box_of = {c: i for c, i in zip(true.clicks.click_id, true.clicks.box_index, strict=True) if i >= 0}
                mine = np.array([i for i, c in enumerate(record.clicks.click_id) if c in box_of], np.int64)
                if len(mine):  # 0 if the tables have no boxes of point-labeled samples
                    truth.append(true.boxes[np.array([box_of[c] for c in record.clicks.click_id[mine]], np.int64)])
                    kept.append(record)
                    rows.append(mine)
            if kept:
                yield kept, rows, Boxes3D.concatenate(truth)

    def quality(self, boxes: Mapping[str, Boxes3D]) -> dict[str, Any]:
        """Measure boxes; see ``pseudo_label_quality``.

        Args:
            boxes: sample_token -> one box per click of the record, in the order of the clicks.
        """
        return self.qualities({"": lambda piece: boxes})[""]

    def qualities(self, sources: Mapping[str, Predicted]) -> dict[str, dict[str, Any]]:
        """Measure several predictions by name; each is a function that predicts some records."""
        columns = {name: ColumnFiles() for name in sources}
        for records, rows, truth in self.pieces():
            distance = np.linalg.norm(truth.center_m[:, :2], axis=1)
            for name, source in sources.items():
                found = source(records)
                mine = [found[record.sample_token][of] for record, of in zip(records, rows, strict=True)]
                columns[name].add(measures(Boxes3D.concatenate(mine), truth, distance, self.classes))
        nothing = (Boxes3D.empty(), Boxes3D.empty(), np.zeros(0))
        return {
            name: report_of(column.mapped(), classes=self.classes)
            if column.rows
            else pseudo_label_quality(*nothing, classes=self.classes)
            for name, column in columns.items()
        }


def floors(
    clicks: KnownClicks, config: Config, prior_size_m: NDArray[np.floating], runner: Runner
) -> dict[str, dict[str, Any]]:
    """Measure boxes that need no training: class-mean boxes, heading forward or along the points near the click.

    Args:
        clicks: with known boxes. config: of the run. prior_size_m: (C, 3) class sizes. runner: reads the points.

    Returns:
        Name in FLOORS -> quality.
    """

    def plain(records: Sequence[SampleRecord]) -> dict[str, Boxes3D]:
        return {r.sample_token: class_mean_boxes(r.clicks, prior_size_m) for r in records}

    def turned(records: Sequence[SampleRecord]) -> dict[str, Boxes3D]:
        chunks = [records[i : i + CHUNK] for i in range(0, len(records), CHUNK)]
        found: dict[str, Boxes3D] = {}
        for part in runner.map(_pca_boxes, [(chunk, config, prior_size_m) for chunk in chunks], config):
            found |= part
        return found

    return clicks.qualities(dict(zip(FLOORS, (plain, turned), strict=True)))


def _pca_boxes(
    records: Sequence[SampleRecord], config: Config, prior_size_m: NDArray[np.floating]
) -> dict[str, Boxes3D]:
    boxes = {}
    for record in records:
        points = load_sample(record, config.data, cameras=False).points
        boxes[record.sample_token] = class_mean_pca_boxes(record.clicks, prior_size_m, points)
    return boxes
