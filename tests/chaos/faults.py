"""The faults of the chaos suite: each hurts a training job; then the same command runs again and must finish."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pyarrow.fs import LocalFileSystem

from pdetr3d.config import SimConfig
from pdetr3d.exits import BAD_INPUT
from pdetr3d.simulator.simulate import simulate
from ray_jobs.plug.resume import PROGRESS, points, read_progress, resume_point
from tests.chaos.job import ROOT, STEPS, STREAM, Job, equal, stage_folder, weights

WORLD = SimConfig(
    scenes=3, keyframes=2, select_scenes=1, val_scenes=2, image_size_px=(160, 90), lidar_azimuth_steps=360, processes=2,
)  # fmt: skip
KILLED = "killed"  # folder with the files of a killed job
TMPFS_MIB = 24
AWAY_S = 60  # MLflow's server is stopped for this time


@dataclass(frozen=True)
class Outcome:
    """``lost``: committed steps that had to be repeated. ``run_dir``: of the finished job."""

    lost: int
    recovery_s: float
    run_dir: Path
    note: str = ""


class Chaos:
    """Starts jobs in a folder of its own.

    Args:
        folder: it is kept between calls of the suite, so that the world and the undisturbed run are made once.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.jobs = folder.resolve(), list[Job]()
        self.world = self.folder / "world"
        simulate(self.world, WORLD)

    def place(self, name: str) -> Path:
        """An empty folder for a fault."""
        shutil.rmtree(self.folder / name, ignore_errors=True)
        (self.folder / name).mkdir()
        return self.folder / name

    def job(self, place: Path, **options: object) -> Job:
        """Start a job on the run directory in ``place``; a second call continues it."""
        output = place / f"output_{len(list(place.glob('output_*.txt')))}.txt"
        options = {"dataroot": self.world, **options}
        self.jobs.append(Job(place / "run", output=output, **options))  # type: ignore[arg-type]
        return self.jobs[-1]

    def again(self, place: Path, committed: int, said: str = "", **options: object) -> Outcome:
        """Run the same command after the fault; it must continue at the last saved checkpoint and finish."""
        job = self.job(place, **options)
        job.wait_for(lambda: bool(job.steps()))
        recovery = time.monotonic() - job.began
        if job.finish() != 0:
            raise RuntimeError(f"exit code {job.process.returncode}:\n{job.text()[-3000:]}")
        if said and said not in job.text():
            raise RuntimeError(f"it did not say {said!r}:\n{job.text()[-3000:]}")
        return Outcome(max(0, committed + 1 - job.steps()[0]), recovery, job.run_dir)

    def undisturbed(self) -> Path:
        """The run directory of an undisturbed job, which runs once per folder."""
        place = self.folder / "undisturbed"
        if not (place / "run" / "student_full" / "done.json").exists():
            self.again(self.place("undisturbed"), 0)
        return place / "run"

    def unharmed(self, run_dir: Path) -> bool:
        """Whether a run's final weights equal those of the undisturbed run."""
        return equal(weights(run_dir), weights(self.undisturbed()))

    def clear(self) -> None:
        """End every job."""
        while self.jobs:
            self.jobs.pop().clear()


def hurt(chaos: Chaos, place: Path, number: int, code: int, at: Callable[[Job], bool], **options: object) -> Job:
    """Run a job, send it a signal when ``at`` is true, and wait for its end."""
    job = chaos.job(place, **options)
    job.wait_for(lambda: at(job))
    if job.signal(number) != code:
        raise RuntimeError(f"exit code {job.process.returncode}, not {code}:\n{job.text()[-3000:]}")
    job.clear()
    return job


def trains(job: Job) -> bool:
    """Whether the job has saved a checkpoint and trains on."""
    return 0 < job.committed() < STEPS - 3


def far(job: Job) -> bool:
    """Whether the job has saved two checkpoints and trains on."""
    return trains(job) and job.committed() >= 6


def sigkill(chaos: Chaos, place: Path) -> Outcome:
    first = hurt(chaos, place, signal.SIGKILL, -signal.SIGKILL, far)
    shutil.rmtree(chaos.folder / KILLED, ignore_errors=True)
    shutil.copytree(place, chaos.folder / KILLED)
    return chaos.again(place, first.committed(), "its owner is gone")


