"""Tests of a job's console: the lines on the terminal, the log files, and the timing of stages."""

from __future__ import annotations

import io
import logging
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console as RichConsole

from ray_jobs.plug.worker_output import HANDLER, WorkerOutput, attach, worker_output
from ray_jobs.terminal import console as module
from ray_jobs.terminal import log_files
from ray_jobs.terminal.console import WARNINGS, Console, console, warn
from ray_jobs.terminal.live import LiveStages
from ray_jobs.terminal.log_files import warnings_to_stdout
from ray_jobs.terminal.phases import Phases, clock, lines, shares


def said(line: str, *, is_err: bool = False, pid: object = 7, actor: str = "RayTrainWorker") -> dict[str, Any]:
    """A message of Ray's log monitor (``ray._private.worker.print_worker_logs`` has its fields)."""
    return {"lines": [line], "is_err": is_err, "pid": pid, "actor_name": actor, "ip": "192.0.2.1"}


def progress(stage: str, step: int, eta: int, step_s: float = 0.5) -> dict[str, Any]:
    return said(
        f"{stage} step {step}/100 heatmap 1.059 (19.0%) loss 5.56 grad_norm 4.3 lr 0.003 | 2.3 samples/s "
        f"step {step_s:.2f} s (data 1%) ETA {eta} s"
    )


NOISE = [
    said("Requesting resources: {'CPU': 0.75} * 1", is_err=True, actor="TrainController"),
    said("Cluster resources are not enough ... The job may hang forever unless the cluster scales up.", is_err=True),
    said("Failed to query Ray Train Controller actor state.", is_err=True, actor="PlacementGroupCleaner"),
    said("WARNING: 8 PYTHON worker processes have been started on node: 5f", pid="raylet", actor=""),
    said("[E] core_worker.cc:2465: Actor with class name: 'PreemptionWatcher' and ID: '30' has ...", is_err=True),
    said("student_ours: first batch 3.2 s after the stage was begun"),
    said(""),
]


def test_noise_goes_to_the_log_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with console(tmp_path) as mine:
        for data in NOISE:
            WorkerOutput(mine)(data)
    assert capsys.readouterr().out == "" and mine.first_batch_s == {"student_ours": 3.2}
    log = (tmp_path / "logs" / "job.log").read_text()
    assert all(data["lines"][0] in log for data in NOISE) and len(log.splitlines()) == len(NOISE)
    assert "INFO PlacementGroupCleaner pid=7, 192.0.2.1: Failed to query" in log


def test_of_the_autoscaler_only_what_happened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.autoscaler.v2.utils.cached_is_autoscaler_v2", False)  # there is no server to ask
    with console(tmp_path) as mine:
        WorkerOutput(mine)(said("0.0/2.0 CPU", pid="autoscaler"))
        no_node = ":event_summary:Error: No available node types can fulfill the request"
        WorkerOutput(mine)(said(no_node, pid="autoscaler"))
        assert list(mine.warnings) == ["Error: No available node types can fulfill the request"]
    log = (tmp_path / "logs" / "job.log").read_text()
    assert "No available node types" in log and "CPU" not in log


def test_losses_and_warnings_are_shown_once_and_again_at_the_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = "(raylet) 1 Workers (tasks / actors) killed due to memory pressure (OOM)"
    with console(tmp_path) as mine:
        WorkerOutput(mine)(said(lost, is_err=True, pid="raylet"))
        WorkerOutput(mine)(said("step 7 is skipped: loss is nan; put on record: x"))
        WorkerOutput(mine)(said("step 7 is skipped: loss is nan; put on record: x"))
        warn("arm full is left out")
        WorkerOutput(mine)(said("a plain line of ours"))
    out = capsys.readouterr().out.splitlines()
    assert [line.split("] ", 1)[1] for line in out[:4]] == [
        lost,
        "step 7 is skipped: loss is nan; put on record: x",
        "arm full is left out",
        "a plain line of ours",
    ]
    again = ["warnings:", f"  {lost}", "  step 7 is skipped: loss is nan; put on record: x (2 times)"]
    assert out[4:] == [*again, "  arm full is left out"]


def test_of_the_trials_of_a_search_only_warnings_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    step = "teacher step 5/10 loss 1.5 | 2.0 samples/s step 0.5 s ETA 3 s"
    plain, warning = "teacher begins: 10 steps of 2", "step 7 is skipped: loss is nan; put on record: x"
    with console(tmp_path, search=True) as mine:
        for line in (plain, step, step.replace("5/10", "10/10"), warning):
            WorkerOutput(mine)(said(line))
    shown = [line.split("] ", 1)[-1] for line in capsys.readouterr().out.splitlines()]
    assert shown == [warning, "warnings:", f"  {warning}"]
    log = (tmp_path / "logs" / "job.log").read_text()
    assert plain in log and "step 10/10" in log


