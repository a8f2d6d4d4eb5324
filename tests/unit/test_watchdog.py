"""Tests of the watchdog: a hanging training reports the waiting ranks, their place, and the missing rank."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from ray_jobs.plug.watchdog import Watchdog, where


class Silent(Watchdog):
    """A watchdog without its own thread; the test calls its check."""

    def __init__(self, folder: Path, rank: int, thread_id: int) -> None:
        self.folder, self.rank, self.world_size, self.stall_s = f"file://{folder}", rank, 3, 1.0
        self.thread_id, self.step, self.doing = thread_id, 7, "computes"


def waiting_in(name: str, folder: Path) -> threading.Thread:
    """A thread that stands in a function of a file of that name."""
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    source = "def all_reduce(event):\n    event.wait(30)\n"
    space: dict = {}
    exec(compile(source, str(file), "exec"), space)
    thread = threading.Thread(target=space["all_reduce"], args=(threading.Event(),), daemon=True)
    thread.start()
    time.sleep(0.2)
    return thread


def test_who_waits_for_whom(tmp_path: Path) -> None:
    hung = waiting_in("torch/distributed/distributed_c10d.py", tmp_path)
    busy = waiting_in("pdetr3d/data/loading/load.py", tmp_path)
    assert hung.ident and busy.ident
    zero, one = Silent(tmp_path, 0, hung.ident), Silent(tmp_path, 1, busy.ident)
    zero.write(120)
    one.doing = "waits for its batch"
    one.write(119)
    text = zero.report(120)
    assert text.startswith("no step for 120 s (scaling.stall_s):\n  rank 0: step 7, computes: ")
    assert "in a collective operation (all_reduce)" in text.splitlines()[1]
    assert text.splitlines()[2].startswith("  rank 1: step 7, waits for its batch: load.py:2 all_reduce")
    assert "no word from ranks [2]" in text and "ranks [0] wait in a collective operation for ranks [1, 2]" in text
    assert one.report(119) == ""  # the first rank tells


def test_it_looks_by_itself_and_is_quiet_while_there_are_steps(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    dog = Watchdog(f"file://{tmp_path}", 0, 1, stall_s=0.4)
    for step in range(5):
        dog.beat("computes", step)
        time.sleep(0.1)
    assert "no step" not in capfd.readouterr().out
    dog.beat("waits for its batch", 5)
    time.sleep(1.2)
    dog.stop()
    said = capfd.readouterr().out
    assert said.count("no step for") == 1 and "rank 0: step 5, waits for its batch: " in said


def test_an_ended_thread() -> None:
    assert where(None) == "its thread has ended"
