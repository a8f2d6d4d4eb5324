"""The verb ``click``, with which people click objects in a browser."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pdetr3d.cli.app import app
from pdetr3d.cli.dataset import IndexFile
from pdetr3d.errors import DataError

if TYPE_CHECKING:
    from pdetr3d.click.desk import Student, Teacher
    from pdetr3d.data.index.index import Index
    from pdetr3d.schema import Boxes3D, SampleRecord


@app.command()
def click(
    index_file: IndexFile,
    split: Annotated[str, typer.Option(help="Split of the index whose frames are clicked.")],
    out: Annotated[Path, typer.Option(help="CSV file of the clicks. An existing file is continued.")],
    host: Annotated[str, typer.Option(help="Address to serve at. Any other needs --token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: a free one.")] = 8080,
    token: Annotated[str, typer.Option(envvar="PDETR3D_CLICK_TOKEN", help="Password of the page.")] = "",
    sweeps: Annotated[int, typer.Option(min=1, max=10, help="LiDAR sweeps shown, the keyframe included.")] = 1,
    teacher: Annotated[
        Path | None, typer.Option(help="Run directory or checkpoint. The page shows its teacher's box at each click.")
    ] = None,
    propose: Annotated[
        Path | None, typer.Option(help="Run, export or checkpoint. The page shows its student's boxes without a click.")
    ] = None,
    propose_score: Annotated[float, typer.Option(min=0, max=1, help="Least score of these boxes.")] = 0.3,
) -> None:
    """Click objects in a browser: LiDAR, images and clicks on a page. Every act is saved at once. Ctrl-C ends.

    `pdetr3d label --import` turns the clicks into labels. OUT.done.json beside
    them lists the frames that are done.

    Example: pdetr3d click --index INDEX --split mini_train --out clicks.csv
    """
    missing = [name for name in ("viser", "filelock") if importlib.util.find_spec(name) is None]
    if missing:
        raise DataError(f"pdetr3d click needs {', '.join(missing)}: pip install 'pdetr3d[click]'")
    from pdetr3d.click.server import serve
    from pdetr3d.data.index.index import Index

    index = Index.open(index_file)
    serve(
        index,
        split,
        out,
        host=host,
        port=port,
        token=token,
        sweeps=sweeps,
        teacher=_teacher(teacher, index),
        student=_student(propose, propose_score, index),
    )


def _teacher(run: Path | None, index: Index) -> Teacher | None:
    if run is None:
        return None
    from pdetr3d.inference.teacher import TeacherPredictor

    teacher = TeacherPredictor.load(run)
    index.classes.refuse_other(teacher.config.classes, teacher.file, index.path)
    return teacher.boxes


def _student(run: Path | None, least: float, index: Index) -> Student | None:
    if run is None:
        return None
    from pdetr3d.inference.student import StudentPredictor

    student = StudentPredictor.load(run)
    index.classes.refuse_other(student.config.classes, student.file, index.path)

    def confident(record: SampleRecord) -> Boxes3D:
        boxes = student.boxes(record)
        return boxes[boxes.score >= least]

    return confident
