"""Tests of ``python -m ray_jobs.predict``: a job that was killed between blocks continues and repeats no block."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pdetr3d.cli import main
from tests.deploy_cases import trained_run
from tests.jobs import run_module

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_a_killed_job_predicts_each_sample_once(ray_local: None, tmp_path: Path) -> None:
    """A kill leaves finished blocks and a half-written one; the boxes at the end equal those of ``pdetr3d predict``."""
    lidar, rng = tmp_path / "lidar", np.random.default_rng(0)
    lidar.mkdir()
    for number in range(7):
        rng.uniform([-12, -12, -2, 0], [12, 12, 1, 255], (300, 4)).astype(np.float32).tofile(lidar / f"{number}.bin")
    trained_run(tmp_path / "run", "student.score_threshold=0.12")
    asked = [str(tmp_path / "run"), "--lidar", str(lidar), "--columns", "x,y,z,intensity"]
    out = tmp_path / "out"
    job = [*asked, "--out", str(out), "--block-samples", "2", "--cpus", "0.5"]
    assert run_module("ray_jobs.predict", job) == 0
    files = sorted(out.glob("block-*.parquet"))
    assert len(files) == 4
    whole = pd.read_parquet(out)
    for file in files[1:3]:
        file.rename(out / f".{file.name}.1.tmp")
    (out / "_summary.json").unlink()
    before = {file: file.stat().st_mtime_ns for file in (files[0], files[3])}
    assert run_module("ray_jobs.predict", job) == 0
    assert {file: file.stat().st_mtime_ns for file in before} == before and sorted(out.glob("block-*.parquet")) == files
    assert not list(out.glob(".*.tmp"))
    pd.testing.assert_frame_equal(pd.read_parquet(out), whole)
    assert main(["predict", *asked, "--out", str(tmp_path / "one.parquet")]) == 0
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "one.parquet"), whole, rtol=0, atol=1e-4)
    assert whole["sample"].nunique() == 7
