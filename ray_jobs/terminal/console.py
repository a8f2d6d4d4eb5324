"""The screen output of a job: stages with the time they began, a few progress lines of each, and warnings.

All output of the job's processes on the cluster, and the logs of Ray and MLflow, go to ``logs/`` in the run directory.
The screen shows only: output of our own code (on stdout; Ray's libraries log to stderr); errors; and messages of Ray
about lost work (``LOSSES``). On a terminal a live table shows the stages in training; elsewhere a few of their progress
lines are printed. Warnings are repeated at the end of the job.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pdetr3d.exits import last_acts
from pdetr3d.words import LISTED, listed
from ray_jobs.terminal.live import LiveStages
from ray_jobs.terminal.log_files import JOB_LOG, NATIVE_LOG, Libraries, LogFile
from ray_jobs.terminal.native_output import NativeOutput
from ray_jobs.terminal.phases import PHASES, clock

FOLDER = "logs"
# A progress line of ``RayContext.log``.
PROGRESS = re.compile(
    r"^(?P<stage>\S+) step (?P<step>\d+)/(?P<steps>\d+) .*?\bloss (?P<loss>\S+).* \| (?P<rate>\S+) samples/s "
    r"step (?P<step_s>\S+) s .*ETA (?P<eta>\d+) s$"
)
FIRST_BATCH = re.compile(r"^(\S+): first batch ([\d.]+) s after")  # of ``RayContext.batches``; shown at the job's end
LINE_S, LINES = 300.0, 10  # least seconds between two lines of a stage; most lines for the rest of a stage
# Ray's messages about work that is lost or repeated.
LOSSES = re.compile(
    r"\[FailurePolicy\]|killed|marked dead|out of memory|out of disk|% full|No available node types|"
    r"Fatal Python error|Exception in thread",
    re.I,
)
# Ray's message while a task waits for CPUs. That is usual for some seconds, but explains a training that stands still.
STARVED = re.compile(r"Cluster resources are not enough", re.I)
STANDS_STILL = re.compile(r"no step for|stands still")
# Messages of our own code that are repeated at the end.
WARNINGS = re.compile(r"warning|is skipped:|is broken|no step for|stands still|taken away|left out", re.I)


class Console:
    """The screen of a job, and its log file. ``plug.worker_output`` passes it the output of other processes.

    Args:
        folder: run directory; the output is written to its ``logs/job.log``.
        verbose: also show all output on the screen, as Ray prints it. search: the job is a search, whose own table
            shows its trials: of other processes only warnings are shown.
    """

    def __init__(self, folder: Path, verbose: bool = False, search: bool = False) -> None:
        self.search = search
        (folder / FOLDER).mkdir(parents=True, exist_ok=True)
        self.log, self.verbose = LogFile(folder / FOLDER / JOB_LOG, say), verbose
        self.libraries = Libraries(self.log, self.of_library, verbose)
        self.native = NativeOutput(folder / FOLDER / NATIVE_LOG)
        self.live = LiveStages()
        self.starved = ""  # Ray's last line that matched STARVED
        self.over = False  # True after the job's end: further output goes only to the file
        self.warnings: dict[str, int] = {}  # text -> how often it came
        self.shown: dict[str, float] = {}  # stage -> time of its last line on the screen
        self.plans: dict[str, int] = {}  # stage -> steps
        self.at_once = 1  # number of stages that train at the same time
        self.left_s: dict[str, float] = {}  # stage -> its last ETA
        self.step_s: dict[str, float] = {}  # stage -> its last time per step
        self.first_batch_s: dict[str, float] = {}  # stage -> how long it waited for its first batch
        self.attached = False  # True once it receives the output of other processes

    def hear(self, who: str, lines: Iterable[str], ours: bool) -> None:
        """Write the lines of the process ``who`` to the log file, and ``tell`` each of them."""
        for line in lines:
            self.log.line(who, line)
            if not self.over:
                self.tell(line, ours)

    def tell(self, line: str, ours: bool) -> None:
        """Show a line of another process, shorten it, or drop it; with ``verbose`` Ray's handler shows all lines.

        Args:
            ours: whether our own code printed it.
        """
        if not ours:
            if LOSSES.search(line):
                self.warn(line, shown=self.verbose)
            elif STARVED.search(line):
                self.starved = line
        elif progress := PROGRESS.match(line):
            if not self.search:
                self.progress(progress)
        elif first := FIRST_BATCH.match(line):
            self.first_batch_s.setdefault(first[1], float(first[2]))
        elif WARNINGS.search(line):
            self.warn(line, shown=self.verbose)
            if STANDS_STILL.search(line) and self.starved:
                self.warn(f"Ray says: {self.starved}")
        elif line.strip() and not self.verbose and not self.search:
            say(line)

    def progress(self, line: re.Match[str]) -> None:
        """Show a stage's progress: in the live table; or its last line, and others at intervals of at least LINE_S.

        These intervals grow with the ETA.
        """
        stage, step, steps = line["stage"], int(line["step"]), int(line["steps"])
        self.left_s[stage], self.step_s[stage] = float(line["eta"]), float(line["step_s"])
        now, left_s = time.monotonic(), self.left_s[stage]
        left = clock(left_s)
        if not self.verbose and self.live.show(
            stage, f"{step}/{steps}", line["loss"], line["rate"], left, outlook=self.outlook().removeprefix("; ")
        ):
            return
        early = step < steps and now - self.shown.setdefault(stage, now) < max(LINE_S, left_s / LINES)
        if early or self.verbose:
            return
        self.shown[stage] = now
        say(f"{stage} step {step}/{steps} loss {line['loss']} | {line['rate']} samples/s ETA {left}{self.outlook()}")

    def planned(self, steps: Mapping[str, int], at_once: int) -> None:
        """Announce the planned stages (name -> steps) and how many train at once, for estimates of the total time."""
        self.plans, self.at_once = dict(steps), at_once

    def ended(self, stage: str) -> None:
        """Record that a stage is finished, now or in an earlier job."""
        self.left_s[stage] = 0.0
        self.live.ended(stage)

    def outlook(self) -> str:
        """The remaining training time of all planned stages, in words; "" if none is planned.

        For a stage that has not begun, the time per step of another stage of its kind is assumed.
        """
        seconds, unknown, open_stages = 0.0, [], 0
        for stage, steps in self.plans.items():
            alike = [step_s for name, step_s in self.step_s.items() if _kind(name) == _kind(stage)]
            left = self.left_s.get(stage, steps * alike[0] if alike else -1.0)
            open_stages += left != 0
            seconds += max(left, 0.0)
            unknown += [stage] if left < 0 else []
        if not self.plans:
            return ""
        most = max(1, min(self.at_once, open_stages))
        return f"; all training {clock(seconds / most)}" + (f" and {', '.join(unknown)}" if unknown else "")

    def of_library(self, text: str, ours: bool) -> None:
        """Handle a warning that was logged in this process; ``ours``: by our own code."""
        if ours:
            self.warn(f"warning: {text}")
        elif LOSSES.search(text):
            self.warn(text, shown=self.verbose)

    def warn(self, text: str, shown: bool = False) -> None:
        """Show a warning, unless it is already on the screen (``shown``), and keep it for the job's end."""
        text = text.strip()
        if text not in self.warnings and not shown:
            say(text)
        self.warnings[text] = self.warnings.get(text, 0) + 1

    def end(self) -> None:
        """Print the warnings again."""
        if self.warnings:
            told = [text + (f" ({count} times)" if count > 1 else "") for text, count in self.warnings.items()]
            all_of = f" (all are in {self.log.baseFilename})" if len(told) > LISTED else ""
            print(f"warnings{all_of}:{listed(told)}", flush=True)


