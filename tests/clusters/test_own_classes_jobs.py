"""Runs a whole pipeline on seven own classes, and the verbs on its run directory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pdetr3d.data.label_manifest import LabelManifest
from pdetr3d.data.storage.files import read_parquet
from tests.jobs import run_module, run_verb
from tests.model_cases import TINY
from tests.own_cases import SMALL, Own

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]
FEW = [
    "data.loader=torch",  # loading in the workers starts fewer processes
    "scaling.loader_processes=0",
    "scaling.cpus_per_worker=0.5",
    *(f"{prefix}optim.{key}" for prefix in ("", "teacher.") for key in ("batch_size=2", "epochs=1", "checkpoints=1")),
]


def test_a_pipeline_on_seven_own_classes(
    own: Own, tmp_path: Path, ray_local: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """The test goes from people's clicks to scores, tables and the verbs on the run directory."""
    run, classes = tmp_path / "run", own.classes
    labels = ["label.source=manifest", f"label.manifest={own.folder / 'labels'}", f"data.classes={own.list_file}"]
    words = [*TINY, f"data.dataroot={own.folder / 'dataset'}", *SMALL, *labels, *FEW]
    arguments = ["--preset", "quickstart", "--run-dir", str(run), *words, "run.arms=[boxes_only,ours]"]
    code = run_module("ray_jobs.pipeline", arguments)
    said = capsys.readouterr()
    assert code == 0, said.out + said.err
    report = json.loads((run / "report.json").read_text())
    for arm in ("boxes_only", "ours"):
        assert list(report["arms"][arm]["per_class"]) == list(classes.names)
        assert sum(report["arms"][arm]["n_gt"].values()) > 10
    assert set(report["pseudo_labels"]["per_class"]) == set(classes.names)
    assert "huetchen AP" in said.out and "gross" in said.out
    made = read_parquet(run / "pseudo_labels" / "pseudo_labels.parquet")
    clicks = LabelManifest.open(run / "data" / "manifest").clicks
    assert set(made["class"].to_pylist()) <= set(clicks["class"].to_pylist()) <= set(classes.names)
    for words in (["doctor"], ["report-labels", "--worst", "1"]):
        assert run_verb([words[0], str(run), *words[1:]]) == 0, words
    arguments = ["predict", str(run), "--index", str(run / "data" / "index.arrow"), "--split", "frames_val"]
    assert run_verb([*arguments, "--out", str(tmp_path / "boxes.parquet")]) == 0
    assert set(read_parquet(tmp_path / "boxes.parquet")["class"].to_pylist()) <= set(classes.names)
