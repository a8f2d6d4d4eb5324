"""Tests of save requests: before a signal or a drain notice ends a job, its workers save their training."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from ray_jobs.plug import save_requests
from ray_jobs.plug.resume import write_progress
from ray_jobs.plug.save_requests import FILE, SaveRequests, machine_is_drained, save_all, training


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(save_requests, "POLL_S", 0.02)


def test_workers_are_asked_and_waited_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = f"file://{tmp_path}"
    write_progress(folder, 10)
    (tmp_path / FILE).touch()  # of an earlier run

    def worker() -> None:
        requests = SaveRequests(folder)
        while not requests.new():
            time.sleep(0.01)
        write_progress(folder, 12)
        requests.answered()
        requests.stop()

    with training(folder):
        assert not (tmp_path / FILE).exists()
        thread = threading.Thread(target=worker)
        thread.start()
        began = time.monotonic()
        save_all(wait_s=20)
        assert time.monotonic() - began < 10
        thread.join()
    assert f"{tmp_path.name}: saved at step 12" in capsys.readouterr().out
    assert not (tmp_path / FILE).exists()
    save_all(wait_s=20)  # nothing trains, so the call returns at once


def test_a_worker_that_does_not_answer_holds_nobody_up(tmp_path: Path) -> None:
    write_progress(f"file://{tmp_path}", 3)
    with training(f"file://{tmp_path}"):
        began = time.monotonic()
        save_all(wait_s=0.3)
        assert 0.25 < time.monotonic() - began < 5
    assert (tmp_path / FILE).exists()


def test_a_drain_notice_is_a_request_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = SaveRequests(f"file://{tmp_path}")
    assert not machine_is_drained() and not requests.new()
    told = SimpleNamespace(preemption_context=SimpleNamespace(preemption_info="node 1 goes"))
    monkeypatch.setattr(save_requests, "get_train_context", lambda: told)
    assert requests.new() and not requests.new()
    requests.stop()


def test_rays_worker_context_holds_what_is_looked_at() -> None:
    """This version of Ray has the names that ``machine_is_drained`` uses."""
    from ray.train.v2._internal.execution.context import TrainContext
    from ray.train.v2._internal.execution.preemption import PreemptionContext

    assert "preemption_context" in TrainContext.__dataclass_fields__
    assert PreemptionContext().preemption_info is None
