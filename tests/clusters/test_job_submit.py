"""Submits jobs to a Ray head with token authentication, stops them, and submits them again to continue."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from ray._private.runtime_env.packaging import create_package

from pdetr3d.tracking.client import connect
from pdetr3d.tracking.runs import read_run_file
from tests.clusters.test_interrupt import OVERRIDES, ray_checkpoint
from tests.ports import free_ports
from tests.training_cases import world_arguments

ROOT = Path(__file__).resolve().parents[2]
# 6 samples: 120 steps, checkpoints after steps 60 .. 120. `ray job stop` needs seconds to start; a step takes 0.2 s.
STEPS = 120
LONG = [word for word in OVERRIDES if not word.startswith(("optim.epochs=", "optim.checkpoints="))]
LONG += ["optim.epochs=40", "optim.checkpoints=61"]
RAY = str(Path(sys.executable).with_name("ray"))


@dataclass(frozen=True)
class Head:
    """A running head: the address of its dashboard, and the environment of a user with the token."""

    address: str
    environment: dict[str, str]

    def ray(self, *words: str, timeout_s: float = 240) -> subprocess.CompletedProcess[str]:
        """Run `ray job WORDS --address ...` in the project's folder."""
        command = [RAY, "job", words[0], "--address", self.address, *words[1:]]
        return subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=timeout_s
        )

    def status_of_jobs_api(self, token: str | None) -> int:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        try:
            with urllib.request.urlopen(urllib.request.Request(f"{self.address}/api/jobs/", headers=headers)) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code


@pytest.fixture
def head() -> Iterator[Head]:
    gcs, dashboard, client, agent = free_ports(4)
    scratch = tempfile.mkdtemp(prefix="r")  # a short path, because it contains sockets
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": "1",
        "RAY_JOB_STOP_WAIT_TIME_S": "60",  # with the default 3, a job is killed before it ends its MLflow runs
    }
    command = [RAY, "start", "--head", "--block", "--num-cpus=4", f"--port={gcs}", "--dashboard-host=127.0.0.1"]
    command += [f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}", f"--temp-dir={scratch}"]
    command += [
        f"--dashboard-agent-listen-port={agent}",
        f"--object-store-memory={256 * 1024**2}",
        "--node-ip-address=127.0.0.1",
    ]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)
    running = Head(f"http://127.0.0.1:{dashboard}", environment)
    try:
        end = time.monotonic() + 90
        while True:
            assert process.poll() is None and time.monotonic() < end, "the head did not start"
            try:
                running.status_of_jobs_api(None)
                break
            except OSError:
                time.sleep(0.5)
        yield running
    finally:
        # Killed, because with --block it would need half a minute to end its processes.
        family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
        for one in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(family, timeout=30)
        shutil.rmtree(scratch, ignore_errors=True)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_submit_stop_and_submit_again(head: Head, sim_world: Path, tmp_path: Path) -> None:
    assert head.status_of_jobs_api(None) == 401 and head.status_of_jobs_api("0" * 64) in (401, 403)
    assert head.status_of_jobs_api(head.environment["RAY_AUTH_TOKEN"]) == 200
    run_dir = tmp_path / "run"
    job = ["python", "-m", "ray_jobs.train_student", "--verbose", "--preset", "quickstart", "--run-dir", str(run_dir)]
    words = ["--working-dir", ".", "--runtime-env", "cluster/runtime_env.yaml"]

    def submit(name: str, *more: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        overrides = world_arguments(sim_world, *LONG, *more)
        return head.ray("submit", "--submission-id", name, *words, *options, "--", *job, *overrides)

    refused = submit("wrong", "optim.lrr=1")
    assert refused.returncode == 1 and "did you mean 'optim.lr'?" in refused.stdout[-2000:]
    assert submit("first", options=("--no-wait",)).returncode == 0
    end = time.monotonic() + 240
    while not ray_checkpoint(run_dir).exists():
        assert time.monotonic() < end, head.ray("logs", "first").stdout
        time.sleep(0.2)
    assert head.ray("stop", "first").returncode == 0
    reached = int(ray_checkpoint(run_dir).read_text())
    assert 60 <= reached < STEPS and "STOPPED" in head.ray("status", "first").stdout.upper()
    assert mlflow_states(run_dir) == {"KILLED"}
    second = submit("second")
    assert second.returncode == 0, second.stdout
    steps = [int(line.split(" step ")[1].split("/")[0]) for line in second.stdout.splitlines() if f"/{STEPS} " in line]
    # The newest whole checkpoint counts; the one of the stop may come after progress.txt was read here.
    assert reached < steps[0] <= STEPS and steps == list(range(steps[0], STEPS + 1))
    assert mlflow_states(run_dir) == {"FINISHED"}


def mlflow_states(run_dir: Path) -> set[str]:
    """The states of the job's MLflow run and its stage's."""
    runs = list(read_run_file(run_dir).values())
    assert len(runs) == 2
    return {connect(one["uri"]).get_run(one["run_id"]).info.status for one in runs}


def test_an_upload_is_small(tmp_path: Path) -> None:
    """--working-dir packs the files that .gitignore and .rayignore leave."""
    create_package(str(ROOT), tmp_path / "package.zip", include_gitignore=True)
    size = (tmp_path / "package.zip").stat().st_size
    assert 100_000 < size < 5 * 2**20
