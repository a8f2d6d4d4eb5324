"""Tests of the evaluation of a trial's teacher: its samples, curve from step 0, floors, and corrupted input."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pdetr3d.config import Config
from pdetr3d.pseudo_labels import FLOORS
from pdetr3d.schema import FALLBACK_SIZE_M, DataError
from pdetr3d.training import checkpoint
from pdetr3d.training.build import build
from ray_jobs.searches import evaluations
from ray_jobs.searches.evaluations import check_known, measured_teacher, on_corrupted_input, untrained
from ray_jobs.searches.space import SearchSpace
from tests.model_cases import tiny_config

STORE: Any = None
FILES = [Path("step_0000006.pt"), Path("step_0000294.pt")]


class Known:
    """Stand-in for the clicks of records: the quality is the value from ``predict``, with the number of clicks."""

    def __init__(self, records: Any) -> None:
        self.records = records

    def __bool__(self) -> bool:
        return bool(self.records)

    def quality(self, boxes: Any) -> dict[str, Any]:
        return {"bev_iou": boxes, "of": [record.sample_token for record in self.records]}


class Teacher:
    """Stand-in for the stages of one teacher in a real run directory: four samples, the first without clicks."""

    def __init__(self, folder: Path, config: Config) -> None:
        self.path, self.config, self.prior = folder, config, FALLBACK_SIZE_M
        clicks = {"a": [], "b": [1], "c": [1], "d": [1]}
        self.records = [SimpleNamespace(role="point", clicks=c, sample_token=n) for n, c in clicks.items()]
        self.runner: Any = None
        self.known_records, self.known_clicks, self.told = self.records, Known, list[Any]()

    def checkpoints(self, stage: str) -> list[Path]:
        return FILES

    def tracker(self) -> Any:
        logged = SimpleNamespace(log_metrics=self.told.append, history={"step_s": [1.0, 3.0, 2.0]}.get)
        return nullcontext(SimpleNamespace(log_metrics=logged.log_metrics, history=lambda key: logged.history(key, [])))


@pytest.fixture
def stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The quality of a checkpoint's boxes is its step; corrupted input reduces it by the blur."""

    def predict(kind: str, config: Config, prior: Any, files: list[Path], records: list[Any]) -> list[float]:
        return [int(file.stem.split("_")[1]) - config.corruption.blur_px for file in files]

    monkeypatch.setattr(evaluations, "execute", lambda goals, run, **_: run.told.append(goals))
    monkeypatch.setattr(evaluations, "tracker_of", Teacher.tracker)
    monkeypatch.setattr(evaluations, "KnownClicks", lambda records, classes: Known(records))
    monkeypatch.setattr(evaluations, "floors", lambda known, *_: dict.fromkeys(FLOORS, known.quality(0.5)))
    monkeypatch.setattr(evaluations, "score_metrics", lambda prefix, scores: {prefix: scores["bev_iou"]})
    stand_in = Teacher(tmp_path, tiny_config("run.seed=3"))
    stand_in.runner = SimpleNamespace(predict=predict)
    return stand_in


def space_of(**more: Any) -> SearchSpace:
    base = {"name": "s", "question": "?", "trains": "teacher", "metric": "bev_iou", "variants": {"plain": []}}
    return SearchSpace(**base | more)


CORRUPTION = {"corruption.blur_px": (0, 2.5)}


