"""Logs CPU, memory, disk, network and GPU of the driver's machine during a run, by MLflow's monitor."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pdetr3d.tracking.runs import Tracker

if TYPE_CHECKING:
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
    from mlflow.tracking import MlflowClient


@contextlib.contextmanager
def system_metrics(tracker: Tracker) -> Iterator[None]:
    """Write ``system/*`` into a run during the block, every 10 s (or MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL [s]).

    MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING=false turns it off. The monitor is a thread; MLflow logs its errors and does
    not raise them.
    """
    monitors: list[SystemMetricsMonitor] = []

    def begin(_: MlflowClient) -> None:
        from mlflow.environment_variables import MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING as WANTED
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        if WANTED.get() or not WANTED.is_set():
            monitors.append(SystemMetricsMonitor(tracker.run_id, resume_logging=True, tracking_uri=tracker.uri))
            monitors[0].start()

    tracker.quietly(begin)
    try:
        yield
    finally:
        for monitor in monitors:
            tracker.quietly(lambda _, running=monitor: running.finish())  # type: ignore[misc]
