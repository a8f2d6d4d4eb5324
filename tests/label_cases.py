"""Makes run directories with pseudo labels without training: class-mean boxes at the clicks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from pdetr3d import presets
from pdetr3d.class_list import NUSCENES_CLASSES
from pdetr3d.config import Config
from pdetr3d.data.index.index import Index
from pdetr3d.data.index.nuscenes import build_index
from pdetr3d.data.labels.manifest import LabelManifest, build_manifest
from pdetr3d.data.labels.people_manifest import import_clicks
from pdetr3d.data.labels.pseudo_table import write_pseudo_labels
from pdetr3d.data.loading.records import training_records
from pdetr3d.finished.labels.run_labels import RunLabels
from pdetr3d.pseudo_labels import class_mean_boxes, to_pseudo_labels, with_track_velocity
from pdetr3d.schema import CLASSES, FALLBACK_SIZE_M, SampleRecord


def simulated_run(folder: Path, dataroot: Path, *overrides: str) -> RunLabels:
    """A run on simulated clicks; a sixth of its boxes is implausibly wide and thus rejected."""
    config, index = _begin(folder, dataroot, overrides)
    return _finish(
        folder, config, index, build_manifest(index, "sim_train", config.label, folder / "data" / "manifest")
    )


def tracked_run(folder: Path, dataroot: Path, lift_m: float = 0.0, *overrides: str) -> RunLabels:
    """A run on people's clicks, which are ``lift_m`` above the centers of objects; two of three objects are tracks."""
    config, index = _begin(folder, dataroot, overrides)
    instances = {
        row["token"]: row["instance_token"]
        for row in json.loads((dataroot / index.version / "sample_annotation.json").read_text())
    }
    rows = []
    for token in index.tokens("sim_train"):
        annotations = index.annotations(token)
        for name, label, box in zip(annotations.token, annotations.label, annotations.box, strict=True):
            track = instances[name]
            x, y, z = (float(value) for value in box[:3])
            rows.append(
                {"sample_token": token, "x": x, "y": y, "z": z + lift_m, "class": CLASSES[label], "frame": "lidar"}
                | {"track_id": "" if int(track, 16) % 3 == 0 else track[:8]}
            )
    (folder / "clicks.json").write_text(json.dumps(rows))
    target, clicks = folder / "data" / "manifest", folder / "clicks.json"
    return _finish(folder, config, index, import_clicks(index, "sim_train", config.label, clicks, target, drawn=True))


def _begin(folder: Path, dataroot: Path, overrides: tuple[str, ...]) -> tuple[Config, Index]:
    config = presets.load("quickstart", ["label.ratio=0.3", *overrides])
    (folder / "data").mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(config.flat()))
    return config, Index.open(build_index(dataroot, "v1.0-sim", folder / "data" / "index.arrow"))


def _finish(folder: Path, config: Config, index: Index, manifest: LabelManifest) -> RunLabels:
    everywhere = config.label.pseudo_for == "all"
    records = [r for r in training_records(index, manifest, pseudo_everywhere=everywhere) if r.role == "point"]
    table = pd.concat([_rows(record, config) for record in records], ignore_index=True)
    table = with_track_velocity(table, manifest.track_of, records)
    write_pseudo_labels(folder / "pseudo_labels" / "pseudo_labels.parquet", table, classes=NUSCENES_CLASSES)
    return RunLabels.open(folder)


def _rows(record: SampleRecord, config: Config) -> pd.DataFrame:
    boxes = class_mean_boxes(record.clicks, FALLBACK_SIZE_M)
    boxes.size_m[::6, 1] *= 4
    boxes.yaw_rad[:] = np.linspace(-3, 3, len(boxes))
    boxes.score[:] = np.linspace(0.05, 0.95, len(boxes))
    return to_pseudo_labels(record, boxes, FALLBACK_SIZE_M, "digest", config.model.range_m, classes=NUSCENES_CLASSES)
