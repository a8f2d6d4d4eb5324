"""Stages that do not wait for one another, side by side: each lane is a thread of the driver."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

import ray

from ray_jobs.plug.save_requests import save_all


def run_lanes(lanes: Sequence[Callable[[], object]], at_once: int = 1) -> list[object]:
    """Call each lane, ``at_once`` of them at a time, first ones first; returns their results in order.

    The first lane that fails ends the others (Ray is shut down, if any runs), and its error is raised. Threads, also
    for a single lane: Ray Train takes over Ctrl-C in the main thread and ends the process with code 0; here it stays a
    KeyboardInterrupt, and every lane ends with one.
    """
    with ThreadPoolExecutor(at_once) as pool:
        futures = [pool.submit(lane) for lane in lanes]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
            failed = [future for future in futures if future.done() and future.exception()]
            return [future.result() for future in failed or futures]
        except BaseException as error:
            waiting = [future for future in futures if not future.cancel() and not future.done()]
            try:
                if waiting and isinstance(error, KeyboardInterrupt):
                    save_all()
            finally:
                if waiting:
                    ray.shutdown()  # what waits for it in a lane gets a SystemExit: fit.py makes a KeyboardInterrupt
            raise
