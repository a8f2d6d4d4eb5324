"""Runs independent stages in parallel; each lane is a thread of the driver."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

import ray

from ray_jobs.plug.save_requests import save_all


def run_lanes(lanes: Sequence[Callable[[], object]], at_once: int = 1) -> list[object]:
    """Call the lanes in order, ``at_once`` at a time, and return their results in order.

    If a lane fails, the others are ended by shutting Ray down, and the first error is raised. A single lane runs in a
    thread, too: in the main thread Ray Train would handle Ctrl-C and end the process with code 0. In threads Ctrl-C
    stays a KeyboardInterrupt, and every lane ends with one.
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
                    ray.shutdown()  # lanes that wait for Ray get a SystemExit; fit.py turns it into KeyboardInterrupt
            raise
