"""Draws each model's boxes on the same few val samples, so that models can be compared by their pictures."""

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

SAMPLES = 4  # number of pictured samples
FOLDER, FILE = "images", "bev_cameras.png"  # STAGE/images/TOKEN/bev_cameras.png, and the same in MLflow
MIN_SCORE = 0.3  # a student's boxes at or below this score are not drawn


def pictured(tokens: Sequence[str]) -> list[str]:
    """Choose the same SAMPLES tokens of a split in every run: those with the smallest SHA-256."""
    return sorted(tokens, key=lambda token: hashlib.sha256(token.encode()).digest())[:SAMPLES]


def pictured_records(run: Run) -> list[SampleRecord]:
    """The pictured samples of the val split with their true boxes. Samples with broken files are not chosen."""
    unread = {skipped.sample_token for skipped in run.data.skipped}
    tokens = [token for token in run.data.index.tokens(run.config.data.val_split) if token not in unread]
    return [inspection_record(run.data.index, token) for token in pictured(tokens)]


def confident(boxes: Boxes3D) -> Boxes3D:
    """The boxes of a student that are drawn: those with a score above MIN_SCORE."""
    return boxes[boxes.score > MIN_SCORE]


def clicked(record: SampleRecord) -> SampleRecord:
    """The record with a simulated click in each of its boxes; the clicks are equal in all runs."""
    count = len(record.boxes)
    names = np.array([f"picture-{record.sample_token}-{number}" for number in range(count)], object)
    clicks = PointLabels(names, record.boxes.center_m.astype(np.float64), record.boxes.label, np.arange(count))
    record = dataclasses.replace(record, clicks=clicks)
    return dataclasses.replace(record, clicks=redraw_clicks(record, 0, 0))


def clicked_pictures(run: Run, records: Records) -> tuple[list[SampleRecord], list[SampleRecord]]:
    """Add clicks to the pictured samples, because a teacher predicts boxes at clicks.

    Args:
        records: samples that the teacher predicts for other purposes. They may include pictured samples, since the val
            split may be the train split.

    Returns:
        The pictured samples with true boxes and clicks; and those of them that are not in ``records``. A pictured
        sample that is in ``records`` keeps its clicks, since the teacher predicts each sample once.
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
    """Draw the true boxes, clicks and predicted boxes (dashed) of each record, in tasks of the runner.

    Args:
        stage: name of the stage that predicted. boxes: records with predicted boxes (LIDAR_TOP frame).

    Returns:
        The folder of the pictures; each is ``TOKEN/bev_cameras.png``.
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
