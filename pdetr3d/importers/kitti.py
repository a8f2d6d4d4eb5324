"""KITTI's object layout -> a dataset in nuScenes format (version v1.0-kitti).

``training/{velodyne,image_2,calib,label_2}/NNNNNN.*``, ``ImageSets/*.txt`` where there are any. One camera of six:
CAM_FRONT. No poses, so no earlier sweeps and no velocities.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pdetr3d.config import DataConfig
from pdetr3d.data.points import check_points
from pdetr3d.geometry.boxes import footprints
from pdetr3d.geometry.regions import Regions
from pdetr3d.geometry.rigid import move_points
from pdetr3d.importers.dataset import refuse, write_dataset
from pdetr3d.importers.frame import Camera, Frame, Objects, cut_out, field_of_view, image_sector
from pdetr3d.importers.kitti_files import Calibration, Labels, read_calibration, read_labels
from pdetr3d.importers.kitti_table import write_labels
from pdetr3d.importers.mapping import ClassMapping
from pdetr3d.importers.rows import sample_token
from pdetr3d.importers.scenes import SceneRow, read_scenes, splits_of
from pdetr3d.schema import DataError

VERSION = "v1.0-kitti"
# Documented default of --mapping. nuScenes' boxes of bicycles include their riders, as KITTI's cyclists do.
CLASSES = ClassMapping(
    {
        "Car": "car",
        "Van": "car",
        "Truck": "truck",
        "Tram": None,
        "Pedestrian": "pedestrian",
        "Person_sitting": "pedestrian",
        "Cyclist": "bicycle",
        "Misc": None,
        "DontCare": None,
    },
    "KITTI's types (--mapping names others)",
)
VELODYNE = DataConfig(lidar_columns=4)  # x, y, z, reflectance in [0, 1]
FULL_INTENSITY = 255.0
# The principal point of a calibration lies near the middle of its image (KITTI: at 0.49 and 0.46 of the sides).
OFF_CENTER = 0.15
SPILL_PX = 1.0  # by which a label's rectangle may leave the image
CAMERA_HEIGHT_M = 1.65  # of the left color camera over the ground (KITTI's sensor setup)
NEAREST_M = 2.0  # where a region to ignore begins at the nearest
FARTHEST_START_M = 40.0  # flat ground says little of rectangles that end near the horizon
SLACK = 0.8  # of the depth at which flat ground meets the lower side of a rectangle


@dataclass(frozen=True)
class _Found:
    """The files of a frame, read."""

    name: str
    calibration: Calibration
    labels: Labels
    image: Path
    size_px: tuple[int, int]


def import_kitti(
    root: Path, out: Path, mapping: Path | None = None, scenes: Path | None = None, *, links: bool = False
) -> dict[str, Any]:
    """Read a folder in KITTI's object layout and write the dataset ``out``.

    Args:
        mapping: YAML file, KITTI's type -> class; default CLASSES. scenes: CSV (``scenes.read_scenes``); default:
            root/scenes.csv; without one each frame is a scene. links: images are links instead of copies.

    Returns:
        What was found and left out, counted (also in ``VERSION``/import.json).

    Raises:
        DataError: naming file and line of everything that cannot be used; nothing is written then.
    """
    root = Path(root)
    classes = CLASSES if mapping is None else ClassMapping.read(mapping)
    names = frame_names(root)
    rows = _scenes(root, scenes, names)
    problems: list[str] = []
    found = [each for name in names if name in rows and (each := _read(root, name, classes, problems))]
    refuse(problems, "mend these, or leave their frames out of scenes.csv")
    frames = [_frame(root, each, rows[each.name], classes) for each in found]
    sets, unused = _image_sets(root, names)
    splits = splits_of("kitti", {each.name: rows[each.name] for each in found}, sets)
    facts = _facts(names, found, classes) | {
        "frames_in_no_scene": len(names) - len(rows),
        "frames_without_velodyne": len({path.stem for path in root.glob("training/label_2/*.txt")} - set(names)),
        "image_sets_not_used": unused,
        "splits": {split: sum(rows[each.name].scene in mine for each in found) for split, mine in splits.items()},
    }
    write_dataset(
        out,
        VERSION,
        frames,
        splits,
        {"importer": "kitti", "root": str(root.absolute()), "classes": dict(classes.targets)} | facts,
        links=links,
        extra=lambda folder: write_labels(
            folder, [(sample_token(VERSION, each.name), each.labels, each.calibration) for each in found]
        ),
    )
    return facts


def frame_names(root: Path) -> list[str]:
    """Names of the frames: files of training/velodyne.

    Raises:
        DataError: when ``root`` is not in KITTI's object layout.
    """
    folder = root / "training" / "velodyne"
    names = sorted(path.stem for path in folder.glob("*.bin")) if folder.is_dir() else []
    if not names:
        raise DataError(
            f"--root {root}: no frames at {folder}; KITTI's object layout is training/velodyne/000000.bin, "
            "training/image_2/000000.png, training/calib/000000.txt, training/label_2/000000.txt"
        )
    return names


def _scenes(root: Path, file: Path | None, names: list[str]) -> dict[str, SceneRow]:
    if file is None and (root / "scenes.csv").is_file():
        file = root / "scenes.csv"
    if file is not None:
        return read_scenes(file, names)
    return {name: SceneRow(f"kitti_{name}", 0) for name in names}


def _image_sets(root: Path, names: list[str]) -> tuple[dict[str, set[str]], list[str]]:
    """ImageSets/NAME.txt as NAME -> frames; and those of frames that are not there (of testing/)."""
    sets, unused, known = {}, [], set(names)
    for file in sorted((root / "ImageSets").glob("*.txt")):
        frames = set(file.read_text(encoding="utf-8").split())
        if frames & known:
            sets[file.stem] = frames & known
        else:
            unused.append(file.stem)
    return sets, unused


def _read(root: Path, name: str, classes: ClassMapping, problems: list[str]) -> _Found | None:
    """The files of a frame; what is wrong with them is added to ``problems``."""
    before, part = len(problems), root / "training"
    calibration = None
    try:
        calibration = read_calibration(part / "calib" / f"{name}.txt")
    except DataError as error:
        problems.append(str(error))
    file = part / "label_2" / f"{name}.txt"
    labels = read_labels(file, problems)
    for kind, line in zip(labels.kind, labels.line, strict=True):
        if problem := classes.problem(kind) if kind != "DontCare" else "":
            problems.append(f"{file}:{line}: {problem}")
    image = next((path for end in (".png", ".jpg") if (path := part / "image_2" / f"{name}{end}").is_file()), None)
    if image is None:
        problems.append(f"{part / 'image_2' / name}.png: no such image")
        return None
    try:
        with Image.open(image, formats=["PNG", "JPEG"]) as opened:
            size = opened.size
    except OSError as error:
        problems.append(f"{image}: missing or broken PNG or JPEG ({error}); copy the file again")
        return None
    if calibration is not None:
        problems += _size_problems(image, size, calibration, file, labels)
    if calibration is None or len(problems) > before:
        return None
    return _Found(name, calibration, labels, image, size)


def _size_problems(
    image: Path, size: tuple[int, int], calibration: Calibration, file: Path, labels: Labels
) -> list[str]:
    """Whether an image is of the size that calibration and labels are for."""
    center = calibration.intrinsic[:2, 2]
    if np.abs(center / size - 0.5).max() > OFF_CENTER:
        return [
            f"{image}: {size[0]} x {size[1]} px, but P2 has its principal point at ({center[0]:.1f}, {center[1]:.1f}): "
            f"it is for an image of about {2 * center[0]:.0f} x {2 * center[1]:.0f} px; give the image of that size, "
            "or a P2 scaled as the image was"
        ]
    outside = np.flatnonzero((labels.rectangle_px[:, 2:] > np.array(size) + SPILL_PX).any(1))
    return [
        f"{file}:{labels.line[i]}: right, bottom {labels.rectangle_px[i, 2]:g} {labels.rectangle_px[i, 3]:g} is out of "
        f"{image.name}, {size[0]} x {size[1]} px: the label is of another image size"
        for i in outside
    ]


def _frame(root: Path, found: _Found, row: SceneRow, classes: ClassMapping) -> Frame:
    calibration, labels = found.calibration, found.labels
    camera = Camera("CAM_FRONT", found.image, found.size_px, calibration.intrinsic, calibration.camera2lidar)
    cared = labels.cared
    box = labels.boxes(calibration)[cared]
    kinds = [kind for kind, keep in zip(labels.kind, cared, strict=True) if keep]
    file = root / "training" / "velodyne" / f"{found.name}.bin"
    return Frame(
        name=found.name,
        scene=row.scene,
        timestamp_us=row.timestamp_us,
        points=lambda: velodyne_points(file, calibration),
        cameras=(camera,),
        objects=Objects(
            tuple(classes.category(kind) for kind in kinds), box[:, :3], box[:, 3:6], box[:, 6], (None,) * len(kinds)
        ),
        regions=Regions((field_of_view(camera),), ignored(camera, labels.rectangle_px[~cared], box)),
    )


def velodyne_points(file: Path, calibration: Calibration) -> NDArray[np.float32]:
    """(P, 5) x, y, z in LIDAR_TOP, reflectance as [0, 255], and 0: KITTI keeps no rings.

    Raises:
        DataError: when the file is cut or holds something else.
    """
    check_points(file, VELODYNE)
    points = np.pad(np.fromfile(file, "<f4").reshape(-1, 4), ((0, 0), (0, 1)))
    move_points(calibration.velo2lidar, points)
    points[:, 3] *= FULL_INTENSITY
    return points


def ignored(
    camera: Camera, rectangles_px: NDArray[np.float64], boxes: NDArray[np.float64]
) -> tuple[NDArray[np.float64], ...]:
    """DontCare rectangles (D, 4) of an image as polygons on the ground, without the footprints of labeled ``boxes``
    (N, 7): these are known.

    A rectangle says a direction, not a distance. Its polygon begins at SLACK times the depth at which flat ground meets
    its lower side, at NEAREST_M where that is nearer, and ends where the field of view does.
    """
    known = [np.array(shape.exterior.coords)[:-1] for shape in footprints(boxes[:, :3], boxes[:, 3:6], boxes[:, 6])]
    polygons: list[NDArray[np.float64]] = []
    for left, _, right, bottom in rectangles_px:
        below_px = bottom - camera.intrinsic[1, 2]
        depth_m = camera.intrinsic[1, 1] * CAMERA_HEIGHT_M / below_px if below_px > 0 else np.inf
        near_m = max(NEAREST_M, SLACK * min(depth_m, FARTHEST_START_M))
        polygons += cut_out(image_sector(camera, left, right, near_m), known)
    return tuple(polygons)


def _facts(names: list[str], found: list[_Found], classes: ClassMapping) -> dict[str, Any]:
    kinds = [kind for each in found for kind in each.labels.kind]
    objects = [kind for kind in kinds if kind != "DontCare"]
    occluded = sum(int(((each.labels.occluded == 3) & each.labels.cared).sum()) for each in found)
    return {
        "frames": len(found),
        "objects": dict(Counter(objects).most_common()),
        "without_class": classes.without_class(objects),
        "dont_care": kinds.count("DontCare"),
        "occlusion_unknown": occluded,
    }