def test_what_ray_waits_for_is_told_where_a_training_stands_still(tmp_path: Path) -> None:
    starved = "Cluster resources are not enough to run any task from ReadSamples. The job may hang forever"
    with console(tmp_path) as mine:
        WorkerOutput(mine)(said("no step for 300 s (scaling.stall_s):"))
        WorkerOutput(mine)(said(starved, is_err=True))
        assert list(mine.warnings) == ["no step for 300 s (scaling.stall_s):"]
        WorkerOutput(mine)(said("no step for 305 s (scaling.stall_s):"))
    assert list(mine.warnings)[1:] == ["no step for 305 s (scaling.stall_s):", f"Ray says: {starved}"]


def test_a_stage_has_its_last_line_and_one_every_five_minutes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    with console(tmp_path) as mine:
        for step in range(10, 101, 10):
            now = step * 4.0  # 400 s in all: one line 300 s after its first, and the last
            WorkerOutput(mine)(progress("student_full", step, 100 - step))
        for minute in range(10):
            now = minute * 60.0  # 50 minutes to go: a line every five
            WorkerOutput(mine)(progress("teacher", 10 + minute, 3000))
    shown = [line.split("] ", 1)[1] for line in capsys.readouterr().out.splitlines()]
    assert shown == [
        "student_full step 90/100 loss 5.56 | 2.3 samples/s ETA 0:10",
        "student_full step 100/100 loss 5.56 | 2.3 samples/s ETA 0:00",
        "teacher step 15/100 loss 5.56 | 2.3 samples/s ETA 50:00",
    ]


def test_the_time_that_all_training_takes_yet(tmp_path: Path) -> None:
    """student_full has 30 s left and student_ours 100 steps of 0.5 s. Two train at once: (30 + 50) / 2 = 40 s."""
    mine = Console(tmp_path)
    assert mine.outlook() == ""
    mine.planned({"student_full": 100, "student_ours": 100, "teacher": 40}, at_once=2)
    WorkerOutput(mine)(progress("student_full", 40, 30, step_s=0.5))
    assert mine.outlook() == "; all training 0:40 and teacher"
    WorkerOutput(mine)(progress("teacher", 10, 60, step_s=2.0))
    assert mine.outlook() == "; all training 1:10"
    mine.ended("student_full")
    mine.ended("teacher")
    assert mine.outlook() == "; all training 0:50"  # one stage remains, and trains alone


def test_verbose_shows_all_as_ray_does(tmp_path: Path) -> None:
    printed: list[object] = []
    worker_output.add_handler(HANDLER, printed.append)
    try:
        with console(tmp_path, verbose=True) as mine:
            assert not mine.attached
            attach(mine)
            assert mine.attached
            worker_output.emit(NOISE[0])
            assert printed == [NOISE[0]]
        with console(tmp_path, verbose=True) as second:  # of a job after it, in the same process
            attach(second)
            worker_output.emit(NOISE[1])
        assert printed == NOISE[:2]
    finally:
        worker_output.remove_handler(HANDLER)


def test_libraries_log_to_files_and_errors_to_the_screen_too(tmp_path: Path) -> None:
    logger, screen = logging.getLogger("ray.data"), logging.StreamHandler()
    logger.addHandler(screen)
    try:
        with console(tmp_path):
            assert screen.level == logging.ERROR
            logger.warning("Progress bars disabled")
            logging.getLogger("alembic").warning("Context impl SQLiteImpl")
        assert screen.level == logging.NOTSET
    finally:
        logger.removeHandler(screen)
    assert "WARNING ray.data: Progress bars disabled" in (tmp_path / "logs" / "job.log").read_text()
    assert "SQLiteImpl" in (tmp_path / "logs" / "job.log").read_text()


def test_warnings_logged_in_this_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Warnings of pdetr3d are shown at once and at the end; a library's warnings only if they mean a loss."""
    with console(tmp_path) as mine:
        logging.getLogger("pdetr3d.tracking").warning("MLflow at %s failed", "here")
        logging.getLogger("ray.data").warning("The node with node id 5f has been marked dead")
        logging.getLogger("ray.data").warning("an operator uses more memory than expected")
        assert list(mine.warnings) == [
            "warning: MLflow at here failed",
            "The node with node id 5f has been marked dead",
        ]
    assert capsys.readouterr().out.count("MLflow at here failed") == 2


def test_in_a_worker_our_warnings_go_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    """stdout marks them as pdetr3d's warnings: Ray's libraries log to stderr."""
    logger = logging.getLogger("pdetr3d")
    try:
        warnings_to_stdout()
        warnings_to_stdout()
        logging.getLogger("pdetr3d.tracking").warning("metrics cannot be written")
    finally:
        logger.handlers.clear()
    said = capsys.readouterr()
    assert (said.out, said.err) == ("warning: metrics cannot be written\n", "")
    assert WARNINGS.search(said.out)


def test_verbose_repeats_warnings_without_showing_them_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with console(tmp_path, verbose=True) as mine:
        WorkerOutput(mine)(said("step 7 is skipped: loss is nan"))  # Ray prints it
        WorkerOutput(mine)(progress("teacher", 100, 0))
        assert capsys.readouterr().out == ""
    assert capsys.readouterr().out == "warnings:\n  step 7 is skipped: loss is nan\n"


