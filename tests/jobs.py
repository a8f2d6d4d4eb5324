"""Runs commands of this project in the test's own process, which is spared the start of a process and of a Ray."""

from __future__ import annotations

import os
import runpy
import signal
import sys
from collections.abc import Sequence

from pdetr3d.cli import main as pdetr3d


def run_module(module: str, arguments: Sequence[str]) -> int:
    """``python -m MODULE ARGUMENTS`` in the Ray that this process has started, if it has; returns the exit code."""
    argv, handler, environment = sys.argv, signal.getsignal(signal.SIGTERM), dict(os.environ)
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    finally:
        sys.argv = argv
        signal.signal(signal.SIGTERM, handler)  # a job puts its own
        os.environ.clear()
        os.environ.update(environment)
    return 0


def run_verb(arguments: Sequence[str]) -> int:
    """``pdetr3d ARGUMENTS``; returns the exit code."""
    return pdetr3d(list(arguments))
