"""Tests of lanes without Ray: order of results, number at once, and how the first failure or Ctrl-C ends the others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial

import pytest

from ray_jobs.plug import lanes
from ray_jobs.plug.lanes import run_lanes


@pytest.fixture
def shut_down(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """An event that replaces ``ray.shutdown``; a lane that waits for it stands for one that waits for Ray."""
    event = threading.Event()
    monkeypatch.setattr(lanes.ray, "shutdown", event.set)
    yield event
    lanes.ray_is_down.clear()  # as ``init_ray``


def until_shut_down(shut_down: threading.Event, ended: list[str], error: type[BaseException] = SystemExit) -> None:
    """A lane; ``error``: of ``ray.get``, which raises SystemExit, or what an actor that died first makes it raise."""
    assert shut_down.wait(30)
    ended.append("stopped")
    raise error


def test_results_come_in_the_order_of_the_lanes() -> None:
    def slow(number: int) -> int:
        time.sleep(0.2 if number == 0 else 0)
        return number

    assert run_lanes([partial(slow, n) for n in range(4)], at_once=4) == [0, 1, 2, 3]


@pytest.mark.parametrize("at_once", [1, 2])
def test_no_more_run_at_once_than_allowed_and_that_many_do(at_once: int) -> None:
    running, most, lock = 0, 0, threading.Lock()
    meet = threading.Barrier(at_once, timeout=30)

    def lane() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        meet.wait()  # passes only when ``at_once`` lanes have come here
        with lock:
            running -= 1

    run_lanes([lane] * 4, at_once)
    assert most == at_once


def test_the_first_failure_ends_the_running_lanes_and_starts_no_other(shut_down: threading.Event) -> None:
    ended: list[str] = []

    def fail() -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        run_lanes([partial(until_shut_down, shut_down, ended), fail, partial(ended.append, "third")], at_once=2)
    assert ended == ["stopped"]


def test_a_lone_failure_leaves_ray_alone(shut_down: threading.Event) -> None:
    with pytest.raises(ZeroDivisionError):
        run_lanes([lambda: 1 / 0])
    assert not shut_down.is_set()


def test_ctrl_c_is_a_keyboard_interrupt_once_all_lanes_ended(shut_down: threading.Event) -> None:
    ended: list[str] = []
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        run_lanes([partial(until_shut_down, shut_down, ended)] * 2, at_once=2)
    assert ended == ["stopped", "stopped"]


@pytest.mark.parametrize("error", [SystemExit, ValueError])
def test_ctrl_c_is_a_keyboard_interrupt_for_the_stages_of_other_lanes(
    shut_down: threading.Event, error: type[BaseException]
) -> None:
    """A stage runs in a lane, and its training in a lane of its own. Whatever Ray's end raises there, the stage's
    MLflow run must end as KILLED, not as FAILED."""
    seen = list[type[BaseException]]()

    def stage() -> None:
        try:
            run_lanes([partial(until_shut_down, shut_down, [], error)])
        except BaseException as ended:
            seen.append(type(ended))
            raise

    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        run_lanes([stage])
    assert seen == [KeyboardInterrupt]


def test_rays_warning_about_many_processes_is_not_shown() -> None:
    code = (
        "import ray_jobs; from ray._private.ray_logging import stdout_deduplicator as printed; "
        "lines = ['8 PYTHON worker processes have been started on node: a, which is 4x', 'out of memory']; "
        "print(printed.deduplicate({'lines': lines, 'pid': 'raylet', 'is_err': False})[0]['lines'])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert told.stdout == "['out of memory']\n"


def test_a_lane_that_goes_on_after_ray_was_shut_down_starts_no_other_ray() -> None:
    code = "import ray_jobs.plug.lanes, ray; ray.put(1)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1 and "Ray has not been started yet" in ended.stderr
