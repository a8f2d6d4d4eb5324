"""make chaos: faults, one at a time, in real jobs; afterwards the same command is given again.

python -m tests.chaos.suite [NAME ...] prints a table: fault, committed steps lost, seconds to the next step, whether
the final weights are those of an undisturbed run, bit by bit (CPU). Exit code 1 when anything is lost or differs.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pdetr3d.config import SimConfig
from pdetr3d.data.simulate import simulate
from tests.chaos.job import ROOT, STEPS, Job, equal

WORLD = SimConfig(
    scenes=3, select_scenes=1, val_scenes=2, image_size_px=(160, 90), lidar_azimuth_steps=360, processes=2,
)  # fmt: skip
TMPFS_MIB = 24


@dataclass(frozen=True)
class Outcome:
    """``lost``: committed steps that had to be done again. ``job``: the one that finished."""

    lost: int
    recovery_s: float
    job: Job
    note: str = ""


class Chaos:
    """Starts jobs in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.jobs = folder, list[Job]()
        self.world = folder / "world"
        simulate(self.world, WORLD)

    def job(self, name: str, **options: object) -> Job:
        """A job on the run directory of that fault; the same again continues it."""
        place = self.folder / name
        place.mkdir(exist_ok=True)
        output = place / f"output_{len(self.jobs)}.txt"
        self.jobs.append(Job(place / "run", self.world, output, **options))  # type: ignore[arg-type]
        return self.jobs[-1]

    def again(self, name: str, committed: int, said: str = "", **options: object) -> Outcome:
        """The same command after the fault: it must go on where the last saved checkpoint is, and finish."""
        job = self.job(name, **options)
        job.wait_for(lambda: bool(job.steps()))
        recovery = time.monotonic() - job.began
        if job.finish() != 0:
            raise RuntimeError(f"exit code {job.process.returncode}:\n{job.text()[-3000:]}")
        if said and said not in job.text():
            raise RuntimeError(f"it did not say {said!r}:\n{job.text()[-3000:]}")
        return Outcome(max(0, committed + 1 - job.steps()[0]), recovery, job)

    def clear(self) -> None:
        """End every job."""
        for job in self.jobs:
            job.clear()


def hurt(chaos: Chaos, name: str, number: int, code: int, at: Callable[[Job], bool]) -> Job:
    """A job that gets a signal once ``at`` holds; its end is waited for."""
    job = chaos.job(name)
    job.wait_for(lambda: at(job))
    began = time.monotonic()
    job.process.send_signal(number)
    if job.finish() != code:
        raise RuntimeError(f"exit code {job.process.returncode}, not {code}:\n{job.text()[-3000:]}")
    took = time.monotonic() - began
    job.clear()
    job.ended_s = took  # type: ignore[attr-defined]
    return job


def trains(job: Job) -> bool:
    """Whether a checkpoint is saved and training goes on."""
    return 0 < job.committed() < STEPS


def sigkill(chaos: Chaos) -> Outcome:
    first = hurt(chaos, "SIGKILL of the driver", signal.SIGKILL, -signal.SIGKILL, trains)
    return chaos.again("SIGKILL of the driver", first.committed())


def sigterm(chaos: Chaos) -> Outcome:
    name = "SIGTERM of the driver"
    first = hurt(chaos, name, signal.SIGTERM, 130, lambda job: len(job.steps()) >= 5)
    done, saved = first.steps()[-1], first.committed()
    found = chaos.again(name, saved)
    note = f"ended after {first.ended_s:.1f} s, saved at step {saved} of {done} done"  # type: ignore[attr-defined]
    return Outcome(found.lost, found.recovery_s, found.job, note)


def ctrl_c(chaos: Chaos, name: str, at: Callable[[Job], bool]) -> Outcome:
    first = hurt(chaos, name, signal.SIGINT, 130, at)
    return chaos.again(name, first.committed())


def ctrl_c_begin(chaos: Chaos) -> Outcome:
    return ctrl_c(chaos, "Ctrl-C while data is prepared", lambda job: (job.run_dir / "data").exists())


def ctrl_c_start(chaos: Chaos) -> Outcome:
    return ctrl_c(chaos, "Ctrl-C while workers start", lambda job: (job.run_dir / "ray").exists())


def ctrl_c_training(chaos: Chaos) -> Outcome:
    return ctrl_c(chaos, "Ctrl-C in training", trains)


def lost_worker(chaos: Chaos) -> Outcome:
    job = chaos.job("worker lost")
    job.wait_for(lambda: trains(job) and bool(job.workers()))
    committed, seen = job.committed(), len(job.steps())
    for worker in job.workers():
        worker.kill()
    began = time.monotonic()
    job.wait_for(lambda: len(job.steps()) > seen + 1 and min(job.steps()[seen:]) < STEPS)
    recovery = time.monotonic() - began
    if job.finish() != 0:
        raise RuntimeError(job.text()[-3000:])
    steps = job.steps()
    back = [b for a, b in zip(steps, steps[1:], strict=False) if b <= a]
    return Outcome(max(0, committed + 1 - back[0]) if back else 0, recovery, job)