def test_an_error_is_told_last_after_where_the_log_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="bad"), console(tmp_path):
        raise ValueError("bad")
    assert capsys.readouterr().err == ""  # no Ray yet
    with pytest.raises(ValueError, match="bad"), console(tmp_path) as mine:
        mine.attached = True
        raise ValueError("bad")
    assert capsys.readouterr().err == f"what Ray and the workers said: {tmp_path}/logs/job.log\n"
    WorkerOutput(mine)(said("killed", is_err=True))
    WorkerOutput(mine)(said("a line of ours"))
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "")  # the error stays the last on the screen
    assert "a line of ours" in (tmp_path / "logs" / "job.log").read_text()


def test_logs_are_bounded_and_closed_and_a_full_disk_stops_no_job(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_files, "LOG_BYTES", 1000)
    with console(tmp_path) as mine:
        for number in range(100):
            WorkerOutput(mine)(said(f"line {number} " + "x" * 50, is_err=True))
        sizes = {file.name: file.stat().st_size for file in (tmp_path / "logs").iterdir()}
        assert sizes.keys() == {"job.log", "job.log.1"} and max(sizes.values()) <= 1000
        assert "line 99" in (tmp_path / "logs" / "job.log").read_text()

        def full() -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(mine.log, "_open", full)
        mine.log.close()
        WorkerOutput(mine)(said("one"))
        WorkerOutput(mine)(said("two"))
    out = capsys.readouterr().out
    assert out.count("cannot be written, its lines are lost: [Errno 28] No space left on device") == 1
    assert mine.log.stream is None  # closed


def test_each_moment_counts_once() -> None:
    """Intervals on 0..10: data 0-2, start 0-4, train 3-7, predict 6-9, nothing 9-10."""
    spans = [("data", 0.0, 2.0), ("start", -1.0, 4.0), ("train", 3.0, 7.0), ("predict", 6.0, 9.0)]
    found = shares(spans, 0.0, 10.0)
    expected = {"train": 4, "predict": 2, "score": 0, "pictures": 0, "data": 2, "start": 1, "rest": 1}
    assert found == pytest.approx(expected) and sum(found.values()) == 10
    assert lines(found)[-1] == "    in all    10.0 s"


def test_phases_time_what_is_done_inside() -> None:
    phases = Phases(began=0.0)
    with phases.of("score"):
        pass
    ((kind, begin, end),) = phases.spans
    assert kind == "score" and 0 < begin <= end
    with pytest.raises(ValueError, match="allowed train, predict"), phases.of("lunch"):
        pass
    phases.restart()
    assert phases.spans == [] and phases.elapsed() < 60
    assert (clock(59.6), clock(125), clock(3725)) == ("1:00", "2:05", "1:02:05")


def cursor_is_back(drawn: str) -> bool:
    """Whether the terminal's cursor was hidden and is shown again."""
    return drawn.rindex("\x1b[?25h") > drawn.rindex("\x1b[?25l")


def test_a_terminal_shows_a_live_table_of_the_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = RichConsole(file=io.StringIO(), force_terminal=True, width=100)
    monkeypatch.setattr(module, "LiveStages", lambda: LiveStages(screen))
    assert isinstance(screen.file, io.StringIO)
    with console(tmp_path) as mine:
        mine.planned({"student_ours": 100, "student_full": 100}, 1)
        for stage, step, eta in (("student_ours", 10, 125), ("student_full", 20, 40), ("student_ours", 30, 60)):
            WorkerOutput(mine)(progress(stage, step, eta))
        print("a line above")
        drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.file.getvalue())  # without colors and moves of the cursor
        last = drawn[drawn.rindex("stage") :]
        assert "30/100" in last and "1:00" in last and "5.56" in last and "2.3" in last  # the newest row of each stage
        assert "20/100" in last and "all training 1:40" in last and "10/100" not in last
        assert "a line above" in drawn and max(len(line) for line in last.splitlines()) <= 80
        assert "student_ours step" not in drawn
        mine.ended("student_full")
        assert mine.live.live is not None and "student_full" not in mine.live.rows
        mine.ended("student_ours")
        assert mine.live.live is None and cursor_is_back(screen.file.getvalue())
    log = (tmp_path / "logs" / "job.log").read_text()
    assert "student_ours step 30/100" in log  # the log file has all lines


def test_an_interrupted_job_gives_the_cursor_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = RichConsole(file=io.StringIO(), force_terminal=True)
    monkeypatch.setattr(module, "LiveStages", lambda: LiveStages(screen))
    assert isinstance(screen.file, io.StringIO)
    with pytest.raises(KeyboardInterrupt), console(tmp_path) as mine:
        WorkerOutput(mine)(progress("teacher", 10, 125))
        assert sys.stdout is not sys.__stdout__ and mine.live.live is not None
        raise KeyboardInterrupt
    assert mine.live.live is None and cursor_is_back(screen.file.getvalue())
