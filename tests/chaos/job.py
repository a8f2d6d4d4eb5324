"""Starts, watches and signals a job in its own processes, for the chaos suite."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil
import torch

from pdetr3d.training import checkpoint
from ray_jobs.plug.resume import read_progress
from tests.training_cases import world_arguments

ROOT = Path(__file__).resolve().parents[2]
STAGE, STEPS = "student_full", 30
MODULE = "ray_jobs.train_student"
# The batches are the same, but Ray Data's processes, which start in half of a job's time, are not needed.
NO_STREAM = ("data.loader=torch", "scaling.loader_processes=0")
# Checkpoints are saved at steps 3, 6, ... and kept at 15, 16, ..., 30.
OVERRIDES = [
    "optim.batch_size=2",
    "optim.epochs=10",  # of 6 samples
    "optim.save_every=3",
    "optim.checkpoints=16",
    "optim.log_every=1",
    "scaling.cpus_per_worker=0.5",
    "scaling.threads_per_worker=1",
    "run.arms=[full]",
    *NO_STREAM,
]
STREAM = ("data.loader=ray",)  # for faults of the stream
ENVIRONMENT = {
    "PDETR3D_VERBOSE": "1",  # every progress line
    "PYTHONUNBUFFERED": "1",
    "OMP_NUM_THREADS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_worker_niceness": "0",  # with the default 15, a start takes minutes on a busy machine
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


class Job:
    """``train_student`` (or another job) on a run directory; ``clear`` ends its remaining processes.

    Args:
        run_dir: of the run. dataroot: of a simulated world; empty: the job simulates one. output: file of its output.
            overrides: config keys instead of OVERRIDES. more: config keys after those.
        environment: additional variables. words: beginning of the command; empty: ``python -m MODULE``.
    """

    def __init__(
        self,
        run_dir: Path,
        dataroot: Path | str,
        output: Path,
        environment: Mapping[str, str] | None = None,
        overrides: Sequence[str] = OVERRIDES,
        more: Sequence[str] = (),
        words: Sequence[str] = (sys.executable, "-m", MODULE),
    ) -> None:
        self.run_dir, self.output, self.began = run_dir, output, time.monotonic()
        inherited = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")}
        command = [*words, "--preset", "quickstart", "--run-dir", str(run_dir)]
        with output.open("w") as stream:
            self.process = subprocess.Popen(
                [*command, *world_arguments(dataroot, *overrides, *more)],
                cwd=ROOT, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True,
                env={**inherited, **ENVIRONMENT, **(environment or {})},
            )  # fmt: skip
        self.family: dict[int, psutil.Process] = {}
        self._noted = 0.0
        self.ended_s = 0.0  # time between a signal and the job's end

    def text(self) -> str:
        """The job's output so far."""
        return self.output.read_text(errors="replace")

    def steps(self, stage: str = STAGE) -> list[int]:
        """The finished steps in a stage's progress lines."""
        return [int(number) for number in re.findall(rf"\b{stage} step (\d+)/\d+ ", self.text())]

    def committed(self) -> int:
        """The step of the newest saved checkpoint."""
        return read_progress(stage_folder(self.run_dir).as_uri())

    def wait_for(self, what: Callable[[], bool], timeout_s: float = 400) -> None:
        """Wait until a condition holds; fails if the job ends before or the wait takes too long."""
        end = time.monotonic() + timeout_s
        while not what():
            if self.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"it ended with {self.process.poll()}, or time is up:\n{self.text()[-3000:]}")
            self.note_family(0.5)
            time.sleep(0.02)

    def finish(self, timeout_s: float = 400) -> int:
        """Wait for the job's end and return its exit code."""
        end = time.monotonic() + timeout_s
        while self.process.poll() is None:
            if time.monotonic() > end:
                raise RuntimeError(f"time is up:\n{self.text()[-3000:]}")
            self.note_family(0.5)
            time.sleep(0.05)
        return self.process.returncode

    def signal(self, number: int) -> int:
        """Send a signal, wait for the end, and return the exit code; ``ended_s`` is the time that this took."""
        self.note_family()
        began = time.monotonic()
        self.process.send_signal(number)
        code = self.finish()
        self.ended_s = time.monotonic() - began
        return code

    def note_family(self, every_s: float = 0.0) -> None:
        """Remember the processes that the job started, at most every ``every_s`` seconds, since this costs CPU time."""
        if time.monotonic() < self._noted + every_s:
            return
        self._noted = time.monotonic()
        try:
            self.family |= {child.pid: child for child in psutil.Process(self.process.pid).children(recursive=True)}
        except psutil.NoSuchProcess:
            return

    def workers(self) -> list[psutil.Process]:
        """The job's living training workers."""
        return [process for process in self.family.values() if "RayTrainWorker" in command_of(process)]

    def clear(self) -> int:
        """Wait for all processes of the job, kill the remaining ones by id, and return their number."""
        if self.process.poll() is None:
            self.note_family()
            self.process.kill()
            self.process.wait()
        left = psutil.wait_procs(list(self.family.values()), timeout=20)[1]
        for process in left:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self.family = {}
        return len(left)


def stage_folder(run_dir: Path) -> Path:
    """The folder of the checkpoints of a job on this run directory."""
    made = [*run_dir.glob(f"ray/{STAGE}"), *run_dir.parent.glob(f"storage/*/{STAGE}")]
    return made[0] if made else run_dir / "ray" / STAGE


def command_of(process: psutil.Process) -> str:
    """The command line of a process; empty if it has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def weights(run_dir: Path, stage: str = STAGE) -> dict[str, torch.Tensor]:
    """The weights of the last checkpoint of a finished stage."""
    return checkpoint.load(sorted((run_dir / stage).glob("step_*.pt"))[-1])["model"]


def equal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    """Whether weights are equal bit by bit."""
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
