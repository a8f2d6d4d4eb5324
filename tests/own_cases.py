"""Makes a dataset with seven own classes, imported and indexed, with people's clicks, and a run directory on it."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from pdetr3d.class_list import ClassList, read_classes
from pdetr3d.cli import main
from pdetr3d.config import LabelConfig
from pdetr3d.data.index.index import Index
from pdetr3d.data.index.nuscenes import build_index
from pdetr3d.data.label_manifest import build_manifest
from pdetr3d.data.labels.people_manifest import import_clicks
from pdetr3d.data.loading.records import inspection_records
from pdetr3d.schema import CLASSES
from tests.model_cases import tiny_config
from tests.people_cases import write_clicks
from tests.training_cases import World, open_world

# No class has a name of nuScenes or the place of such a class; one name cannot be a file name.
LIST = """
huetchen: {size_m: [0.4, 0.4, 1.1], range_m: 30, heading: none, velocity: false}
mensch: {size_m: [0.7, 0.7, 1.8], range_m: 40, attributes: [pedestrian.moving, pedestrian.standing]}
zweirad: {size_m: [2, 0.7, 1.4], range_m: 40}
bake: {size_m: [0.5, 2.5, 1], range_m: 30, heading: axis, velocity: false}
anhaenger: {size_m: [12, 3, 3.9], group: gross}
lkw/omnibus: {size_m: [7, 2.5, 2.9], categories: [lkw, bus], group: gross}
pkw: {size_m: [4.6, 1.9, 1.7], group: gross}
"""
NAME = {
    "car": "pkw", "truck": "lkw", "construction_vehicle": "lkw", "bus": "bus", "trailer": "anhaenger",
    "barrier": "bake", "motorcycle": "zweirad", "bicycle": "zweirad", "pedestrian": "mensch",
    "traffic_cone": "huetchen",
}  # fmt: skip
SMALL = ["teacher.fusion=none", "data.lidar_ring=false", "data.num_sweeps=1", "optim.batch_size=2",
         "data.version=v1.0-frames", "data.train_split=frames_train", "data.val_split=frames_val", "data.select_split=",
         "teacher.optim.batch_size=2", "student.score_threshold=0.09", "data.allow_empty=[cameras]"]  # fmt: skip


@dataclass(frozen=True)
class Own:
    """The imported dataset, and a run on people's clicks."""

    list_file: Path
    folder: Path
    world: World

    @property
    def classes(self) -> ClassList:
        """The seven classes."""
        return read_classes(str(self.list_file))

    def copy_run(self, folder: Path) -> Path:
        """A copy of the run directory to write into: data and labels without training."""
        shutil.copytree(self.world.run.path, folder)
        return folder


def write_frames(sim_world: Path, root: Path) -> pd.DataFrame:
    """Write the tests' world in the plain format, with own names; returns its boxes."""
    index = Index.open(build_index(sim_world, "v1.0-sim", root / "index.arrow"))
    frames, boxes = [], []
    for split in ("sim_train", "sim_val"):
        for record in inspection_records(index, index.tokens(split)):
            token = record.sample_token
            (root / f"{token}.pcd.bin").symlink_to(record.lidar_path)
            frames.append({"frame": token, "scene": record.scene_token, "timestamp_us": record.timestamp_us,
                           "lidar": f"{token}.pcd.bin", "split": split[4:]})  # fmt: skip
            for row, label in zip(record.boxes.rows.tolist(), record.boxes.label, strict=True):
                values = dict(zip("x y z l w h yaw".split(), row, strict=True))
                boxes.append({"frame": token, "category": NAME[CLASSES[label]], **values})
    for name, rows in (("frames", frames), ("boxes", boxes)):
        pd.DataFrame(rows).to_csv(root / f"{name}.csv", index=False)
    return pd.DataFrame(boxes)


def make_own(sim_world: Path, folder: Path) -> Own:
    """Make dataset and run under ``folder``."""
    (folder / "root").mkdir()
    list_file = folder / "seven.yaml"
    list_file.write_text(LIST)
    boxes = write_frames(sim_world, folder / "root")
    arguments = ["--root", folder / "root", "--out", folder / "dataset", "--forward", "y", "--classes", list_file]
    assert main(["import", "frames", *map(str, arguments)]) == 0
    told = json.loads((folder / "dataset/v1.0-frames/import.json").read_text())
    assert told["objects"] == boxes["category"].value_counts().to_dict() and told["without_class"] == {}
    reading = ["data.lidar_ring=false", f"data.classes={list_file}"]
    arguments = ["--dataroot", folder / "dataset", "--version", "v1.0-frames", "--out", folder / "index.arrow"]
    assert main(["index", *map(str, arguments), *reading]) == 0
    index = Index.open(folder / "index.arrow")
    config = read_classes(str(list_file))
    assert index.classes == config and index.facts.unknown_categories == {}
    # Half of the frames keep their boxes, the others get people's clicks at the places of simulated ones.
    overrides = [*SMALL, "label.ratio=0.5", "label.split_by=keyframe"]
    drawn = build_manifest(index, "frames_train", _label(overrides), folder / "drawn")
    write_clicks(index, drawn, folder / "clicks.csv")
    import_clicks(index, "frames_train", _label(overrides), folder / "clicks.csv", folder / "labels", drawn=True)
    of_labels = ["label.source=manifest", f"label.manifest={folder / 'labels'}", f"data.classes={list_file}"]
    return Own(list_file, folder, open_world(folder / "dataset", folder / "run", *SMALL, *of_labels))


def _label(overrides: list[str]) -> LabelConfig:
    return tiny_config(*overrides).label
