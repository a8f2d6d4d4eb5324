"""Tests of the start and end of jobs: missing cluster, dataset or run directory; SIGTERM ends as Ctrl-C does."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import ray
from ray.train.torch import TorchTrainer

from pdetr3d import exits
from pdetr3d.exits import CTRL_C_S, GRACE_S, ending_in_time
from pdetr3d.schema import DataError
from pdetr3d.tracking.client import connect
from pdetr3d.tracking.runs import Tracker
from ray_jobs.plug.fit import LocalTrainer, has_state_api
from ray_jobs.start import address as address_module
from ray_jobs.start.address import check_address
from ray_jobs.start.launch import init_ray
from tests.jobs import launch


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(10)  # the handler ends it


def test_a_terminated_job_ends_its_runs_as_killed(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), ending_in_time(), Tracker.start(tmp_path, "e", "job", {}, {}) as tracker:
        terminate()
    assert connect(tracker.uri).get_run(tracker.run_id).info.status == "KILLED"


def test_ray_does_not_take_sigterm_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real ``ray.init``, which sets its handler before it looks at the address."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", "nonsense")
    names = ("ENABLE_PRINT_PATCH", "HEALTH_CHECK_INTERVAL_S", "ENABLE_PREEMPTION_WATCHER")
    for name in (f"RAY_TRAIN_{name}" for name in names):
        monkeypatch.setenv(name, os.environ.get(name, "0"))  # restored after the test, since init_ray sets them
    for name in ("idle_worker_killing_time_threshold_ms", "num_workers_soft_limit"):
        monkeypatch.delenv(f"RAY_{name}")
    with ending_in_time():
        ours = signal.getsignal(signal.SIGTERM)
        with pytest.raises(DataError, match="Invalid address format: nonsense"):
            init_ray(use_gpu=False)
        assert signal.getsignal(signal.SIGTERM) is ours
    assert int(os.environ["RAY_num_workers_soft_limit"]) == max(8, os.cpu_count() or 1)


@pytest.mark.parametrize(("number", "limit_s"), [(signal.SIGTERM, GRACE_S), (signal.SIGINT, CTRL_C_S)])
def test_handlers_and_timers_are_those_of_before_once_a_command_has_ended(number: int, limit_s: float) -> None:
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(KeyboardInterrupt), ending_in_time():
        try:
            os.kill(os.getpid(), number)
            time.sleep(10)
        finally:
            (timer,) = [t for t in threading.enumerate() if isinstance(t, threading.Timer) and t.interval == limit_s]
    timer.join(5)
    assert not timer.is_alive()
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == before


STUCK = """
import os, signal, subprocess, sys, time
from pdetr3d import exits
exits.CTRL_C_S = 1.0
def main():
    exits.last_acts.append(lambda: print("last act", flush=True))
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    if sys.argv[1:]:  # what is raised in a hook of os.fork, or in a destructor, Python drops
        os.register_at_fork(before=lambda: os.kill(os.getpid(), int(sys.argv[1])))
    told = False
    while True:
        try:
            if not told:
                told = True
                print(child.pid, flush=True)
                if sys.argv[1:]:
                    os.fork() or os._exit(0)
            time.sleep(60)
        except KeyboardInterrupt:  # as libraries may
            pass
sys.exit(exits.guarded(main))
"""


SLOW_TO_GO = """
import atexit, subprocess, sys, time
from pdetr3d import exits
class Slow:
    def __del__(self):
        time.sleep(60)
kept = Slow()
if sys.argv[1:]:
    atexit.register(time.sleep, 60)
atexit.register(lambda: print("at exit", flush=True))
def main():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    print(child.pid, flush=True)
    time.sleep(60)
sys.exit(exits.guarded(main))
"""


@pytest.mark.parametrize(("more", "least_s"), [([], 0), (["slow at exit"], GRACE_S)])
def test_what_takes_long_to_take_itself_down_is_ended_within_five_seconds(more: list[str], least_s: float) -> None:
    command = [sys.executable, "-c", SLOW_TO_GO, *more]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    child = psutil.Process(int(process.stdout.readline()))
    began = time.monotonic()
    process.terminate()
    process.wait(timeout=30)
    assert not psutil.wait_procs([child], timeout=5)[1]  # the child holds the pipes open while it lives
    out, error = process.communicate(timeout=30)
    assert process.returncode == 130 and least_s <= time.monotonic() - began < 5
    assert out == "at exit\n" and error == exits.INTERRUPTED_TEXT + "\n"  # printed once for every kind of end


def test_descendants_are_found_while_the_clock_is_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell and its child; the second reading of the time of boot, and each one after it, is 30 years earlier."""
    shell = subprocess.Popen(["sh", "-c", "sleep 60 & wait"])
    try:
        while len(psutil.Process(shell.pid).children()) < 1:
            time.sleep(0.01)
        (child,) = psutil.Process(shell.pid).children()
        times = iter(range(0, -(10**12), -(10**9)))
        booted = psutil._pslinux.boot_time()
        monkeypatch.setattr(psutil._pslinux, "boot_time", lambda: booted + next(times))
        assert shell.pid not in {one.pid for one in psutil.Process().children(recursive=True)}  # why it is not used
        assert {shell.pid, child.pid} <= {one.pid for one in exits.descendants()}
    finally:
        monkeypatch.undo()
        for one in exits.descendants():
            if one.pid == shell.pid or one.ppid() == shell.pid:
                one.kill()
        shell.wait()


