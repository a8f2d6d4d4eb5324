"""Imports users' own LiDAR files and boxes, in the plain format, as a dataset in nuScenes format (v1.0-frames).

The plain format is a folder with the tables ``frames``, ``boxes`` and, optionally, ``cameras`` and ``regions`` (each
.parquet or .csv, see docs/datasets.md) and the files that they name. Coordinates are those of the LiDAR files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pdetr3d.class_list import NUSCENES_CLASSES, ClassList
from pdetr3d.formats import LOOKED_AT, format_of
from pdetr3d.geometry.regions import EVERYWHERE, Regions
from pdetr3d.geometry.rigid import chain, inverse, move_points, rigid
from pdetr3d.importers.dataset import refuse, write_dataset
from pdetr3d.importers.frame import Camera, Frame, Objects
from pdetr3d.importers.mapping import ClassMapping
from pdetr3d.importers.plain_tables import (
    ANGLE,
    FLAG,
    NAME,
    NUMBER,
    PATH,
    POLYGONS,
    POSITIVE,
    SIDE,
    TEXT,
    TIME,
    TRACK,
    Row,
    read_rows,
)
from pdetr3d.importers.scenes import SceneRow, splits_of
from pdetr3d.inference.clouds import CloudReader
from pdetr3d.schema import BOX_COLUMNS, CAMERAS, DataError
from pdetr3d.tables.names import CATEGORY
from pdetr3d.tables.plausible import FOCAL

VERSION = "v1.0-frames"
POSE = dict.fromkeys(("x", "y", "z", "qw", "qx", "qy", "qz"), NUMBER)
FRAMES = {"frame": NAME, "scene": NAME, "timestamp_us": TIME, "lidar": PATH}
BOXES = {
    "frame": NAME,
    "category": TEXT,
    **dict.fromkeys("xyz", NUMBER),
    **dict.fromkeys("lwh", SIDE),
    "yaw": ANGLE,
}
CAMERA = {
    "frame": NAME,
    "channel": TEXT,
    "file": PATH,
    "fx": POSITIVE,
    "fy": POSITIVE,
    "cx": NUMBER,
    "cy": NUMBER,
    **POSE,
}
CLASSES = ClassMapping(
    {**{name: name for name in CATEGORY}, **{category: name for name, category in CATEGORY.items()}},
    "the ten classes (--mapping names others)",
    NUSCENES_CLASSES,
)
# The forward axis of the files -> the transform (4, 4) of their axes to LIDAR_TOP's (x right, y forward, z up).
AXES = {
    "y": np.eye(4),
    "x": np.array([[0.0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
}


class _Folder:
    """The checked tables of a folder, by frame; ``problems`` lists the faults of all of them."""

    def __init__(self, root: Path) -> None:
        problems: list[str] = []
        optional = {**POSE, "keyframe": FLAG, "split": NAME}
        rows, self.file = read_rows(root, "frames", FRAMES, optional, problems)
        if self.file is None:
            raise DataError(
                f"--root {root}: no frames.parquet or frames.csv; it has a row per LiDAR file: {', '.join(FRAMES)}"
            )
        self.root, self.problems = root, problems
        self._all_rows = not problems  # a frame may be missing only because its row has a fault, which is told
        self.frames: dict[str, Row] = {}
        for number, row in rows:
            if row["frame"] in self.frames:
                problems.append(f"{self.file}, row {number}: frame {row['frame']!r} is in an earlier row, too")
            self._check_frame(number, row)
            self.frames[row["frame"]] = {"keyframe": True, "split": ""} | row
        self.boxes = self._by_frame("boxes", BOXES, {"track": TRACK})
        self.cameras = self._by_frame("cameras", CAMERA, {})
        self.regions = self._by_frame("regions", {"frame": NAME}, {"valid": POLYGONS, "ignore": POLYGONS})
        self._check_scenes()

    def _by_frame(self, stem: str, needed: Mapping, optional: Mapping) -> dict[str, list[tuple[str, Row]]]:
        """Frame -> (file and row, values) of a table. Rows of unknown frames, or of sweeps, are problems."""
        rows, file = read_rows(self.root, stem, needed, optional, self.problems)
        found: dict[str, list[tuple[str, Row]]] = {}
        for number, row in rows:
            frame = self.frames.get(row["frame"])
            where = f"{file}, row {number}"
            if frame is None and not self._all_rows:
                continue
            if frame is None:
                self.problems.append(f"{where}: frame {row['frame']!r} is in no row of {self.file}")
            elif not frame["keyframe"]:
                self.problems.append(f"{where}: frame {row['frame']!r} is no keyframe: only these have {stem}")
            else:
                found.setdefault(row["frame"], []).append((where, row))
        return found

    def _check_frame(self, number: int, row: Row) -> None:
        given = [name for name in POSE if name in row]
        if given and len(given) < len(POSE):
            missing = [name for name in POSE if name not in row]
            self.problems.append(f"{self.file}, row {number}: a pose has {', '.join(POSE)}, but {missing} are missing")
        elif given:
            self._check_rotation(f"{self.file}, row {number}", row)
        if not (self.root / row["lidar"]).is_file():
            self.problems.append(f"{self.file}, row {number}: lidar {row['lidar']!r}: no such file in {self.root}")

    def _check_rotation(self, where: str, row: Row) -> None:
        rotation = [row[name] for name in ("qw", "qx", "qy", "qz")]
        if not 0.99 < np.linalg.norm(rotation) < 1.01:
            self.problems.append(f"{where}: qw, qx, qy, qz {rotation} must have length 1")

    def _check_scenes(self) -> None:
        scenes: dict[str, list[Row]] = {}
        for row in self.frames.values():
            scenes.setdefault(row["scene"], []).append(row)
        for name, rows in scenes.items():
            posed = sum("qw" in row for row in rows)
            if 0 < posed < len(rows):
                self.problems.append(
                    f"{self.file}: scene {name!r} has {posed} poses for {len(rows)} frames; give all of them, or none"
                )
            sweeps = sum(not row["keyframe"] for row in rows)
            if sweeps == len(rows):
                self.problems.append(f"{self.file}: scene {name!r} has no keyframe")
            if sweeps and not posed:
                self.problems.append(
                    f"{self.file}: scene {name!r} has {sweeps} sweeps (keyframe false), but no poses to join them by"
                )
            splits = {row["split"] for row in rows}
            if len(splits) > 1:
                self.problems.append(f"{self.file}: scene {name!r} is in splits {sorted(splits)}; it must be in one")
        for pairs in self.boxes.values():
            tracks = [row.get("track") for _, row in pairs]
            for place, (where, row) in enumerate(pairs):
                if tracks[place] is not None and tracks[place] in tracks[:place]:
                    self.problems.append(f"{where}: frame {row['frame']!r} has a box of track {row['track']!r} already")
        for rows_of in (self.cameras, self.regions):
            for pairs in rows_of.values():
                keys = [row.get("channel", "") for _, row in pairs]
                for place, (where, row) in enumerate(pairs):
                    if keys[place] in keys[:place]:
                        self.problems.append(f"{where}: frame {row['frame']!r} has such a row already")
        for pairs in self.cameras.values():
            for where, row in pairs:
                self._check_rotation(where, row)
                if row["channel"] not in CAMERAS:
                    self.problems.append(f"{where}: channel {row['channel']!r} must be one of {', '.join(CAMERAS)}")


def import_frames(
    root: Path,
    out: Path,
    forward: str,
    mapping: Path | None = None,
    columns: str | None = None,
    intensity_max: float = 255.0,
    classes: ClassList = NUSCENES_CLASSES,
    *,
    links: bool = False,
) -> dict[str, Any]:
    """Read a folder in the plain format and write the dataset ``out``.

    Args:
        forward: the axis of the LiDAR files that points forward: "x" (then y is left), or "y" (then x is right).
        mapping: YAML file, category -> class; default: the ten classes' names and nuScenes' categories, or the
            categories of own ``classes``.
        columns, intensity_max: of the LiDAR files (``CloudReader.of``).
        classes: the class list. links: images become symbolic links instead of copies.

    Returns:
        The numbers of frames, objects and images that were imported (also in ``VERSION``/import.json).

    Raises:
        DataError: names file, row and value of everything that cannot be used; nothing is written then.
    """
    if forward not in AXES:
        raise DataError(f"--forward {forward}: must be x (y is left) or y (x is right)")
    reader = CloudReader.of(columns, intensity_max)
    known = ClassMapping.of(classes) if classes.own else CLASSES
    known = known if mapping is None else ClassMapping.read(mapping, classes)
    folder = _Folder(Path(root))
    for pairs in folder.boxes.values():
        for where, row in pairs:
            if problem := known.problem(row["category"]):
                folder.problems.append(f"{where}: {problem}")
    sizes = _image_sizes(folder)
    refuse(folder.problems, "mend these rows or files")
    frames = [_frame(folder, name, sizes, reader, AXES[forward], known) for name in folder.frames]
    key = {name: row for name, row in folder.frames.items() if row["keyframe"]}
    scenes = {name: SceneRow(row["scene"], row["timestamp_us"], row["split"]) for name, row in key.items()}
    splits = splits_of("frames", scenes, {})
    names = [row["category"] for pairs in folder.boxes.values() for _, row in pairs]
    facts = {
        "frames": len(key),
        "sweeps": len(frames) - len(key),
        "objects": dict(Counter(names).most_common()),
        "without_class": known.without_class(names),
        "images": sum(map(len, folder.cameras.values())),
        "frames_with_regions": len(folder.regions),
        "splits": {split: sum(row["scene"] in mine for row in key.values()) for split, mine in splits.items()},
    }
    stored = {"importer": "frames", "root": str(Path(root).absolute()), "classes": dict(known.targets), **facts}
    write_dataset(out, VERSION, frames, splits, stored, links=links)
    return facts


def _image_sizes(folder: _Folder) -> dict[Path, tuple[int, int]]:
    sizes: dict[Path, tuple[int, int]] = {}
    for where, row in (pair for pairs in folder.cameras.values() for pair in pairs):
        file = folder.root / row["file"]
        try:
            with Image.open(file, formats=["PNG", "JPEG"]) as image:
                sizes[file] = image.size
        except OSError as error:
            other = format_of(file.read_bytes()[:LOOKED_AT]) if file.is_file() else ""
            broken = f"no JPEG or PNG, but {other}" if other else f"missing or broken JPEG or PNG ({error})"
            folder.problems.append(f"{where}: file {row['file']!r}: {broken}")
            continue
        if not (0 < row["cx"] < sizes[file][0] and 0 < row["cy"] < sizes[file][1]):
            folder.problems.append(
                f"{where}: cx, cy {row['cx']:g} {row['cy']:g} is outside the image of {sizes[file][0]} x "
                f"{sizes[file][1]} px: the calibration is of another image size"
            )
        for name in ("fx", "fy"):
            if not FOCAL[0] < row[name] / sizes[file][0] < FOCAL[1]:
                folder.problems.append(f"{where}: {name} {row[name]:g} is no focal length in pixels of such an image")
    return sizes


def _frame(
    folder: _Folder, name: str, sizes: Mapping[Path, tuple[int, int]], reader: CloudReader, axes: NDArray,
    classes: ClassMapping,
) -> Frame:  # fmt: skip
    row = folder.frames[name]
    boxes = [box for _, box in folder.boxes.get(name, ())]
    values = np.array([[box[key] for key in BOX_COLUMNS] for box in boxes], np.float64).reshape(-1, 7)
    turn = np.arctan2(axes[1, 0], axes[0, 0])
    cameras = []
    for _, camera in folder.cameras.get(name, ()):
        file = folder.root / camera["file"]
        intrinsic = np.array([[camera["fx"], 0, camera["cx"]], [0, camera["fy"], camera["cy"]], [0, 0, 1]])
        cameras.append(Camera(camera["channel"], file, sizes[file], intrinsic, chain(_pose(camera), axes)))
    regions = EVERYWHERE
    for _, mine in folder.regions.get(name, ()):
        valid = mine.get("valid")
        regions = Regions(None if valid is None else tuple(valid), tuple(mine.get("ignore", ()))).moved(axes)
    return Frame(
        name=name,
        scene=row["scene"],
        timestamp_us=row["timestamp_us"],
        points=lambda: _points(folder.root / row["lidar"], reader, axes),
        lidar2global=chain(inverse(axes), _pose(row)) if "qw" in row else None,
        keyframe=row["keyframe"],
        cameras=tuple(cameras),
        objects=Objects(
            tuple(classes.category(box["category"]) for box in boxes),
            values[:, :3] @ axes[:3, :3].T,
            values[:, 3:6],
            values[:, 6] + turn,
            tuple(box.get("track") for box in boxes),
        ),
        regions=regions,
    )


def _pose(row: Row) -> NDArray[np.float64]:
    return rigid([row[name] for name in ("qw", "qx", "qy", "qz")], [row[name] for name in "xyz"])


def _points(file: Path, reader: CloudReader, axes: NDArray[np.float64]) -> NDArray[np.float32]:
    cloud = reader.read(file)
    if cloud.aged:
        raise DataError(f"{file}: has ages: it is accumulated from several sweeps; give single sweeps, with poses")
    move_points(axes, cloud.points)
    cloud.points[:, 4] = 0  # the column of the ring, which is unknown
    return cloud.points
