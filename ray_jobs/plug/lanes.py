"""Runs independent stages in parallel; each lane is a thread of the driver."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from threading import Event

import ray

from ray_jobs.plug.save_requests import save_all

ray_is_down = Event()  # set when lanes shut Ray down; ``launch.init_ray`` clears it


def run_lanes(lanes: Sequence[Callable[[], object]], at_once: int = 1) -> list[object]:
    """Call the lanes in order, ``at_once`` at a time, and return their results in order.

    If a lane fails, the others are ended by shutting Ray down, and the first error is raised. A single lane runs in a
    thread, too: in the main thread Ray Train would handle Ctrl-C and end the process with code 0. In threads Ctrl-C
    stays a KeyboardInterrupt, and every lane that Ray's end stops ends with one.
    """
    with ThreadPoolExecutor(at_once) as pool:
        futures = [pool.submit(_ended_by_ray, lane) for lane in lanes]
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
                    ray_is_down.set()
                    ray.shutdown()
            raise


def _ended_by_ray(lane: Callable[[], object]) -> object:
    """Call the lane. What it raises after Ray was shut down becomes a KeyboardInterrupt.

    A lane that waits for Ray then gets a SystemExit, or the error of an actor that died first.
    """
    try:
        return lane()
    except BaseException as error:
        if ray_is_down.is_set():
            raise KeyboardInterrupt from error
        raise
