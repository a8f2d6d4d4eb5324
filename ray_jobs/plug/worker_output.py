"""Passes the output of Ray's workers to a job's console, instead of Ray's own handler, which prints all of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ray._private.ray_logging import global_worker_stdstream_dispatcher as worker_output
from ray._private.worker import filter_autoscaler_events

from ray_jobs.terminal.console import Console

HANDLER = "ray_print_logs"  # Ray's name of the handler that prints workers' lines on the driver

Handler = Callable[[Mapping[str, Any]], object]


class WorkerOutput:
    """A handler of workers' output, in place of Ray's.

    Args:
        console: receives the lines. rays: Ray's handler, which also gets them if ``console.verbose``.
    """

    def __init__(self, console: Console, rays: Handler | None = None) -> None:
        self.console, self.rays = console, rays

    def __call__(self, data: Mapping[str, Any]) -> None:
        """Handle lines of one process. Ray passes ``lines``, ``is_err``, ``pid``, ``actor_name`` or ``task_name``."""
        pid, lines = data.get("pid"), data.get("lines", ())
        if pid == "autoscaler":  # it also prints a table every five seconds, which is dropped
            lines = filter_autoscaler_events(lines)
        who = f"{data.get('actor_name') or data.get('task_name') or ''} pid={pid}, {data.get('ip')}".strip()
        self.console.hear(who, lines, ours=not data.get("is_err") and pid not in ("raylet", "autoscaler"))
        if self.console.verbose and self.rays is not None and not self.console.over:
            self.rays(data)


def attach(console: Console) -> None:
    """Replace Ray's handler by one for this console until Ray ends. Call it when Ray runs."""
    console.libraries.take()
    printing = [handler for name, handler in worker_output.handlers if name == HANDLER]
    if printing:  # there is none after ray.init(log_to_driver=False)
        before = printing[0]
        if isinstance(before, WorkerOutput):
            before.console.log.close()
        worker_output.remove_handler(HANDLER)
        worker_output.add_handler(
            HANDLER, WorkerOutput(console, before.rays if isinstance(before, WorkerOutput) else before)
        )
        console.attached = True
