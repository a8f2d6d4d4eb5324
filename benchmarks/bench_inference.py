"""Measures the latency of a full-size pillar student on the real keyframe: eager, exported, and mmdetection3d's.

Decoding and NMS are included. All calculate on two threads with one sample at a time, and take turns, so that a slow
moment of the machine hits all. It needs PDETR3D_REAL_DATA. Without PDETR3D_PEER (``tools/peer.sh``) mmdetection3d is
left out. ``bench_peer`` describes the models.
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from rich.table import Table

from benchmarks.bench_peer import asked, parameters, process

ROUNDS = int(os.environ.get("PDETR3D_BENCH_ROUNDS", "50"))  # after two that are not counted
OURS = "benchmarks.bench_peer"


@pytest.mark.timeout(1800)
def test_print_latency(tmp_path: Path) -> None:
    """Print the table."""
    if not os.environ.get("PDETR3D_REAL_DATA"):
        pytest.skip("PDETR3D_REAL_DATA is not set: name a nuScenes v1.0-mini folder to run this benchmark")
    peer = os.environ.get("PDETR3D_PEER")
    with ExitStack() as stack:
        running = {
            amp: stack.enter_context(process(sys.executable, "-m", OURS, amp, f"{tmp_path}/{amp}.npz"))
            for amp in ("fp32", "bf16")
        }
        for each in running.values():
            parameters(each)  # waits until it is ready
        ways = [("eager, fp32", running["fp32"], "infer"), ("eager, bf16", running["bf16"], "infer")]
        ways.append(("TorchScript, fp32", running["fp32"], "exported"))
        if peer:
            theirs = stack.enter_context(process(peer, "-m", "benchmarks.peer_model", f"{tmp_path}/fp32.npz"))
            parameters(theirs)
            ways.append(("mmdetection3d, fp32", theirs, "infer"))
        seconds = np.array([[asked(one, act) for _, one, act in ways] for _ in range(ROUNDS + 2)])[2:]
    table = Table("way", "p50, ms", "p99, ms", "samples/s", title="one keyframe")
    for (name, *_), own in zip(ways, seconds.T, strict=True):
        half, most = 1000 * np.percentile(own, (50, 99))
        table.add_row(name, f"{half:.0f}", f"{most:.0f}", f"{1 / own.mean():.2f}")
    Console(width=100).print(table)
    assert (seconds > 0).all()
