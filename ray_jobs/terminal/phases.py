"""Measures a job's time by kind of work, as the driver sees it; a table is printed at the job's end."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psutil

# Kind of work -> its description. When several kinds run at once (parallel stages), the time counts for the first one.
KINDS = {
    "train": "training stages, the start of their processes included",
    "predict": "boxes of teachers (pseudo labels) and students",
    "score": "the devkit's scores, quality of labels",
    "pictures": "pictures",
    "data": "world, index, checks, labels",
    "start": "imports, MLflow, Ray",
    "rest": "anything else",
}
Span = tuple[str, float, float]  # kind, begin, end [s] on the clock of ``time.monotonic``


class Phases:
    """The spans of work of this process.

    Args:
        began: start of the process or its job, on the clock of ``time.monotonic``.
    """

    def __init__(self, began: float) -> None:
        self.began = began
        self.spans: list[Span] = []

    @contextmanager
    def of(self, kind: str) -> Iterator[None]:
        """A context whose time counts as this kind; threads may be in different ones at the same time."""
        if kind not in KINDS:
            raise ValueError(f"kind {kind!r}: allowed {', '.join(KINDS)}")
        begin = time.monotonic()
        try:
            yield
        finally:
            self.spans.append((kind, begin, time.monotonic()))

    def restart(self) -> None:
        """Begin again now, if this process has already run a job."""
        if self.spans:
            self.began, self.spans = time.monotonic(), []

    def started(self) -> None:
        """Count the time from ``began`` to now as "start", except for spans of other kinds."""
        self.spans.append(("start", self.began, time.monotonic()))

    def elapsed(self) -> float:
        """Seconds since ``began``."""
        return time.monotonic() - self.began

    def seconds(self) -> dict[str, float]:
        """Kind -> seconds; their sum is ``elapsed``."""
        return shares(self.spans, self.began, time.monotonic())


def shares(spans: Sequence[Span], begin: float, end: float) -> dict[str, float]:
    """Kind -> seconds between ``begin`` and ``end``.

    Each moment is counted once: as the first kind of KINDS that has a span then, else as "rest".
    """
    edges = sorted({begin, end, *(min(max(edge, begin), end) for span in spans for edge in span[1:])})
    result = dict.fromkeys(KINDS, 0.0)
    for left, right in zip(edges, edges[1:], strict=False):
        going_on = {kind for kind, first, last in spans if first <= left and right <= last}
        result[next((kind for kind in KINDS if kind in going_on), "rest")] += right - left
    return result


def lines(seconds: dict[str, float]) -> list[str]:
    """The lines of the table: one per kind, and the sum."""
    rows = [f"{kind:>10} {value:7.1f} s  {KINDS[kind]}" for kind, value in seconds.items()]
    return [*rows, f"{'in all':>10} {sum(seconds.values()):7.1f} s"]


def clock(seconds: float) -> str:
    """Format seconds as [hours:]minutes:seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


PHASES = Phases(time.monotonic() - (time.time() - psutil.Process().create_time()))
