"""make chaos: injects one fault at a time into real jobs and runs the same command again.

python -m tests.chaos.suite [--folder DIR] [NAME ...]

Without names, every fault without a row in DIR/chaos.json (default runs/chaos) is run, so that an interrupted suite
continues. With names, these faults are run again. All rows are of one commit; rows of another one are removed. A row is
written when its fault ends: committed steps lost, seconds to the next step, whether the final weights equal those of an
undisturbed run bit by bit (CPU). The exit code is 1 if steps are lost, weights differ, or a job needs more than five
seconds to end after SIGTERM.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pdetr3d.data.storage.files import atomic_path
from tests.chaos.elastic import resized
from tests.chaos.faults import FAULTS, Chaos
from tests.chaos.job import ROOT
from tests.chaos.phases import LIMIT_S, PHASES, alike, finished, terminate

FILE = "chaos.json"
TERMINATED, ELASTIC = "term-phases", "elastic"
NAMES = [*FAULTS, TERMINATED, ELASTIC]
Row = dict[str, Any]


class Rows:
    """The rows so far, in a file that is written again with each row."""

    def __init__(self, file: Path) -> None:
        self.file, self.commit = file, commit()
        kept = json.loads(file.read_text()) if file.exists() else {}
        if kept and kept.get("commit") != self.commit:
            shutil.rmtree(file.parent, ignore_errors=True)
            kept = {}
        self.rows: list[Row] = kept.get("rows", [])
        self.seconds: dict[str, float] = kept.get("seconds", {})
        self.write()

    def done(self, name: str) -> bool:
        """Whether a fault has ended and all of its rows are good."""
        return name in self.seconds and all(row["good"] for row in self.rows if row["name"] == name)

    def forget(self, name: str) -> None:
        """Remove a fault's rows."""
        self.rows = [row for row in self.rows if row["name"] != name]
        self.seconds.pop(name, None)

    def add(self, name: str, **row: Any) -> None:
        """Add a row of a fault: what, lost, recovery_s, equal, note, good."""
        self.rows.append({"name": name, **row})
        self.rows.sort(key=lambda one: NAMES.index(one["name"]))
        self.write()

    def ended(self, name: str, seconds: float) -> None:
        """Record that a fault has ended."""
        self.seconds[name] = round(seconds, 1)
        self.write()

    def write(self) -> None:
        """Write the file."""
        about = {"command": "make chaos", "commit": self.commit, "cores": len(os.sched_getaffinity(0))}
        about |= {"seconds": self.seconds, "rows": self.rows}
        with atomic_path(self.file) as temporary:
            temporary.write_text(json.dumps(about, indent=1) + "\n")

    def show(self) -> None:
        """Print the rows."""
        cores, minutes = len(os.sched_getaffinity(0)), sum(self.seconds.values()) / 60
        table = Table("fault", "committed steps lost", "s to the next step", "equal to undisturbed", "note")
        table.title = f"make chaos of commit {self.commit} on {cores} cores: {minutes:.0f} minutes"
        for row in self.rows:
            lost, recovery = ("" if row[key] is None else f"{row[key]:.0f}" for key in ("lost", "recovery_s"))
            same = {True: "yes", False: "NO", None: ""}[row["equal"]]
            table.add_row(row["what"], lost, recovery, same, row["note"])
        Console(width=170).print(table)


def commit() -> str:
    """The commit of the working tree; a plus at the end means uncommitted changes."""
    git = ["git", "-C", str(ROOT)]
    head = subprocess.run([*git, "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True, check=False)
    changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=False)
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def run(name: str, chaos: Chaos, rows: Rows) -> None:
    """Run one fault and add its rows."""
    if name == TERMINATED:
        run_phases(chaos, rows)
        return
    if name == ELASTIC:
        rows.add(name, **resized(chaos))
        return
    what, fault = FAULTS[name]
    if name == "disk" and os.geteuid() != 0:
        note = "not run: a small file system needs root rights"
        rows.add(name, what=what, lost=None, recovery_s=None, equal=None, note=note, good=True)
        return
    found = fault(chaos, chaos.place(name))
    same = chaos.unharmed(found.run_dir)
    row = {"lost": found.lost, "recovery_s": round(found.recovery_s, 1), "equal": same, "note": found.note}
    rows.add(name, what=what, **row, good=same and not found.lost)


def run_phases(chaos: Chaos, rows: Rows) -> None:
    """End one run in every phase in turn, continue it to its end, and compare it with an undisturbed run."""
    place = chaos.place(TERMINATED)
    for phase in PHASES:
        ended = terminate(chaos, place, phase)
        note = f"exit code {ended.code} after {ended.exit_s:.1f} s, all its processes after {ended.all_s:.1f} s"
        good = ended.exit_s <= LIMIT_S and not ended.late
        note += "; the phase was over by then" if ended.late else ""
        print(f"  {phase.name}: {note}", flush=True)
        what = f"SIGTERM: {phase.name}"
        rows.add(TERMINATED, what=what, lost=None, recovery_s=None, equal=None, note=note, good=good)
    mine = finished(chaos, place)
    same = alike(mine, finished(chaos, chaos.place("undisturbed-pipeline")))
    note = "weights of crop branch, teacher and student, and pseudo labels, after all of these"
    rows.add(TERMINATED, what="SIGTERM in every phase", lost=None, recovery_s=None, equal=same, note=note, good=same)


def main(arguments: list[str]) -> int:
    """Run the faults; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "chaos", help="of worlds, runs and the table")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; none: what has no row yet")
    args = parser.parse_args(arguments)
    if unknown := [name for name in args.names if name not in NAMES]:
        parser.error(f"no fault {unknown}; there are {', '.join(NAMES)}")
    # A shell starts background processes such that they, and all that they start, ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    args.folder.mkdir(parents=True, exist_ok=True)
    rows, failed = Rows(args.folder / FILE), []
    chaos = Chaos(args.folder)
    for name in args.names or [name for name in NAMES if not rows.done(name)]:
        print(f"{time.strftime('%H:%M:%S')} {name}", flush=True)
        rows.forget(name)
        began = time.monotonic()
        try:
            run(name, chaos, rows)
            rows.ended(name, time.monotonic() - began)
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            print(f"{name} FAILED: {error}", file=sys.stderr, flush=True)
            failed.append(name)
        finally:
            chaos.clear()
    rows.show()
    bad = [row["what"] for row in rows.rows if not row["good"]]
    print(f"something is lost or slow: {[*failed, *bad]}" if failed or bad else "nothing lost")
    return 1 if failed or bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
