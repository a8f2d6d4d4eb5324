"""What a person sees of a job: stages with the time they began, a few lines of each, warnings again at the end.

Everything that the job's processes on the cluster print, and what Ray and MLflow log here, goes to ``logs/`` of the run
directory. From there to the screen come: what our own code prints (it writes to stdout; Ray's libraries log to
stderr), shortened where it is progress; errors; and messages of Ray's that mean a loss (``LOSSES``).
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray._private.ray_logging import global_worker_stdstream_dispatcher as worker_output
from ray._private.worker import filter_autoscaler_events

from ray_jobs.terminal.log_files import JOB_LOG, Libraries, LogFile
from ray_jobs.terminal.phases import PHASES, clock

FOLDER = "logs"
HANDLER = "ray_print_logs"  # Ray's own name of what prints workers' lines on the driver
# As ``RayContext.log`` prints it.
PROGRESS = re.compile(
    r"^(?P<stage>\S+) step (?P<step>\d+)/(?P<steps>\d+) .*?\bloss (?P<loss>\S+).* \| (?P<rate>\S+) samples/s "
    r"step (?P<step_s>\S+) s .*ETA (?P<eta>\d+) s$"
)
FIRST_BATCH = re.compile(r"^(\S+): first batch ([\d.]+) s after")  # ``RayContext.batches``: told at the end
LINE_S, LINES = 180.0, 10  # seconds between two lines of a stage at least; how many lines the rest of it may have
# Ray's own words where work is lost or done again.
LOSSES = re.compile(
    r"\[FailurePolicy\]|killed|marked dead|out of memory|out of disk|% full|No available node types|"
    r"Fatal Python error|Exception in thread",
    re.I,
)
# Ray's words while something waits for CPUs: usual for seconds, and the reason where a training stands still.
STARVED = re.compile(r"Cluster resources are not enough", re.I)
STANDS_STILL = re.compile(r"no step for|stands still")
# Our own words that are worth reading again at the end.
WARNINGS = re.compile(r"warning|is skipped:|is broken|no step for|stands still|taken away|left out", re.I)
MOST_WARNINGS = 10


class Console:
    """Ray's handler of workers' output, in place of its own.

    Args:
        folder: run directory; ``logs/job.log`` is written there.
        verbose: everything comes to the screen as well, as Ray prints it.
    """

    def __init__(self, folder: Path, verbose: bool = False) -> None:
        (folder / FOLDER).mkdir(parents=True, exist_ok=True)
        self.log, self.verbose = LogFile(folder / FOLDER / JOB_LOG, say), verbose
        self.libraries = Libraries(self.log, self.of_library, verbose)
        self.starved = ""  # the last such line of Ray's
        self.over = False  # the job has ended: what comes yet goes to the file alone
        self.warnings: dict[str, int] = {}
        self.shown: dict[str, float] = {}  # stage -> when its last line was shown
        self.plans: dict[str, int] = {}  # stage -> steps
        self.at_once = 1
        self.left_s: dict[str, float] = {}  # stage -> its last ETA
        self.step_s: dict[str, float] = {}
        self.first_batch_s: dict[str, float] = {}  # stage -> how long it waited for its first batch
        self.rays: Callable[[Mapping[str, Any]], object] | None = None

    def __call__(self, data: Mapping[str, Any]) -> None:
        """Lines of one process: ``lines``, ``is_err``, ``pid``, ``actor_name`` or ``task_name``, as Ray gives them."""
        who = f"{data.get('actor_name') or data.get('task_name') or ''} pid={data.get('pid')}, {data.get('ip')}".strip()
        lines = data.get("lines", ())
        if data.get("pid") == "autoscaler":  # a table every five seconds, and what happened
            lines = filter_autoscaler_events(lines)
        for line in lines:
            self.log.line(who, line)
            if not self.over:
                self.tell(line, ours=not data.get("is_err") and data.get("pid") not in ("raylet", "autoscaler"))
        if self.verbose and self.rays is not None and not self.over:
            self.rays(data)

    def tell(self, line: str, ours: bool) -> None:
        """Show one line of another process, or a part of it, or nothing (all of them are, where it is verbose)."""
        if not ours:
            if LOSSES.search(line):
                self.warn(line, shown=self.verbose)
            elif STARVED.search(line):
                self.starved = line
        elif progress := PROGRESS.match(line):
            self.progress(progress)
        elif first := FIRST_BATCH.match(line):
            self.first_batch_s.setdefault(first[1], float(first[2]))
        elif WARNINGS.search(line):
            self.warn(line, shown=self.verbose)
            if STANDS_STILL.search(line) and self.starved:
                self.warn(f"Ray says: {self.starved}")
        elif line.strip() and not self.verbose:
            say(line)

    def progress(self, line: re.Match[str]) -> None:
        """Show a stage's last line, and others where ``LINE_S`` passed, or more in a long one."""
        stage, step, steps = line["stage"], int(line["step"]), int(line["steps"])
        self.left_s[stage], self.step_s[stage] = float(line["eta"]), float(line["step_s"])
        now, left_s = time.monotonic(), self.left_s[stage]
        early = step < steps and now - self.shown.setdefault(stage, now) < max(LINE_S, left_s / LINES)
        if early or self.verbose:
            return
        self.shown[stage] = now
        left = clock(left_s)
        say(f"{stage} step {step}/{steps} loss {line['loss']} | {line['rate']} samples/s ETA {left}{self.outlook()}")

    def planned(self, steps: Mapping[str, int], at_once: int) -> None:
        """The stages that are to come, and how many of them train at once: for the time that is left of them all."""
        self.plans, self.at_once = dict(steps), at_once

    def ended(self, stage: str) -> None:
        """A stage is finished, or was before."""
        self.left_s[stage] = 0.0

    def outlook(self) -> str:
        """How long the planned stages train yet, those not begun as long a step as one of their kind did; "" where
        nothing is planned."""
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
        """A warning that was logged in this process."""
        if ours:
            self.warn(f"warning: {text}")
        elif LOSSES.search(text):
            self.warn(text, shown=self.verbose)

    def warn(self, text: str, shown: bool = False) -> None:
        """Show a warning now, unless it is ``shown`` already, and keep it for the end."""
        text = text.strip()
        if text not in self.warnings and not shown:
            say(text)
        self.warnings[text] = self.warnings.get(text, 0) + 1

    def end(self) -> None:
        """Say again what somebody should have read."""
        if self.warnings:
            told = [f"  {text}" + (f" ({count} times)" if count > 1 else "") for text, count in self.warnings.items()]
            more = [f"  ... and {len(told) - MOST_WARNINGS} more in {self.log.baseFilename}"]
            told = told if len(told) <= MOST_WARNINGS else told[:MOST_WARNINGS] + more
            print("\n".join(["warnings:", *told]), flush=True)


