"""What training may see of each sample. The one gate between annotations and the trainer: nothing else reads both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pdetr3d.data.index import Annotations, Index
from pdetr3d.data.manifest import LabelManifest
from pdetr3d.data.pseudo_table import read_pseudo_labels, to_boxes
from pdetr3d.geometry.boxes import points_in_boxes
from pdetr3d.schema import (
    CLASSES,
    FALLBACK_SIZE_M,
    SOURCE_HUMAN,
    Boxes3D,
    DataError,
    PointLabels,
    SampleRecord,
)


def training_records(
    index: Index, manifest: LabelManifest, pseudo: Path | None = None, *, pseudo_everywhere: bool = False
) -> list[SampleRecord]:
    """Records of every train sample, in manifest order.

    Box-labeled: human boxes of the kept objects, clicks with ``box_index``. Point-labeled: no field of any annotation;
    ``boxes`` is empty, or the accepted pseudo labels of the Parquet file ``pseudo`` (its other rows are unused).
    ``pseudo_everywhere`` treats every sample as point-labeled (``label.pseudo_for=all``).

    Raises:
        DataError: when a sample of the manifest is not in the index, a click names an annotation the index lacks, or a
            pseudo label disagrees with its click about sample or class.
    """
    unknown = [token for token in manifest.roles if token not in index]
    if unknown:
        raise DataError(
            f"{manifest.path}: {len(unknown)} samples are not in {index.path}, e.g. {unknown[0]!r}; "
            "run pdetr3d label again"
        )
    clicks = _Clicks(manifest)
    labels = {} if pseudo is None else _pseudo_boxes(Path(pseudo), manifest)
    records = []
    for token, manifest_role in manifest.roles.items():
        role = "point" if pseudo_everywhere else manifest_role
        rows = manifest.clicks_of.get(token, np.zeros(0, np.int64))
        if role == "box":
            annotations = index.annotations(token)
            boxes = annotations.boxes()
            box_index = clicks.match(rows, annotations, boxes)
        else:
            boxes = labels.get(token, Boxes3D.empty())
            box_index = np.full(len(rows), -1, np.int64)
        records.append(index.record(token, role, boxes, clicks.points(rows, box_index)))
    return records


def eval_records(index: Index, split: str) -> list[SampleRecord]:
    """Records of a split for inference: role "unlabeled", no boxes, no clicks.

    Raises:
        DataError: when the split has no samples.
    """
    return [index.record(token) for token in index.tokens(split)]


def inspection_record(index: Index, token: str, manifest: LabelManifest | None = None) -> SampleRecord:
    """A sample as a person inspects it, never for training: ``inspection_records`` of one."""
    return inspection_records(index, [token], manifest)[0]


def inspection_records(index: Index, tokens: list[str], manifest: LabelManifest | None = None) -> list[SampleRecord]:
    """Samples as people and reports see them, never for training: all kept annotations as boxes, whatever the role, and
    the manifest's clicks with the ``box_index`` of their own (-1: a person clicked where no box is known)."""
    clicks = None if manifest is None else _Clicks(manifest)
    records = []
    for token in tokens:
        annotations = index.annotations(token)
        role, boxes, points = "unlabeled", annotations.boxes(), PointLabels.empty()
        if manifest is not None and clicks is not None and token in manifest.roles:
            role, rows = manifest.roles[token], manifest.clicks_of.get(token, np.zeros(0, np.int64))
            points = clicks.points(rows, clicks.match(rows, annotations, boxes))
        records.append(index.record(token, role, boxes, points))
    return records


def prior_size_m(records: list[SampleRecord]) -> tuple[NDArray[np.float32], list[str]]:
    """Mean (l, w, h) [m] per class over the human boxes of the box-labeled records.

    Returns:
        (10, 3) float32, and the names of the classes without a box there, which hold FALLBACK_SIZE_M.
    """
    labeled = Boxes3D.concatenate([record.boxes for record in records if record.role == "box"])
    labeled = labeled[labeled.source == SOURCE_HUMAN]
    prior, absent = FALLBACK_SIZE_M.copy(), []
    for label, name in enumerate(CLASSES):
        sizes = labeled.size_m[labeled.label == label]
        if len(sizes):
            prior[label] = sizes.mean(0, dtype=np.float64)
        else:
            absent.append(name)
    return prior, absent


class _Clicks:
    """The manifest's clicks as arrays."""

    def __init__(self, manifest: LabelManifest) -> None:
        table = manifest.clicks
        self.path = manifest.path
        self.click_id = table.column("click_id").to_numpy(zero_copy_only=False)
        self.xyz_m = np.stack([table.column(axis).to_numpy() for axis in "xyz"], 1)
        self.label = np.array([CLASSES.index(name) for name in table.column("class").to_pylist()], np.int64)
        self.human = np.array([source == "human" for source in table.column("source").to_pylist()], bool)
        self.annotation = table.column("annotation_token").to_numpy(zero_copy_only=False)

    def points(self, rows: NDArray[np.int64], box_index: NDArray[np.int64]) -> PointLabels:
        """The clicks of one sample."""
        return PointLabels(self.click_id[rows], self.xyz_m[rows], self.label[rows], box_index)

    def match(self, rows: NDArray[np.int64], annotations: Annotations, boxes: Boxes3D) -> NDArray[np.int64]:
        """Index into ``boxes`` of each click: a simulated one by its annotation token, a person's by place, class."""
        position = {token: place for place, token in enumerate(annotations.token[annotations.kept])}
        result = np.full(len(rows), -1, np.int64)
        for place, row in enumerate(rows):
            if self.human[row]:
                result[place] = match_click(self.xyz_m[row], int(self.label[row]), boxes)
            elif self.annotation[row] in position:
                result[place] = position[self.annotation[row]]
            else:
                raise DataError(
                    f"{self.path}: click {self.click_id[row]} names annotation {self.annotation[row]}, which the "
                    "index does not hold as an object with points; the index has changed: run pdetr3d label again"
                )
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


def _pseudo_boxes(path: Path, manifest: LabelManifest) -> dict[str, Boxes3D]:
    """sample_token -> accepted pseudo labels in the order of the sample's clicks."""
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
    return {str(token): to_boxes(rows) for token, rows in accepted.groupby("sample_token", sort=False)}
