"""A job in processes of its own, as the chaos suite starts, hurts and watches it."""

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
# The same batches without Ray Data's processes, which take half of a job's time to start.
NO_STREAM = ("data.loader=torch", "scaling.loader_processes=0")
# Saved at steps 3, 6, ..., kept at 15, 16, ..., 30.
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
STREAM = ("data.loader=ray",)  # for faults that touch the stream
ENVIRONMENT = {
    "PDETR3D_VERBOSE": "1",  # every progress line
    "PYTHONUNBUFFERED": "1",
    "OMP_NUM_THREADS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_worker_niceness": "0",  # default 15: on a machine that does other things too, a start takes minutes
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


class Job:
    """``train_student`` (or another job) on a run directory; ``clear`` ends whatever is left of it.

    Args:
        run_dir: of the run. dataroot: of a simulated world; empty: the job simulates one. output: file for what it
            prints. overrides: config keys in place of OVERRIDES; more: config keys after those.
        environment: added to ours. words: starts the command; empty: ``python -m MODULE``.
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
        self.ended_s = 0.0  # between a signal and its end

    def text(self) -> str:
        """What it printed so far."""
        return self.output.read_text(errors="replace")

    def steps(self, stage: str = STAGE) -> list[int]:
        """Finished steps of a stage, as its progress lines tell them."""
        return [int(number) for number in re.findall(rf"\b{stage} step (\d+)/\d+ ", self.text())]

    def committed(self) -> int:
        """The step of its newest saved checkpoint."""
        return read_progress(stage_folder(self.run_dir).as_uri())

    def wait_for(self, what: Callable[[], bool], timeout_s: float = 400) -> None:
        """Until something holds; fails when the job ends before, or it takes too long."""
        end = time.monotonic() + timeout_s
        while not what():
            if self.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"it ended with {self.process.poll()}, or time is up:\n{self.text()[-3000:]}")
            self.note_family(0.5)
            time.sleep(0.02)

    def finish(self, timeout_s: float = 400) -> int:
        """Wait for its end; the exit code."""
        end = time.monotonic() + timeout_s
        while self.process.poll() is None:
            if time.monotonic() > end:
                raise RuntimeError(f"time is up:\n{self.text()[-3000:]}")
            self.note_family(0.5)
            time.sleep(0.05)
        return self.process.returncode

    def signal(self, number: int) -> int:
        """Send a signal and wait for the end: the exit code; ``ended_s`` says how long that took."""
        self.note_family()
        began = time.monotonic()
        self.process.send_signal(number)
        code = self.finish()
        self.ended_s = time.monotonic() - began
        return code

    def note_family(self, every_s: float = 0.0) -> None:
        """Remember every process that it started; it costs CPU time, so ``every_s`` seconds are left between looks."""
        if time.monotonic() < self._noted + every_s:
            return
        self._noted = time.monotonic()
        try:
            self.family |= {child.pid: child for child in psutil.Process(self.process.pid).children(recursive=True)}
        except psutil.NoSuchProcess:
            return

    def workers(self) -> list[psutil.Process]:
        """Its training workers that live."""
        return [process for process in self.family.values() if "RayTrainWorker" in command_of(process)]

    def clear(self) -> int:
        """Wait for all that it started, kill what is left by process id, and say how much that was."""
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
    """Where the checkpoints of a job on this run directory lie."""
    made = [*run_dir.glob(f"ray/{STAGE}"), *run_dir.parent.glob(f"storage/*/{STAGE}")]
    return made[0] if made else run_dir / "ray" / STAGE


def command_of(process: psutil.Process) -> str:
    """What a process was started with; empty when it is gone."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def weights(run_dir: Path, stage: str = STAGE) -> dict[str, torch.Tensor]:
    """Of the last checkpoint of a finished stage."""
    return checkpoint.load(sorted((run_dir / stage).glob("step_*.pt"))[-1])["model"]


def equal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    """Bit by bit."""
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