def killed(chaos: Chaos, place: Path) -> Path:
    """Copy the run directory of a killed job to ``place``, of ``sigkill`` or of a job killed for this; returns its
    path."""
    left = chaos.folder / KILLED
    if not left.exists():
        hurt(chaos, chaos.place(KILLED), signal.SIGKILL, -signal.SIGKILL, far)
    shutil.copytree(left, place, dirs_exist_ok=True)
    return place / "run"


def sigterm(chaos: Chaos, place: Path) -> Outcome:
    first = hurt(chaos, place, signal.SIGTERM, 130, lambda job: 5 <= len(job.steps()) < STEPS - 3, more=STREAM)
    done, saved = first.steps()[-1], first.committed()
    found = chaos.again(place, saved, more=STREAM)
    note = f"ended after {first.ended_s:.1f} s, saved at step {saved}, step {done} was logged"
    return Outcome(found.lost, found.recovery_s, found.run_dir, note)


def ctrl_c(chaos: Chaos, place: Path, at: Callable[[Job], bool], **options: object) -> Outcome:
    first = hurt(chaos, place, signal.SIGINT, 130, at, **options)
    found = chaos.again(place, first.committed(), **options)
    return Outcome(found.lost, found.recovery_s, found.run_dir, f"ended after {first.ended_s:.1f} s")


def ctrl_c_begin(chaos: Chaos, place: Path) -> Outcome:
    return ctrl_c(chaos, place, lambda job: (job.run_dir / "data").exists())


def ctrl_c_start(chaos: Chaos, place: Path) -> Outcome:
    return ctrl_c(chaos, place, lambda job: (job.run_dir / "ray").exists())


def ctrl_c_training(chaos: Chaos, place: Path) -> Outcome:
    return ctrl_c(chaos, place, trains)


def second_driver(chaos: Chaos, place: Path) -> Outcome:
    """A second driver on the same run directory is refused within seconds, and the first one is not disturbed."""
    job = chaos.job(place)
    job.wait_for(lambda: (job.run_dir / "data").exists())  # its Ray and workers still start then
    other = chaos.job(place)
    code, refused_s = other.finish(), time.monotonic() - other.began
    if code != BAD_INPUT or f"is in use by process {job.process.pid} of" not in other.text():
        raise RuntimeError(f"exit code {code}:\n{other.text()[-3000:]}")
    if job.process.poll() is not None:
        raise RuntimeError("the first driver had ended before the second one was refused")
    if job.finish() != 0:
        raise RuntimeError(job.text()[-3000:])
    return Outcome(0, 0.0, job.run_dir, f"the second one: exit code {code} after {refused_s:.1f} s, told whose it is")


def lost_worker(chaos: Chaos, place: Path) -> Outcome:
    job = chaos.job(place, more=STREAM)
    job.wait_for(lambda: trains(job) and bool(job.workers()))
    committed, seen = job.committed(), len(job.steps())
    for worker in job.workers():
        worker.kill()
    began = time.monotonic()
    job.wait_for(lambda: any(b <= a for a, b in _pairs(job.steps())) or len(job.steps()) > seen + 3)
    recovery = time.monotonic() - began
    if job.finish() != 0:
        raise RuntimeError(job.text()[-3000:])
    back = [b for a, b in _pairs(job.steps()) if b <= a]
    return Outcome(max(0, committed + 1 - back[0]) if back else 0, recovery, job.run_dir)


def _pairs(steps: list[int]) -> Iterator[tuple[int, int]]:
    return zip(steps, steps[1:], strict=False)


def cut_checkpoint(chaos: Chaos, place: Path) -> Outcome:
    folder = stage_folder(killed(chaos, place))
    whole = points(LocalFileSystem(), str(folder))[0]
    newest = Path(whole.path)
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    point = resume_point(folder.as_uri())
    if point is None:
        raise RuntimeError(f"there is no whole checkpoint beside {newest}")
    found = chaos.again(place, point.step, "is broken")
    note = f"that of step {whole.step}; went on from step {point.step}, said so"
    return Outcome(found.lost, found.recovery_s, found.run_dir, note)


