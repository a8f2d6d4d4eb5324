"""Removes a machine during an elastic training and adds it again: training continues with fewer, then with all workers.

The machines are nodes of a local cluster (``ray.cluster_utils``) with one CPU each. Workers record the samples of each
step; at the end every sample must have been used exactly once in each epoch.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.chaos.faults import Chaos
from tests.chaos.job import OVERRIDES, ROOT, STREAM, Job

STEPS, SAMPLES, BATCH = 300, 6, 2
STEP_S = 0.3  # least time of a step, since a node needs time to start
RESIZE_S = 5.0  # default: a minute
SEEN = "PDETR3D_SEEN"  # environment variable with the folder of the records
MORE = [
    *STREAM,
    f"optim.epochs={STEPS * BATCH // SAMPLES}",
    "scaling.workers=[1,2]",
    "scaling.cpus_per_worker=0.6",
    "scaling.data_cpus=0.2",
]


def resized(chaos: Chaos) -> dict[str, Any]:
    """Measure, and return the row of the table."""
    from ray.cluster_utils import Cluster

    place = chaos.place("elastic")
    seen = place / "seen"
    seen.mkdir()
    os.environ |= {SEEN: str(seen), "PYTHONPATH": str(ROOT)}  # inherited by the nodes, whose workers write
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        node = cluster.add_node(num_cpus=1)
        environment = {"RAY_ADDRESS": cluster.address, SEEN: str(seen), "PYTHONPATH": str(ROOT)}
        words = (sys.executable, "-m", "tests.chaos.elastic")
        job = chaos.job(place, overrides=[*OVERRIDES, *MORE], environment=environment, words=words)
        job.wait_for(lambda: job.committed() > 0 and worlds(seen)[-1] == 2)
        cluster.remove_node(node, allow_graceful=False)
        fewer_s = until(job, seen, 1)
        committed = job.committed()
        cluster.add_node(num_cpus=1)
        more_s = until(job, seen, 2)
        if job.finish() != 0:
            raise RuntimeError(f"exit code {job.process.returncode}:\n{job.text()[-3000:]}")
    finally:
        chaos.clear()
        cluster.shutdown()
    wrong = irregular(seen)
    lost = max([0, *(a - b for a, b in returns(seen))])
    note = f"1 of 2 workers trains on {fewer_s:.0f} s after a node was killed, 2 again {more_s:.0f} s after one came; "
    note += f"workers {', '.join(map(str, changes(seen)))}; at step {committed} between; "
    note += (
        f"every sample once in each of {STEPS * BATCH // SAMPLES} epochs" if not wrong else f"irregular: {wrong[:3]}"
    )
    row = {"what": "elastic: a node goes, and comes back", "lost": None, "recovery_s": round(fewer_s, 1)}
    return {**row, "equal": None, "note": f"{note}; {lost} steps done again at most", "good": not wrong}


def until(job: Job, seen: Path, world: int) -> float:
    """Seconds until so many workers do a step."""
    began = time.time()
    job.wait_for(lambda: any(row["world"] == world and row["time"] > began for row in rows(seen)[-4:]))
    return time.time() - began


def rows(seen: Path) -> list[dict[str, Any]]:
    """The records in the order of time: step, rank, world (number of workers), tokens, time."""
    lines = [line for file in seen.glob("*.jsonl") for line in file.read_text().splitlines(keepends=True)]
    return sorted((json.loads(line) for line in lines if line.endswith("\n")), key=lambda row: row["time"])


def worlds(seen: Path) -> list[int]:
    """The number of workers over time; [0] before the first step."""
    return [row["world"] for row in rows(seen)] or [0]


def changes(seen: Path) -> list[int]:
    """``worlds`` without repetitions."""
    all_of_them = worlds(seen)
    return [world for place, world in enumerate(all_of_them) if not place or all_of_them[place - 1] != world]


def returns(seen: Path) -> Iterator[tuple[int, int]]:
    """(last step before, first step after) of rank 0 at each return to an older checkpoint."""
    steps = [row["step"] for row in rows(seen) if row["rank"] == 0]
    return ((a, b) for a, b in zip(steps, steps[1:], strict=False) if b <= a)


def irregular(seen: Path) -> list[str]:
    """Epochs in which a sample was not used exactly once; of a repeated step the last repetition counts."""
    last: dict[int, dict[int, dict[str, Any]]] = defaultdict(dict)  # step -> rank -> row
    for row in rows(seen):
        if last[row["step"]] and next(iter(last[row["step"]].values()))["world"] != row["world"]:
            last[row["step"]] = {}
        last[row["step"]][row["rank"]] = row
    found, known = [], sorted({token for row in rows(seen) for token in row["tokens"]})
    for first in range(0, STEPS, SAMPLES // BATCH):
        steps = range(first, first + SAMPLES // BATCH)
        tokens = sorted(token for step in steps for row in last[step].values() for token in row["tokens"])
        if tokens != known or len(known) != SAMPLES:
            found.append(f"steps {first}-{steps[-1]}: {len(tokens)} samples, {len(set(tokens))} different ones")
    return found


def _watched(loop: dict[str, Any]) -> Exception | None:
    """``fit._worker`` that also records the samples of each step and waits STEP_S."""
    from ray_jobs.plug import context, fit

    plain = context.RayContext.batches

    def batches(self: context.RayContext, start_step: int) -> Iterator[dict[str, Any]]:
        file = Path(os.environ[SEEN]) / f"{os.getpid()}.jsonl"
        for step, arrays in enumerate(plain(self, start_step), start_step):
            tokens = [token.decode() for token in arrays["token"].tolist()]
            row = {"step": step, "rank": self.rank, "world": self.world_size, "tokens": tokens, "time": time.time()}
            with file.open("a") as stream:
                stream.write(json.dumps(row) + "\n")
            time.sleep(STEP_S)
            yield arrays

    context.RayContext.batches = batches  # type: ignore[method-assign]
    return fit._worker(loop)


if __name__ == "__main__":
    from ray_jobs.commands import main
    from ray_jobs.plug import fit
    from tests.chaos import elastic

    fit.RESIZE_S = RESIZE_S
    fit._worker = elastic._watched  # only in the driver; workers import the original
    sys.exit(main(["train-student", *sys.argv[1:]]))
