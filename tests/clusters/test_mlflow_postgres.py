"""Runs cluster/mlflow's server on PostgreSQL; it is killed and restarted while two runs write to it."""

from __future__ import annotations

import base64
import contextlib
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
import yaml

from pdetr3d.tracking.client import connect
from pdetr3d.tracking.datasets import DataInput, log_inputs
from pdetr3d.tracking.models import CHAMPION, Score, log_checkpoint, log_model_metrics, register
from pdetr3d.tracking.runs import Tracker
from tests import postgres
from tests.ports import free_ports

pytestmark = [pytest.mark.postgres, pytest.mark.slow]
FOLDER = Path(__file__).resolve().parents[2] / "cluster" / "mlflow"
RUNS, STEPS = ("teacher", "student"), 40
README = FOLDER.with_name("README.md")
ADMIN, JOBS = ("admin", "of-this-test-alone"), ("jobs", "of-this-test-too")


class Server:
    """The server of compose.yaml, with its command and variables, on loopback and with a folder instead of a bucket."""

    def __init__(self, database: dict[str, str], folder: Path) -> None:
        (self.port,) = free_ports(1)
        self.uri, self.log = f"http://127.0.0.1:{self.port}", folder / "server.log"
        service = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]["mlflow"]
        here = {
            "--host": "127.0.0.1",
            "--port": str(self.port),
            "--workers": "1",  # each worker imports MLflow for seconds
            "--artifacts-destination": (folder / "bucket").as_uri(),
        }
        options = dict(word.split("=", 1) for word in service["command"][2:])
        assert here.keys() <= options.keys() and service["command"][:2] == ["mlflow", "server"]
        self.command = [sys.executable, "-m", *service["command"][:2], *map("=".join, (options | here).items())]
        self.environment = (
            {**os.environ, **service["environment"], **database}
            | {"MLFLOW_AUTH_CONFIG_PATH": str(FOLDER / "basic_auth.ini"), "MLFLOW_FLASK_SERVER_SECRET_KEY": "x" * 64}
            | {"MLFLOW_AUTH_ADMIN_PASSWORD": ADMIN[1], "HOME": str(folder)}
        )
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                self.command, cwd=self.log.parent, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        end = time.monotonic() + 120
        while self.status("/health") != 200:
            assert self.process.poll() is None and time.monotonic() < end, self.log.read_text()
            time.sleep(0.3)

    def kill(self) -> None:
        """Kill all its processes at once, as when a machine is lost."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(30)
            self.process = None

    def status(self, path: str, user: tuple[str, str] | None = None, host: str = "localhost") -> int:
        """The status of a GET request; 0 without an answer."""
        request = urllib.request.Request(f"{self.uri}{path}", headers={"Host": host})
        if user is not None:
            request.add_header("Authorization", "Basic " + base64.b64encode(":".join(user).encode()).decode())
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0


@pytest.fixture
def database() -> Iterator[dict[str, str]]:
    with postgres.running("mlflow") as variables:
        yield variables


@pytest.fixture
def server(database: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    running = Server(database, tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", running.uri)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", ADMIN[0])
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", ADMIN[1])
    try:
        running.start()
        yield running
    finally:
        running.kill()


def make_user(server: Server, name: str, password: str) -> None:
    """Make a user by the command in cluster/README.md."""
    (code,) = re.findall(r'^python -c "(from mlflow.server .*)"$', README.read_text(), re.MULTILINE)
    code = code.replace("http://127.0.0.1:5000", server.uri).replace("'jobs'", repr(name))
    done = subprocess.run([sys.executable, "-c", code], input=password, text=True, capture_output=True, timeout=100)
    assert done.returncode == 0, done.stderr


def loss(run: str, step: int) -> float:
    return (step + RUNS.index(run) * 1000) / 8


def spnds(run: str) -> float:
    return 0.25 + RUNS.index(run) / 4


def write(run: str, folder: Path, together: Barrier) -> None:
    """Write a run, in its own process: half of its steps before the server is killed, half while it is down."""
    os.environ |= dict(zip(("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"), JOBS, strict=True))  # as in a pod
    run_dir = folder / run
    tracker = Tracker.start(run_dir, "experiment", run, {"run.seed": 3}, {"stage": run})
    logger = tracker.metric_logger()
    logger.RETRY_S = 0.0  # type: ignore[misc]  # a minute, outside of tests
    for step in range(1, STEPS // 2 + 1):
        logger.log({"loss": loss(run, step)}, step)
    logger.flush()
    (run_dir / "note.txt").write_text(run)
    tracker.log_artifact(run_dir / "note.txt")
    log_inputs(tracker, [DataInput("v1.0 train", "i-m", "/data", "train", 5)])
    model = log_checkpoint(tracker, "student", f"student_{run}", STEPS, {"run.seed": 3}, {"checkpoint": run})
    log_model_metrics(tracker, model, {"val/SPNDS": spnds(run)}, STEPS)
    register(tracker, "student", model, Score("SPNDS", spnds(run), "i-m", "val"), {"stage": run})
    together.wait()  # the test kills the server ...
    together.wait()
    for step in range(STEPS // 2 + 1, STEPS + 1):
        logger.log({"loss": loss(run, step)}, step)
    logger.flush()  # a warning, no error
    together.wait()  # ... and starts it again
    together.wait()
    logger.flush()
    tracker.finish()


def test_nothing_is_lost_when_the_server_is_killed(database: dict[str, str], server: Server, tmp_path: Path) -> None:
    import psycopg2

    assert server.status("/") == 401 and server.status("/", (ADMIN[0], "wrong")) == 401
    assert server.status("/", ADMIN) == 200 and server.status("/", ADMIN, host="elsewhere.example") == 403
    assert server.status("/api/2.0/mlflow/experiments/get?experiment_id=0") == 401

    make_user(server, *JOBS)
    assert server.status("/api/2.0/mlflow/experiments/get?experiment_id=0", JOBS) == 200
    assert server.status("/api/2.0/mlflow/users/get?username=admin", JOBS) == 403

    context = multiprocessing.get_context("spawn")
    together = context.Barrier(len(RUNS) + 1, timeout=200)
    writers = [context.Process(target=write, args=(run, tmp_path, together), daemon=True) for run in RUNS]
    for writer in writers:
        writer.start()
    together.wait()
    server.kill()
    assert server.status("/health") == 0
    together.wait()
    together.wait()
    server.start()
    together.wait()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0]

    client = connect(server.uri)
    experiment = client.get_experiment_by_name("experiment")
    assert experiment is not None and experiment.artifact_location.startswith("mlflow-artifacts:/")
    found = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert found.keys() == set(RUNS)
    for name, run in found.items():
        history = client.get_metric_history(run.info.run_id, "loss")
        assert [(p.step, p.value) for p in history] == [(s, loss(name, s)) for s in range(1, STEPS + 1)]
        assert run.data.params == {"run.seed": "3"} and run.data.tags["stage"] == name
        assert run.info.status == "FINISHED"
        assert [found.dataset.digest for found in run.inputs.dataset_inputs] == ["i-m"]
        (output,) = run.outputs.model_outputs
        model = client.get_logged_model(output.model_id)
        assert (model.name, model.status, model.tags["checkpoint"]) == (f"student_{name}", "READY", name)
        assert [(m.key, m.value) for m in model.metrics] == [("val/SPNDS", spnds(name))]
        copy = client.download_artifacts(run.info.run_id, "note.txt", str(tmp_path))
        assert Path(copy).read_text() == name
    versions = client.search_model_versions("name='pdetr3d-student'")
    assert sorted(version.tags["stage"] for version in versions) == sorted(RUNS)
    best = client.get_model_version_by_alias("pdetr3d-student", CHAMPION)
    assert best.tags["stage"] == max(RUNS, key=spnds) and best.run_id == found[best.tags["stage"]].info.run_id
    assert len(list((tmp_path / "bucket").rglob("note.txt"))) == len(RUNS)  # the files are at the server

    with contextlib.closing(psycopg2.connect(dbname="mlflow", **{k[2:].lower(): v for k, v in database.items()})) as db:
        cursor = db.cursor()
        cursor.execute("select count(*) from metrics")
        assert cursor.fetchone() == (len(RUNS) * (STEPS + 1),)  # the losses, and the score
        cursor.execute("select username, is_admin from users order by username")
        assert cursor.fetchall() == [("admin", True), ("jobs", False)]  # users survive the restart
