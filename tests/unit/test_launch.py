"""Jobs that are told to end (SIGTERM) end as by Ctrl-C, also once Ray has put a handler of its own."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from pdetr3d.tracking.client import connect
from pdetr3d.tracking.runs import Tracker
from ray_jobs.launch import init_ray, stop_like_ctrl_c


@pytest.fixture(autouse=True)
def _handler_of_the_tests() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(10)  # the handler ends it


def test_a_terminated_job_ends_its_runs_as_killed(tmp_path: Path) -> None:
    stop_like_ctrl_c()
    with pytest.raises(KeyboardInterrupt), Tracker.start(tmp_path, "e", "job", {}, {}) as tracker:
        terminate()
    assert connect(tracker.uri).get_run(tracker.run_id).info.status == "KILLED"


def test_rays_own_handler_does_not_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **_: signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number)))
    for name in ("RAY_TRAIN_ENABLE_PRINT_PATCH", "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"):
        monkeypatch.setenv(name, os.environ.get(name, "0"))  # back to what they were: init_ray sets them
    monkeypatch.setenv("RAY_idle_worker_killing_time_threshold_ms", "10000")
    init_ray(use_gpu=False)
    with pytest.raises(KeyboardInterrupt):
        terminate()
