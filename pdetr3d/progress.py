"""Shows how far long work is: a bar on a terminal, and elsewhere, as in a job's log, a line every few minutes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
FIRST_S, EVERY_S = 10.0, 180.0  # the time of the first line, and between two lines


@contextmanager
def progress(verb: str, total: int, what: str) -> Iterator[Callable[[int], None]]:
    """Yield a function that is called with the number of items that were just done.

    Args:
        verb: the activity, such as "checking". total: number of all items. what: name of the items, in plural.
    """
    if not sys.stdout.isatty():
        yield _Lines(verb, total, what)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(verb), BarColumn(), MofNCompleteColumn(), TextColumn(what), TimeRemainingColumn())
    with Progress(*columns, transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda count: bar.advance(task, count)


def tracked(items: Iterable[T], verb: str, total: int, what: str) -> Iterator[T]:
    """Yield the items; show by ``progress`` how many of them are done."""
    with progress(verb, total, what) as advance:
        for item in items:
            yield item
            advance(1)


class _Lines:
    """Prints a line when the work has lasted FIRST_S, and another one whenever EVERY_S have passed."""

    def __init__(self, verb: str, total: int, what: str) -> None:
        self.verb, self.total, self.what = verb, total, what
        self.done = 0
        self.next_s = time.monotonic() + FIRST_S

    def __call__(self, count: int) -> None:
        self.done += count
        if time.monotonic() >= self.next_s and self.done < self.total:
            self.next_s = time.monotonic() + EVERY_S
            print(f"{self.verb}: {self.done} of {self.total} {self.what}", flush=True)
