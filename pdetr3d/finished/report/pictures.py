"""Galleries: pictures of the same val samples from several run directories, side by side."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from pdetr3d.finished.report.page import Gallery
from pdetr3d.schema import DataError

# Paths in a run directory (``ray_jobs/stages/pictures.py``, ``ray_jobs/pipeline.py``). The same path shows the same
# sample in every run. The last pattern is for the folder of a stage.
PLACES = ("*.png", "*/images/*/bev_cameras.png", "images/*/bev_cameras.png")
RUNS, SAMPLES = 6, 8  # largest numbers of pictures side by side, and of galleries
WIDTH_PX = 1600  # enough for the window, in which a click opens a picture


def galleries(runs: Mapping[str, Path]) -> list[Gallery]:
    """One gallery per picture path that exists in at least two of the first RUNS directories.

    Args:
        runs: caption -> run directory.

    Raises:
        DataError: for a picture that cannot be read.
    """
    chosen = dict(list(runs.items())[:RUNS])
    found = {
        name: {str(f.relative_to(run)): f for place in PLACES for f in run.glob(place)} for name, run in chosen.items()
    }
    shared = sorted({picture for files in found.values() for picture in files})
    rows = [
        (picture, {name: files[picture] for name, files in found.items() if picture in files}) for picture in shared
    ]
    several = [(picture, files) for picture, files in rows if len(files) > 1][:SAMPLES]
    return [Gallery(picture, [(name, embed(file)) for name, file in files.items()]) for picture, files in several]


def embed(file: Path) -> str:
    """Convert a picture to a JPEG of at most WIDTH_PX in a ``data:`` URI.

    Raises:
        DataError: when the file cannot be read as a picture.
    """
    buffer = io.BytesIO()
    try:
        with Image.open(file) as picture:
            small = picture.convert("RGB")
    except OSError as error:
        raise DataError(f"{file} cannot be read as a picture ({error}); remove it, or make it again") from error
    small.thumbnail((WIDTH_PX, 4 * WIDTH_PX))
    small.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
