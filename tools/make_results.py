"""Measures the tables of README.md and docs/ again: python tools/make_results.py [--quick] [--list] [NAME ...]

The program first prints which results were measured with other code, and how long each took. Then it measures these
results one after the other in ``runs/results/NAME``; the same command continues after an interruption. When a result
ends, its JSON and the tables made from it are written. Commit the code before, because the JSON names the commit.

NAME: measure only these results. --quick: leave out results that took more than half an hour. --list: only print.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pdetr3d.training.stage_versions import code_version

ROOT = Path(__file__).resolve().parents[1]
RUNS = ROOT / "runs" / "results"
QUICK_S = 1800.0
PIPELINE = ("-m", "ray_jobs.pipeline", "--preset")


@dataclass(frozen=True)
class Result:
    """One measurement.

    Attributes:
        name: of the JSON file. commands: arguments of Python, one tuple per command. tables: arguments of
            ``tools/result_tables.py``, which is called at the end. needs: environment variable with the path of real
            data, or "". ``commands`` may contain it as $NAME.
    """

    name: str
    commands: tuple[tuple[str, ...], ...]
    tables: tuple[str, ...]
    needs: str = ""

    @property
    def file(self) -> Path:
        """The JSON file with the figures."""
        return ROOT / "results" / f"{self.name}.json"


def folder(name: str) -> str:
    """The folder in which a result is measured."""
    return str(RUNS / name)


def import_kitti(dataset: str) -> tuple[str, ...]:
    """The command that imports KITTI's frames as a dataset."""
    source = ("--root", "$PDETR3D_KITTI_DATA", "--scenes", "$PDETR3D_KITTI_DATA/scenes.csv")
    return ("-m", "ray_jobs.commands", "import", "kitti", *source, "--out", dataset)


UNCLICKED = ("teacher.fusion=none", "teacher.optim.epochs=7", "optim.epochs=1.05", "optim.checkpoints=1")
KITTI, KITTI_CLICKS = folder("kitti-small-dataset"), folder("kitti-clicks-dataset")
RESULTS = (
    Result(
        "quickstart",
        ((*PIPELINE, "quickstart", "--run-dir", folder("quickstart")),),
        ("quickstart", folder("quickstart")),
    ),
    Result(
        "kitti-small",
        (
            import_kitti(KITTI),
            (*PIPELINE, "kitti-small", "--run-dir", folder("kitti-small"), f"data.dataroot={KITTI}"),
        ),
        ("kitti-small", folder("kitti-small")),
        needs="PDETR3D_KITTI_DATA",
    ),
    Result(
        "chaos",
        (("-m", "tests.chaos.suite", "--folder", folder("chaos")),),
        ("chaos", f"{folder('chaos')}/chaos.json"),
    ),
    Result(
        "your-data",
        (("-m", "benchmarks.bench_your_data", folder("your-data")),),
        ("your-data", f"{folder('your-data')}/your-data.json"),
    ),
    Result(
        "kitti-clicks",
        (
            import_kitti(KITTI_CLICKS),
            ("-m", "ray_jobs.search", "kitti_clicks", "--preset", "kitti-small", "--out", folder("kitti-clicks"))
            + ("--run-dir", folder("kitti-clicks"), f"data.dataroot={KITTI_CLICKS}"),
        ),
        ("kitti-clicks", f"{folder('kitti-clicks')}/search.json"),
        needs="PDETR3D_KITTI_DATA",
    ),
    Result(
        "costs",
        (("-m", "benchmarks.costs", f"{folder('costs')}/costs.json"),),
        ("costs", f"{folder('costs')}/costs.json"),
        needs="PDETR3D_REAL_DATA",
    ),
    Result(
        "unclicked",
        (
            ("-m", "ray_jobs.search", "unclicked", "--preset", "quickstart", "--out", folder("unclicked"))
            + ("--run-dir", folder("unclicked"), *UNCLICKED),
        ),
        ("unclicked", f"{folder('unclicked')}/search.json"),
    ),
)


def state(result: Result) -> tuple[str, float | None]:
    """Return ("current", "of other code" or "missing"; the seconds that the measurement took, or None)."""
    if not result.file.exists():
        return "missing", None
    found = json.loads(result.file.read_text())
    seconds = sum(found["seconds"].values())
    return ("current" if found.get("code") == code_version() else "of other code"), seconds


def said(result: Result) -> str:
    """The line of a result in the list."""
    found, seconds = state(result)
    took = "time unknown" if seconds is None else f"took {seconds / 60:.0f} minutes"
    without = f"; left out: {result.needs} is not set" if result.needs and not os.environ.get(result.needs) else ""
    return f"{result.name:12} {found}, {took}{without}"


def due(results: Sequence[Result], quick: bool) -> list[Result]:
    """The results to measure: not current, their data is there, and with ``quick`` they are known to be short."""
    found = []
    for result in results:
        what, seconds = state(result)
        there = not result.needs or bool(os.environ.get(result.needs))
        if what != "current" and there and not (quick and (seconds is None or seconds > QUICK_S)):
            found.append(result)
    return found


def announced(wanted: Sequence[Result]) -> str:
    """The line that names the results to measure, and the hours that they took the last time."""
    seconds = {result.name: state(result)[1] for result in wanted}
    unknown = [name for name, value in seconds.items() if value is None]
    hours = f"{sum(value or 0.0 for value in seconds.values()) / 3600:.1f} hours the last time"
    return f"to measure: {', '.join(seconds)}; {hours}" + (f", without {', '.join(unknown)}" if unknown else "")


def make(result: Result, run: Callable[[list[str]], object]) -> None:
    """Run the commands of a result that have not ended yet, then write its tables.

    Args:
        run: called with the arguments of Python; raises when the command fails.
    """
    log = RUNS / f"{result.name}.done"
    log.parent.mkdir(parents=True, exist_ok=True)
    mark = f"{code_version()}\n"
    done = log.read_text() if log.exists() else ""
    before = done.removeprefix(mark).splitlines() if done.startswith(mark) else []
    for number, command in enumerate(result.commands):
        if str(number) in before:
            continue
        run([os.path.expandvars(word) for word in command])
        before.append(str(number))
        log.write_text(mark + "\n".join(before))
    run(["tools/result_tables.py", *result.tables])


def python(words: list[str]) -> None:
    """Run Python in the repository's root; raises CalledProcessError when it fails."""
    print("$ python", *words, flush=True)
    subprocess.run([sys.executable, *words], cwd=ROOT, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


def main(arguments: list[str]) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(result.name for result in RESULTS))
    parser.add_argument(
        "--quick", action="store_true", help="leave out results that took more than half an hour, or never ran"
    )
    parser.add_argument("--list", action="store_true", help="only print what would run")
    given = parser.parse_args(arguments)
    if unknown := set(given.names) - {result.name for result in RESULTS}:
        parser.error(f"no result {sorted(unknown)}; there are {', '.join(result.name for result in RESULTS)}")
    chosen = [result for result in RESULTS if not given.names or result.name in given.names]
    print(*map(said, chosen), sep="\n", flush=True)
    wanted = due(chosen, given.quick)
    if given.list or not wanted:
        return 0
    print(announced(wanted), flush=True)
    for result in wanted:
        try:
            make(result, python)
        except subprocess.CalledProcessError as error:
            print(f"{result.name}: the command above ended with exit code {error.returncode}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
