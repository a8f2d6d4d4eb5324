"""Tests of the entries under "Datasets" of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pdetr3d.tracking import datasets
from pdetr3d.tracking.client import connect
from pdetr3d.tracking.datasets import DataInput, data_digest, log_inputs
from pdetr3d.tracking.runs import Tracker


def start(folder: Path, name: str = "teacher") -> Tracker:
    return Tracker.start(folder, "experiment", name, {}, {})


def read(tracker: Tracker) -> list[Any]:
    return connect(tracker.uri).get_run(tracker.run_id).inputs.dataset_inputs


def test_inputs_are_read_back(tracking_dir: Path) -> None:
    tracker = start(tracking_dir)
    digest = data_digest("0123456789abcdef", "fedcba9876543210")
    ratio = {"label_ratio": 0.05, "label_seed": 3}
    train = DataInput("v1.0 train", digest, "/data", "train", 28130, ratio)
    log_inputs(tracker, [train, DataInput("v1.0 val", "0123456789abcdef", "s3://bucket/pack", "val", 6019)])
    first, second = read(tracker)
    assert first.dataset.digest == "0123456789abcdef-fedcba9876543210" and first.dataset.name == "v1.0 train"
    tags = {tag.key: tag.value for tag in first.tags}
    assert tags == {"mlflow.data.context": "train", "label_ratio": "0.05", "label_seed": "3"}
    assert json.loads(first.dataset.profile) == {"num_rows": 28130}
    assert (first.dataset.source_type, json.loads(first.dataset.source)) == ("local", {"uri": "/data"})
    assert (second.dataset.source_type, json.loads(second.dataset.source)) == ("uri", {"uri": "s3://bucket/pack"})
    assert {tag.key: tag.value for tag in second.tags} == {"mlflow.data.context": "val"}


def test_a_rerun_records_them_once(tracking_dir: Path) -> None:
    given = [DataInput("v1.0 train", "d", "/data", "train", 1)]
    for _ in range(2):
        log_inputs(start(tracking_dir), given)
    other = start(tracking_dir, "student")
    log_inputs(other, given)
    assert len(read(start(tracking_dir))) == 1 and read(other)[0].dataset.digest == "d"


def test_a_collision_with_another_run_is_tried_again(tracking_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    real, fails = MlflowClient.log_inputs, [1, 1]

    def log(*args: Any) -> None:
        if fails:
            fails.pop()
            raise MlflowException("UNIQUE constraint failed")
        real(*args)

    monkeypatch.setattr(MlflowClient, "log_inputs", log)
    monkeypatch.setattr(datasets.time, "sleep", lambda _: None)
    tracker = start(tracking_dir)
    log_inputs(tracker, [DataInput("v1.0 train", "d", "/data", "train", 1)])
    assert not fails and len(read(tracker)) == 1
