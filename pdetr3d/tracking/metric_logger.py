"""Logs metrics from inside a training worker: buffers them, writes them in batches, and never raises."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pdetr3d.tracking.client import connect, flatten, log, metric_rows, write_metrics

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient


class MetricLogger:
    """Writes metrics of a run from rank 0. It can be pickled: the process that writes makes its own client.

    A resumed run repeats the steps after its checkpoint. Steps that the store already has for a metric are not written
    again, so that curves have one value per step. When the store fails, a warning is logged once, the newest KEEP_ROWS
    rows are kept, and the next attempt follows after RETRY_S or later. No method raises.

    Args:
        uri: MLflow tracking URI (``Tracker.uri``).
        run_id: ``Tracker.run_id``; "" for no tracking: every call does nothing.
        flush_rows: rows are written when this number waits.
        flush_s: rows are written this time [s] after the last write.
    """

    KEEP_ROWS = 10_000
    RETRY_S = 60.0

    def __init__(self, uri: str, run_id: str, flush_rows: int = 500, flush_s: float = 10.0) -> None:
        self.uri, self.run_id = uri, run_id
        self.flush_rows, self.flush_s = flush_rows, flush_s
        self._forget_process()

    def _forget_process(self) -> None:
        """Set the state that belongs to one process and is not pickled."""
        self._client: MlflowClient | None = None
        self._rows: list[tuple[str, float, int, int]] = []
        self._last_step: dict[str, int] = {}  # last step in the store when this process first wrote the metric
        self._due_s = time.monotonic() + self.flush_s
        self._not_before_s = 0.0
        self._warned = False

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("uri", "run_id", "flush_rows", "flush_s")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget_process()

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        """Buffer the numbers of one step, as ``flatten`` names them, and write the buffer when it is time."""
        if not self.run_id:
            return
        try:
            self._rows += metric_rows(flatten(metrics), int(step))
        except Exception as error:  # tracking never kills training
            self._warn(error)
            return
        if len(self._rows) >= self.flush_rows or time.monotonic() >= self._due_s:
            self._write()

    def flush(self) -> None:
        """Write the buffer now; call this at the end of a stage and before a checkpoint is reported."""
        if self.run_id and self._rows:
            self._write()

    def _write(self) -> None:
        if time.monotonic() < self._not_before_s:
            del self._rows[: -self.KEEP_ROWS]
            return
        try:
            self._client = self._client or connect(self.uri)
            for key in {row[0] for row in self._rows} - set(self._last_step):
                history = self._client.get_metric_history(self.run_id, key)
                self._last_step[key] = max((point.step for point in history), default=-1)
            write_metrics(self._client, self.run_id, [r for r in self._rows if r[3] > self._last_step[r[0]]])
            self._rows = []
        except Exception as error:  # tracking never kills training
            self._warn(error)
            self._not_before_s = time.monotonic() + self.RETRY_S
            del self._rows[: -self.KEEP_ROWS]
        self._due_s = time.monotonic() + self.flush_s

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            log.warning("metrics cannot be written to MLflow at %s (training goes on): %s", self.uri, error)
        self._warned = True
