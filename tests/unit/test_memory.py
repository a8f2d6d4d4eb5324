"""Tests of measured peak memory: runs shorter than a period are measured, and children count."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from ray_jobs.plug import memory
from ray_jobs.plug.memory import PeakMemory, family_pss_bytes


def test_a_short_run_has_a_peak() -> None:
    with PeakMemory() as peak:
        pass
    assert peak.peak_bytes > 10**7


def test_a_childs_memory_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "PERIOD_S", 0.05)
    before = family_pss_bytes()
    hold = "import sys; held = bytearray(b'x' * 200_000_000); print(len(held), flush=True); sys.stdin.read()"
    with PeakMemory() as peak:
        child = subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        child.stdout.readline()
        grown = family_pss_bytes() - before
        time.sleep(0.5)  # ten periods: the watcher has looked meanwhile
        child.communicate("")
    assert grown > 180_000_000 and peak.peak_bytes > before + 180_000_000