def warn(text: str) -> None:
    """Print a warning now, and again at the end of the job."""
    if (mine := current()) is None:
        say(text)
    else:
        mine.warn(text)


def say(text: str) -> None:
    """Print a line after the time since the job's process was started, [minutes:seconds]."""
    print(f"[{clock(PHASES.elapsed()):>5}] {text}", flush=True)


def _kind(stage: str) -> str:
    return stage.partition("_")[0]


CONSOLE: list[Console] = []  # the job's console, if a job runs


def current() -> Console | None:
    """The job's console; None if no job runs (tests, other programs)."""
    return CONSOLE[-1] if CONSOLE else None


@contextmanager
def console(folder: Path, verbose: bool = False, search: bool = False) -> Iterator[Console]:
    """A context in which output is handled as this module describes; Ray may be started before or inside.

    The arguments are those of ``Console``. At the end the warnings are repeated; after an error, the log file is named,
    too. Later output of the cluster goes only to the file.
    """
    mine = Console(folder, verbose, search)
    if not verbose:
        mine.native.take()
    mine.libraries.take()
    last_acts.append(mine.live.stop)  # a killed job, too, gives the cursor back
    CONSOLE.append(mine)
    try:
        yield mine
    except Exception:
        if mine.attached:
            print(f"what Ray and the workers said: {mine.log.baseFilename}", file=sys.stderr, flush=True)
        raise
    finally:
        mine.over = True
        mine.live.stop()
        mine.end()
        CONSOLE.remove(mine)
        mine.libraries.release()
        mine.native.release()
        mine.log.close()  # a later line opens it again
