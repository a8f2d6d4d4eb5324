"""All checks of a run, and how they are told."""

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
    """Name of each check -> its result. ``other``: a run of a LiDAR-only teacher (``check_comparable``). ``deep``: the
    dataset's files are read again."""
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
    """(style of rich, text): problems first, then what is well, then what cannot be judged."""
    for name, result in results.items():
        if result.verdict == "problem":
            yield "bold red", f"PROBLEM  {name}: {result.text}"
            yield from (("", f"  seen: {line}") for line in result.evidence)
            yield from (("", f"  try:  {line}") for line in result.advice)
    yield from (("green", f"ok       {n}: {r.text}") for n, r in results.items() if r.verdict == "ok")
    yield from (("dim", f"unknown  {n}: {r.text}") for n, r in results.items() if r.verdict == "unknown")
