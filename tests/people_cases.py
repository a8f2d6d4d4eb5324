"""Makes a dataset as people have it: boxes in some scenes, a file of clicks for others, nothing for the rest."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from pdetr3d.data.index.index import Index
from pdetr3d.data.labels.manifest import LabelManifest
from pdetr3d.geometry.rigid import apply, chain

VERSION = "v1.0-sim"


def without_annotations(dataroot: Path, out: Path, tokens: Iterable[str]) -> Path:
    """Copy the dataset (with links to its files) to ``out``, without the annotations of these samples."""
    gone = set(tokens)
    (out / VERSION).mkdir(parents=True)
    for folder in ("samples", "sweeps", "maps"):
        (out / folder).symlink_to(dataroot / folder)
    for table in (dataroot / VERSION).glob("*.json"):
        text = table.read_text()
        if table.name == "sample_annotation.json":
            text = json.dumps([row for row in json.loads(text) if row["sample_token"] not in gone])
        (out / VERSION / table.name).write_text(text)
    return out


def of_role(manifest: LabelManifest, role: str) -> list[str]:
    """The tokens of the samples with a role, in manifest order."""
    return [token for token, mine in manifest.roles.items() if mine == role]


def write_clicks(index: Index, manifest: LabelManifest, file: Path, frame: str = "global") -> Path:
    """Write a manifest's clicks of point-labeled samples as people's CSV in ``frame``, with all digits."""
    clicks = manifest.clicks.to_pandas()
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["sample_token", "x", "y", "z", "class", "frame"])
        for token in of_role(manifest, "point"):
            record, mine = index.record(token), clicks[clicks["sample_token"] == token]
            pose = chain(record.lidar2ego, record.ego2global) if frame == "global" else np.eye(4)
            for row, (x, y, z) in zip(mine.itertuples(), apply(pose, mine[["x", "y", "z"]].to_numpy()), strict=True):
                writer.writerow([token, repr(float(x)), repr(float(y)), repr(float(z)), row[3], frame])
    return file
