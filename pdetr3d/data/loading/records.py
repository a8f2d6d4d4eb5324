"""Makes the training records: the only code that decides which annotations the training may see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pdetr3d.class_list import ClassList
from pdetr3d.config import DataConfig
from pdetr3d.data.index.annotations import LIDAR, RADAR, flat, human_boxes, kept, row_of
from pdetr3d.data.index.index import Index
from pdetr3d.data.index.regions import disks
from pdetr3d.data.labels.click_matching import match_clicks
from pdetr3d.data.labels.manifest import CLICKS_SCHEMA, LabelManifest
from pdetr3d.data.labels.pseudo_table import read_pseudo_labels, surest_directions, to_boxes
from pdetr3d.data.loading.click_extents import sizes_from_clicks
from pdetr3d.data.loading.record_list import CLICK_COLUMNS, Records, boxed, boxes_of, pick, ranges
from pdetr3d.data.storage.row_table import RowTable, give_back, places
from pdetr3d.schema import (
    ROLES,
    SOURCE_HUMAN,
    Boxes3D,
    DataError,
    SampleRecord,
)

_UNLABELED, _BOX, _POINT, _EMPTY = (ROLES.index(name) for name in ("unlabeled", "box", "point", "empty"))
PIECE = 512  # box-labeled samples whose labels are made at a time; this limits memory
ANNOTATION_COLUMNS = ("ann_token", "ann_label", "ann_box", "ann_velocity_m_s", LIDAR, RADAR)


def training_records(
    index: Index,
    manifest: LabelManifest,
    pseudo: Path | None = None,
    *,
    pseudo_everywhere: bool = False,
    boxes_everywhere: bool = False,
    direction_share: float = 1.0,
) -> Records:
    """Records of all train samples, in manifest order; each record is made when it is accessed.

    Box-labeled samples have the human boxes of the kept objects, and clicks with ``box_index``. Point-labeled samples
    have clicks and no field of an annotation; ``boxes`` is empty, or the accepted pseudo labels of the file ``pseudo``.
    Empty and unlabeled samples have neither boxes nor clicks; an unlabeled sample may show objects, so it must not be
    used as background.

    Args:
        index, manifest: of the dataset. pseudo: Parquet file of pseudo labels. pseudo_everywhere: treat box-labeled
            samples as point-labeled (``label.pseudo_for=all``). boxes_everywhere: treat every sample whose boxes are in
            the tables as box-labeled, for reports and the arm "full". direction_share: of the pseudo labels that know
            the direction of their box (``student.direction_share``).

    Raises:
        DataError: when a sample of the manifest is not in the index, a click names an annotation the index lacks, or a
            pseudo label disagrees with its click about sample or class.
    """
    row = index.rows_of(manifest.samples["sample_token"])
    unknown = np.nonzero(row < 0)[0]
    if len(unknown):
        raise DataError(
            f"{manifest.path}: {len(unknown)} samples are not in {index.path}, e.g. "
            f"{manifest.samples['sample_token'][unknown[0]].as_py()!r}; run pdetr3d label again"
        )
    role = manifest.role_codes.copy()
    if pseudo_everywhere:
        role[manifest.boxed] = _POINT
    whole = role == _BOX
    if boxes_everywhere:
        whole = role != _EMPTY
    records = _human_labels(index, manifest, row, np.nonzero(whole)[0])
    if boxes_everywhere:
        unseen = (role == _UNLABELED) & (records.box_range[:, 0] == records.box_range[:, 1])
        role[whole & ~unseen] = _BOX
    if pseudo is not None:
        made, made_range = _pseudo_boxes(Path(pseudo), manifest, index.classes, direction_share)
        records = replace(
            records,
            boxes=Boxes3D.concatenate([records.boxes, made]),
            box_range=np.where(whole[:, None], records.box_range, made_range + len(records.boxes)),
        )
    give_back()
    return replace(records, role=role)


def eval_records(index: Index, split: str) -> Records:
    """Records of a split for inference: role "unlabeled", no boxes, no clicks.

    Raises:
        DataError: when the split has no samples.
    """
    row = index.rows(split)
    nothing = np.zeros((len(row), 2), np.int64)
    return Records(
        table=index.records,
        row=row,
        role=np.zeros(len(row), np.int8),
        boxes=Boxes3D.empty(),
        box_range=nothing,
        clicks=RowTable(CLICKS_SCHEMA.empty_table()),
        click_range=nothing,
        click_box=np.zeros(0, np.int64),
        click_box_of=np.full(len(row), -1),
    )


def inspection_record(index: Index, token: str, manifest: LabelManifest | None = None) -> SampleRecord:
    """The record of one sample by ``inspection_records``."""
    return inspection_records(index, [token], manifest)[0]


def inspection_records(index: Index, tokens: list[str], manifest: LabelManifest | None = None) -> list[SampleRecord]:
    """Records for people and reports, never for training.

    They have all kept annotations as boxes, whatever the role, and the manifest's clicks with the ``box_index`` of
    their box (-1 for a person's click that matches no box).
    """
    if manifest is None:
        return [index.record(token, boxes=index.annotations(token).boxes()) for token in tokens]
    found = np.array([manifest.place.get(token, -1) for token in tokens], np.int64)
    row = np.zeros(len(manifest.samples), np.int64)  # rows of samples not in ``tokens`` stay 0 and are not used
    row[found[found >= 0]] = [index.row(token) for token, place in zip(tokens, found, strict=True) if place >= 0]
    shown = _human_labels(index, manifest, row, np.unique(found[found >= 0]))
    return [
        shown[place] if place >= 0 else index.record(token, boxes=index.annotations(token).boxes())
        for token, place in zip(tokens, found, strict=True)
    ]


def prior_size_m(
    records: Sequence[SampleRecord], data: DataConfig | None = None, *, classes: ClassList
) -> tuple[NDArray[np.float32], list[str]]:
    """Mean (l, w, h) [m] per class over the human boxes of the box-labeled records.

    The size of a class without such a box is measured from the LiDAR points at its clicks (``click_extents``), if
    ``data`` is given and enough clicks can be measured; else it is the class list's typical size.

    Args:
        records: of the train split. data: how samples are read; None: measure no sizes. classes: of the labels.

    Returns:
        (C, 3) float32, and the names of the classes that have the list's size.
    """
    labeled = boxes_of(pick(records, boxed(records)))
    labeled = labeled[labeled.source == SOURCE_HUMAN]
    prior, absent = classes.fallback_size_m.copy(), []
    for label in range(len(classes)):
        sizes = labeled.size_m[labeled.label == label]
        if len(sizes):
            prior[label] = sizes.mean(0, dtype=np.float64)
        else:
            absent.append(label)
    measured = sizes_from_clicks(records, absent, data) if data is not None and absent else {}
    for label, size in measured.items():
        prior[label] = size
    return prior, [classes.names[label] for label in absent if label not in measured]


def _human_labels(index: Index, manifest: LabelManifest, row: NDArray[np.int64], chosen: NDArray[np.int64]) -> Records:
    """Records of all train samples; only those numbered ``chosen`` have human boxes. No other annotation is read.

    Args:
        row: (N,) each sample's row in the index. chosen: (n,) ascending numbers of samples.
    """
    clicks = RowTable(manifest.clicks)
    lengths = manifest.click_range[chosen, 1] - manifest.click_range[chosen, 0]
    click_box_of, box_range = np.full(len(row), -1), np.zeros((len(row), 2), np.int64)
    click_box_of[chosen] = np.cumsum(lengths) - lengths
    parts, click_boxes, count = [Boxes3D.empty()], [np.zeros(0, np.int64)], 0
    for start in range(0, len(chosen), PIECE):
        piece = chosen[start : start + PIECE]
        boxes, bounds, tokens = _annotations_of(index, row[piece])
        click_boxes.append(_click_boxes(index, manifest, clicks, piece, boxes, bounds, tokens))
        box_range[piece] = bounds + count
        parts.append(boxes)
        count += len(boxes)
        give_back()
    return Records(
        table=index.records,
        row=row,
        role=manifest.role_codes,
        boxes=Boxes3D.concatenate(parts),
        box_range=box_range,
        clicks=clicks,
        click_range=manifest.click_range,
        click_box=np.concatenate(click_boxes),
        click_box_of=click_box_of,
        not_sure=disks(manifest.ignore),
    )


def _annotations_of(
    index: Index, rows: NDArray[np.int64]
) -> tuple[Boxes3D, NDArray[np.int64], pa.Array | pa.ChunkedArray]:
    """Kept annotations of n rows as human boxes; (n, 2) begin and end of each row's boxes; the annotations' tokens."""
    order = np.argsort(rows)
    ann = index.records.rows.take(rows[order], list(ANNOTATION_COLUMNS)).table
    mine = kept(ann)
    boxes = human_boxes(*(flat(ann, name)[mine] for name in ("ann_box", "ann_label", "ann_velocity_m_s")))
    bounds = np.empty((len(rows), 2), np.int64)
    bounds[order] = np.searchsorted(row_of(ann)[mine], np.stack([np.arange(len(rows)), np.arange(1, len(rows) + 1)], 1))
    return boxes, bounds, pc.list_flatten(ann["ann_token"]).filter(pa.array(mine))


def _click_boxes(
    index: Index,
    manifest: LabelManifest,
    clicks: RowTable,
    chosen: NDArray[np.int64],
    boxes: Boxes3D,
    bounds: NDArray[np.int64],
    tokens: pa.Array | pa.ChunkedArray,
) -> NDArray[np.int64]:
    """The box of every click of the samples ``chosen``, as an index among its sample's boxes, or -1.

    A simulated click is matched by its annotation token, a person's by place and class (``match_clicks``).

    Args:
        clicks: of the manifest. chosen: (n,) numbers of samples. bounds: (n, 2) begin and end of each sample's boxes in
            ``boxes``. tokens: annotation tokens of ``boxes``.

    Returns:
        (M,) int64 for the clicks of these samples, in order.
    """
    columns = [*CLICK_COLUMNS, "source", "annotation_token"]
    table = clicks.take(ranges(manifest.click_range[chosen]), columns).table
    lengths = manifest.click_range[chosen, 1] - manifest.click_range[chosen, 0]
    begin, end = np.repeat(bounds, lengths, axis=0).T
    position = places(table["annotation_token"], tokens)
    human = pc.equal(table["source"], "human").to_numpy()
    strange = np.nonzero(~human & ((position < begin) | (position >= end)))[0]
    if len(strange):
        click = {name: table[name][strange[0]].as_py() for name in ("click_id", "annotation_token")}
        raise DataError(
            f"{manifest.path}: click {click['click_id']} names annotation {click['annotation_token']}, which the "
            "index does not hold as an object with points; the index has changed: run pdetr3d label again"
        )
    result = position - begin
    if human.any():
        xyz = np.stack([table[axis].to_numpy() for axis in "xyz"], 1)
        label = pc.index_in(table["class"], value_set=pa.array(index.classes.names)).to_numpy()
        ends = np.cumsum(lengths)
        for number in np.unique(np.repeat(np.arange(len(chosen)), lengths)[human]):
            rows = np.arange(ends[number] - lengths[number], ends[number])
            rows = rows[human[rows]]
            result[rows] = match_clicks(xyz[rows], label[rows], boxes[slice(*bounds[number])])
    return result


def _pseudo_boxes(
    path: Path, manifest: LabelManifest, classes: ClassList, direction_share: float
) -> tuple[Boxes3D, NDArray[np.int64]]:
    """The accepted pseudo labels in the order of the clicks; (N, 2) begin and end of each train sample's labels."""
    labels = read_pseudo_labels(path, classes).to_pandas()
    clicks = manifest.clicks.select(["click_id", "sample_token", "class"]).to_pandas()
    clicks["order"] = np.arange(len(clicks))
    joined = labels.merge(clicks, on="click_id", how="left", suffixes=("", "_click"), validate="one_to_one")
    stray = joined[joined["order"].isna()]
    if len(stray):
        raise DataError(
            f"{path}: {len(stray)} click_ids are not in {manifest.path}, e.g. {stray['click_id'].iloc[0]!r}; "
            "they were made from another manifest: run pseudo_label again"
        )
    differs = joined[
        (joined["sample_token"] != joined["sample_token_click"]) | (joined["class"] != joined["class_click"])
    ]
    if len(differs):
        row = differs.iloc[0]
        raise DataError(
            f"{path}: click_id {row['click_id']!r} has sample {row['sample_token']!r}, class {row['class']!r}, but its "
            f"click in {manifest.path} has {row['sample_token_click']!r}, {row['class_click']!r}"
        )
    accepted = joined[joined["accepted"].astype(bool)].sort_values("order")
    bounds = np.searchsorted(accepted["order"].to_numpy(), manifest.click_range)
    return surest_directions(to_boxes(accepted, classes), direction_share, classes), bounds.astype(np.int64)
