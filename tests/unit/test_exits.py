"""exits.py: how a command ends decides its exit code; a DataError is found however deep a framework wrapped it."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import pytest

from pdetr3d.exits import find_data_error, guarded
from pdetr3d.schema import DataError


def raising(error: BaseException) -> Callable[[], None]:
    def main() -> None:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code", "on_stderr"),
    [
        (DataError("label.ratio = 7"), 2, "error: label.ratio = 7\n"),
        (SystemExit(), 0, ""),
        (SystemExit(3), 3, ""),
        (SystemExit("said so"), 1, "said so\n"),
    ],
)
def test_exit_codes(error: BaseException, code: int, on_stderr: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(raising(error)) == code
    assert capsys.readouterr().err == on_stderr


def test_success_is_0_whatever_main_returns() -> None:
    assert guarded(lambda: "a result") == 0


def test_other_errors_are_1_with_their_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(raising(ValueError("a bug"))) == 1
    message = capsys.readouterr().err
    assert "Traceback" in message and "ValueError: a bug" in message


def test_ctrl_c_is_130_without_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(raising(KeyboardInterrupt())) == 130
    assert "interrupted" in capsys.readouterr().err


class RemoteError(DataError):
    """Shaped like Ray's RayTaskError(DataError): a subclass whose own text is the remote traceback."""

    def __init__(self, cause: DataError) -> None:
        super().__init__("ray::task() Traceback ...")
        self.cause = cause


class GroupError(RuntimeError):
    """Shaped like Ray Train's WorkerGroupError."""

    def __init__(self, failures: dict[int, Exception]) -> None:
        super().__init__("2 workers failed")
        self.worker_failures = failures


def test_a_remote_data_error_shows_its_own_message() -> None:
    original = DataError("file x.jpg is broken")
    assert find_data_error(RemoteError(original)) is original
    assert find_data_error(GroupError({0: OSError("lost"), 1: RemoteError(original)})) is original
    wrapped = RuntimeError("stage failed")
    wrapped.__cause__ = GroupError({0: original})
    assert find_data_error(wrapped) is original


def test_no_data_error_is_none_and_a_cycle_ends() -> None:
    first, second = RuntimeError("a"), RuntimeError("b")
    first.__cause__, second.__cause__ = second, first
    assert find_data_error(first) is None


def test_a_data_error_survives_the_way_from_a_worker() -> None:
    assert str(pickle.loads(pickle.dumps(DataError("text")))) == "text"