def corrupt_progress(chaos: Chaos, place: Path) -> Outcome:
    folder = stage_folder(killed(chaos, place))
    committed = read_progress(folder.as_uri())
    (folder / PROGRESS).write_bytes(b"\x00\xff7")
    return chaos.again(place, committed, "newest whole checkpoint is of step")


def full_disk(chaos: Chaos, place: Path) -> Outcome:
    storage = place / "storage"
    options = {"more": (f"storage.path={storage}",)}
    storage.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={TMPFS_MIB}m", "tmpfs", str(storage)], check=True)
    try:
        job = chaos.job(place, **options)
        job.wait_for(lambda: trains(job))
        ballast = storage / "ballast"
        fill(ballast)
        code, text = job.finish(), job.text()
        job.clear()
        if code == 0 or "No space left" not in text:
            raise RuntimeError(f"exit code {code}:\n{text[-3000:]}")
        ballast.unlink()
        found = chaos.again(place, job.committed(), **options)
        return Outcome(found.lost, found.recovery_s, found.run_dir, f"exit code {code}, 'No space left' said")
    finally:
        chaos.clear()
        subprocess.run(["umount", "-l", str(storage)], check=False)


def fill(file: Path) -> None:
    """Fill the disk."""
    with file.open("wb", buffering=0) as stream:
        try:
            while True:
                stream.write(b"0" * 65536)
        except OSError:
            return


def tracker_down(chaos: Chaos, place: Path) -> Outcome:
    environment = {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{unused_port()}"}
    return chaos.again(place, 0, environment=environment)


def tracker_away(chaos: Chaos, place: Path) -> Outcome:
    """Stop the server (SIGSTOP) for a minute of the training: hanging connections are worse than refused ones."""
    with mlflow_server(place) as (server, address):
        job = chaos.job(place, environment={"MLFLOW_TRACKING_URI": address})
        job.wait_for(lambda: len(job.steps()) >= 1)
        seen, began = len(job.steps()), time.monotonic()
        os.killpg(server.pid, signal.SIGSTOP)
        try:
            job.wait_for(lambda: len(job.steps()) > seen + 3)
            recovery = time.monotonic() - began
            while time.monotonic() < began + AWAY_S and job.process.poll() is None:
                time.sleep(0.5)
            away = time.monotonic() - began
        finally:
            os.killpg(server.pid, signal.SIGCONT)
        if job.finish() != 0:
            raise RuntimeError(job.text()[-3000:])
        return Outcome(0, recovery, job.run_dir, f"it stood still for {away:.0f} s")


@contextmanager
def mlflow_server(place: Path) -> Iterator[tuple[subprocess.Popen, str]]:
    """Start an MLflow server; returns it and its address."""
    port = unused_port()
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{place}/m.db", "--default-artifact-root", str(place / "artifacts")]
    with (place / "server.txt").open("w") as stream:
        server = subprocess.Popen(command, cwd=ROOT, stdout=stream, stderr=stream, start_new_session=True)
    try:
        _until_answered(port)
        yield server, f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def unused_port() -> int:
    """A free port."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return int(unused.getsockname()[1])


def _until_answered(port: int) -> None:
    end = time.monotonic() + 180
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.5)
    raise RuntimeError("the MLflow server does not answer")


FAULTS: dict[str, tuple[str, Callable[[Chaos, Path], Outcome]]] = {
    "kill": ("SIGKILL of the driver", sigkill),
    "term": ("SIGTERM of the driver", sigterm),
    "ctrl-c-data": ("Ctrl-C while data is prepared", ctrl_c_begin),
    "ctrl-c-start": ("Ctrl-C while workers start", ctrl_c_start),
    "ctrl-c-training": ("Ctrl-C in training", ctrl_c_training),
    "second": ("two drivers on one run directory", second_driver),
    "worker": ("worker killed", lost_worker),
    "cut": ("newest checkpoint cut in half", cut_checkpoint),
    "progress": ("progress.txt corrupt", corrupt_progress),
    "disk": ("disk full", full_disk),
    "mlflow-down": ("MLflow down for the whole run", tracker_down),
    "mlflow-away": ("MLflow stands still for a minute", tracker_away),
}
