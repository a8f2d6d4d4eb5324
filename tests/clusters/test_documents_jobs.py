"""Runs README's jobs on the quickstart preset at toy size, as they are written there.

All run in one Ray and one folder, whose name contains characters that a URI must quote. The jobs of single stages come
first; then ``make quickstart`` on the same run directory finds their stages finished and adds its report.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.e2e.test_commands import ROOT, in_blocks
from tests.jobs import run_module, run_verb
from tests.model_cases import TINY

SMALL = [
    *TINY,
    "data.num_sweeps=2",
    "data.image_size_px=[64,32]",
    "data.loader=torch",  # loading in the workers starts fewer processes
    "scaling.loader_processes=0",
    "scaling.cpus_per_worker=0.5",
    "teacher.point_crop=false",  # saves a stage, which tests/clusters/test_pipeline.py tests
    "run.arms=[ours]",
    *(f"{prefix}optim.{key}" for prefix in ("", "teacher.") for key in ("batch_size=2", "epochs=1", "checkpoints=1")),
]
# Beginning of a job, in the order of running -> its run directory, and the stages that it finishes there.
JOBS = {
    "python -m ray_jobs.train_teacher": ("quickstart", {"teacher", "evaluate_teacher"}),
    "python -m ray_jobs.pseudo_label": ("quickstart", {"pseudo_labels"}),
    "python -m ray_jobs.train_student": ("quickstart", {"student_ours"}),
    "python -m ray_jobs.evaluate": ("quickstart", {"evaluate_ours"}),
    "make quickstart": ("quickstart", set()),
    "python -m ray_jobs.pipeline --preset quickstart": (
        "ten-percent",
        {"teacher", "pseudo_labels", "student_ours", "evaluate_ours"},
    ),
}


def command(start: str) -> list[str]:
    """The words of the only command in the documents with this beginning; for a make target, those of its recipe."""
    (line,) = [line for line in in_blocks() if line.startswith(start)]
    if line.startswith("make "):
        # Without the ARGS of the make that runs these tests.
        clean = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "ARGS")}
        told = subprocess.run(
            ["make", "-n", line.split()[1]], cwd=ROOT, env=clean, capture_output=True, text=True, check=True
        )
        (recipe,) = [text for text in told.stdout.splitlines() if " -m ray_jobs." in text]
        line = "python " + recipe.split(maxsplit=1)[1]
    return shlex.split(line)


def finished(run_dir: Path) -> set[str]:
    """Names of the finished stages of a run directory."""
    return {file.parent.name for file in run_dir.glob("*/done.json")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which all jobs are run."""
    folder = tmp_path_factory.mktemp("jobs") / "run ä [1] #2 ?3 100%25 +"
    folder.mkdir()
    return folder


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("start", JOBS)
def test_a_job_of_the_readme(
    start: str,
    folder: Path,
    sim_world: Path,
    ray_local: None,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    (name, stages), words = JOBS[start], command(start)
    run_dir, given = folder / "runs" / name, {word.split("=")[0] for word in words if "=" in word}
    small = [item for item in [*SMALL, f"data.dataroot={sim_world}"] if item.split("=")[0] not in given]
    before = finished(run_dir)
    code = run_module(words[2], [*words[3:], *small])
    said = capfd.readouterr()
    assert code == 0, said.out + said.err
    assert finished(run_dir) - before == stages
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]  # no job writes outside its folder


def test_their_reports_are_compared(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    for name, ratio in (("quickstart", 0.05), ("ten-percent", 0.1)):
        report = json.loads((folder / "runs" / name / "report.json").read_text())
        assert report["arms"].keys() == {"ours"} and report["pseudo_labels"]["n"] > 0
        assert report["config"]["label.ratio"] == ratio
    assert run_verb(command("pdetr3d compare")[1:]) == 0
    assert "label.ratio" in capfd.readouterr().out and (folder / "comparison.html").stat().st_size > 1000