def test_at_the_clicks_of_point_labeled_samples(stages: Any) -> None:
    """Curve and corrupted input use the first sample with clicks; final figures and floors use the first two."""
    asked = {"start": True, "floors": True, "corruption": CORRUPTION}
    space = space_of(measured_on="point_labeled", samples=1, final_samples=2, evaluations=asked)
    curve: list[Any] = []
    made = measured_teacher(stages, space, lambda *row: curve.append(row), STORE)
    assert curve == [("teacher", step, {"bev_iou": step, "of": ["b"]}) for step in (0, 6, 294)]
    assert made["final"]["teacher"] == {"bev_iou": 294, "of": ["b", "c"]}
    assert made["final"]["class_mean"] == made["final"]["class_mean_pca"] == {"bev_iou": 0.5, "of": ["b", "c"]}
    assert made["corruption"]["corruption.blur_px"] == {
        "0": {"bev_iou": 294, "of": ["b"]},
        "2.5": {"bev_iou": 291.5, "of": ["b"]},
    }
    assert made["costs"]["step_s"] == 2.0 and made["costs"]["peak_memory_bytes"] is None
    parameters = build("teacher", stages.config, FALLBACK_SIZE_M).model.parameters()
    assert made["costs"]["parameters"] == sum(p.numel() for p in parameters if p.requires_grad)
    assert (made["measured_on"], made["final_samples"]) == ("point_labeled", 2)
    assert stages.told == [("teacher",), {"point_labeled": 294}]


def test_all_of_them_without_more_evaluations(stages: Any) -> None:
    curve: list[Any] = []
    made = measured_teacher(stages, space_of(measured_on="point_labeled"), lambda *row: curve.append(row), STORE)
    assert [step for _, step, _ in curve] == [6, 294] and made["corruption"] == {}
    assert made["final"] == {"teacher": {"bev_iou": 294, "of": ["b", "c", "d"]}}


def test_on_the_val_split_only_step_0_is_scored_here(stages: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept checkpoints are scored while they are trained."""
    val = stages.records[2:]
    scored = lambda stages, file, split: {"bev_iou": file.name, "split": split}  # noqa: E731
    monkeypatch.setattr(evaluations, "teacher_scores", scored)
    monkeypatch.setattr(evaluations, "clicked_records", lambda stages, split: val)
    curve: list[Any] = []
    space = space_of(evaluations={"start": True, "floors": True, "corruption": CORRUPTION}, samples=1)
    made = measured_teacher(stages, space, lambda *row: curve.append((*row, list(stages.told))), STORE)
    data = stages.config.data
    start = {"bev_iou": "step_0000000.pt", "split": data.select_split}
    assert curve == [("teacher", 0, start, [])], "before the training"
    assert made["final"]["teacher"] == {"bev_iou": FILES[-1].name, "split": data.val_split}
    assert made["final"]["class_mean"]["of"] == ["c", "d"]
    assert made["corruption"]["corruption.blur_px"]["2.5"] == {"bev_iou": 291.5, "of": ["c"]}


def test_clean_input_is_predicted_once(stages: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    predicted: list[Any] = []
    monkeypatch.setattr(stages.runner, "predict", lambda *asked: predicted.append(asked) or [0.1])
    corruption = {"corruption.blur_px": (0.0, 1.0), "corruption.extrinsics_deg": (0.0, 1.0)}
    found = on_corrupted_input(stages, corruption, FILES[-1], Known([]))
    assert len(predicted) == 3 and [list(values) for values in found.values()] == [["0", "1"], ["0", "1"]]


def test_a_curve_begins_with_the_teacher_before_training(stages: Any) -> None:
    file = untrained(stages)
    weights = checkpoint.load(file)["model"]
    expected = build("teacher", stages.config, FALLBACK_SIZE_M).model.state_dict()
    assert file.name == "step_0000000.pt" and weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], value) for name, value in expected.items())
    assert untrained(stages).stat().st_mtime_ns == file.stat().st_mtime_ns, "made again"


def test_what_cannot_be_measured_is_refused(stages: Any) -> None:
    check_known(stages)
    stages.known_clicks = lambda records: Known([])
    with pytest.raises(DataError, match="the true box of no click is in the tables"):
        check_known(stages)
    stages.records = stages.records[:1]
    with pytest.raises(DataError, match="no point-labeled sample has clicks; label.ratio must leave some"):
        check_known(stages)
