"""Runs the whole pipeline twice on a cluster of two Ray nodes; test_pipeline starts it in a process of its own.

Usage: python -m tests.clusters.cluster_pipeline [arguments of ray_jobs.pipeline]; prints a JSON line per run.
"""

from __future__ import annotations

import json
import sys
import time

import ray
from ray.cluster_utils import Cluster

from ray_jobs.commands import main as pdetr3d


def main(arguments: list[str]) -> None:
    node = {"num_cpus": 2, "object_store_memory": 256 * 1024**2}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        cluster.add_node(**node)
        ray.init(address=cluster.address, log_to_driver=False)
        nodes = len([n for n in ray.nodes() if n["Alive"]])
        for _ in range(2):
            began = time.monotonic()
            code = pdetr3d(["pipeline", *arguments])
            print("RUN " + json.dumps({"code": code, "seconds": time.monotonic() - began, "nodes": nodes}), flush=True)
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main(sys.argv[1:])
