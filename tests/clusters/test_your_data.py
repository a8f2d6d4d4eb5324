"""docs/your-data.md: its eight commands as they are written, on a world whose un-boxed annotations were deleted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pdetr3d.config import LabelConfig
from pdetr3d.data.index import Index
from pdetr3d.data.label_manifest import build_manifest
from pdetr3d.data.manifest import LabelManifest
from pdetr3d.data.nuscenes import build_index
from tests.contract.test_docs import block_commands
from tests.jobs import run_module, run_verb
from tests.model_cases import TINY
from tests.people_cases import of_role, without_annotations, write_clicks

PAGE = Path(__file__).resolve().parents[2] / "docs" / "your-data.md"
NAMES = {"v1.0-trainval": "v1.0-sim", "/data/mine": "WORLD", "nuscenes-pillar": "quickstart"}
SIZE = [  # of model, images and training
    *TINY,
    "data.num_sweeps=2",
    "data.image_size_px=[64,32]",
    "data.loader=torch",  # loading in the workers starts fewer processes
    "scaling.loader_processes=0",
    "teacher.point_crop=false",  # a stage less for either teacher; tests/clusters/test_pipeline.py has it
    "scaling.cpus_per_worker=0.5",
    *(f"{prefix}optim.{key}" for prefix in ("", "teacher.") for key in ("batch_size=2", "epochs=1", "checkpoints=1")),
]
SPLITS = ["data.version=v1.0-sim", "data.train_split=sim_train", "data.select_split=", "data.val_split=sim_val"]


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_from_boxes_and_clicks_to_a_detector(
    sim_world: Path, tmp_path: Path, ray_local: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    index = Index.open(build_index(sim_world, "v1.0-sim", tmp_path / "whole.arrow"))
    drawn = build_manifest(index, "sim_train", LabelConfig(ratio=0.6), tmp_path / "drawn")  # two scenes of three
    world = without_annotations(sim_world, tmp_path / "world", of_role(drawn, "point"))
    monkeypatch.chdir(tmp_path)
    eight = block_commands(PAGE.read_text())
    assert len(eight) == 8
    for words in eight:
        for name, mine in NAMES.items():
            words = [word.replace(name, mine.replace("WORLD", str(world))) for word in words]
        words = [word if word != "train" else "sim_train" for word in words]
        if words[:2] == ["pdetr3d", "click"]:  # people's work: a file of the clicks that a simulation makes
            write_clicks(index, drawn, Path(words[-1]))
            continue
        code = run_module(words[2], [*words[3:], *SIZE, *SPLITS]) if words[0] == "python" else run_verb(words[1:])
        said = capfd.readouterr()
        assert code == 0, f"{words}\n{said.out}\n{said.err}"
        if words[1] == "doctor":
            assert "unknown" in said.out
    manifest = LabelManifest.open(Path("labels"))
    assert manifest.roles == drawn.roles and manifest.facts["human_clicks"] > 0
    report = json.loads(Path("runs/mine/report.json").read_text())
    assert set(report["arms"]) == {"boxes_only", "ours"}  # not all boxes are known
    assert report["pseudo_labels"]["n"] == 0 and report["pseudo_labels"]["clicks"] == manifest.facts["human_clicks"]
    assert report["holdout"]["teacher"]["n"] > 10 and report["holdout"]["samples"] == 2
    assert report["data"]["manifest"] == manifest.digest
    assert Path("runs/mine/pseudo_labels/report/index.html").stat().st_size > 1000
    assert json.loads(Path("boxes.json").read_text())
