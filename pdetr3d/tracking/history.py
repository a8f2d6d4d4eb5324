"""Reads the curves that a run directory's MLflow runs logged; writes nothing."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pdetr3d.tracking.client import connect, sqlite_file, sqlite_uri
from pdetr3d.tracking.runs import read_run_file

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient


@dataclass(frozen=True)
class Curve:
    """A metric by step, ascending; ``values`` may hold NaN and infinities."""

    steps: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class History:
    """One MLflow run: its ``status`` (RUNNING, FINISHED, FAILED, KILLED) and the ``curves`` that it logged."""

    status: str
    curves: dict[str, Curve] = field(default_factory=dict)


def read_histories(run_dir: Path, metrics: Iterable[str]) -> tuple[dict[str, History], dict[str, str]]:
    """Read the curves of the MLflow runs of a run directory.

    Args:
        metrics: names of the metrics to read.

    Returns:
        Name of the run ("teacher", "student_ours", ...) -> its history; name -> the reason why it could not be read.
    """
    clients: dict[str, MlflowClient] = {}
    histories, problems = {}, {}
    for name, entry in read_run_file(run_dir).items():
        uri = _current_uri(entry["uri"], run_dir)
        try:
            if (file := sqlite_file(uri)) is not None and not file.is_file():
                raise FileNotFoundError("the file is gone")  # connecting would create an empty store
            if uri not in clients:
                clients[uri] = connect(uri)
            histories[name] = _history(clients[uri], entry["run_id"], metrics)
        except Exception as error:  # errors of MLflow, of the database, of the network
            problems[name] = (
                f"MLflow run {entry['run_id']} at {uri}: {(str(error).strip() or repr(error)).splitlines()[0]}"
            )
    return histories, problems


def _current_uri(uri: str, run_dir: Path) -> str:
    """The URI of the store, which a run directory that was moved or copied took along as its file mlflow.db."""
    if (file := sqlite_file(uri)) is not None and not file.is_file():
        own = run_dir / "mlflow.db"
        return sqlite_uri(own) if own.is_file() else uri
    return uri


def _history(client: MlflowClient, run_id: str, metrics: Iterable[str]) -> History:
    run = client.get_run(run_id)
    curves = {}
    for key in metrics:
        if key in run.data.metrics:
            points = sorted(client.get_metric_history(run_id, key), key=lambda point: point.step)
            curves[key] = Curve(tuple(p.step for p in points), tuple(_as_logged(p.value) for p in points))
    return History(run.info.status, curves)


def _as_logged(value: float) -> float:
    """The logged value; MLflow's SQL stores replace infinities by the largest number."""
    return math.copysign(math.inf, value) if abs(value) >= sys.float_info.max else value
