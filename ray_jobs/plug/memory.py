"""Measures the peak memory of the driver and all processes that it started (also Ray's), as the sum of PSS."""

from __future__ import annotations

import contextlib
import threading
from types import TracebackType

import psutil

PERIOD_S = 5.0  # reading the PSS of a process costs milliseconds


class PeakMemory:
    """A context manager that measures in a thread; then ``peak_bytes`` is the peak. PSS counts shared memory once."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:  # measures at once, since a rerun that has nothing to do ends within a period
            self.peak_bytes = max(self.peak_bytes, family_pss_bytes())
            if self._stop.wait(PERIOD_S):
                return


def family_pss_bytes() -> int:
    """The sum of PSS over this process and its descendants; processes that end meanwhile do not count."""
    me, total = psutil.Process(), 0
    for process in [me, *me.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            info = process.memory_full_info()
            total += getattr(info, "pss", info.rss)
    return total
