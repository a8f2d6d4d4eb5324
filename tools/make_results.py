"""Measures the tables of README.md and docs/ again: python tools/make_results.py [--quick] [--list] [NAME ...]

The program first prints which results were measured with other code, and how long each took. Then it measures these
results one after the other in ``runs/results/NAME``; the same command continues after an interruption. When a result
ends, its JSON and the tables made from it are written. Commit the code before, because the JSON names the commit.

NAME: measure only these results. --list: only print. --quick: searches train one seed, not three; of the results, the
shortest are measured, which together took less than an hour. Their tables say how many seeds there were, and a later
call without --quick measures the searches again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence

from pdetr3d.training.stage_versions import code_version
from tools.measurements import ROOT, RUNS, Measurement, measurements

QUICK_S = 3600.0


def state(wanted: Measurement) -> tuple[str, float | None]:
    """Whether a result is there, and how long it takes.

    Returns:
        "current", "of other code", "of fewer seeds" or "missing", and the seconds that the measurement took, for as
        many seeds as are wanted; None: unknown.
    """
    file = ROOT / "results" / f"{wanted.name}.json"
    if not file.exists():
        return "missing", None
    found = json.loads(file.read_text())
    seconds = sum(found["seconds"].values())
    seeds = len(found.get("seeds", ())) if wanted.seeds else 0
    if seeds:
        seconds *= wanted.seeds / seeds
    if found.get("code") != code_version():
        return "of other code", seconds
    return ("of fewer seeds" if seeds < wanted.seeds else "current"), seconds


def there(wanted: Measurement) -> bool:
    """Whether the data that a measurement needs is on this machine."""
    return not wanted.needs or bool(os.environ.get(wanted.needs))


def said(wanted: Measurement) -> str:
    """The line of a result in the list."""
    found, seconds = state(wanted)
    takes = "time unknown" if seconds is None else f"takes {seconds / 60:.0f} minutes"
    return f"{wanted.name:15} {found}, {takes}" + ("" if there(wanted) else f"; left out: {wanted.needs} is not set")


def due(results: Sequence[Measurement], quick: bool) -> tuple[list[Measurement], list[Measurement]]:
    """The results that are not current and whose data is there.

    Args:
        quick: only the shortest ones, which together take less than QUICK_S.

    Returns:
        those to measure, and those that are left out for their time.
    """
    wanted = [one for one in results if state(one)[0] != "current" and there(one)]
    if not quick:
        return wanted, []
    chosen, total = [], 0.0
    for one in sorted(wanted, key=lambda one: state(one)[1] or 0.0):
        seconds = state(one)[1]
        if seconds is not None and total + seconds <= QUICK_S:
            chosen.append(one)
            total += seconds
    return chosen, [one for one in wanted if one not in chosen]


def announced(wanted: Sequence[Measurement], too_long: Sequence[Measurement]) -> str:
    """The lines that name the results to measure, and the hours that they took the last time."""
    seconds = {one.name: state(one)[1] for one in wanted}
    unknown = [name for name, value in seconds.items() if value is None]
    hours = f"{sum(value or 0.0 for value in seconds.values()) / 3600:.1f} hours by the last time"
    text = f"to measure: {', '.join(seconds)}; {hours}" + (f", without {', '.join(unknown)}" if unknown else "")
    left = ", ".join(one.name for one in too_long)
    return text + (f"\nleft out, since an hour is not enough or the time is unknown: {left}" if left else "")


def make(wanted: Measurement, run: Callable[[list[str]], object]) -> None:
    """Run the commands of a result that have not ended yet, then write its tables.

    Args:
        run: called with the arguments of Python; raises when the command fails.
    """
    log = RUNS / f"{wanted.name}{'-quick' if wanted.seeds == 1 else ''}.done"
    log.parent.mkdir(parents=True, exist_ok=True)
    mark = f"{code_version()}\n"
    done = log.read_text() if log.exists() else ""
    before = done.removeprefix(mark).splitlines() if done.startswith(mark) else []
    for number, command in enumerate(wanted.commands):
        if str(number) in before:
            continue
        run([os.path.expandvars(word) for word in command])
        before.append(str(number))
        log.write_text(mark + "\n".join(before))
    run(["tools/result_tables.py", *wanted.tables])


def python(words: list[str]) -> None:
    """Run Python in the repository's root; raises CalledProcessError when it fails."""
    print("$ python", *words, flush=True)
    subprocess.run([sys.executable, *words], cwd=ROOT, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


def main(arguments: list[str]) -> int:
    """See the module."""
    names = [one.name for one in measurements()]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(names))
    parser.add_argument("--quick", action="store_true", help="one seed, and what fits into an hour")
    parser.add_argument("--list", action="store_true", help="only print what would run")
    given = parser.parse_args(arguments)
    if unknown := set(given.names) - set(names):
        parser.error(f"no result {sorted(unknown)}; there are {', '.join(names)}")
    chosen = [one for one in measurements(given.quick) if not given.names or one.name in given.names]
    print(*map(said, chosen), sep="\n", flush=True)
    wanted, too_long = due(chosen, given.quick)
    if wanted or too_long:
        print(announced(wanted, too_long), flush=True)
    for one in [] if given.list else wanted:
        try:
            make(one, python)
        except subprocess.CalledProcessError as error:
            print(f"{one.name}: the command above ended with exit code {error.returncode}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
