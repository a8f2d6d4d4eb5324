"""Tests of a search's data for the report: rows by seed, baseline, importance, the command of every row."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pdetr3d.config import Config
from pdetr3d.finished.report.importance import importances
from pdetr3d.finished.report.reproduce import command
from pdetr3d.finished.report.search import Search, row_names, short_keys
from pdetr3d.presets import load
from pdetr3d.schema import DataError
from ray_jobs.searches.results import STATUS
from ray_jobs.searches.space import SearchSpace
from ray_jobs.searches.space_files import trial_config
from tests.report_cases import plant_trial, space_of, write_search

RATIOS = {"label.ratio": {"values": [0.02, 0.05, 0.1]}}


def opened(folder: Path, space: SearchSpace, overrides: tuple[str, ...] = (), **more: Any) -> Search:
    write_search(folder, space, overrides, **more)
    return Search.open(folder)


def plant_ratios(folder: Path, **more: Any) -> SearchSpace:
    """Ratios 0.02, 0.05 (the preset's), 0.1 with seeds 0 and 1; SPNDS 0.2, 0.3, 0.4 and 0.02 more for seed 1."""
    space = space_of(RATIOS, seeds=[0, 1], **more)
    for place, (ratio, seed) in enumerate([(r, s) for r in (0.02, 0.05, 0.1) for s in (0, 1)]):
        value = {0.02: 0.2, 0.05: 0.3, 0.1: 0.4}[ratio] + 0.02 * seed
        plant_trial(folder, space, f"t_{place:05d}", {"label.ratio": ratio, "seed": seed}, value)
    return space


def test_rows_hold_figures_by_seed_best_score_first(tmp_path: Path) -> None:
    search = opened(tmp_path, plant_ratios(tmp_path))
    assert [row.name for row in search.rows] == ["ratio=0.1", "ratio=0.05", "ratio=0.02"]
    assert search.figures(search.rows[1]) == pytest.approx({0: 0.3, 1: 0.32})
    assert search.rows[1].spread("student_ours", "by_distance", "10-20", "mAP").mean == pytest.approx(0.31 - 0.05)
    assert search.rows[1].score.mean == pytest.approx(0.33)  # select: 0.02 above
    assert search.rows[1].by_seed("student_ours", "by_distance", "0-10", "AOE") == {}
    assert search.stages == ["student_ours"]


def test_a_seed_drawn_twice_counts_once(tmp_path: Path) -> None:
    space = space_of(RATIOS, search="random", trials=3)
    for name, value in (("a", 0.2), ("b", 0.3)):
        plant_trial(tmp_path, space, name, {"label.ratio": 0.1}, value)
    row = opened(tmp_path, space).rows[0]
    assert row.by_seed("student_ours", "SPNDS") == {0: pytest.approx(0.25)} and row.score.n == 1


def test_only_finished_trials_have_figures(tmp_path: Path) -> None:
    space = space_of(RATIOS)
    plant_trial(tmp_path, space, "a", {"label.ratio": 0.1}, 0.3)
    plant_trial(tmp_path, space, "b", {"label.ratio": 0.05}, 0.9, status="stopped")
    search = opened(tmp_path, space)
    assert [len(search.figures(row)) for row in search.rows] == [1, 0]
    assert search.rows[1].score.mean == 0.1
    assert [row.name for row in search.lines(5)] == ["ratio=0.1"]


def test_a_trial_that_was_interrupted_after_its_last_file_is_unfinished(tmp_path: Path) -> None:
    """The report and ``collect`` both count it as unfinished."""
    space = space_of(RATIOS)
    plant_trial(tmp_path, space, "a", {"label.ratio": 0.1}, 0.3)
    (tmp_path / "trials" / "a" / STATUS).unlink()
    row = opened(tmp_path, space).rows[0]
    assert row.trials[0]["final"] is not None and row.by_seed("student_ours", "SPNDS") == {}


def test_the_baseline_has_the_configs_own_values(tmp_path: Path) -> None:
    space = plant_ratios(tmp_path)
    row, why = opened(tmp_path, space).baseline()
    assert row is not None and row.parameters == {"label.ratio": 0.05} and why == "the config's own values"


def test_the_baseline_follows_the_searches_settings(tmp_path: Path) -> None:
    """The config is the preset under the space's settings and the overrides."""
    space = space_of({"student.guidance": {"values": ["full", "none"]}}, settings=["student.guidance=none"])
    for name, value in (("a", "full"), ("b", "none")):
        plant_trial(tmp_path, space, name, {"student.guidance": value}, 0.3)
    row, _ = opened(tmp_path, space).baseline()
    assert row is not None and row.name == "guidance=none"


def test_without_the_configs_values_it_is_the_first_finished_trials(tmp_path: Path) -> None:
    space = space_of({"label.ratio": {"values": [0.05, 0.02, 0.1]}})
    plant_trial(tmp_path, space, "a", {"label.ratio": 0.05}, 0.0, status="failed", error="x")
    plant_trial(tmp_path, space, "b", {"label.ratio": 0.02}, 0.2)
    plant_trial(tmp_path, space, "c", {"label.ratio": 0.1}, 0.4)
    row, why = opened(tmp_path, space).baseline()
    assert row is not None and row.name == "ratio=0.02" and "first finished" in why


def test_the_baseline_may_be_named_and_a_wrong_name_lists_them(tmp_path: Path) -> None:
    space = space_of({"label.ratio": {"values": [0.1]}, "optim.lr": {"values": [0.01, 0.02]}})
    plant_trial(tmp_path, space, "a", {"label.ratio": 0.1, "optim.lr": 0.01}, 0.4)
    plant_trial(tmp_path, space, "b", {"label.ratio": 0.1, "optim.lr": 0.02}, 0.3)
    search = opened(tmp_path, space)
    row, _ = search.baseline("lr=0.02 ratio=0.1")
    assert row is search.rows[1]
    with pytest.raises(DataError, match="lr=0.03(.|\n)*  ratio=0.1 lr=0.01"):
        search.baseline("ratio=0.1 lr=0.03")


def test_no_finished_trial_is_no_baseline(tmp_path: Path) -> None:
    space = space_of(RATIOS)
    plant_trial(tmp_path, space, "a", {"label.ratio": 0.05}, 0.3, status=None)
    assert opened(tmp_path, space).baseline() == (None, "no trial is finished")


def test_lines_are_the_best_rows_and_the_baseline(tmp_path: Path) -> None:
    search = opened(tmp_path, plant_ratios(tmp_path))
    assert [row.name for row in search.lines(2, search.rows[2])] == ["ratio=0.1", "ratio=0.02"]
    assert [row.name for row in search.lines(2, search.rows[0], None)] == ["ratio=0.1", "ratio=0.05"]


def test_names_of_rows_differ() -> None:
    assert row_names([{"a.x": 0.123456, "b.y": [1, 2]}]) == ["x=0.1235 y=[1,2]"]
    assert row_names([{"a.x": 0.123456}, {"a.x": 0.123457}]) == ["x=0.123456", "x=0.123457"]
    assert row_names([{"a.x": True, "b.x": "none"}]) == ["a.x=true b.x=none"]
    assert short_keys(["optim.lr", "teacher.optim.lr"]) == {k: k for k in ("optim.lr", "teacher.optim.lr")}


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "no such file"), ("{", "cannot be read as JSON"), ("[]", "lacks space"), ('{"space": {}}', "lacks preset")],
)
def test_what_is_no_search_is_bad_input(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "search.json").write_text(text)
    with pytest.raises(DataError, match=message):
        Search.open(tmp_path)


