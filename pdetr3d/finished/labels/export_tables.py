"""Exports a run's labels as complete nuScenes v1.0 tables under a new dataroot, for any tool that reads nuScenes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pdetr3d.class_list import ObjectClass
from pdetr3d.data.labels.pseudo_table import to_boxes
from pdetr3d.data.storage.files import new_folder
from pdetr3d.data.storage.points import read_lidar
from pdetr3d.evaluation.attributes import attribute_of
from pdetr3d.finished.labels.run_labels import RunLabels
from pdetr3d.geometry.boxes import points_in_each_box, to_nuscenes
from pdetr3d.geometry.rigid import chain
from pdetr3d.schema import SampleRecord
from pdetr3d.tables.loaded import TABLES
from pdetr3d.tables.tokens import token as row_token

Row = dict[str, Any]
WRITTEN = ("category", "instance", "sample_annotation")  # tables that differ from the dataset's own
UNKNOWN = ("point", "unlabeled")  # roles of train samples whose annotations, if any, the run did not use
FILES = ("samples", "sweeps", "maps")  # folders of the dataroot that the tables refer to


def export_tables(labels: RunLabels, out: Path) -> dict[str, object]:
    """Write the new dataroot ``out``: OUT/VERSION with all 13 tables, and links to the dataset's files.

    Box-labeled samples, and samples outside the train split (on which detectors are scored), keep people's annotations
    unchanged. Point-labeled samples get the accepted pseudo labels and nothing else. An instance keeps its remaining
    annotations, and ``prev``, ``next`` and its counts skip the others. The pseudo labels of a track are one instance;
    any other pseudo label is an instance of its own. Rows of pseudo labels have two additional fields, ``click_id`` and
    ``score``; their ``visibility_token`` is "" (not annotated), ``num_radar_pts`` is 0 (not counted), and they have no
    attribute if the velocity is unknown.

    The version keeps its name, so that its splits apply: ``NuScenes(version, dataroot=OUT)``. The lidarseg and panoptic
    tables are left out, because they contain people's labels.

    Returns:
        The rows of the command's final message, with the numbers of boxes.

    Raises:
        DataError: when ``out`` exists, or a LiDAR file is missing or broken.
    """
    source, version = labels.index.dataroot, labels.index.version
    with new_folder(out) as folder:
        tables = folder / version
        tables.mkdir()
        for name in FILES:
            _link(source / name, folder / name)
        for file in [f"{name}.json" for name in TABLES if name not in WRITTEN] + ["splits.json"]:
            _link(source / version / file, tables / file)
        old = {name: json.loads((source / version / f"{name}.json").read_text()) for name in (*WRITTEN, "attribute")}
        new = _tables(labels, old)
        for name in WRITTEN:
            (tables / f"{name}.json").write_text(json.dumps(new[name]))
    pseudo = len(labels.accepted)
    human = len(new["sample_annotation"]) - pseudo
    return {"dataroot": out, "version": version, "human boxes": human, "pseudo boxes": pseudo}


def _link(source: Path, place: Path) -> None:
    if source.exists():
        place.symlink_to(source.resolve())


def _tables(labels: RunLabels, old: Mapping[str, list[Row]]) -> dict[str, list[Row]]:
    """The new tables WRITTEN, made from the dataset's own."""
    column = labels.index.table.column
    time_of = dict(zip(column("sample_token").to_pylist(), column("timestamp_us").to_pylist(), strict=True))
    category = list(old["category"])
    category_of = {row["name"]: row["token"] for row in category}
    classes = labels.index.classes
    for name in map(classes.category_of, classes.names):
        if name not in category_of:
            category_of[name] = _token("category", name)
            category.append({"token": category_of[name], "name": name, "description": ""})
    pseudo, class_of = _pseudo_rows(labels, {row["name"]: row["token"] for row in old["attribute"]})
    human = [row for row in old["sample_annotation"] if labels.role_of.get(row["sample_token"]) not in UNKNOWN]
    annotations, ends = _chained(human + pseudo, time_of)
    instances = old["instance"] + [
        {"token": token, "category_token": category_of[classes.category_of(name)]} for token, name in class_of.items()
    ]
    left = [row | ends[row["token"]] for row in instances if row["token"] in ends]
    return {"category": category, "instance": left, "sample_annotation": annotations}


def _chained(rows: list[Row], time_of: Mapping[str, int]) -> tuple[list[Row], dict[str, Row]]:
    """Link annotations by ``prev`` and ``next`` in order of time.

    Returns:
        The linked annotations, and instance token -> its number of annotations, first and last annotation.
    """
    chains: dict[str, list[Row]] = {}
    rows = [dict(row) for row in rows]
    for row in rows:
        chains.setdefault(row["instance_token"], []).append(row)
    ends = {}
    for instance, members in chains.items():
        members.sort(key=lambda row: time_of[row["sample_token"]])
        names = ["", *(row["token"] for row in members), ""]
        for row, before, after in zip(members, names, names[2:], strict=False):
            row["prev"], row["next"] = before, after
        ends[instance] = {
            "nbr_annotations": len(members), "first_annotation_token": names[1], "last_annotation_token": names[-2]
        }  # fmt: skip
    return rows, ends


def _pseudo_rows(labels: RunLabels, attribute_tokens: Mapping[str, str]) -> tuple[list[Row], dict[str, str]]:
    """The annotations of the accepted pseudo labels, not yet linked, and instance token -> class."""
    record_of = {record.sample_token: record for record in labels.records}
    rows, class_of, classes = [], {}, labels.index.classes
    for token, group in labels.accepted.groupby("sample_token", sort=False):
        record, boxes = record_of[str(token)], to_boxes(group, classes)
        translation, size_wlh, rotation = to_nuscenes(
            boxes.center_m, boxes.size_m, boxes.yaw_rad, chain(record.lidar2ego, record.ego2global)
        )
        points = read_lidar(Path(record.lidar_path), labels.index.reading)
        inside = points_in_each_box(points, boxes.center_m, boxes.size_m, boxes.yaw_rad)
        for i, (click, name) in enumerate(zip(group["click_id"], group["class"], strict=True)):
            instance = _instance(labels.manifest.track_of.get(click), click, name, record)
            class_of[instance] = name
            attribute = _attribute(
                classes.classes[classes.label_of[name]], float(np.linalg.norm(boxes.velocity_m_s[i]))
            )
            rows.append({
                "token": _token("annotation", click), "sample_token": token, "instance_token": instance,
                "visibility_token": "",
                "attribute_tokens": [attribute_tokens[attribute]] if attribute in attribute_tokens else [],
                "translation": translation[i].tolist(), "size": size_wlh[i].tolist(), "rotation": rotation[i].tolist(),
                "prev": "", "next": "", "num_lidar_pts": len(inside[i]), "num_radar_pts": 0,
                "click_id": click, "score": float(boxes.score[i]),
            })  # fmt: skip
    return rows, class_of


def _instance(track: str | None, click: str, name: str, record: SampleRecord) -> str:
    return _token("instance", click) if track is None else _token("track", record.scene_token, name, track)


def _attribute(kind: ObjectClass, speed_m_s: float) -> str:
    return "" if math.isnan(speed_m_s) else attribute_of(kind, speed_m_s)


def _token(*parts: str) -> str:
    """A token as nuScenes', 32 hexadecimal digits, that depends on ``parts`` alone."""
    return row_token("pdetr3d", *parts)
