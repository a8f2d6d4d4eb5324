"""Tests of exits.py: the exit code of each end of a command, and DataErrors that frameworks wrapped."""

from __future__ import annotations

import errno
import locale
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from pdetr3d.config import LabelConfig
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


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (
            lambda d: (d / "none").read_text(),
            "{d}/none: cannot read this file (No such file or directory); check the name",
        ),
        (
            lambda d: (d / "file" / "x").mkdir(),
            "{d}/file/x: cannot make this folder (Not a directory); a part of the path",
        ),
        (lambda d: (d / "file").mkdir(), "{d}/file: cannot make this folder (File exists); something of another kind"),
        (lambda d: open(d), "{d}: cannot open this file (Is a directory); it is a folder"),
        (lambda d: os.replace(d / ".a.json.12ab.tmp", d / "a.json"), "{d}/a.json: cannot open this file (No such file"),
        (lambda d: pa.memory_map(str(d / "none")), "Failed to open local file '{d}/none'"),
        (lambda d: pa.OSFile(str(d / "file" / "x"), "w"), "Failed to open local file '{d}/file/x'"),
    ],
)
def test_what_the_system_refuses_is_a_message(
    act: Callable[[Path], object], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert guarded(lambda: act(tmp_path)) == 2
    assert capsys.readouterr().err.startswith("error: " + said.format(d=tmp_path))


@pytest.mark.parametrize("act", [lambda: Path("a").absolute(), os.getcwd])
def test_a_current_folder_that_was_removed_is_said(
    act: Callable[[], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert guarded(act) == 2
    assert capsys.readouterr().err == "error: the current folder was removed; go to another one (cd) and run it again\n"


@pytest.mark.parametrize(
    ("act", "code"),
    [
        (lambda: "ä".encode("ascii"), 2),
        (lambda: "ä".encode().decode("latin-1").encode("ascii"), 2),
        (lambda: b"\xff".decode("utf-8"), 1),  # a file is broken, which no encoding of the system mends
    ],
)
def test_a_system_whose_encoding_cannot_hold_a_text(
    act: Callable[[], object], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(locale, "getencoding", lambda: "ANSI_X3.4-1968")  # with LC_ALL=C
    assert guarded(act) == code
    said = capsys.readouterr().err
    assert ("set PYTHONUTF8=1" in said) == (code == 2) == ("Traceback" not in said)
    monkeypatch.setattr(locale, "getencoding", lambda: "UTF-8")
    assert guarded(act) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    def fill() -> None:
        with open("/dev/full", "w") as file:
            file.write("x" * 100_000)

    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as write() raises it: without a name
    for main in (fill, raising(full), raising(GroupError({0: full}))):
        assert guarded(main) == 2
        assert "No space left on device" in (said := capsys.readouterr().err) and "free some of it" in said


def test_errors_that_nobody_can_mend_keep_their_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    for error in (BrokenPipeError(errno.EPIPE, "Broken pipe"), OSError("said without a number")):
        assert guarded(raising(error)) == 1
        assert "Traceback" in capsys.readouterr().err


def test_pydantic_names_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(lambda: LabelConfig.model_validate_json('{"ratio": 7, "sed": 1}')) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: LabelConfig ") and "  ratio: Input should be" in said and "  sed: Extra" in said


def test_the_devkits_refusals_are_about_the_tables(capsys: pytest.CaptureFixture[str]) -> None:
    from nuscenes.nuscenes import NuScenes

    assert guarded(lambda: NuScenes("v1.0-none", "/nowhere", verbose=False)) == 2
    said = capsys.readouterr().err
    assert (
        said.startswith("error: the nuScenes devkit refuses")
        and "Database version not found: /nowhere/v1.0-none" in said
    )
    assert guarded(raising(AssertionError("ours"))) == 1 and guarded(raising(KeyError("ours"))) == 1


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


class RanksError(Exception):
    """Stand-in for Ray Train's error with the failure of each rank."""

    def __init__(self, failures: dict[int, Exception]) -> None:
        super().__init__("a page of tracebacks")
        self.worker_failures = failures


class WrappedError(Exception):
    """Stand-in for Ray Train's wrapper of a worker's own error."""

    def __init__(self, error: Exception) -> None:
        super().__init__("its traceback")
        self._base_exc = error


def test_the_workers_own_error_is_the_last_thing_said(capsys: pytest.CaptureFixture[str]) -> None:
    def job() -> None:
        lost = RuntimeError("[gloo/pair.cc:534] Connection closed by peer [127.0.0.1]:31337")
        raise RanksError({0: WrappedError(lost), 1: WrappedError(FloatingPointError("step 7: loss is not finite"))})

    assert guarded(job) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == ("error: worker of rank 1: FloatingPointError: step 7: loss is not finite (1 more failed with it)")


def test_a_plain_errors_cause_is_the_last_thing_said(capsys: pytest.CaptureFixture[str]) -> None:
    def job() -> None:
        try:
            raise KeyError("box")
        except KeyError as error:
            raise RuntimeError("the stage failed") from error

    assert guarded(job) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "error: KeyError: 'box'"