# --- importance ---


def planted(folder: Path, kinds: dict[str, Any], count: int, figure: Any, **more: Any) -> Search:
    """``count`` trials at seeded random parameters."""
    space, draw = space_of(kinds, search="random", trials=count, **more), np.random.default_rng(0)
    for place in range(count):
        chosen = {
            key: kind["values"][int(draw.integers(len(kind["values"])))]
            if "values" in kind
            else float(draw.uniform(*kind["uniform"]))
            for key, kind in kinds.items()
        }
        plant_trial(folder, space, f"t{place:03d}", chosen, figure(chosen))
    return opened(folder, space)


def test_the_parameter_that_decides_is_important(tmp_path: Path) -> None:
    kinds = {"optim.lr": {"uniform": [0.001, 0.01]}, "student.guidance": {"values": ["full", "none", "partial"]}}
    by_word = planted(tmp_path / "word", kinds, 30, lambda c: 0.2 + 0.1 * (c["student.guidance"] == "none"))
    shares, reason = importances(by_word)
    assert reason == "" and list(shares) == ["student.guidance", "optim.lr"] and shares["student.guidance"] > 0.9
    assert sum(shares.values()) == pytest.approx(1)
    by_rate = planted(tmp_path / "rate", kinds, 30, lambda c: 20 * c["optim.lr"])
    assert importances(by_rate)[0]["optim.lr"] > 0.9


