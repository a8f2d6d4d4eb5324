"""Verbs on other datasets: ``import ...``, which converts them to nuScenes format, and ``kitti-score``."""

from __future__ import annotations

import shlex
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from pdetr3d.cli.app import app, say
from pdetr3d.cli.dataset import IndexFile

importers = typer.Typer(no_args_is_help=True, help="Convert a dataset of another format to nuScenes format.")
app.add_typer(importers, name="import")

Out = Annotated[Path, typer.Option(help="Folder to write the dataset to. Must not exist.")]
ClassFile = Annotated[
    Path | None,
    typer.Option("--mapping", help="YAML file: name of a category -> a class, another name, or null."),
]
ListFile = Annotated[
    str,
    typer.Option("--classes", help="YAML file of your own classes, or kitti (data.classes). Their names are kept."),
]
Links = Annotated[
    bool,
    typer.Option("--links/--copy", help="Link images (then set data.follow_links=true), or copy them."),
]


@importers.command()
def kitti(
    root: Annotated[Path, typer.Option(help="Folder that holds training/ with velodyne, image_2, calib, label_2.")],
    out: Out,
    mapping: ClassFile = None,
    scenes: Annotated[
        Path | None,
        typer.Option(
            help="CSV with the columns sample, scene, timestamp_us and optionally split. It groups frames into scenes. "
            "Frames that it does not name are left out. Default: scenes.csv in the root; without it a frame is a scene."
        ),
    ] = None,
    classes: ListFile = "",
    every: Annotated[int, typer.Option(min=1, help="Tracking layout (10 Hz): every so many frames is a keyframe.")] = 5,
    links: Links = False,
) -> None:
    """Import KITTI (object or tracking layout) as version v1.0-kitti: splits kitti_train, kitti_val, kitti_all.

    Splits follow the column split of --scenes, or ImageSets/*.txt. Without
    both, 30 % of the frames (whole scenes) are for validation. LIDAR_TOP stands
    at the velodyne: x right, y forward, z up, upright as KITTI's boxes are. The
    ground outside the camera's view is marked as not annotated, and DontCare
    areas as regions to ignore (regions.parquet beside the tables).

    Example: pdetr3d import kitti --root kitti --out dataset
    """
    from pdetr3d.class_list import read_classes
    from pdetr3d.importers.kitti import VERSION, import_kitti

    own = read_classes(classes, "--classes")
    told(import_kitti(root, out, mapping, scenes, own, links=links, every=every), out, VERSION, links, classes)


class Forward(StrEnum):
    """The axis of the LiDAR files that points forward."""

    X = "x"
    Y = "y"


@importers.command()
def frames(
    root: Annotated[Path, typer.Option(help="Folder of frames.parquet (or .csv), boxes.parquet and what they name.")],
    out: Out,
    forward: Annotated[
        Forward, typer.Option(help="Axis of the files that points forward: x (y is left) or y (x is right).")
    ],
    mapping: ClassFile = None,
    columns: Annotated[
        str | None,
        typer.Option(help="Columns of .bin and .npy files, in order, e.g. x,y,z,intensity."),
    ] = None,
    classes: ListFile = "",
    intensity_max: Annotated[float, typer.Option(help="Full scale of the files' intensity.")] = 255.0,
    links: Links = False,
) -> None:
    """Import LiDAR files, boxes and images that plain tables list (docs/datasets.md), as version v1.0-frames.

    Splits follow the column split of frames.parquet, as frames_NAME. Without it
    30 % of the frames (whole scenes) are frames_val.

    Example: pdetr3d import frames --root mine --out dataset --forward x
    """
    from pdetr3d.class_list import read_classes
    from pdetr3d.importers.plain import VERSION, import_frames

    own = read_classes(classes, "--classes")
    facts = import_frames(root, out, forward.value, mapping, columns, intensity_max, own, links=links)
    told(facts, out, VERSION, links, classes)


@app.command()
def kitti_score(
    results: Annotated[Path, typer.Argument(help="nuScenes results file, e.g. of `pdetr3d predict --out FILE.json`.")],
    index_file: IndexFile,
    split: Annotated[str, typer.Option(help="Split whose samples are scored.")] = "kitti_val",
    out: Annotated[Path | None, typer.Option(help="Also write the score to this JSON file.")] = None,
) -> None:
    """Score boxes as KITTI does: AP at 40 recall points, in 3D and from above, easy, moderate and hard.

    This is for datasets that `pdetr3d import kitti` wrote. All 40 recall points
    are evaluated, also where there are fewer than 41 objects.

    Example: pdetr3d kitti-score results.json --index INDEX
    """
    import json

    from pdetr3d.data.index.index import Index
    from pdetr3d.data.storage.files import atomic_path
    from pdetr3d.evaluation.kitti_score import kitti_score as score
    from pdetr3d.evaluation.kitti_score import show_kitti
    from pdetr3d.evaluation.results_format import read_results

    index = Index.open(index_file)
    records = [index.record(token) for token in index.tokens(split)]
    poses = {record.sample_token: (record.lidar2ego, record.ego2global) for record in records}
    boxes = read_results(results, poses, index.classes)
    cameras = {record.sample_token: record.cameras[0] for record in records}
    report = score(index.dataroot / index.version, boxes, cameras, index.classes)
    show_kitti(report)
    if out is not None:
        with atomic_path(out) as temporary:
            temporary.write_text(json.dumps(report, indent=1))
        say(out=out)


def told(facts: dict[str, Any], out: Path, version: str, links: bool, classes: str = "") -> None:
    """Print what was imported, what was left out, and the next command."""
    lines = {name.replace("_", " "): _words(value) for name, value in facts.items()}
    more = " data.follow_links=true" if links else ""
    more += f" data.classes={shlex.quote(classes)}" if classes else ""
    say(
        dataset=out,
        **lines,
        next=f"pdetr3d index --dataroot {shlex.quote(str(out))} --version {version} data.lidar_ring=false{more}",
    )


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {count}" for name, count in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return str(value)