def warn(text: str) -> None:
    """Say it now, and again at the end of the job."""
    if (mine := current()) is None:
        say(text)
    else:
        mine.warn(text)


def say(text: str) -> None:
    """A line with the time since the job's process was started, [minutes:seconds]."""
    print(f"[{clock(PHASES.elapsed()):>5}] {text}", flush=True)


def _kind(stage: str) -> str:
    return stage.partition("_")[0]


CONSOLE: list[Console] = []  # the one in use, if any: a job has one


def current() -> Console | None:
    """The job's console; None where no job runs (tests, other programs)."""
    return CONSOLE[-1] if CONSOLE else None


@contextmanager
def console(folder: Path, verbose: bool = False) -> Iterator[Console]:
    """Inside, output goes as this module says; Ray may be started before or inside. Warnings are told again at the end,
    and after an error where all that was said lies. What the cluster says after that goes to the file alone."""
    mine = Console(folder, verbose)
    mine.libraries.take()
    CONSOLE.append(mine)
    try:
        yield mine
    except Exception:
        if mine.rays is not None:
            print(f"what Ray and the workers said: {mine.log.baseFilename}", file=sys.stderr, flush=True)
        raise
    finally:
        mine.over = True
        mine.end()
        CONSOLE.remove(mine)
        mine.libraries.release()
        mine.log.close()  # a line that comes later opens it again


def attach(mine: Console) -> None:
    """Take the place of Ray's printing, until Ray ends; call once Ray runs."""
    mine.libraries.take()
    printing = [handler for name, handler in worker_output.handlers if name == HANDLER]
    if printing:  # else its output was not asked for (ray.init(log_to_driver=False))
        before = printing[0]
        if isinstance(before, Console):
            before.log.close()
        mine.rays = before.rays if isinstance(before, Console) else before
        worker_output.remove_handler(HANDLER)
        worker_output.add_handler(HANDLER, mine)
