"""Where a job's time goes: spans of work by kind, as the driver sees them; printed as a table at its end."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psutil

# A moment at which several kinds of work go on (stages run side by side) counts as the first of them.
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
    """The spans of this process.

    Args:
        began: when the process or its job was started, on the clock of ``time.monotonic``.
    """

    def __init__(self, began: float) -> None:
        self.began = began
        self.spans: list[Span] = []

    @contextmanager
    def of(self, kind: str) -> Iterator[None]:
        """What is done inside is of this kind; threads may be in several at once."""
        if kind not in KINDS:
            raise ValueError(f"kind {kind!r}: allowed {', '.join(KINDS)}")
        begin = time.monotonic()
        try:
            yield
        finally:
            self.spans.append((kind, begin, time.monotonic()))

    def restart(self) -> None:
        """From now on, where this process has done a job before."""
        if self.spans:
            self.began, self.spans = time.monotonic(), []

    def started(self) -> None:
        """From ``began`` to now it was "start", but for what had a kind of its own."""
        self.spans.append(("start", self.began, time.monotonic()))

    def elapsed(self) -> float:
        """Seconds since ``began``."""
        return time.monotonic() - self.began

    def seconds(self) -> dict[str, float]:
        """Kind -> seconds; they sum up to ``elapsed``."""
        return shares(self.spans, self.began, time.monotonic())


def shares(spans: Sequence[Span], begin: float, end: float) -> dict[str, float]:
    """Kind -> seconds of begin .. end, each moment counted once: as the first kind of KINDS that goes on then, else as
    "rest"."""
    edges = sorted({begin, end, *(min(max(edge, begin), end) for span in spans for edge in span[1:])})
    result = dict.fromkeys(KINDS, 0.0)
    for left, right in zip(edges, edges[1:], strict=False):
        going_on = {kind for kind, first, last in spans if first <= left and right <= last}
        result[next((kind for kind in KINDS if kind in going_on), "rest")] += right - left
    return result


def lines(seconds: dict[str, float]) -> list[str]:
    """The table: a line per kind, and the sum."""
    rows = [f"{kind:>10} {value:7.1f} s  {KINDS[kind]}" for kind, value in seconds.items()]
    return [*rows, f"{'in all':>10} {sum(seconds.values()):7.1f} s"]


def clock(seconds: float) -> str:
    """[hours:]minutes:seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


PHASES = Phases(time.monotonic() - (time.time() - psutil.Process().create_time()))
