"""Starts, continues and finishes MLflow runs in the driver. Errors of tracking never stop training."""

from __future__ import annotations

import json
import os
import threading
import uuid
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pdetr3d.tracking.client import (
    as_params,
    as_tags,
    connect,
    flatten,
    log,
    metric_rows,
    tracking_uri,
    ui_command,
    write_metrics,
    write_params_and_tags,
)
from pdetr3d.tracking.metric_logger import MetricLogger
from pdetr3d.tracking.summary import NOTE, VIEW, saved_view

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

__all__ = ["MetricLogger", "Tracker", "end_runs", "ui_command"]
RUN_FILE = "mlflow_run.json"
# This tag makes MLflow's UI open the view with curves and models, not the one with traces of language models.
KIND, TRAINING = "mlflow.experimentKind", "custom_model_development"
TAGS = {KIND: TRAINING, f"mlflow.sharedViewState.{VIEW}": saved_view()}  # of the experiment
_run_file_lock = threading.Lock()


class Tracker:
    """One MLflow run. ``Tracker.start`` makes it; ``finish`` or the end of its ``with`` block ends it.

    The block ends the run as FAILED on an exception, KILLED on Ctrl-C, else FINISHED. No method raises: the first
    failure is logged as a warning and the work goes on. When the store cannot be reached at the start, ``run_id`` is ""
    and every call does nothing.

    Attributes:
        uri: MLflow tracking URI.
        run_id: MLflow run id; "" without tracking.
    """

    def __init__(self, uri: str, run_id: str, client: MlflowClient | None) -> None:
        self.uri, self.run_id = uri, run_id
        self._client = client
        self._warned = client is None

    @staticmethod
    def start(
        run_dir: Path,
        experiment: str,
        name: str,
        config_flat: Mapping[str, Any],
        tags: Mapping[str, Any],
        parent_run_id: str | None = None,
        tracking_dir: Path | None = None,
        title: str = "",
    ) -> Tracker:
        """Start a run, or continue the one that ``run_dir`` had under this name in the same store.

        The run id is kept in ``run_dir/mlflow_run.json``. Only the driver may call this, before workers start: two
        processes that create the SQLite store at once break it.

        Args:
            run_dir: the job's run directory.
            experiment: MLflow experiment, created when missing.
            name: of the run, unique in ``run_dir``.
            config_flat: dotted key -> value (``Config.flat()``), logged as params.
            tags: e.g. lineage (``teacher_run_id``), digests, stage.
            parent_run_id: the UI shows the run below this one.
            tracking_dir: folder of ``mlflow.db`` and ``artifacts/``, default ``run_dir``; MLFLOW_TRACKING_URI wins.
            title: the run's name in the UI, default ``name``.
        """
        folder = tracking_dir or run_dir
        uri = tracking_uri(folder)
        try:
            client = connect(uri)
            run_id = _continue_run(client, run_dir, name, uri)
            if run_id is None:
                place = _experiment_id(client, experiment, folder, uri)
                run_id = client.create_run(place, run_name=title or name).info.run_id
                _remember(run_dir, name, uri, run_id)
            known = client.get_run(run_id).data.params
            params = {key: value for key, value in as_params(config_flat).items() if key not in known}
            parent = {"mlflow.parentRunId": parent_run_id} if parent_run_id else {}
            write_params_and_tags(client, run_id, params, as_tags(tags) | parent)
        except Exception as error:  # tracking never kills training
            log.warning("MLflow at %s cannot be used, the run %r is not tracked: %s", uri, name, error)
            return Tracker(uri, "", None)
        return Tracker(uri, run_id, client)

    def metric_logger(self) -> MetricLogger:
        """The logger with which rank 0 of a training job writes this run's curves."""
        return MetricLogger(self.uri, self.run_id)

    def log_metrics(self, metrics: Mapping[str, Any], step: int = 0) -> None:
        """Write numbers now, named as ``flatten`` does; values that are no numbers are left out."""
        self.quietly(lambda c: write_metrics(c, self.run_id, metric_rows(flatten(metrics), int(step))))

    def history(self, key: str) -> list[float]:
        """The values that were logged of a metric, in the order of the store; empty if there are none."""
        values: list[float] = []
        self.quietly(lambda c: values.extend(point.value for point in c.get_metric_history(self.run_id, key)))
        return values

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Copy a file into the run's artifacts, under ``folder``."""
        self.quietly(lambda c: c.log_artifact(self.run_id, str(path), folder))

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags, replacing those of the same key."""
        self.quietly(lambda c: write_params_and_tags(c, self.run_id, {}, as_tags(tags)))

    def describe(self, markdown: Callable[[str, str], str]) -> None:
        """Set the run's description; ``markdown``: (run id, experiment id) -> text."""

        def act(client: MlflowClient) -> None:
            place = client.get_run(self.run_id).info.experiment_id
            write_params_and_tags(client, self.run_id, {}, as_tags({NOTE: markdown(self.run_id, str(place))}))

        self.quietly(act)

    def address(self) -> str:
        """The address of the run list with the columns of the saved view, for a browser; "" without tracking."""
        server = self.uri if self.uri.startswith("http") else "http://127.0.0.1:5000"  # of ``ui_command``
        places: list[str] = []
        self.quietly(lambda c: places.append(c.get_run(self.run_id).info.experiment_id))
        query = f"workflowType=machine_learning&viewStateShareKey={VIEW}"  # else MLflow may open its view for LLMs
        return "".join(f"{server}/#/experiments/{place}/runs?{query}" for place in places)

    def finish(self, status: str = "FINISHED") -> None:
        """End the run as FINISHED, FAILED or KILLED."""
        self.quietly(lambda c: c.set_terminated(self.run_id, status))

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None or (isinstance(error, SystemExit) and not error.code):
            self.finish("FINISHED")
        else:
            self.finish("KILLED" if issubclass(kind, KeyboardInterrupt) else "FAILED")

    def quietly(self, act: Callable[[MlflowClient], Any]) -> None:
        """Call ``act`` with the client. Without tracking it is not called; its errors are logged, not raised."""
        if self._client is None:
            return
        try:
            act(self._client)
        except Exception as error:  # tracking never kills training
            if not self._warned:
                log.warning("MLflow at %s failed (the work goes on): %s", self.uri, error)
            self._warned = True


