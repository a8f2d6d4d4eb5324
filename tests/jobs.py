"""Runs commands of this project in the test's own process, which is spared the start of a process and of a Ray."""

from __future__ import annotations

import os
import runpy
import signal
import sys
from collections.abc import Callable, Sequence
from unittest import mock

import typer

from pdetr3d.exits import guarded
from pdetr3d.pipeline.run import Run
from ray_jobs import commands
from ray_jobs.searches.command import Asked


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
    """Run ``pdetr3d ARGUMENTS``; returns the exit code."""
    return commands.main(list(arguments))


def launch(body: Callable[[Run], object], arguments: Sequence[str]) -> int:
    """Run a job with a body given by the test; returns the exit code."""
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(commands.job(lambda: body))
    return guarded(lambda: app(list(arguments)))


def parse_search(words: Sequence[str]) -> Asked:
    """The options that ``pdetr3d search WORDS`` parses; raises the verb's errors."""
    with mock.patch("ray_jobs.search.run") as run:
        commands.app(["search", *words], standalone_mode=False)
    asked = run.call_args.args[0]
    assert isinstance(asked, Asked)
    return asked
