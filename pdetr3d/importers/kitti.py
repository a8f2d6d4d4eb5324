"""Imports KITTI, in the layout of its object or its tracking benchmark, as a dataset in nuScenes format (v1.0-kitti).

The object layout is ``training/{velodyne,image_2,calib,label_2}/NNNNNN.*`` and, optionally, ``ImageSets/*.txt``. It has
no poses, and therefore neither earlier sweeps nor velocities. ``kitti_tracking.py`` describes the tracking layout. Of
the six cameras there is one, CAM_FRONT.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from pdetr3d.class_list import NUSCENES_CLASSES, ClassList
from pdetr3d.importers.dataset import refuse, write_dataset
from pdetr3d.importers.kitti_files import read_calibration, read_labels
from pdetr3d.importers.kitti_frames import KittiFrame, class_problems, find_image, label_facts, size_problems
from pdetr3d.importers.kitti_outlines import unlike_rectangles
from pdetr3d.importers.kitti_table import write_labels
from pdetr3d.importers.kitti_tracking import EVERY, is_tracking, read_tracking
from pdetr3d.importers.mapping import ClassMapping
from pdetr3d.importers.rows import sample_token
from pdetr3d.importers.scenes import SceneRow, read_scenes, splits_of
from pdetr3d.schema import DataError

log = logging.getLogger(__name__)
VERSION = "v1.0-kitti"
# The documented default of --mapping. nuScenes' boxes of bicycles include their riders, as KITTI's cyclists do.
CLASSES = ClassMapping(
    {
        "Car": "car",
        "Van": "car",
        "Truck": "truck",
        "Tram": None,
        "Pedestrian": "pedestrian",
        "Person_sitting": "pedestrian",
        "Person": "pedestrian",  # the tracking benchmark's name for sitting people
        "Cyclist": "bicycle",
        "Misc": None,
        "DontCare": None,
    },
    "KITTI's types (--mapping names others)",
    NUSCENES_CLASSES,
)


def import_kitti(
    root: Path,
    out: Path,
    mapping: Path | None = None,
    scenes: Path | None = None,
    classes: ClassList = NUSCENES_CLASSES,
    *,
    links: bool = False,
    every: int = EVERY,
) -> dict[str, Any]:
    """Read a folder in KITTI's object or tracking layout and write the dataset ``out``.

    Args:
        mapping: YAML file, KITTI's type -> class; default: CLASSES.
        scenes: CSV file for the object layout (``scenes.read_scenes``); default: root/scenes.csv. Without such a file
            every frame is a scene.
        classes: the class list. With own classes, KITTI's types that a class claims keep their names.
        links: images become symbolic links instead of copies.
        every: in the tracking layout, every n-th frame is a keyframe.

    Returns:
        The numbers of frames and labels that were imported and left out (also in ``VERSION``/import.json).

    Raises:
        DataError: names file and line of everything that cannot be used; nothing is written then.
    """
    root = Path(root)
    kinds = _mapping(mapping, classes)
    sets: dict[str, set[str]] = {}
    if is_tracking(root):
        if scenes is not None:
            raise DataError(f"--scenes {scenes}: {root} is in KITTI's tracking layout, whose sequences are the scenes")
        found, rows, facts = read_tracking(root, kinds, every)
    else:
        names = frame_names(root)
        rows = _scenes(root, scenes, names)
        problems: list[str] = []
        found = [each for name in names if name in rows and (each := _read(root, name, kinds, problems))]
        refuse(problems, "mend these, or leave their frames out of scenes.csv")
        sets, unused, missing = _image_sets(root, names)
        facts = {
            "frames_in_no_scene": len(names) - len(rows),
            "frames_without_velodyne": len({path.stem for path in root.glob("training/label_2/*.txt")} - set(names)),
            "image_sets_not_used": unused,
            "frames_of_image_sets_without_files": len(missing),
        }
    if warning := unlike_rectangles(found):
        log.warning("%s", warning)
    key = [each for each in found if each.keyframe]
    splits = splits_of("kitti", {each.name: rows[each.name] for each in key}, sets)
    counts = {split: sum(rows[each.name].scene in mine for each in key) for split, mine in splits.items()}
    categories = {kind: kinds.category(kind) for kind in kinds.targets}
    facts = label_facts(found, kinds) | facts | {"splits": counts}
    write_dataset(
        out,
        VERSION,
        [each.to_frame(rows[each.name], kinds) for each in found],
        splits,
        {"importer": "kitti", "root": str(root.absolute()), "classes": dict(kinds.targets), "categories": categories}
        | facts,
        links=links,
        extra=lambda folder: write_labels(
            folder, [(sample_token(VERSION, each.name), each.labels, each.calibration) for each in key]
        ),
    )
    return facts


def _mapping(file: Path | None, classes: ClassList) -> ClassMapping:
    if file is not None:
        return ClassMapping.read(file, classes)
    return ClassMapping.of(classes, CLASSES.targets) if classes.own else CLASSES


def frame_names(root: Path) -> list[str]:
    """The names of the frames, by the files of training/velodyne.

    Raises:
        DataError: when ``root`` is not in KITTI's object layout.
    """
    folder = root / "training" / "velodyne"
    files = folder.glob("*.bin") if folder.is_dir() else ()
    names = sorted(path.stem for path in files if not path.name.startswith("."))  # macOS writes ._NAME beside NAME
    if not names:
        raise DataError(
            f"--root {root}: no frames at {folder}; KITTI's object layout is training/velodyne/000000.bin, "
            "training/image_2/000000.png, training/calib/000000.txt, training/label_2/000000.txt; its tracking layout "
            "is training/velodyne/0000/000000.bin, training/image_02/0000/000000.png, training/calib/0000.txt, "
            "training/label_02/0000.txt, training/oxts/0000.txt"
        )
    return names


def _scenes(root: Path, file: Path | None, names: list[str]) -> dict[str, SceneRow]:
    if file is None and (root / "scenes.csv").is_file():
        file = root / "scenes.csv"
    if file is not None:
        return read_scenes(file, names)
    return {name: SceneRow(f"kitti_{name}", 0) for name in names}


def _image_sets(root: Path, names: list[str]) -> tuple[dict[str, set[str]], list[str], set[str]]:
    """The sets of ImageSets/NAME.txt: NAME -> frames; the names of sets without any frame (of testing/); the frames of
    the other sets that have no file."""
    sets, unused, missing, known = {}, list[str](), set[str](), set(names)
    for file in sorted((root / "ImageSets").glob("*.txt")):
        frames = set(file.read_text(encoding="utf-8").split())
        if frames & known:
            sets[file.stem] = frames & known
            missing |= frames - known
        elif written := sorted(name for name in frames if Path(name).stem in known):
            raise DataError(
                f"{file}: {written[0]!r} is a file's name ({len(written)} lines alike); write the frame's, "
                f"{Path(written[0]).stem!r}"
            )
        else:
            unused.append(file.stem)
    return sets, unused, missing


def _read(root: Path, name: str, classes: ClassMapping, problems: list[str]) -> KittiFrame | None:
    """Read the files of a frame; returns None if there are problems, which are added to ``problems``."""
    before, part = len(problems), root / "training"
    calibration = None
    try:
        calibration = read_calibration(part / "calib" / f"{name}.txt")
    except DataError as error:
        problems.append(str(error))
    file = part / "label_2" / f"{name}.txt"
    labels = read_labels(file, problems)
    problems += class_problems(file, labels, classes)
    image = find_image(part / "image_2", name, problems)
    if image is not None and calibration is not None:
        problems += size_problems(*image, calibration, file, labels)
    if image is None or calibration is None or len(problems) > before:
        return None
    return KittiFrame(name, part / "velodyne" / f"{name}.bin", *image, calibration, labels)
