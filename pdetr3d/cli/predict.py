"""Verbs on new data: predict, boxes."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from pdetr3d.cli.app import app, say
from pdetr3d.errors import DataError
from pdetr3d.progress import tracked

PICTURE_SCORE = 0.3


# Options that the job predict-blocks has, too.
Model = Annotated[
    Path, typer.Argument(help="Run directory, folder that `pdetr3d export` wrote, or checkpoint file (.pt).")
]
MoreLidar = Annotated[
    list[Path] | None, typer.Argument(help="More LiDAR files (as the shell expands --lidar FOLDER/*.bin).")
]
Lidar = Annotated[
    list[Path] | None,
    typer.Option(help="Folder of LiDAR files, or a file: .pcd.bin, .bin, .npy, .pcd. May be given several times."),
]
Columns = Annotated[
    str | None,
    typer.Option(
        help="Columns of .bin, .pcd.bin and .npy files, in order, e.g. x,y,z,intensity or x,y,z,intensity,ring. "
        "Allowed: x, y, z in meters, intensity, age (keyframe time - sweep time, in seconds), ring and - (not read). "
        "Default of .pcd.bin: x,y,z,intensity,ring. A .pcd names its own."
    ),
]
IntensityMax = Annotated[float, typer.Option(help="Full scale of the files' intensity (nuScenes 255; KITTI 1).")]
Poses = Annotated[
    Path | None,
    typer.Option(
        help="CSV with the columns file, timestamp_us, x, y, z, qw, qx, qy, qz and optionally sequence: poses "
        "LiDAR -> a fixed frame, in meters. file is relative to the CSV's folder. Earlier files of a sequence are "
        "accumulated, as in training. Default: single sweeps of age 0."
    ),
]
IndexFile = Annotated[Path | None, typer.Option("--index", help="Index file, instead of --lidar.")]
Split = Annotated[str | None, typer.Option(help="Split of the index.")]
Arm = Annotated[str, typer.Option(help="Which student of a run: ours, boxes_only, full, ...")]
MinScore = Annotated[float, typer.Option(min=0, max=1, help="Least score of the boxes that are kept.")]


@app.command()
def predict(
    model: Model,
    out: Annotated[Path, typer.Option(help="File to write: .parquet, .csv or .json. Must not exist.")],
    more: MoreLidar = None,
    lidar: Lidar = None,
    columns: Columns = None,
    intensity_max: IntensityMax = 255.0,
    poses: Poses = None,
    index_file: IndexFile = None,
    split: Split = None,
    arm: Arm = "ours",
    min_score: MinScore = 0.0,
    picture: Annotated[
        Path | None,
        typer.Option(help=f"New folder for a picture of each frame from above. It shows boxes over {PICTURE_SCORE:g}."),
    ] = None,
) -> None:
    """Find objects in new LiDAR data with a trained student: no clicks, no images, no tables needed.

    Points are in the LiDAR's own frame, with the axes of the training data
    (nuScenes' LIDAR_TOP: x right, y forward, z up), in meters. Boxes are in the
    same frame: center x, y, z and l (along the heading), w, h in meters, yaw in
    radians counter-clockwise about z from +x, vx, vy in m/s, class, score. With
    --index, --out FILE.json is a nuScenes results file (global frame).

    Example: pdetr3d predict runs/quickstart --lidar recordings --out boxes.parquet
    """
    from pdetr3d.data.storage.files import new_folder
    from pdetr3d.inference.frames import Asked
    from pdetr3d.inference.output import BoxWriter, picture_name
    from pdetr3d.inference.predict import Counts, predict_frames
    from pdetr3d.inference.student import StudentPredictor
    from pdetr3d.visualize import inspect_sample

    student = StudentPredictor.load(model, arm)
    writer = BoxWriter(out, student.config.classes)
    asked = Asked([*(lidar or ()), *(more or ())], columns, intensity_max, poses, index_file, split)
    frames, counts = asked.frames(student.config.data.num_sweeps), Counts()
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(new_folder(picture)) if picture else None
        found = predict_frames(student, frames, counts, min_score)
        for frame, sample, boxes in tracked(found, "predicting", len(frames), "samples"):
            writer.add(frame, boxes)
            if folder is not None:
                shown = boxes[boxes.score > PICTURE_SCORE]
                inspect_sample(sample, folder / picture_name(frame.name), shown, classes=student.config.classes)
        writer.write()
    say(**counts.summary(asked, student.config.data.num_sweeps), out=out)


@app.command()
def boxes(
    model: Annotated[Path, typer.Argument(help="Run directory with a trained teacher, or its checkpoint file (.pt).")],
    clicks: Annotated[
        Path,
        typer.Option(
            help="People's clicks, as `pdetr3d label --import` takes them (.csv, .json, .parquet): sample_token, x, y, "
            "z in meters, class, frame (global, ego or lidar)."
        ),
    ],
    out: Annotated[Path, typer.Option(help="File to write: .parquet, .csv or .json. Must not exist.")],
    index_file: Annotated[
        Path | None, typer.Option("--index", help="Index of the samples. Default: the run's own, MODEL/data.")
    ] = None,
) -> None:
    """Turn people's clicks into boxes with a trained teacher. Nothing is trained.

    The output has one row per click, in the order of the file. A box has its
    center x, y, z and l (along the heading), w, h in meters, and its yaw in
    radians counter-clockwise about z from +x, in the sample's LIDAR_TOP frame
    (x right, y forward, z up). The score is the BEV IoU that the teacher
    predicts. "accepted" and "reason" say whether the box may be trained on.
    --out FILE.json is a nuScenes results file of the accepted boxes (global
    frame).

    Example: pdetr3d boxes runs/quickstart --clicks clicks.csv --out boxes.parquet
    """
    from pdetr3d.data.index.index import FILE, Index
    from pdetr3d.inference.click_boxes import ClickBoxes
    from pdetr3d.inference.output import check_out
    from pdetr3d.inference.teacher import TeacherPredictor

    check_out(out)
    if index_file is None and model.is_file():
        raise DataError(f"{model} is a file: name the index of the clicked samples, too: --index FILE")
    teacher = TeacherPredictor.load(model)
    made = ClickBoxes(teacher, Index.open(index_file or model / "data" / FILE), clicks)
    for _ in tracked(made.predict(), "predicting", len(made), "samples"):
        pass
    made.write(out)
    table = made.table
    reasons = table.loc[~table["accepted"], "reason"].value_counts()
    say(
        clicks=f"{len(table)} of {len(made)} samples",
        accepted=int(table["accepted"].sum()),
        **{f"not accepted: {reason}": count for reason, count in reasons.items()},
        out=out,
    )
