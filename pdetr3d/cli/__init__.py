"""The verbs of ``pdetr3d`` that need no Ray; ``ray_jobs.commands`` adds the jobs.

Each verb imports its heavy modules itself, so that --help is quick.
"""

from __future__ import annotations

from pdetr3d.cli import clicking, dataset, importing, model, predict, runs, scoring  # noqa: F401  # their verbs join the app
from pdetr3d.cli.app import app
from pdetr3d.cli.once import Once
from pdetr3d.exits import guarded

__all__ = ["app", "main"]


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code (``pdetr3d.exits``)."""
    for command in (*app.registered_commands, *importing.importers.registered_commands):
        command.cls = Once
    return guarded(lambda: app(arguments, prog_name="pdetr3d"))
