"""Tests of the ladder of GPU measurements: finished rungs stay, the time limit, and failed rungs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu_ladder
from benchmarks.gpu_ladder import RUNG_S, RUNGS, TESTS, climb, counts, headline, synthetic_batch
from tests.model_cases import tiny_config

ABOUT = {"device": "a", "commit": "1"}


def test_it_goes_on_where_time_ran_out(tmp_path: Path) -> None:
    out, ran, now = tmp_path / "out.json", [], [0.0]

    def run(name: str) -> dict[str, Any]:
        ran.append(name)
        now[0] += 100
        return {"error": "exit code 1: out of memory"} if name == "b" else {"passed": 3, "skipped": 1}

    def piece() -> bool:
        return climb(["a", "b", "c"], run, out, ABOUT, now[0] + RUNG_S + 150, lambda: now[0])

    assert not piece()  # started at 0 and at 100 s; at 200 s less than RUNG_S remains
    assert ran == ["a", "b"]
    assert json.loads(out.read_text())["rungs"]["b"] == {"error": "exit code 1: out of memory"}
    assert piece() and ran == ["a", "b", "c"]
    assert piece() and ran == ["a", "b", "c"]


def test_results_of_another_device_are_not_mixed(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    climb(["a"], lambda _: {"passed": 1, "skipped": 0}, out, ABOUT, RUNG_S, lambda: 0.0)
    with pytest.raises(ValueError, match=r"out.json was measured elsewhere: \['device'\] differ"):
        climb(["a"], lambda _: {}, out, ABOUT | {"device": "b"}, RUNG_S, lambda: 0.0)


def test_lines() -> None:
    assert counts("....\n12 passed, 3 skipped, 40 deselected in 9.81s\n") == {"passed": 12, "skipped": 3}
    assert counts("1 passed in 0.1s") == {"passed": 1, "skipped": 0}
    step = {"samples_per_s": 2.0, "share_of_matmul": 0.25, "peak_memory_bytes": 3 * 2**30}
    assert headline(step) == "2.00 samples/s, 3.0 GiB, 25.0% of a matrix product's FLOP/s"
    assert headline({"error": "x"}) == "failed: x"
    run = {"arms": {"ours": {"SPNDS": 0.25}, "full": {"SPNDS": 0.5}}, "teacher": {"bev_iou": 0.75}}
    assert headline(run) == "SPNDS ours 0.250, full 0.500; teacher's BEV IoU 0.750"


def test_every_full_size_model_is_a_rung() -> None:
    assert len({rung.name for rung in RUNGS}) == 12  # pillars and voxels, teacher and student, batches 1, 4, 8
    assert TESTS not in {rung.name for rung in RUNGS}


def test_a_synthetic_batch_is_of_the_presets_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_ladder, "SWEEP_POINTS", 100)
    config = tiny_config("data.num_sweeps=3", "data.image_size_px=[64,32]")
    batch = synthetic_batch(config, 2)
    assert batch.points.shape == (600, 5) and batch.images.shape == (2, 6, 32, 64, 3)
    reach = max(abs(bound) for bound in config.model.range_m[:2])
    assert batch.points[:, :2].abs().max() <= reach * 2**0.5  # the corner of make_batch's square, squared
    assert batch.box[..., :2].abs().max() <= reach and batch.box.shape[1] == gpu_ladder.OBJECTS
