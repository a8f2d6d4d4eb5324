"""Checks within seconds whether a Ray cluster answers at RAY_ADDRESS; Ray itself would try for minutes."""

from __future__ import annotations

import os
import re

from pdetr3d.schema import DataError

WAIT_S = 15.0  # time limit for the answer of a cluster's head
PLACE = re.compile(r"([^\s/:@\[\]]+|\[[\da-fA-F:.%]+\]):\d{1,5}")  # HOST:PORT; an IPv6 address stands in brackets


def check_address(address: str, wait_s: float | None = None) -> None:
    """Refuse an address at which no cluster answers, before a job prepares data for hours.

    Args:
        address: as ``ray.init`` takes it: HOST:PORT of a cluster's head, "auto", or "local" for a Ray of the job's own.
        wait_s: time limit [s] for each possible name of the head; None: ``WAIT_S``.

    Raises:
        DataError: if the address has the wrong form or no cluster answers there; the message names a correct value.
    """
    kind, _, _ = address.rpartition("://")
    if kind in ("http", "https"):
        raise DataError(
            f"RAY_ADDRESS={address} is a cluster's address for submitted jobs; a job cannot join it. Submit the job: "
            f"unset RAY_ADDRESS, and run ray job submit --address {address} --working-dir . -- python -m ray_jobs.JOB "
            "... (cluster/README.md)"
        )
    place = address.removeprefix("ray://")
    if kind not in ("", "ray") or not (place in ("local", "auto") or PLACE.fullmatch(place)):
        raise DataError(
            f"RAY_ADDRESS={address}: jobs join a cluster by HOST:PORT of its head (port 6379 by default), or by "
            "ray://HOST:PORT (Ray Client, port 10001); correct it, or unset RAY_ADDRESS to run on this machine alone"
        )
    if kind or address in ("local", "auto") or os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
        return  # Ray itself notices these within seconds, and only Ray has the TLS keys
    wait_s = WAIT_S if wait_s is None else wait_s
    if not any(_answers(name, wait_s) for name in _names(address)):
        raise DataError(
            f"RAY_ADDRESS={address}: no Ray cluster answers there within {wait_s:g} s. Start it (ray start --head), "
            "correct the address (HOST:PORT of its head, port 6379 by default), or unset RAY_ADDRESS to run on this "
            "machine alone"
        )


def _names(address: str) -> list[str]:
    """The address; for a head on this machine also the address that Ray publishes for it."""
    host, _, port = address.rpartition(":")
    if host not in ("127.0.0.1", "localhost", "::1"):
        return [address]
    import ray

    return [address, f"{ray.util.get_node_ip_address()}:{port}"]


def _answers(name: str, wait_s: float) -> bool:
    import grpc

    with grpc.insecure_channel(name, [("grpc.enable_http_proxy", 0)]) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=wait_s)
        except grpc.FutureTimeoutError:
            return False
    return True
