"""Tests of the reader of run directories: config, stages, checkpoints, scores, teacher quality, bad files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pdetr3d.data.storage.files import write_json
from pdetr3d.run_files import RunFiles, is_run
from pdetr3d.schema import DataError


def plant(folder: Path, **files: Any) -> RunFiles:
    """Name of a stage -> its result; run_json, report_json."""
    for name, value in files.items():
        own = {"run_json": "run.json", "report_json": "report.json"}
        file = folder / (own[name] if name in own else f"{name}/done.json")
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, value)
    return RunFiles(folder)


def test_a_run_says_what_it_is_and_has(tmp_path: Path) -> None:
    run = plant(
        tmp_path,
        run_json={"preset": "quickstart", "code": "1", "fresh": "abc"},
        student_ours={"checkpoints": ["step_1.pt", "step_2.pt"]},
        student_full={"checkpoints": ["step_3.pt"]},
        evaluate_ours={"SPNDS": 0.3, "checkpoint": "step_1.pt"},
        report_json={"arms": {"ours": {"SPNDS": 0.9}, "full": {"SPNDS": 0.4}}},
    )
    assert run.identity == {"preset": "quickstart", "code": "1"}
    assert run.finished == ["evaluate_ours", "student_full", "student_ours"]
    assert (run.trained, run.scored) == (["full", "ours"], ["ours"])
    assert run.checkpoints("student_ours") == [tmp_path / "student_ours" / f"step_{n}.pt" for n in (1, 2)]
    assert run.checkpoints("teacher") == [] and run.stage("teacher") == {}
    # The evaluation's result takes precedence over the report, which may be older.
    assert [run.scores(arm).get("SPNDS") for arm in ("ours", "full", "mean_teacher")] == [0.3, 0.4, None]


def test_a_trials_teacher_is_scored_in_its_figures(tmp_path: Path) -> None:
    run = plant(tmp_path, trial={"final": {"teacher": {"n": 4, "bev_iou": 0.5}}})
    assert run.scores("teacher")["bev_iou"] == 0.5 and run.teacher_stage == "trial"
    assert run.teacher("trial") == {"n": 4, "bev_iou": 0.5} and run.teacher("evaluate_teacher") == {}


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        ({}, ""),
        ({"evaluate_teacher": {"n": 3}}, "evaluate_teacher"),
        ({"pseudo_labels": {"teacher": {"n": 2}}, "holdout": {"teacher": {"n": 3}}}, "pseudo_labels"),
        ({"pseudo_labels": {"teacher": {"n": 0}}, "holdout": {"teacher": {"n": 3}}}, "holdout"),  # no true box is known
        ({"pseudo_labels": {"teacher": {"n": 0}}, "trial": {"final": None}}, "pseudo_labels"),
    ],
)
def test_what_tells_most_of_the_teacher(stages: dict[str, Any], expected: str, tmp_path: Path) -> None:
    assert plant(tmp_path, **stages).teacher_stage == expected


def test_what_is_no_run_is_refused_with_those_in_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"not a run directory \(run.json is missing\); name a job's --run-dir"):
        RunFiles.open(tmp_path)
    with pytest.raises(DataError, match="nowhere: no such folder"):
        RunFiles.open(tmp_path / "nowhere")
    plant(tmp_path / "trials" / "t0", run_json={"preset": "quickstart"})
    assert is_run(tmp_path / "trials" / "t0") and not is_run(tmp_path)
    with pytest.raises(DataError, match="it holds the runs trials/t0: name one of them"):
        RunFiles.open(tmp_path)
    assert RunFiles.open(tmp_path / "trials" / "t0").identity == {"preset": "quickstart"}


@pytest.mark.parametrize(
    ("text", "message"), [("{", "cannot be read as JSON"), ("[]", "holds list, not a JSON object")]
)
def test_a_broken_file_is_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher" / "done.json").write_text(text)
    with pytest.raises(DataError, match=f"teacher/done.json: {message}"):
        RunFiles(tmp_path).stage("teacher")
