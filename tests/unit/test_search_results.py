"""Tests of a search's figures, on trial folders with the files that trials write."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from pdetr3d.data.storage.files import write_json
from pdetr3d.presets import load
from pdetr3d.tracking.client import connect
from pdetr3d.tracking.runs import Tracker
from ray_jobs.search import log_label_efficiency
from ray_jobs.searches.results import collect, label_efficiency, print_search, read_trial, trial_names
from ray_jobs.searches.space import Domain, SearchSpace

SPACE = SearchSpace(
    name="s",
    question="?",
    trains=("ours", "boxes_only"),
    metric="SPNDS",
    seeds=(0, 1),
    space={"label.ratio": Domain(values=(0.1, 0.2))},
)

BASE = load("quickstart")


def trial(folder: Path, name: str, ratio: float, seed: int, score: float | None, status: str | None) -> None:
    """A trial of 40 steps with two kept checkpoints, the second of which scored ``score``."""
    place = folder / "trials" / name
    rows = [{"step": s, "progress": 2.5 * s, "samples": 2 * s, "SPNDS": v} for s, v in ((20, 0.1), (40, score))]
    write_json(
        place / "trial.json",
        {"parameters": {"label.ratio": ratio, "seed": seed}, "steps": 40, "curve": rows if score is not None else []},
    )
    if status is not None:
        write_json(place / "status.json", {"status": status, "error": "broke" if status == "failed" else None})
    if status == "finished":
        final = {"mAP": score, "NDS": score / 2, "SPNDS": score, "car": 1.0}  # type: ignore[operator]
        write_json(
            place / "trial" / "done.json",
            {
                "final": {"student_ours": final, "student_boxes_only": {**final, "SPNDS": score / 4}},  # type: ignore[operator]
                "data": {"box_keyframes": round(100 * ratio) + seed},
                "timing_s": {},
            },
        )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    trial(tmp_path, "b", 0.1, 0, 0.2, "finished")
    trial(tmp_path, "a", 0.1, 1, 0.4, "finished")
    trial(tmp_path, "c", 0.2, 0, 0.5, "finished")
    trial(tmp_path, "d", 0.2, 1, 0.9, "failed")
    trial(tmp_path, "e", 0.3, 0, 0.95, "stopped")
    trial(tmp_path, "f", 0.4, 0, None, None)
    write_json(tmp_path / "shared" / "labels-1" / "run.json", {})
    return tmp_path


def test_trials(folder: Path) -> None:
    assert trial_names(folder) == ["a", "b", "c", "d", "e", "f"]
    ended = read_trial(folder, "d", SPACE)
    assert (ended["status"], ended["error"], ended["score"], ended["samples"]) == ("failed", "broke", 0.9, 80)
    fresh = read_trial(folder, "f", SPACE)
    assert (fresh["status"], fresh["score"], fresh["progress"], fresh["final"]) == ("unfinished", None, 0.0, None)
    assert fresh["run_dir"] == "trials/f"


def test_groups_are_mean_and_deviation_over_the_finished_seeds(folder: Path) -> None:
    document = collect(folder, SPACE, BASE)
    best, second = document["groups"][:2]
    # 0.2 was finished with one seed alone; the other failed, and its score does not count.
    assert best["parameters"] == {"label.ratio": 0.2} and best["score"] == {"mean": 0.5, "std": None, "n": 1}
    assert (best["finished"], best["trials"]) == (1, ["c", "d"])
    assert second["parameters"] == {"label.ratio": 0.1} and second["score"]["mean"] == pytest.approx(0.3)
    assert second["score"]["std"] == pytest.approx(math.sqrt(0.02))  # of 0.2 and 0.4: 0.1 each from 0.3, n - 1
    assert second["final"]["student_boxes_only"]["NDS"]["mean"] == pytest.approx(0.15)
    assert set(second["final"]["student_ours"]) == {"mAP", "NDS", "SPNDS"}
    # Unfinished ones come last, however good they look.
    assert [group["parameters"]["label.ratio"] for group in document["groups"]] == [0.2, 0.1, 0.3, 0.4]
    assert document["shared"] == ["shared/labels-1"] and document["judged"] == "student_ours"


def test_what_boxes_buy_is_a_curve_of_the_searches_run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """At ratio 0.1 seeds with 10 and 11 boxed keyframes scored 0.2 and 0.4; at 0.2 one seed finished, with 20."""
    with Tracker.start(tmp_path_factory.mktemp("store"), "e", "search", {}, {}) as parent:
        log_label_efficiency(parent, collect(folder, SPACE, BASE))
    client = connect(parent.uri)

    def curve(key: str) -> list[tuple[int, float]]:
        return sorted((p.step, p.value) for p in client.get_metric_history(parent.run_id, key))

    assert curve("label_efficiency/student_ours/SPNDS") == [(10, pytest.approx(0.3)), (20, 0.5)]
    assert curve("label_efficiency/student_boxes_only/SPNDS") == [(10, pytest.approx(0.075)), (20, 0.125)]


def test_what_boxes_buy_is_told_apart_by_whatever_else_varies(tmp_path: Path) -> None:
    for name, chosen in (("a", {"label.ratio": 0.1, "optim.lr": 0.5}), ("b", {"optim.lr": 0.5})):
        trial(tmp_path, name, 0.1, 0, 0.4, "finished")
        file = tmp_path / "trials" / name / "trial.json"
        write_json(file, json.loads(file.read_text()) | {"parameters": {**chosen, "seed": 0}})
    assert label_efficiency(collect(tmp_path, SPACE, BASE)) == [
        (10, {"student_ours": {"SPNDS optim.lr=0.5": 0.4}, "student_boxes_only": {"SPNDS optim.lr=0.5": 0.1}})
    ]


def test_less_is_better_where_the_metric_says_so(folder: Path) -> None:
    errors = SPACE.model_copy(update={"metric": "mATE"})
    rows: dict[str, Any] = {"parameters": {"label.ratio": 0.5, "seed": 0}, "steps": 1}
    for name, value in (("x", 0.7), ("y", 0.3)):
        place = folder / "less" / "trials" / name
        row = {"step": 1, "progress": 100.0, "samples": 2, "mATE": value}
        write_json(place / "trial.json", rows | {"parameters": {"label.ratio": value, "seed": 0}, "curve": [row]})
    assert [g["parameters"]["label.ratio"] for g in collect(folder / "less", errors, BASE)["groups"]] == [0.3, 0.7]


def test_the_table_names_scores_and_failures(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_search(collect(folder, SPACE, BASE))
    text = capsys.readouterr().out
    assert "0.300 ± 0.141" in text and "1/2" in text and "d failed: broke" in text
    assert "1 failed, 3 finished, 1 stopped, 1 unfinished" in text


def test_an_empty_search_has_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_search(collect(tmp_path, SPACE, BASE))
    assert "SPNDS (select)" in capsys.readouterr().out
