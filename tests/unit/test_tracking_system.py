"""Tests of system metrics: they are logged during the run, and their errors never stop it."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from pdetr3d.tracking.client import connect
from pdetr3d.tracking.runs import Tracker
from pdetr3d.tracking.system import system_metrics


def wait_for_memory(tracker: Tracker) -> list[float]:
    end = time.monotonic() + 60
    while not (found := tracker.history("system/system_memory_usage_percentage")) and time.monotonic() < end:
        time.sleep(0.05)
    return found


def test_they_are_written_until_the_block_ends(tracking_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    tracker = Tracker.start(tracking_dir, "experiment", "teacher", {}, {})
    with pytest.raises(ValueError), system_metrics(tracker):
        assert 0 < wait_for_memory(tracker)[0] <= 100
        raise ValueError
    written = len(tracker.history("system/cpu_utilization_percentage"))
    with system_metrics(tracker):  # continued: steps go on
        time.sleep(0.3)
    points = connect(tracker.uri).get_metric_history(tracker.run_id, "system/cpu_utilization_percentage")
    steps = [point.step for point in points]
    assert len(steps) > written > 0 and len(set(steps)) == len(steps)
    time.sleep(0.2)
    assert len(tracker.history("system/cpu_utilization_percentage")) == len(steps)


def test_they_can_be_turned_off(tracking_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.02")
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")
    tracker = Tracker.start(tracking_dir, "experiment", "teacher", {}, {})
    with system_metrics(tracker):
        time.sleep(0.3)
    assert tracker.history("system/system_memory_usage_percentage") == []


def test_without_tracking_nothing_runs_and_no_store_is_made(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    with system_metrics(Tracker(f"sqlite:///{tmp_path}/mlflow.db", "", None)):
        assert set(threading.enumerate()) == before
    assert list(tmp_path.iterdir()) == []
