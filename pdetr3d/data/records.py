"""What training may see of each sample. The one gate between annotations and the trainer: nothing else reads both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pdetr3d.data.index import Index
from pdetr3d.data.manifest import CLICKS_SCHEMA, LabelManifest
from pdetr3d.data.pseudo_table import read_pseudo_labels, to_boxes
from pdetr3d.data.record_list import CLICK_COLUMNS, ROLES, Records, boxed, boxes_of, pick, ranges
from pdetr3d.data.row_table import RowTable, places
from pdetr3d.geometry.boxes import points_in_boxes
from pdetr3d.schema import (
    CLASSES,
    FALLBACK_SIZE_M,
    SOURCE_HUMAN,
    Boxes3D,
    DataError,
    SampleRecord,
)

PIECE = 2048  # box-labeled samples whose labels are made at a time: bounds what is held meanwhile
ANNOTATION_COLUMNS = ("ann_token", "ann_label", "ann_box", "ann_velocity_m_s", "ann_num_lidar_pts", "ann_num_radar_pts")


def training_records(
    index: Index, manifest: LabelManifest, pseudo: Path | None = None, *, pseudo_everywhere: bool = False
) -> Records:
    """Records of every train sample, in manifest order, each made when it is asked for.

    Box-labeled: human boxes of the kept objects, clicks with ``box_index``. Point-labeled: no field of any annotation;
    ``boxes`` is empty, or the accepted pseudo labels of the Parquet file ``pseudo`` (its other rows are unused).
    ``pseudo_everywhere`` treats every sample as point-labeled (``label.pseudo_for=all``).

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
    whole = np.zeros(len(row), bool) if pseudo_everywhere else manifest.boxed
    records = _human_labels(index, manifest, row, np.nonzero(whole)[0])
    if pseudo is not None:
        made, made_range = _pseudo_boxes(Path(pseudo), manifest)
        records = replace(
            records,
            boxes=Boxes3D.concatenate([records.boxes, made]),
            box_range=np.where(whole[:, None], records.box_range, made_range + len(records.boxes)),
        )
    return replace(records, role=_roles(whole))


def _roles(whole: NDArray[np.bool_]) -> NDArray[np.int8]:
    return np.where(whole, ROLES.index("box"), ROLES.index("point")).astype(np.int8)


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
    """A sample as a person inspects it, never for training: ``inspection_records`` of one."""
    return inspection_records(index, [token], manifest)[0]


def inspection_records(index: Index, tokens: list[str], manifest: LabelManifest | None = None) -> list[SampleRecord]:
    """Samples as people and reports see them, never for training: all kept annotations as boxes, whatever the role, and
    the manifest's clicks with the ``box_index`` of their own (-1: a person clicked where no box is known)."""
    if manifest is None:
        return [index.record(token, boxes=index.annotations(token).boxes()) for token in tokens]
    found = places(pa.chunked_array([tokens], pa.string()), manifest.samples["sample_token"])
    row = index.rows_of(manifest.samples["sample_token"])
    shown = _human_labels(index, manifest, row, np.unique(found[found >= 0]))
    return [
        shown[place] if place >= 0 else index.record(token, boxes=index.annotations(token).boxes())
        for token, place in zip(tokens, found, strict=True)
    ]


def prior_size_m(records: Sequence[SampleRecord]) -> tuple[NDArray[np.float32], list[str]]:
    """Mean (l, w, h) [m] per class over the human boxes of the box-labeled records.

    Returns:
        (10, 3) float32, and the names of the classes without a box there, which hold FALLBACK_SIZE_M.
    """
    labeled = boxes_of(pick(records, boxed(records)))
    labeled = labeled[labeled.source == SOURCE_HUMAN]
    prior, absent = FALLBACK_SIZE_M.copy(), []
    for label, name in enumerate(CLASSES):
        sizes = labeled.size_m[labeled.label == label]
        if len(sizes):
            prior[label] = sizes.mean(0, dtype=np.float64)
        else:
            absent.append(name)
    return prior, absent


