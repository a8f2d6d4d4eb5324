"""Sends what native code of this process writes to stderr to a log file. Python code still writes to the screen.

Ray's core logs by native code, straight to file descriptor 2, where no Python logger sees it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TextIO

STDERR = 2


class NativeOutput:
    """Redirects file descriptor 2 to a file, and ``sys.stderr`` to where that descriptor pointed before.

    Child processes that inherit descriptor 2 write to the file, too. Without a descriptor 2 (``2>&-``), or where the
    file cannot be written, nothing is redirected.

    Args:
        file: the log file, which is continued.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.screen: TextIO | None = None  # what sys.stderr is while the output is redirected
        self.before: TextIO = sys.stderr

    def take(self) -> None:
        """Begin. A ``sys.stderr`` that somebody has replaced, such as pytest, stays."""
        try:
            sys.stderr.flush()
            ours = sys.stderr.fileno() == STDERR
            log = os.open(self.file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        except (AttributeError, OSError, ValueError):  # ValueError: a closed stream, or one without a descriptor
            return
        if ours:
            self.before = sys.stderr
            self.screen = os.fdopen(
                os.dup(STDERR), "w", buffering=1, encoding=sys.stderr.encoding, errors=sys.stderr.errors
            )
            sys.stderr = self.screen
            os.dup2(log, STDERR)
        os.close(log)

    def release(self) -> None:
        """End: what is written to descriptor 2 is on the screen again."""
        if self.screen is None:
            return
        self.screen.flush()
        os.dup2(self.screen.fileno(), STDERR)
        if sys.stderr is self.screen:
            sys.stderr = self.before
        # The stream stays open: a logger that was made in the meantime may still write to it.
        self.screen = None