def test_an_interrupted_process_ends_even_when_its_children_cannot_be_found() -> None:
    unreadable = SLOW_TO_GO.replace("def main", "exits.descendants = lambda: 1 / 0\ndef main", 1)
    process = subprocess.Popen([sys.executable, "-c", unreadable, "slow at exit"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    child = psutil.Process(int(process.stdout.readline()))
    process.terminate()
    try:
        assert process.wait(timeout=10) == exits.INTERRUPTED
    finally:
        child.kill()
        process.stdout.close()


@pytest.mark.parametrize(("number", "least_s"), [(signal.SIGTERM, GRACE_S), (signal.SIGINT, 1.0)])
@pytest.mark.parametrize("where", ["library", "hook"])
def test_what_swallows_the_interrupt_is_ended_within_seconds(number: int, least_s: float, where: str) -> None:
    command = [sys.executable, "-c", STUCK, *([str(int(number))] if where == "hook" else [])]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    child = psutil.Process(int(process.stdout.readline()))
    began = time.monotonic()
    if where == "library":
        process.send_signal(number)
    out, error = process.communicate(timeout=30)
    assert least_s - 0.5 <= time.monotonic() - began < 5
    assert process.returncode == 130 and out == "last act\n" and error.endswith("again to continue\n")
    assert ("Exception ignored in" in error) == (where == "hook")
    assert not psutil.wait_procs([child], timeout=5)[1]


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("http://head:8265", "ray job submit --address http://head:8265"),
        ("127.0.0.1:1", "RAY_ADDRESS=127.0.0.1:1: no Ray cluster answers there"),
    ],
)
def test_a_cluster_that_is_none_is_told_at_once(
    address: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error comes before the run directory is created."""
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(address_module, "WAIT_S", 1.0)
    code = launch(lambda stages: None, ["--preset", "quickstart", "--run-dir", str(tmp_path / "run")])
    captured = capsys.readouterr().err
    assert code == 2 and captured.startswith("error: ") and said in captured and "Traceback" not in captured
    assert not (tmp_path / "run").exists()


def test_who_listens_but_is_no_ray_is_no_cluster() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(DataError, match="no Ray cluster answers"):
            check_address(f"127.0.0.1:{other.getsockname()[1]}", 0.5)


@pytest.mark.parametrize("address", ["local", "auto", "ray://head:10001"])
def test_ray_looks_itself_where_it_is_quick(address: str) -> None:
    check_address(address, 0.1)


@pytest.mark.parametrize(
    "address",
    [
        "ftp://head",
        "ray:/head:10001",
        "ray://",
        "ray://head",
        "head",
        "head:port",
        "head:6379:1",
        "::1:6379",
        " head:1",
    ],
)
def test_an_address_of_another_form_is_told(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address_module, "_answers", lambda name, wait_s: True)  # nobody is asked
    with pytest.raises(DataError) as caught:
        check_address(address, 0.1)
    assert str(caught.value).startswith(f"RAY_ADDRESS={address}: jobs join a cluster by HOST:PORT of its head (port")
    for good in ("head:6379", "10.0.0.1:6379", "[::1]:6379", "ray://head.example:10001"):
        check_address(good, 0.1)


def test_a_preset_of_a_real_dataset_asks_for_it_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = launch(lambda stages: None, ["--preset", "nuscenes-voxel", "--run-dir", str(tmp_path / "run")])
    said = capsys.readouterr().err
    assert code == 2 and "data.dataroot is empty" in said and "v1.0-trainval" in said
    assert not (tmp_path / "run").exists()


REFUSED = "error: {where}: cannot make this folder ({reason}); "


def test_a_run_directory_that_is_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (file := tmp_path / "file").touch()
    assert launch(lambda stages: None, ["--preset", "quickstart", "--run-dir", str(file)]) == 2
    assert capsys.readouterr().err.startswith(REFUSED.format(where=file, reason="File exists"))


@pytest.mark.root_only
def test_a_run_directory_that_may_not_be_written(tmp_path: Path) -> None:
    """The test runs as a user other than root, since permissions do not bind root."""
    (place := tmp_path / "place").mkdir(mode=0o555)
    bound = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    command = [*bound, sys.executable, "-m", "ray_jobs.commands", "simulate", "--dataroot", str(place / "world")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ") and "(Permission denied); this user may not; change its" in done.stderr


@pytest.mark.parametrize(
    ("environment", "watched"),
    [({}, False), ({"RAY_ADDRESS": "head:6379"}, True), ({"RAY_API_SERVER_ADDRESS": "http://127.0.0.1:8265"}, True)],
)
def test_a_ray_of_its_own_starts_no_process_that_asks_a_dashboard(
    environment: dict[str, str], watched: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only that callback is removed; Ray Train's other callbacks stay."""
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert has_state_api() == watched

    def names(trainer: type[TorchTrainer]) -> list[str]:
        return [type(one).__name__ for one in trainer(lambda: None)._create_default_callbacks()]  # type: ignore[attr-defined]

    rays, ours = names(TorchTrainer), names(LocalTrainer)
    assert "PlacementGroupCleanerCallback" in rays and "DatasetsCallback" in ours
    assert ours == [name for name in rays if name != "PlacementGroupCleanerCallback"]
