"""``make real-smoke``: its train split is its val split; from the tables to scores and pictures, in few steps."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pdetr3d.data.files import read_parquet
from pdetr3d.data.index import Index
from pdetr3d.data.manifest import LabelManifest
from tests.jobs import run_module
from tests.model_cases import TINY

pytestmark = [pytest.mark.ray, pytest.mark.slow]
FEW_STEPS = ["teacher.crop_optim.epochs=2", "teacher.optim.epochs=2", "optim.epochs=2", "data.num_sweeps=2"]
FEW_STEPS += ["data.image_size_px=[80,45]"]


def test_real_smoke(
    sim_world: Path,
    tmp_path: Path,
    ray_local: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """On the real keyframe where this clone was given it; else on keyframes of a simulated world."""
    world = []
    if not os.environ.get("PDETR3D_REAL_DATA"):
        monkeypatch.setenv("PDETR3D_REAL_DATA", str(sim_world))
        world = ["data.version=v1.0-sim", "data.train_split=sim_val", "data.val_split=sim_val"]
    run = tmp_path / "run"
    arguments = ["--preset", "real-smoke", "--run-dir", str(run), *TINY, "scaling.cpus_per_worker=0.5"]
    code = run_module("ray_jobs.pipeline", [*arguments, *FEW_STEPS, *world])
    said = capsys.readouterr()
    assert code == 0, said.out + said.err

    report = json.loads((run / "report.json").read_text())
    index, clicks = Index.open(run / "data" / "index.arrow"), LabelManifest.open(run / "data" / "manifest").clicks
    split = report["config"]["data.val_split"]
    tokens = index.tokens(split)
    assert report["config"]["data.train_split"] == split and 1 <= len(tokens) <= 4
    labels = read_parquet(run / "pseudo_labels" / "pseudo_labels.parquet")
    assert sorted(labels["click_id"].to_pylist()) == sorted(clicks["click_id"].to_pylist())  # each click once
    assert report["pseudo_labels"]["n"] == len(labels) > 10
    (scored,) = (run / "evaluate_ours").glob(f"{split}_*/results_nusc.json")
    assert json.loads(scored.read_text())["results"].keys() == set(tokens)
    assert sum(entry["n_gt"] for entry in report["arms"]["ours"]["per_class"].values()) > 10
    for stage in ("teacher", "student_ours"):
        assert {f.parent.name for f in (run / stage / "images").glob("*/bev_cameras.png")} == set(tokens)
    assert (run / "predictions_ours.png").stat().st_size > 10_000
