"""Kills and interrupts jobs: the same command continues, and half-written files are not read."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from tests.training_cases import world_arguments

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]
ROOT = Path(__file__).resolve().parents[2]
STEPS = 30
OVERRIDES = [
    "optim.batch_size=2",
    "optim.epochs=10",  # 6 samples: 30 steps
    "optim.checkpoints=16",  # at steps 15, 16, ..., 30
    "optim.log_every=1",
    "scaling.cpus_per_worker=0.5",
    "scaling.threads_per_worker=1",
    "run.arms=[full]",
]
LABELS = [
    "teacher.optim.batch_size=2",
    "teacher.optim.epochs=1",
    "teacher.crop_optim.epochs=1",
    "teacher.fusion=none",
    "label.pseudo_for=all",
    "scaling.cpus_per_worker=0.5",
    "scaling.threads_per_worker=1",
    "run.arms=[ours]",
]


class Job:
    """A job in its own process group, with its output and the processes that it started."""

    def __init__(
        self,
        run_dir: Path,
        dataroot: Path,
        output: Path,
        module: str = "ray_jobs.train_student",
        overrides: Sequence[str] = OVERRIDES,
    ) -> None:
        self.output = output
        command = [sys.executable, "-m", module, "--preset", "quickstart", "--run-dir", str(run_dir)]
        with output.open("w") as stream:
            self.process = subprocess.Popen(
                [*command, *world_arguments(dataroot, *overrides)],
                cwd=ROOT, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True,
                env={**os.environ, "PDETR3D_VERBOSE": "1", "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
        self.family: dict[int, psutil.Process] = {}

    def note_family(self) -> None:
        """Remember all processes that the job started, for the check at the end."""
        try:
            children = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return
        self.family |= {child.pid: child for child in children}

    def wait_for(self, done: Path, timeout_s: float = 240) -> None:
        end = time.monotonic() + timeout_s
        while not list(done.parent.glob(done.name)):
            assert self.process.poll() is None, self.text()
            assert time.monotonic() < end, self.text()
            self.note_family()
            time.sleep(0.1)

    def finish(self, timeout_s: float = 240) -> int:
        end = time.monotonic() + timeout_s
        while self.process.poll() is None:
            assert time.monotonic() < end, self.text()
            self.note_family()
            time.sleep(0.2)
        return self.process.returncode

    def text(self) -> str:
        return self.output.read_text(errors="replace")

    def steps(self) -> list[int]:
        """The steps in the progress lines, "student_full step 16/30 ..."."""
        lines = [line for line in self.text().splitlines() if f"/{STEPS} " in line and "student_full step " in line]
        return [int(line.split(" step ")[1].split("/")[0]) for line in lines]

    def workers_end(self) -> None:
        """Wait until no training worker is left, after which the job writes no more."""
        assert not psutil.wait_procs([p for p in self.family.values() if is_worker(p)], timeout=60)[1]

    def left_behind(self) -> list[psutil.Process]:
        """The job's processes that still run 90 s after it: Ray's agents notice a killed driver late."""
        return psutil.wait_procs(list(self.family.values()), timeout=90)[1]

    def clear(self) -> None:
        for process in [*self.family.values(), psutil.Process(self.process.pid)] if self.process.poll() is None else []:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                pass
        for process in psutil.wait_procs(list(self.family.values()), timeout=1)[1]:
            process.kill()


def is_worker(process: psutil.Process) -> bool:
    try:
        return any("RayTrainWorker" in part for part in process.cmdline())
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def jobs() -> Iterator[list[Job]]:
    started: list[Job] = []
    yield started
    for job in started:
        job.clear()


def ray_checkpoint(run_dir: Path) -> Path:
    return run_dir / "ray" / "student_full" / "progress.txt"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_the_same_command_continues(how: int, sim_world: Path, tmp_path: Path, jobs: list[Job]) -> None:
    run_dir = tmp_path / "run"
    jobs.append(first := Job(run_dir, sim_world, tmp_path / "first.txt"))
    first.wait_for(ray_checkpoint(run_dir))
    first.process.send_signal(how)
    code = first.finish()
    assert code == (-9 if how == signal.SIGKILL else 130), first.text()
    first.workers_end()
    assert not (run_dir / "student_full" / "done.json").exists()
    committed = int(ray_checkpoint(run_dir).read_text())
    assert 15 <= committed < STEPS and first.steps()[0] == 1
    # A kill in the middle of a write leaves temporary files, which nothing may read.
    (run_dir / "student_full").mkdir(exist_ok=True)
    (run_dir / "student_full" / ".done.json.1.tmp").write_text("{")
    (run_dir / "student_full" / "step_0000030.1.tmp").write_bytes(b"half")

    jobs.append(second := Job(run_dir, sim_world, tmp_path / "second.txt"))
    assert second.finish() == 0, second.text()
    assert not first.left_behind() and not second.left_behind()
    assert second.steps() == list(range(second.steps()[0], STEPS + 1))
    assert committed < second.steps()[0] <= committed + 2  # progress.txt is written after the checkpoint
    assert (run_dir / "student_full" / "done.json").exists()
    assert (run_dir / "student_full" / f"step_{STEPS:07d}.pt").exists()


def test_a_killed_job_labels_no_batch_twice(sim_world: Path, tmp_path: Path, jobs: list[Job]) -> None:
    def start(run_dir: Path, what: str, output: str) -> Job:
        jobs.append(Job(run_dir, sim_world, tmp_path / output, f"ray_jobs.{what}", LABELS))
        return jobs[-1]

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    trained = start(whole, "train_teacher", "teacher.txt")
    assert trained.finish() == 0, trained.text()
    shutil.copytree(whole, killed)
    uninterrupted = start(whole, "pseudo_label", "whole.txt")
    assert uninterrupted.finish() == 0, uninterrupted.text()

    batches = killed / "pseudo_labels" / "batches"
    first = start(killed, "pseudo_label", "first.txt")
    first.wait_for(batches / "*.parquet")
    first.process.kill()
    assert first.finish() == -9 and not first.left_behind()
    assert not (killed / "pseudo_labels" / "done.json").exists()
    kept, *later = sorted(batches.glob("*.parquet"))
    for file in later:  # the actor may have continued for a moment
        file.unlink()
    before = (kept.name, kept.stat().st_mtime_ns)

    second = start(killed, "pseudo_label", "second.txt")
    seen: set[tuple[str, int]] = set()
    while second.process.poll() is None:
        second.note_family()
        with contextlib.suppress(FileNotFoundError):  # the job removes them at its end
            seen |= {(file.name, file.stat().st_mtime_ns) for file in batches.glob("*.parquet")}
        time.sleep(0.05)
    assert second.finish() == 0, second.text()
    assert before in seen
    assert [name for name, _ in sorted(seen)] == [f"{number:08d}.parquet" for number in range(3)]  # each once
    tables = [pq.read_table(run / "pseudo_labels" / "pseudo_labels.parquet") for run in (whole, killed)]
    assert tables[0].num_rows > 10 and tables[1].equals(tables[0])
    assert not batches.exists()