def cut_checkpoint(chaos: Chaos) -> Outcome:
    name = "newest checkpoint cut"
    first = hurt(chaos, name, signal.SIGKILL, -signal.SIGKILL, lambda job: 6 <= job.committed() < STEPS)
    newest = first.newest()
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    from ray_jobs.resume import resume_point

    point = resume_point(first.folder.as_uri())
    found = chaos.again(name, point.step if point else 0, "is broken")
    return Outcome(found.lost, found.recovery_s, found.job, f"went on from step {point.step if point else 0}, said so")


def corrupt_progress(chaos: Chaos) -> Outcome:
    name = "progress.txt corrupt"
    first = hurt(chaos, name, signal.SIGKILL, -signal.SIGKILL, trains)
    committed = first.committed()
    (first.folder / "progress.txt").write_bytes(b"\x00\xff7")
    return chaos.again(name, committed, "newest whole checkpoint is of step")


def full_disk(chaos: Chaos) -> Outcome:
    name = "disk full"
    storage, job = chaos.folder / name / "storage", None
    storage.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={TMPFS_MIB}m", "tmpfs", str(storage)], check=True)
    try:
        job = chaos.job(name, storage=str(storage))
        job.wait_for(lambda: trains(job))
        ballast = storage / "ballast"
        with ballast.open("wb") as stream:
            try:
                while True:
                    stream.write(b"0" * 65536)
            except OSError:
                pass
        code = job.finish()
        text = job.text()
        job.clear()
        if code == 0 or "No space left" not in text:
            raise RuntimeError(f"exit code {code}:\n{text[-3000:]}")
        ballast.unlink()
        committed = job.committed()
        found = chaos.again(name, committed, storage=str(storage))
        return Outcome(found.lost, found.recovery_s, found.job, f"exit code {code}, 'No space left' said")
    finally:
        chaos.clear()
        subprocess.run(["umount", "-l", str(storage)], check=False)


def tracker_down(chaos: Chaos) -> Outcome:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
    environment = {"MLFLOW_TRACKING_URI": address}
    return chaos.again("MLflow down for the whole run", 0, environment=environment)


def tracker_away(chaos: Chaos) -> Outcome:
    """The server stands still (SIGSTOP) for a minute of the training: connections hang, which is worse than refused."""
    name, place = "MLflow down for a minute", chaos.folder / "server"
    place.mkdir()
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{place}/m.db", "--default-artifact-root", str(place / "artifacts")]
    with (place / "server.txt").open("w") as stream:
        server = subprocess.Popen(command, cwd=ROOT, stdout=stream, stderr=stream, start_new_session=True)
    try:
        _until_answered(port)
        job = chaos.job(name, environment={"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}"})
        job.wait_for(lambda: len(job.steps()) >= 1)
        seen, began = len(job.steps()), time.monotonic()
        os.killpg(server.pid, signal.SIGSTOP)
        try:
            job.wait_for(lambda: len(job.steps()) > seen + 3)
            recovery = time.monotonic() - began
            while time.monotonic() < began + 60 and job.process.poll() is None:
                time.sleep(0.5)
        finally:
            os.killpg(server.pid, signal.SIGCONT)
        if job.finish() != 0:
            raise RuntimeError(job.text()[-3000:])
        return Outcome(0, recovery, job)
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _until_answered(port: int) -> None:
    end = time.monotonic() + 180
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.5)
    raise RuntimeError("the MLflow server does not answer")


FAULTS: dict[str, Callable[[Chaos], Outcome]] = {
    "kill": sigkill,
    "term": sigterm,
    "ctrl-c-data": ctrl_c_begin,
    "ctrl-c-start": ctrl_c_start,
    "ctrl-c-training": ctrl_c_training,
    "worker": lost_worker,
    "cut": cut_checkpoint,
    "progress": corrupt_progress,
    "disk": full_disk,
    "mlflow-down": tracker_down,
    "mlflow-away": tracker_away,
}


def main(names: list[str]) -> int:
    """Run the faults; the exit code."""
    unknown = [name for name in names if name not in FAULTS]
    if unknown:
        print(f"no fault {unknown}; there are {', '.join(FAULTS)}", file=sys.stderr)
        return 2
    table, bad = Table("fault", "committed steps lost", "s to the next step", "equal to undisturbed", "note"), 0
    with tempfile.TemporaryDirectory(prefix="chaos_") as folder:
        chaos = Chaos(Path(folder))
        try:
            undisturbed = chaos.again("undisturbed", 0)
            table.add_row("none", "0", f"{undisturbed.recovery_s:.0f}", "", f"{STEPS} steps")
            for name in names or FAULTS:
                if name == "disk" and os.geteuid() != 0:
                    table.add_row(name, "", "", "", "not run: a small file system needs root rights")
                    continue
                print(f"{time.strftime('%H:%M:%S')} {name}", flush=True)
                try:
                    found = FAULTS[name](chaos)
                    same = equal(found.job.weights(), undisturbed.job.weights())
                    bad += bool(found.lost) or not same
                    cells = [str(found.lost), f"{found.recovery_s:.0f}", "yes" if same else "NO", found.note]
                except (RuntimeError, OSError) as error:
                    bad, cells = bad + 1, ["?", "?", "?", f"FAILED: {error}"]
                table.add_row(name, *cells)
                chaos.clear()
        finally:
            chaos.clear()
    Console(width=150).print(table)
    print("something is lost" if bad else "nothing lost")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
