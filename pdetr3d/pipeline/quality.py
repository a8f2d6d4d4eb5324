"""Boxes at clicks against the true boxes of those clicks: nothing of it reaches training."""

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
    """Those clicks of ``records`` whose true box is known. True boxes are read again for each measurement, a piece at a
    time: a split of any size is measured in the same memory.

    Args:
        records: samples whose clicks were turned into boxes.
        known: some of the records -> for each the record that has every box (role "box"), its clicks with
            ``box_index``; None: the records themselves are such.
        classes: that labels are of.
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
        """Whether there is any such click."""
        return next(self.pieces(), None) is not None

    def pieces(self) -> Iterator[tuple[list[SampleRecord], list[NDArray[np.int64]], Boxes3D]]:
        """Records, which of their clicks are known, and the true boxes of all these clicks, joined."""
        for start in range(0, len(self.records), PIECE):
            piece = list(self.records[start : start + PIECE])
            kept, rows, truth = [], [], []
            for record, true in zip(piece, self.known(piece), strict=True):
                box_of = {c: i for c, i in zip(true.clicks.click_id, true.clicks.box_index, strict=True) if i >= 0}
                mine = np.array([i for i, c in enumerate(record.clicks.click_id) if c in box_of], np.int64)
                if len(mine):  # on a really point-labeled dataset: never
                    truth.append(true.boxes[np.array([box_of[c] for c in record.clicks.click_id[mine]], np.int64)])
                    kept.append(record)
                    rows.append(mine)
            if kept:
                yield kept, rows, Boxes3D.concatenate(truth)

    def quality(self, boxes: Mapping[str, Boxes3D]) -> dict[str, Any]:
        """``pseudo_label_quality`` of sample_token -> boxes, one per click of the record and in their order."""
        return self.qualities({"": lambda piece: boxes})[""]

    def qualities(self, sources: Mapping[str, Predicted]) -> dict[str, dict[str, Any]]:
        """The same of several predictions, each made for some records at a time."""
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
    """Quality of what needs no training: the class-mean box, heading forward or along the points near the click."""

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
