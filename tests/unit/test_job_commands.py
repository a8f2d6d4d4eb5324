"""Tests of the jobs' commands: ``pdetr3d VERB`` and ``python -m ray_jobs.MODULE`` are equal and pass all options."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

import ray_jobs
from pdetr3d.inference.frames import Asked as Frames
from ray_jobs import commands
from ray_jobs.predict import Actors
from ray_jobs.start.launch import Asked
from tests.jobs import parse_search, run_module, run_verb

MODULES = {file.stem for file in Path(ray_jobs.__file__).parent.glob("[a-z]*.py")} - {"commands"}
VERBS = {module: module.replace("_", "-") for module in MODULES} | {"predict": "predict-blocks"}


@pytest.mark.parametrize(("module", "verb"), sorted(VERBS.items()))
def test_a_module_is_its_verb(module: str, verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    typed: list[list[str]] = []
    monkeypatch.setattr(commands, "main", lambda words: typed.append(words) or 7)
    assert run_module(f"ray_jobs.{module}", ["--preset", "quickstart", "a=b"]) == 7
    assert typed == [[verb, "--preset", "quickstart", "a=b"]]


@pytest.mark.parametrize("module", sorted(MODULES - {"predict", "search"}))
def test_a_verb_runs_its_module(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The words have options, with key=value words before and after them; PDETR3D_VERBOSE is set for --verbose."""
    seen: list[tuple[Any, Asked]] = []
    monkeypatch.setattr("ray_jobs.start.launch.run_job", lambda body, asked: seen.append((body(), asked)))
    monkeypatch.setenv("PDETR3D_VERBOSE", "0")
    assert run_verb([VERBS[module], "optim.lr=-1", "--preset", "headline", "--run-dir", "mine", "a=b"]) == 0
    monkeypatch.setenv("PDETR3D_VERBOSE", "1")
    assert run_verb([VERBS[module], "--config", "my.yaml", "--fresh"]) == 0
    body = importlib.import_module(f"ray_jobs.{module}").body
    assert seen == [
        (body, Asked("headline", None, ("optim.lr=-1", "a=b"), Path("mine"), False, False)),
        (body, Asked(None, Path("my.yaml"), (), None, True, True)),
    ]


@pytest.mark.parametrize(("words", "variable", "verbose"), [([], "0", False), ([], "1", True), (["-v"], "", True)])
def test_a_search_shows_all_output_like_other_jobs(
    words: list[str], variable: str, verbose: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PDETR3D_VERBOSE", variable)
    assert parse_search(["s", "--preset", "kitti", *words]).verbose == verbose


def test_what_is_asked_of_a_search() -> None:
    words = ["s", "--preset", "kitti", "--variant", "a", "--variant", "b c", "--pretrained", "there", "--out", "o"]
    asked = parse_search([*words, "--samples", "5", "--final-samples", "0", "--budget", "9", "--concurrent", "2"])
    assert (asked.variant, asked.pretrained, asked.out) == (("a", "b c"), Path("there"), Path("o"))
    assert (asked.samples, asked.final_samples, asked.budget, asked.concurrent) == (5, 0, 9, 2)
    assert (asked.trials, asked.run_dir, asked.seeds, asked.overrides) == (None, None, [], [])


def test_what_is_asked_of_predict_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that the shell makes of --lidar FOLDER/*.bin are all meant."""
    seen: list[Any] = []
    monkeypatch.setattr("ray_jobs.predict.run", lambda *given: seen.extend(given))
    words = "predict-blocks runs/m --lidar a.bin b.bin --out o --columns x,y,z --intensity-max 1 --min-score 0.25"
    assert run_verb([*words.split(), "--actors", "3", "--cpus", "0.5", "--gpu", "--block-samples", "9"]) == 0
    frames = Frames([Path("a.bin"), Path("b.bin")], "x,y,z", 1.0, None, None, None)
    assert seen == [Path("runs/m"), "ours", frames, Path("o"), 0.25, 9, Actors(3, 0.5, 1, True)]


@pytest.mark.parametrize(
    "words",
    [
        ["train-teacher", "--present", "quickstart"],
        ["train-teacher", "--preset", "quickstart", "optim.lr"],
        ["search", "--preset", "quickstart"],
        ["predict-blocks", "runs/m", "--out", "o", "--actors", "0"],
    ],
    ids=" ".join,
)
def test_a_mistyped_job_ends_with_2_and_one_message(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_verb(words) == 2
    said = capsys.readouterr()
    assert said.out == "" and "Traceback" not in said.err and said.err.lower().count("error") == 1
