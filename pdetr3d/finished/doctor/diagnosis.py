"""Runs all checks on a run directory (``pdetr3d doctor``), and formats their results."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from pdetr3d.finished.doctor import boxes, dataset, training
from pdetr3d.finished.doctor.result import Result
from pdetr3d.finished.doctor.run import Run
from pdetr3d.schema import DataError

CHECKS: dict[str, Callable[[Run, Run | None], Result]] = {
    "teacher": boxes.floor,
    "fusion": boxes.fusion,
    "pseudo labels": boxes.groups,
    "score": boxes.score,
    "losses": training.losses,
    "features": training.features,
    "clicks": training.clicks,
    "data": training.waiting,
    "dataset": dataset.counts,
    "files": dataset.files,
}


def diagnose(run: Run, other: Run | None = None, deep: bool = False) -> dict[str, Result]:
    """Run all checks.

    Args:
        run: to be checked. other: the run of a LiDAR-only teacher (see ``check_comparable``), for the check of fusion.
        deep: whether the dataset's files are read again.

    Returns:
        Name of each check -> its result; "unknown" for a check whose facts are missing.
    """
    results = {}
    for name, check in (CHECKS | {"files": partial(dataset.files, deep=deep)}).items():
        try:
            results[name] = check(run, other)
        except DataError as error:
            results[name] = Result("unknown", str(error))
        except KeyError as error:
            results[name] = Result("unknown", f"no {error} in this run's files: another version of pdetr3d wrote them")
    return results


def lines(results: dict[str, Result]) -> Iterator[tuple[str, str]]:
    """(rich style, text) of each line to print: problems first, then passed checks, then unknown ones."""
    for name, result in results.items():
        if result.verdict == "problem":
            yield "bold red", f"PROBLEM  {name}: {result.text}"
            yield from (("", f"  seen: {line}") for line in result.evidence)
            yield from (("", f"  try:  {line}") for line in result.advice)
    yield from (("green", f"ok       {n}: {r.text}") for n, r in results.items() if r.verdict == "ok")
    yield from (("dim", f"unknown  {n}: {r.text}") for n, r in results.items() if r.verdict == "unknown")
