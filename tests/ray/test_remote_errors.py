"""Tests of exits.py with Ray: a DataError that is raised on another node ends with its own message and exit code 2."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import ray
import ray.data

from pdetr3d.exits import guarded
from pdetr3d.schema import DataError

pytestmark = pytest.mark.ray
MESSAGE = "sample abc: CAM_FRONT.jpg is broken; unpack the archive again"


def fail(row: object) -> object:
    raise DataError(MESSAGE)


def in_a_task() -> None:
    ray.get(ray.remote(fail).remote(None))


def in_a_data_stream() -> None:
    ray.data.range(2).map(fail, num_cpus=0.5).materialize()


@pytest.mark.parametrize("job", [in_a_task, in_a_data_stream])
def test_a_remote_data_error_is_exit_code_2(
    job: Callable[[], None], ray_local: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert guarded(job) == 2
    assert f"error: {MESSAGE}\n" in capsys.readouterr().err
