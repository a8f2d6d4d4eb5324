"""Starting Ray: a start that ran out of time is tried once more, other errors are not."""

from __future__ import annotations

import pytest
import ray

from ray_jobs.launch import start_ray

LATE = "The current node timed out during startup. This could happen because some of the raylet failed to startup."


def failing(errors: list[Exception], calls: list[str]) -> object:
    def init(**options: object) -> None:
        calls.append(f"init {options}")
        if errors:
            raise errors.pop(0)

    return init


@pytest.mark.parametrize(("late", "raised"), [(0, False), (1, False), (2, True)])
def test_a_late_start_is_tried_once_more(late: int, raised: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(ray, "init", failing([Exception(LATE)] * late, calls))
    monkeypatch.setattr(ray, "shutdown", lambda: calls.append("shutdown"))
    if raised:
        with pytest.raises(Exception, match="timed out during startup"):
            start_ray(num_cpus=2)
    else:
        start_ray(num_cpus=2)
    assert calls == ["init {'num_cpus': 2}", "shutdown", "init {'num_cpus': 2}"][: 3 if late else 1]


def test_another_error_is_raised_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(ray, "init", failing([ConnectionError("no cluster there")], calls))
    with pytest.raises(ConnectionError):
        start_ray(address="192.0.2.1:6379")
    assert len(calls) == 1
