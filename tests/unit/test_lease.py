"""A run directory belongs to one process: others are refused with the owner's name; a dead owner is replaced."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pdetr3d.exits import BAD_INPUT
from pdetr3d.schema import DataError
from pdetr3d.training import lease
from tests.jobs import launch
from tests.training_cases import world_arguments

HOLD = "import sys, time; from pathlib import Path; from pdetr3d.training import lease; lease.hold(Path(sys.argv[1])); "
SECOND = HOLD + "print('held')"


@pytest.fixture(autouse=True)
def _nothing_is_held(tmp_path: Path) -> Iterator[None]:
    yield
    for folder in (tmp_path, *filter(Path.is_dir, tmp_path.iterdir())):
        lease.release(folder)


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds ``tmp_path``."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD + "print('held', flush=True); time.sleep(60)", str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def foreign(folder: Path, /, **changes: object) -> None:
    """A lease file as written by a process on another host."""
    owner = {"user": "ann", "host": "far", "machine": "far 1", "pid": 7, "process_start": 1.0, "token": "a"}
    (folder / lease.FILE).write_text(json.dumps(owner | changes))


def owner_of(folder: Path) -> int:
    """The process id in a folder's lease."""
    return int(json.loads((folder / lease.FILE).read_text())["pid"])


def test_a_second_process_is_refused_and_told_whose_it_is(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    for _ in range(2):
        with pytest.raises(DataError, match=f"{tmp_path} is in use by process {holder.pid} of .* on host .*--run-dir"):
            lease.hold(tmp_path)
    assert json.loads((tmp_path / lease.FILE).read_text())["pid"] == holder.pid


def test_a_job_ends_with_2_and_touches_nothing(
    tmp_path: Path, sim_world: Path, holder: subprocess.Popen[str], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--preset", "quickstart", "--run-dir", str(tmp_path), *world_arguments(sim_world)]
    assert launch(lambda stages: None, arguments) == BAD_INPUT
    error = capsys.readouterr().err
    assert f"process {holder.pid}" in error and "Traceback" not in error
    assert [f.name for f in tmp_path.iterdir()] == [lease.FILE]


def test_a_killed_owners_lease_is_taken_over(
    tmp_path: Path, holder: subprocess.Popen[str], capsys: pytest.CaptureFixture[str]
) -> None:
    holder.kill()  # not yet reaped: a zombie, whose process id is still there
    while psutil.Process(holder.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    lease.hold(tmp_path)
    assert f"its owner is gone (process {holder.pid} of" in capsys.readouterr().out
    assert json.loads((tmp_path / lease.FILE).read_text())["pid"] == os.getpid()
    assert [f.name for f in tmp_path.iterdir()] == [lease.FILE]


def test_a_process_id_that_is_used_again_is_not_the_owner(tmp_path: Path) -> None:
    lease.hold(tmp_path)
    mine = json.loads((tmp_path / lease.FILE).read_text())
    lease.release(tmp_path)
    foreign(tmp_path, **mine | {"pid": os.getppid(), "process_start": 1.0, "token": "a"})
    lease.hold(tmp_path)
    assert owner_of(tmp_path) == os.getpid()


def test_a_copied_directory_is_free(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / lease.FILE).write_bytes((tmp_path / lease.FILE).read_bytes())
    lease.hold(tmp_path / "copy")
    assert owner_of(tmp_path / "copy") == os.getpid() and owner_of(tmp_path) == holder.pid


def test_waiting_for_an_owner_to_end(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    end = threading.Timer(1.0, holder.kill)
    end.start()
    began = time.monotonic()
    lease.hold(tmp_path, wait_s=30)
    assert 0.9 < time.monotonic() - began < 10 and owner_of(tmp_path) == os.getpid()


@pytest.mark.parametrize(("wait_s", "least_s"), [(30.0, 0.9), (0.3, 0.3)])
def test_waiting_without_holding(wait_s: float, least_s: float, tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    """A wait of 30 s ends with the holder, which lives for 1 s; a wait of 0.3 s ends before it."""
    began = time.monotonic()
    end = threading.Timer(1.0, holder.kill)
    end.start()
    lease.wait(tmp_path, wait_s)
    assert least_s < time.monotonic() - began < 10 and owner_of(tmp_path) == holder.pid
    end.join()


def test_nothing_to_wait_for(tmp_path: Path) -> None:
    began = time.monotonic()
    lease.wait(tmp_path, 30.0)
    lease.hold(tmp_path)
    lease.wait(tmp_path, 30.0)
    assert time.monotonic() - began < 5 and owner_of(tmp_path) == os.getpid()


def test_the_holder_may_hold_again_and_lets_go(tmp_path: Path) -> None:
    lease.hold(tmp_path)
    lease.hold(tmp_path)
    command = [sys.executable, "-c", SECOND, str(tmp_path)]
    assert "DataError" in subprocess.run(command, capture_output=True, text=True).stderr
    lease.release(tmp_path)
    assert not (tmp_path / lease.FILE).exists()
    assert subprocess.run(command, capture_output=True, text=True).stdout == "held\n"
    assert not (tmp_path / lease.FILE).exists()  # let go at its end


def test_a_lease_of_another_host_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "POLL_S", 0.01)
    monkeypatch.setattr(lease, "EXPIRES_S", 30.0)
    foreign(tmp_path)
    renewal = threading.Timer(0.2, lambda: os.utime(tmp_path / lease.FILE, ns=(1, 1)))
    renewal.start()
    began = time.monotonic()
    with pytest.raises(DataError, match="process 7 of ann on host far"):
        lease.hold(tmp_path)
    assert 0.15 < time.monotonic() - began < 20
    monkeypatch.setattr(lease, "EXPIRES_S", 0.05)
    lease.hold(tmp_path)  # it was not renewed


def test_a_lease_that_cannot_be_read_is_nobodys_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "EXPIRES_S", 0.05)
    (tmp_path / lease.FILE).write_text("")  # its owner was killed between making and writing it
    lease.hold(tmp_path)
    assert owner_of(tmp_path) == os.getpid()


def test_a_lease_made_in_the_meantime_is_put_back(tmp_path: Path) -> None:
    foreign(tmp_path, token="new")
    assert not lease.remove(tmp_path, {"token": "old"})
    assert json.loads((tmp_path / lease.FILE).read_text())["token"] == "new"
    assert lease.remove(tmp_path, {"token": "new"})
    assert not list(tmp_path.iterdir())


def test_who_lost_its_lease_is_interrupted(tmp_path: Path) -> None:
    lease.hold(tmp_path)
    before = (tmp_path / lease.FILE).stat().st_mtime_ns
    os.utime(tmp_path / lease.FILE, ns=(1, 1))
    lease.renew()
    assert (tmp_path / lease.FILE).stat().st_mtime_ns >= before
    foreign(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        lease.renew()
        time.sleep(5)
    lease.release(tmp_path)
    assert json.loads((tmp_path / lease.FILE).read_text())["host"] == "far"
