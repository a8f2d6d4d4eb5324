"""Tests of the progress of long work: lines in a log, a bar on a terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from pdetr3d import progress

SEEN_ON_A_TERMINAL = """
import time
from pdetr3d.progress import tracked
for _ in tracked(range(3), "baking", 3, "cakes"):
    time.sleep(0.2)
"""


def test_a_log_gets_a_line_after_ten_seconds_and_every_three_minutes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    seen = []
    for item in progress.tracked(range(100, 110), "baking", 10, "cakes"):
        seen.append(item)
        clock[0] += 50.0 if item > 101 else 7.0
    assert seen == list(range(100, 110))
    # An item ends at 7, 14, 64, 114, 164, 214, ... s; after 14 s the next line is due at 194 s, then at 394 s.
    assert capsys.readouterr().out.splitlines() == ["baking: 2 of 10 cakes", "baking: 6 of 10 cakes"]


def test_short_work_says_nothing_in_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.progress("baking", 3, "cakes") as advance:
        advance(3)
    assert capsys.readouterr().out == ""


def test_a_terminal_gets_a_bar_that_is_gone_at_the_end() -> None:
    screen, terminal = pty.openpty()
    command = [sys.executable, "-c", SEEN_ON_A_TERMINAL]
    subprocess.run(command, stdout=terminal, stdin=subprocess.DEVNULL, cwd=Path(__file__).parents[2], check=True)
    text = os.read(screen, 65536).decode()
    assert all(words in text for words in ("baking", "0/3", "3/3", " cakes"))
    assert text.endswith("\x1b[2K")  # the line is cleared
