"""Verbs on new data: predict."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pdetr3d.cli.app import app, say
from pdetr3d.schema import DataError

if TYPE_CHECKING:
    from pdetr3d.inference.frames import Frame
    from pdetr3d.inference.predict import Counts

PICTURE_SCORE = 0.3


@app.command()
def predict(
    model: Annotated[
        Path, typer.Argument(help="Run directory, folder that `pdetr3d export` wrote, or checkpoint file (.pt).")
    ],
    out: Annotated[Path, typer.Option(help="File to write: .parquet, .csv or .json. Must not exist.")],
    more: Annotated[
        list[Path] | None, typer.Argument(help="Further LiDAR files (what a shell makes of --lidar FOLDER/*.bin).")
    ] = None,
    lidar: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of LiDAR files, or a file: .pcd.bin, .bin, .npy, .pcd. May be given several times."),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(
            help="Of .bin and .npy files, in order, e.g. x,y,z,intensity or x,y,z,intensity,ring. Allowed: x, y, z "
            "[m], intensity, age [s] (keyframe time - sweep time; of accumulated files), ring and - (not read). "
            "Default of .pcd.bin: x,y,z,intensity,ring. A .pcd names its own."
        ),
    ] = None,
    intensity_max: Annotated[
        float, typer.Option(help="Full scale of the files' intensity (nuScenes 255; KITTI 1).")
    ] = 255.0,
    poses: Annotated[
        Path | None,
        typer.Option(
            help="CSV: file,timestamp_us,x,y,z,qw,qx,qy,qz[,sequence]: LiDAR -> a frame that stands still [m]; file is "
            "relative to the CSV's folder. Earlier files of a sequence are accumulated, as in training. Default: "
            "single sweeps of age 0."
        ),
    ] = None,
    index_file: Annotated[Path | None, typer.Option("--index", help="Index file, instead of --lidar.")] = None,
    split: Annotated[str | None, typer.Option(help="Which split of the index.")] = None,
    arm: Annotated[str, typer.Option(help="Which student of a run: ours, boxes_only, full, ...")] = "ours",
    min_score: Annotated[float, typer.Option(min=0, max=1, help="Keep boxes of this score and more.")] = 0.0,
    picture: Annotated[
        Path | None,
        typer.Option(help=f"New folder for a picture of each frame from above, with boxes over {PICTURE_SCORE:g}."),
    ] = None,
) -> None:
    """Find objects in new LiDAR data with a trained student: no clicks, no images, no tables needed.

    Points are given in the LiDAR's own frame with the axes of the training data (nuScenes' LIDAR_TOP: x right, y
    forward, z up), in meters. Boxes come in the same frame: center x, y, z and l (along the heading), w, h in meters,
    yaw in radians counter-clockwise about z from +x, vx, vy in m/s, class, score. Of an index, --out FILE.json is a
    nuScenes results file (global frame).
    """
    from pdetr3d.data.files import new_folder
    from pdetr3d.inference.output import BoxWriter, picture_name
    from pdetr3d.inference.predict import Counts, predict_frames
    from pdetr3d.inference.student import StudentPredictor
    from pdetr3d.visualize import inspect_sample

    writer = BoxWriter(out)
    student = StudentPredictor.load(model, arm)
    files = [*(lidar or ()), *(more or ())]
    frames = frames_of(files, columns, intensity_max, poses, index_file, split, student.config.data.num_sweeps)
    counts = Counts()
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(new_folder(picture)) if picture else None
        found = predict_frames(student, frames, counts, min_score)
        progress = stack.enter_context(progress_bar("predicting", "samples"))
        for frame, sample, boxes in progress.track(found, total=len(frames)):
            writer.add(frame, boxes)
            if folder is not None:
                inspect_sample(sample, folder / picture_name(frame.name), boxes[boxes.score > PICTURE_SCORE])
        writer.write()
    say(**report(counts, bool(files), poses is not None, student.config.data.num_sweeps), out=out)


def frames_of(
    lidar: Sequence[Path],
    columns: str | None,
    intensity_max: float,
    poses: Path | None,
    index_file: Path | None,
    split: str | None,
    num_sweeps: int,
) -> Sequence[Frame]:
    """What is to be predicted; DataError where it is named twice or not at all, or cannot be found."""
    from pdetr3d.inference.clouds import CloudReader
    from pdetr3d.inference.frames import SplitFrames, file_frames

    if bool(lidar) == (index_file is not None):
        raise DataError("name what to predict: either --lidar FOLDER (or files), or --index FILE with --split NAME")
    if index_file is None:
        if split is not None:
            raise DataError(f"--split {split} goes with --index; LiDAR files have no splits")
        return file_frames(lidar, CloudReader.of(columns, intensity_max), poses, num_sweeps)
    if columns is not None or poses is not None:
        raise DataError("--columns and --poses go with --lidar: the tables of an index say what its files are")
    if split is None:
        raise DataError(f"--index {index_file}: name the split, too: --split NAME")
    return SplitFrames(index_file, split)


def report(counts: Counts, files: bool, posed: bool, num_sweeps: int) -> dict[str, object]:
    """What people are told in the end."""
    rows: dict[str, object] = {"samples": f"{counts.samples} ({counts.empty} without boxes)", "boxes": counts.boxes}
    if files and not posed and num_sweeps > 1:
        rows["sweeps"] = (
            f"one a file, unless it has ages; the student was trained on up to {num_sweeps}: with --poses the earlier "
            "files are accumulated"
        )
    if counts.dropped_points:
        rows["left out"] = f"{counts.dropped_points} points of {counts.dropped_in} samples, as they are not finite"
    if files and 0 < counts.intensity <= 1:
        rows["warning"] = (
            f"no intensity is above {counts.intensity:.3g}, the student was trained on 0..255: if the files' full "
            "scale is 1, use --intensity-max 1"
        )
    return rows


def progress_bar(verb: str, what: str) -> Progress:
    """A line that says how much is done, of how much, and how long it will take."""
    return Progress(
        TextColumn(verb), BarColumn(), MofNCompleteColumn(), TextColumn(what), TimeRemainingColumn(), transient=True
    )