def end_runs(run_dir: Path, status: str = "KILLED", of: Collection[str] = ("RUNNING",), only: str = "") -> None:
    """End the MLflow runs of a run directory that a killed process left RUNNING. Raises nothing.

    Args:
        status: the new state. of: runs in these states get it. only: the name of one run; "": all.
    """
    for name, entry in read_run_file(run_dir).items():
        if only not in ("", name):
            continue
        try:
            client = connect(entry["uri"])
            if client.get_run(entry["run_id"]).info.status in of:
                client.set_terminated(entry["run_id"], status)
        except Exception as error:  # tracking never stops work
            log.warning("MLflow at %s: run %r of %s cannot be ended: %s", entry["uri"], name, run_dir, error)


def _experiment_id(client: MlflowClient, name: str, folder: Path, uri: str) -> str:
    """The id of an experiment, which is created or restored if necessary."""
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        # A server has its own place for artifacts. With SQLite, MLflow would write them to the working directory.
        artifacts = (folder.resolve() / "artifacts").as_uri() if uri.startswith("sqlite") else None
        try:
            return str(client.create_experiment(name, artifact_location=artifacts, tags=TAGS))
        except MlflowException:
            experiment = client.get_experiment_by_name(name)  # another job has created it meanwhile
            if experiment is None:
                raise
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    for key in TAGS.keys() - experiment.tags.keys():  # a user may have changed the others
        client.set_experiment_tag(experiment.experiment_id, key, TAGS[key])
    return str(experiment.experiment_id)


def read_run_file(run_dir: Path) -> dict[str, dict[str, str]]:
    """The MLflow runs of a run directory: name -> its "uri" and "run_id"; empty if there are none."""
    path = run_dir / RUN_FILE
    return json.loads(path.read_text()) if path.is_file() else {}


def _remember(run_dir: Path, name: str, uri: str, run_id: str) -> None:
    """Add a run to the run directory's RUN_FILE."""
    run_dir.mkdir(parents=True, exist_ok=True)
    with _run_file_lock:  # stages start in threads of the driver
        temporary = run_dir / f"{RUN_FILE}.{uuid.uuid4().hex}.tmp"
        temporary.write_text(json.dumps(read_run_file(run_dir) | {name: {"uri": uri, "run_id": run_id}}, indent=1))
        os.replace(temporary, run_dir / RUN_FILE)


def _continue_run(client: MlflowClient, run_dir: Path, name: str, uri: str) -> str | None:
    """The id of this run directory's run, set to RUNNING again; None when there is none in this store."""
    from mlflow.exceptions import MlflowException

    entry = read_run_file(run_dir).get(name)
    if entry is None or entry["uri"] != uri:
        return None
    try:
        if client.get_run(entry["run_id"]).info.lifecycle_stage == "deleted":
            client.restore_run(entry["run_id"])
        client.update_run(entry["run_id"], status="RUNNING")
    except MlflowException:
        log.warning("MLflow at %s no longer has run %s of %s: a new run is started", uri, entry["run_id"], run_dir)
        return None
    return entry["run_id"]
