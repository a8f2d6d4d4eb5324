"""Connects to MLflow and adapts names, lengths and batches to its limits. MLflow is imported on first use."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shlex
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

log = logging.getLogger("pdetr3d.tracking")

# MLflow's own limits (mlflow.utils.validation); a test compares them with the installed version.
MAX_KEY, MAX_PARAM, MAX_TAG = 250, 6000, 8000
METRICS_PER_BATCH, PARAMS_PER_BATCH = 1000, 100
_SQLITE, _SQLITE_QUOTED = "sqlite:///", "sqlite+pysqlite:///"
_NOT_IN_NAMES = re.compile(r"[^\w\-. :/]", re.ASCII)


def tracking_uri(tracking_dir: Path) -> str:
    """``MLFLOW_TRACKING_URI`` when set, else the SQLite file ``tracking_dir/mlflow.db``.

    A SQLite path is made absolute: Ray workers run in another folder.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    file = sqlite_file(uri) if uri else tracking_dir / "mlflow.db"
    return sqlite_uri(file) if file is not None else str(uri)


def sqlite_uri(file: Path) -> str:
    """The URI by which MLflow opens a SQLite file, whatever its path.

    SQLAlchemy unquotes the path, and takes the text after a "?" for options. For a path that must be quoted, the URI
    names the driver, because with the short form MLflow would also create a folder of the quoted name.
    """
    path = str(file.resolve())
    quoted = path.replace("%", "%25").replace("?", "%3F")
    return f"{_SQLITE if quoted == path else _SQLITE_QUOTED}{quoted}"


def sqlite_file(uri: str) -> Path | None:
    """The file of a SQLite URI; None for any other store, and for URIs with options for SQLite."""
    for start in (_SQLITE, _SQLITE_QUOTED):
        if uri.startswith(start) and "?" not in uri:
            return Path(unquote(uri.removeprefix(start)))
    return None


def ui_command(uri: str) -> str:
    """The shell command that opens the MLflow UI on a store; for a server its address, to be opened in a browser."""
    if uri.startswith("http"):
        return uri
    return f"mlflow ui --backend-store-uri {shlex.quote(uri)} --workers 1"


def connect(uri: str) -> MlflowClient:
    """Make a client of a store, and create a SQLite store that does not exist yet.

    Creating it is not atomic, so that only the driver may connect to a new store.
    """
    # A dead server must cost seconds, not MLflow's minutes of retries. Values that the user has set are kept.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    for name in ("alembic", "mlflow.store.db.utils", "mlflow.tracking"):
        logging.getLogger(name).setLevel(logging.WARNING)
    from mlflow.tracking import MlflowClient

    for name in ("alembic", "mlflow"):  # importing mlflow configures its loggers
        logging.getLogger(name).setLevel(logging.WARNING)
    if (file := sqlite_file(uri)) is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
    return MlflowClient(uri)


def flatten(metrics: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Flatten nested metrics: ``{"per_class": {"car": {"AP": 0.5}}}`` -> ``{"per_class/car/AP": 0.5}``.

    Characters that MLflow refuses become "_" ("AP@0.5" -> "AP_0.5"). Values that are no numbers (None, text, lists) are
    left out.
    """
    flat: dict[str, float] = {}
    for key, value in metrics.items():
        name = prefix + _NOT_IN_NAMES.sub("_", str(key))
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{name}/")
        elif hasattr(value, "__float__"):  # Python, NumPy and torch numbers; arrays have it, too, but raise
            with contextlib.suppress(TypeError, ValueError, RuntimeError):
                flat[name[:MAX_KEY]] = float(value)
    return flat


def as_params(config_flat: Mapping[str, Any]) -> dict[str, str]:
    """Config entries as MLflow stores them: text, cut to MLflow's limits."""
    return {_NOT_IN_NAMES.sub("_", key)[:MAX_KEY]: str(value)[:MAX_PARAM] for key, value in config_flat.items()}


def as_tags(tags: Mapping[str, Any]) -> dict[str, str]:
    """Tags as MLflow stores them: text, cut to MLflow's limits."""
    return {_NOT_IN_NAMES.sub("_", key)[:MAX_KEY]: str(value)[:MAX_TAG] for key, value in tags.items()}


def chunks(items: list[Any], size: int) -> Iterator[list[Any]]:
    """``items`` in lists of at most ``size``."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def metric_rows(metrics: Mapping[str, float], step: int) -> list[tuple[str, float, int, int]]:
    """Rows (key, value, timestamp [ms], step) of metrics, all with the present time."""
    now_ms = time.time_ns() // 1_000_000
    return [(key, value, now_ms, step) for key, value in metrics.items()]


def write_metrics(client: MlflowClient, run_id: str, rows: list[tuple[str, float, int, int]]) -> None:
    """Write metric rows in as few requests as MLflow allows."""
    from mlflow.entities import Metric

    for part in chunks(rows, METRICS_PER_BATCH):
        client.log_batch(run_id, metrics=[Metric(*row) for row in part])


def write_params_and_tags(
    client: MlflowClient, run_id: str, params: Mapping[str, str], tags: Mapping[str, str]
) -> None:
    """Write params and tags in as few requests as MLflow allows."""
    from mlflow.entities import Param, RunTag

    for part in chunks([Param(*item) for item in params.items()], PARAMS_PER_BATCH):
        client.log_batch(run_id, params=part)
    for part in chunks([RunTag(*item) for item in tags.items()], PARAMS_PER_BATCH):
        client.log_batch(run_id, tags=part)
