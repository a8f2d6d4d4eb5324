"""Kills the driver of ``python -m ray_jobs.predict``: the same command predicts the rest, and nothing twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pyarrow.parquet as pq
import pytest

from pdetr3d.inference.blocks import SAMPLES
from tests.deploy_cases import trained_run

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]
ROOT = Path(__file__).resolve().parents[2]
FILES, BLOCK = 160, 4


def _job(folder: Path, out: Path, log: Path) -> subprocess.Popen[bytes]:
    words = [str(folder / "run"), "--lidar", str(folder / "lidar"), "--columns", "x,y,z,intensity", "--out", str(out)]
    command = [sys.executable, "-m", "ray_jobs.predict", *words, "--block-samples", str(BLOCK), "--cpus", "0.5"]
    with log.open("wb") as stream:
        return subprocess.Popen(
            command, cwd=ROOT, stdout=stream, stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )


def _blocks(out: Path) -> dict[str, tuple[int, int]]:
    """Name -> (inode, time of change) of each finished block."""
    return {file.name: (file.stat().st_ino, file.stat().st_mtime_ns) for file in sorted(out.glob("block-*.parquet"))}


def test_a_killed_driver_and_the_same_command_again(tmp_path: Path) -> None:
    rng, lidar = np.random.default_rng(0), tmp_path / "lidar"
    lidar.mkdir()
    for number in range(FILES):
        points = rng.uniform([-12, -12, -2, 0], [12, 12, 1, 255], (300, 4)).astype(np.float32)
        points.tofile(lidar / f"{number:03d}.bin")
    trained_run(tmp_path / "run", "student.score_threshold=0.12")
    out = tmp_path / "out"
    job = _job(tmp_path, out, tmp_path / "first.log")
    while len(_blocks(out)) < 10:
        assert job.poll() is None, (tmp_path / "first.log").read_text()
        time.sleep(0.01)
    started = psutil.Process(job.pid).children(recursive=True)
    job.kill()
    job.wait()
    for process in psutil.wait_procs(started, timeout=30)[1]:  # Ray's agents notice it late
        process.kill()
    before = _blocks(out)
    assert 10 <= len(before) < FILES // BLOCK, "it was not killed in the middle"
    again = _job(tmp_path, out, tmp_path / "second.log")
    assert again.wait(240) == 0, (tmp_path / "second.log").read_text()
    said = (tmp_path / "second.log").read_text()
    assert f"{len(before)} of {FILES // BLOCK} blocks are there already" in said
    assert f"predicted {FILES - BLOCK * len(before)} of {FILES - BLOCK * len(before)} samples" in said
    assert {name: _blocks(out)[name] for name in before} == before
    named = [json.loads(pq.read_schema(file).metadata[SAMPLES]) for file in sorted(out.glob("block-*.parquet"))]
    assert sum(named, []) == [f"{number:03d}.bin" for number in range(FILES)]
    undisturbed = tmp_path / "undisturbed"
    assert _job(tmp_path, undisturbed, tmp_path / "third.log").wait(240) == 0
    pd.testing.assert_frame_equal(pd.read_parquet(out), pd.read_parquet(undisturbed))
    assert len(pd.read_parquet(out)) > FILES