def test_lists_and_errors_have_importance_too(tmp_path: Path) -> None:
    kinds = {
        "model.backbone_channels": {"values": [[32, 64, 96], [16, 32, 48]]},
        "optim.clip_norm": {"uniform": [1.0, 9.0]},
    }
    search = planted(tmp_path, kinds, 12, lambda c: c["model.backbone_channels"][0] / 100, metric="SPNDS")
    assert next(iter(importances(search)[0])) == "model.backbone_channels"


@pytest.mark.parametrize(
    ("kinds", "count", "message"),
    [
        (RATIOS, 6, "varies label.ratio alone"),
        ({**RATIOS, "optim.lr": {"uniform": [0.001, 0.01]}}, 3, "at least 4 finished trials; there are 3"),
        ({**RATIOS, "optim.lr": {"uniform": [0.001, 0.01]}}, 4, "All 4 finished trials have the same SPNDS"),
    ],
)
def test_where_there_is_no_importance_it_says_why(tmp_path: Path, kinds: Any, count: int, message: str) -> None:
    shares, reason = importances(planted(tmp_path, kinds, count, lambda c: 0.3))
    assert shares == {} and message in reason


# --- the command of a row ---


def configs(line: str) -> list[tuple[str, str, Config]]:
    """The (job, run directory, config) of every job in a row's shell lines, with the loop over seeds unrolled."""
    seeds = [""]
    if line.startswith("for seed in "):
        head, _, rest = line.partition("; do ")
        seeds, line = head.removeprefix("for seed in ").split(), rest.removesuffix("; done")
    found = []
    for seed in seeds:
        for part in line.replace("$seed", seed).split(" && "):
            words = shlex.split(part)
            assert words[:2] == ["python", "-m"] and words[3] == "--preset" and words[5] == "--run-dir"
            found.append((words[2], words[6], load(words[4], words[7:])))
    return found


GRID = {"optim.lr": {"values": [1e-05, 0.01]}, "model.backbone_channels": {"values": [[16, 32, 48]]}}


@pytest.mark.parametrize(
    ("trains", "metric", "jobs"),
    [
        ("teacher", "yaw_error_rad", ["ray_jobs.train_teacher"]),
        (["ours", "boxes_only"], "SPNDS", ["ray_jobs.pipeline"]),
        (["boxes_only"], "SPNDS", ["ray_jobs.train_student", "ray_jobs.evaluate"]),
        (["self_training", "full"], "mAP", ["ray_jobs.train_student", "ray_jobs.evaluate"]),
    ],
)
def test_a_rows_command_has_its_trials_configs(tmp_path: Path, trains: Any, metric: str, jobs: list[str]) -> None:
    settings = ["student.guidance=none", "optim.lr_multipliers=[[a b, 0.5]]"]
    space = space_of(GRID, trains=trains, metric=metric, seeds=[3, 5], settings=settings)
    overrides = ("student.guidance=full", "data.dataroot=/data/a b")
    for place, chosen in enumerate(space.combinations()):
        plant_trial(tmp_path, space, f"t{place}", chosen, 0.1)
    search = opened(tmp_path, space, overrides)
    folders = set()
    for row in search.rows:
        made = configs(command(search, row))
        expected = [trial_config(space, "quickstart", list(overrides), t["parameters"]) for t in row.trials]
        assert [job for job, _, _ in made] == jobs * 2
        assert [config for _, _, config in made] == [config for config in expected for _ in jobs]
        assert {config.run.seed for _, _, config in made} == {3, 5}
        assert all(folder.endswith(f"/seed{config.label.seed}") for _, folder, config in made)
        folders |= {folder for _, folder, _ in made}
    assert len(folders) == 4, "rows share a run directory"


def test_one_seed_needs_no_loop(tmp_path: Path) -> None:
    space = space_of(RATIOS)
    plant_trial(tmp_path, space, "a", {"label.ratio": 0.02, "seed": 7}, 0.1)
    search = opened(tmp_path, space)
    assert command(search, search.rows[0]) == (
        "python -m ray_jobs.pipeline --preset quickstart --run-dir runs/planted-row1/seed7 label.ratio=0.02 "
        "'run.arms=[\"ours\"]' run.seed=7 label.seed=7"
    )


def test_documents_are_json(tmp_path: Path) -> None:
    """The documents that tests plant have the same keys as those that a search writes."""
    document = write_search(tmp_path, plant_ratios(tmp_path))
    assert json.loads((tmp_path / "search.json").read_text()) == json.loads(json.dumps(document))