def _human_labels(index: Index, manifest: LabelManifest, row: NDArray[np.int64], chosen: NDArray[np.int64]) -> Records:
    """Records of every train sample, with human boxes at those numbered ``chosen`` alone: no other annotation is read.

    Args:
        row: (N,) of the samples in the index. chosen: ascending.
    """
    clicks = RowTable(manifest.clicks)
    lengths = manifest.click_range[chosen, 1] - manifest.click_range[chosen, 0]
    click_box_of, box_range = np.full(len(row), -1), np.zeros((len(row), 2), np.int64)
    click_box_of[chosen] = np.cumsum(lengths) - lengths
    parts, click_boxes, count = [Boxes3D.empty()], [np.zeros(0, np.int64)], 0
    for start in range(0, len(chosen), PIECE):
        piece = chosen[start : start + PIECE]
        boxes, bounds, tokens = _annotations_of(index, row[piece])
        click_boxes.append(_click_boxes(manifest, clicks, piece, boxes, bounds, tokens))
        box_range[piece] = bounds + count
        parts.append(boxes)
        count += len(boxes)
    return Records(
        table=index.records,
        row=row,
        role=_roles(manifest.boxed),
        boxes=Boxes3D.concatenate(parts),
        box_range=box_range,
        clicks=clicks,
        click_range=manifest.click_range,
        click_box=np.concatenate(click_boxes),
        click_box_of=click_box_of,
    )


def _annotations_of(
    index: Index, rows: NDArray[np.int64]
) -> tuple[Boxes3D, NDArray[np.int64], pa.Array | pa.ChunkedArray]:
    """Kept annotations of n rows as human boxes, (n, 2) which of them are each row's, and their tokens."""
    order = np.argsort(rows)
    ann = index.records.rows.take(rows[order], list(ANNOTATION_COLUMNS)).table
    counts = [pc.list_flatten(ann[name]).to_numpy() for name in ("ann_num_lidar_pts", "ann_num_radar_pts")]
    kept = counts[0] + counts[1] > 0  # as ``Annotations.kept``
    box, velocity = (_wide(ann[name], width)[kept] for name, width in (("ann_box", 7), ("ann_velocity_m_s", 2)))
    label = pc.list_flatten(ann["ann_label"]).to_numpy()[kept]
    of_row = np.repeat(np.arange(len(rows)), pc.list_value_length(ann["ann_label"]).to_numpy())[kept]
    bounds = np.empty((len(rows), 2), np.int64)
    bounds[order] = np.searchsorted(of_row, np.stack([np.arange(len(rows)), np.arange(1, len(rows) + 1)], 1))
    boxes = Boxes3D.build(box[:, :3], box[:, 3:6], box[:, 6], label, velocity_m_s=velocity)
    return boxes, bounds, pc.list_flatten(ann["ann_token"]).filter(pa.array(kept))


def _wide(column: pa.ChunkedArray, width: int) -> NDArray[np.float64]:
    """All items of a list column of fixed-size lists, (n, width)."""
    return pc.list_flatten(pc.list_flatten(column)).to_numpy().reshape(-1, width)


def _click_boxes(
    manifest: LabelManifest,
    clicks: RowTable,
    chosen: NDArray[np.int64],
    boxes: Boxes3D,
    bounds: NDArray[np.int64],
    tokens: pa.Array | pa.ChunkedArray,
) -> NDArray[np.int64]:
    """For every click of the samples ``chosen``, one after the other, which box of its sample it belongs to, or -1: a
    simulated one by its annotation token, a person's by place and class.

    Args:
        clicks: of the manifest. bounds: which of ``boxes`` are each sample's. tokens: of the boxes.
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
    for place in np.nonzero(human)[0]:
        xyz = np.array([table[axis][place].as_py() for axis in "xyz"])
        label = CLASSES.index(table["class"][place].as_py())
        result[place] = match_click(xyz, label, boxes[begin[place] : end[place]])
    return result


def match_click(xyz_m: NDArray, label: int, boxes: Boxes3D) -> int:
    """The box a person meant: of the same class, containing the click (nearest center first), else the nearest one
    whose half space diagonal reaches the click; -1 if there is none."""
    same = np.nonzero(boxes.label == label)[0]
    if len(same) == 0:
        return -1
    near = boxes[same]
    distance = np.linalg.norm(near.center_m - xyz_m, axis=1)
    inside = points_in_boxes(xyz_m[None], near.center_m, near.size_m, near.yaw_rad)[:, 0]
    reach = inside | (distance <= np.linalg.norm(near.size_m, axis=1) / 2)
    order = np.lexsort((distance, ~inside, ~reach))  # reachable first, containing before near, nearest first
    return int(same[order[0]]) if reach[order[0]] else -1


def _pseudo_boxes(path: Path, manifest: LabelManifest) -> tuple[Boxes3D, NDArray[np.int64]]:
    """The accepted pseudo labels in the order of the clicks, and (N, 2) which of them are each train sample's."""
    labels = read_pseudo_labels(path).to_pandas()
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
    return to_boxes(accepted), bounds.astype(np.int64)
