"""Extracts the commands of docs/your-data.md for tests, and makes a simulated world that resembles a user's data.

Two of its three train scenes have boxes. The third has no annotations in the tables, but a CSV of clicks.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from pdetr3d.config import LabelConfig
from pdetr3d.data.index.index import Index
from pdetr3d.data.index.nuscenes import build_index
from pdetr3d.data.label_manifest import build_manifest
from pdetr3d.data.labels.manifest import LabelManifest
from tests.contract.test_docs import block_commands
from tests.jobs import run_module, run_verb
from tests.model_cases import TINY
from tests.people_cases import of_role, without_annotations, write_clicks

PAGE = Path(__file__).resolve().parents[1] / "docs" / "your-data.md"
NAMES = {"v1.0-trainval": "v1.0-sim", "/data/mine": "WORLD", "nuscenes-pillar": "quickstart"}
SIZE = [  # sizes of model, images and training
    *TINY,
    "data.num_sweeps=2",
    "data.image_size_px=[64,32]",
    "data.loader=torch",  # loading in the workers starts fewer processes
    "scaling.loader_processes=0",
    "teacher.point_crop=false",  # saves a stage of each teacher, which tests/clusters/test_pipeline.py tests
    "scaling.cpus_per_worker=0.5",
    *(f"{prefix}optim.{key}" for prefix in ("", "teacher.") for key in ("batch_size=2", "epochs=1", "checkpoints=1")),
]
SPLITS = ["data.version=v1.0-sim", "data.train_split=sim_train", "data.select_split=", "data.val_split=sim_val"]


def page_commands(world: Path) -> list[list[str]]:
    """The page's commands with the dataset ``world`` and the quickstart's models; they write the same files."""
    commands = []
    for words in block_commands(PAGE.read_text()):
        for name, mine in NAMES.items():
            words = [word.replace(name, mine.replace("WORLD", str(world))) for word in words]
        commands.append([word if word != "train" else "sim_train" for word in words])
    assert len(commands) == 9  # eight, and the one that names the box-labeled samples
    return commands


def follow(
    sim_world: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    job: Sequence[str] = (),
    unscored: Sequence[str] = (),
) -> dict[str, str]:
    """Run the commands in ``folder``, with ``job`` added to the pipeline's keys, and check their files.

    Args:
        unscored: further splits whose annotations are deleted.

    Returns:
        Second word of each command ("index", "label", ...; "-m" of the pipeline) -> its output.
    """
    index = Index.open(build_index(sim_world, "v1.0-sim", folder / "whole.arrow"))
    drawn = build_manifest(index, "sim_train", LabelConfig(ratio=0.6), folder / "drawn")  # two scenes of three
    bare = [token for split in unscored for token in index.tokens(split)]
    world = without_annotations(sim_world, folder / "world", [*of_role(drawn, "point"), *bare])
    monkeypatch.chdir(folder)
    printed: dict[str, str] = {}
    Path("boxed.txt").write_text("\n".join({index.value(t, "scene_name") for t in of_role(drawn, "box")}))
    for words in page_commands(world):
        if words[:2] == ["pdetr3d", "click"]:  # instead of people's work, a file of simulated clicks
            write_clicks(index, drawn, Path(words[words.index("--out") + 1]))
            continue
        if words[1] == "report-labels":
            words = [*words, "--worst", "2"]  # pictures take long
        code = run_module(words[2], [*words[3:], *SIZE, *SPLITS, *job]) if words[0] == "python" else run_verb(words[1:])
        said = capfd.readouterr()
        assert code == 0, f"{words}\n{said.out}\n{said.err}"
        printed.setdefault(words[1], said.out)
    assert list(printed) == ["index", "label", "-m", "doctor", "report-labels", "export", "predict"]
    manifest = LabelManifest.open(Path("labels"))
    assert manifest.roles == drawn.roles and manifest.facts["human_clicks"] > 0
    assert LabelManifest.open(Path("labels-of-boxed")).roles == drawn.roles  # the tables alone give the same roles
    report = json.loads(Path("runs/mine/report.json").read_text())
    assert report["pseudo_labels"]["n"] == 0 and report["pseudo_labels"]["clicks"] == manifest.facts["human_clicks"]
    assert report["holdout"]["teacher"]["n"] > 10 and report["holdout"]["samples"] == 2
    assert report["data"]["manifest"] == manifest.digest
    assert Path("runs/mine/pseudo_labels/report/index.html").stat().st_size > 1000
    assert len(json.loads(Path("boxes.json").read_text())["samples"]) == len(index) == 12
    return printed
