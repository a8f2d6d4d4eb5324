"""Runs commands of this project in the test's own process, which is spared the start of a process and of a Ray; and
trains a job's stage there, which is spared the processes of Ray Train."""

from __future__ import annotations

import os
import runpy
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest import mock

import typer

from pdetr3d.exits import guarded
from pdetr3d.training.build import build
from pdetr3d.training.context import LocalContext
from pdetr3d.training.loop import train
from ray_jobs import commands
from ray_jobs.plug.fit import Stage
from ray_jobs.searches.command import Asked
from ray_jobs.stages.stages import Stages
from tests.training_cases import one_thread


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


def launch(body: Callable[[Stages], object], arguments: Sequence[str]) -> int:
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


def fit_here(stage: Stage, run_dir: Path, score: Callable[[Path], float] | None = None) -> list[Path]:
    """Stand-in for ``ray_jobs.plug.fit.fit``: the same loop on the same batches.

    For stages that start from no other one's weights.
    """
    assert score is None and stage.crops is None and stage.lidar_init is None and stage.gt_database is None
    folder = run_dir / stage.name
    task = build(stage.kind, stage.config, stage.prior_size_m, **stage.choices)
    (folder / "loop").mkdir(parents=True)
    loader = task.loader.for_records(stage.records)
    context = LocalContext(list(stage.records), stage.plan, loader, folder / "loop")
    with one_thread():
        train(task, context, stage.steps, stage.config.to_json(), folder / "scratch")
    saved = sorted(context.folder.glob("step_*/checkpoint.pt"))
    kept = [file.rename(folder / f"{file.parent.name}.pt") for file in saved]
    for scratch in ("loop", "scratch"):
        shutil.rmtree(folder / scratch)
    return kept
