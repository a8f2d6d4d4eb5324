"""Pictures of the same few val samples from every model, so that models can be compared picture by picture."""

from __future__ import annotations

import dataclasses
import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pdetr3d.config import Config
from pdetr3d.data.label_manifest import inspection_record
from pdetr3d.data.labels.clicks import redraw_clicks
from pdetr3d.data.loading.load import load_sample
from pdetr3d.data.loading.record_list import Records
from pdetr3d.data.storage.files import atomic_path
from pdetr3d.data.storage.row_table import TextPlaces
from pdetr3d.pipeline.run import Run
from pdetr3d.schema import Boxes3D, PointLabels, SampleRecord
from ray_jobs.terminal.phases import PHASES

SAMPLES = 4
FOLDER, FILE = "images", "bev_cameras.png"  # STAGE/images/TOKEN/bev_cameras.png, and the same in MLflow
MIN_SCORE = 0.3


def pictured(tokens: Sequence[str]) -> list[str]:
    """The samples of a split that every run draws: those whose tokens have the smallest SHA-256."""
    return sorted(tokens, key=lambda token: hashlib.sha256(token.encode()).digest())[:SAMPLES]


def pictured_records(run: Run) -> list[SampleRecord]:
    """Those of the val split that can be read, with their true boxes."""
    unread = {skipped.sample_token for skipped in run.data.skipped}
    tokens = [token for token in run.data.index.tokens(run.config.data.val_split) if token not in unread]
    return [inspection_record(run.data.index, token) for token in pictured(tokens)]


def confident(boxes: Boxes3D) -> Boxes3D:
    """What is drawn of a student's boxes."""
    return boxes[boxes.score > MIN_SCORE]


def clicked(record: SampleRecord) -> SampleRecord:
    """The record with a click in each of its boxes, the same in every run."""
    count = len(record.boxes)
    names = np.array([f"picture-{record.sample_token}-{number}" for number in range(count)], object)
    clicks = PointLabels(names, record.boxes.center_m.astype(np.float64), record.boxes.label, np.arange(count))
    record = dataclasses.replace(record, clicks=clicks)
    return dataclasses.replace(record, clicks=redraw_clicks(record, 0, 0))


def clicked_pictures(run: Run, records: Records) -> tuple[list[SampleRecord], list[SampleRecord]]:
    """What ``pictured_records`` become for a teacher's pictures, which show its boxes at clicks.

    Args:
        records: samples that the teacher predicts anyway.

    Returns:
        The pictured samples with true boxes and clicks; and those of them that ``records`` lacks. A sample that it has
        (the val split may be the train split) keeps the clicks it has there: it is predicted once, and the boxes are
        those of these clicks.
    """
    places = TextPlaces(records.token_column)
    shown, others = [], []
    for record in pictured_records(run):
        if (place := places.get(record.sample_token)) is not None:
            shown.append(dataclasses.replace(record, clicks=records[place].clicks))
        else:
            others.append(clicked(record))
            shown.append(others[-1])
    return shown, others


@PHASES.of("pictures")
def draw_pictures(run: Run, stage: str, boxes: Sequence[tuple[SampleRecord, Boxes3D]]) -> Path:
    """Draw true boxes, clicks and predictions (dashed) of each record, in tasks of the runner.

    Returns:
        The folder, with ``TOKEN/bev_cameras.png`` of each.
    """
    folder = run.path / stage / FOLDER
    drawn = run.runner.map(_draw, [(record, run.config, found) for record, found in boxes], run.config)
    for (record, _), png in zip(boxes, drawn, strict=True):
        with atomic_path(folder / record.sample_token / FILE) as temporary:
            temporary.write_bytes(png)
    return folder


def _draw(record: SampleRecord, config: Config, boxes: Boxes3D) -> bytes:
    from pdetr3d.visualize import inspect_sample  # matplotlib

    with tempfile.TemporaryDirectory() as scratch:
        sample = load_sample(record, config.data, cameras=True)
        file, range_m = Path(scratch) / FILE, config.model.bev_range_m
        return inspect_sample(sample, file, boxes, range_m, classes=config.classes).read_bytes()
