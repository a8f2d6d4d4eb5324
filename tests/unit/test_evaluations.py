"""Tests of the evaluation of a trial's teacher: its samples, curve from step 0, floors, and corrupted input."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pdetr3d.pipeline.run import Run
from pdetr3d.pipeline.store import Store
from pdetr3d.schema import DataError, SampleRecord
from pdetr3d.training import checkpoint
from pdetr3d.training.build import build
from pdetr3d.training.run_dir import RunDir
from ray_jobs.searches.evaluations import check_known, measured_teacher, on_corrupted_input, untrained
from ray_jobs.searches.space import SearchSpace
from ray_jobs.stages.tracked import Tracked
from tests.known_runner import KnownRunner
from tests.training_cases import world_config

ERROR_M = {0: 1.0, 6: 0.5, 294: 0.25}
CORRUPTION = {"corruption.blur_px": (0, 2.5)}


class Told(Tracked):
    """Stand-in for MLflow: one curve of the times of steps, and a list of the metrics that were logged."""

    def __init__(self) -> None:
        super().__init__()
        self.logged: list[dict[str, Any]] = []

    def tracker(self, run: Run, name: str, tags: Mapping[str, Any]) -> Any:
        @contextmanager
        def opened() -> Iterator[Any]:
            history = {"step_s": [1.0, 3.0, 2.0]}
            yield SimpleNamespace(log_metrics=self.logged.append, history=lambda key: history.get(key, []))

        return opened()

    @contextmanager
    def training(self, run: Run, name: str, tags: Mapping[str, Any]) -> Iterator[None]:
        yield None

    def evaluated(self, *_: Any, **__: Any) -> None:
        """Draw and register nothing."""


@pytest.fixture
def run(sim_world: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run on the tests' world. Its checkpoints are ERROR_M from the truth; blur adds millimeters."""
    runner, shared = KnownRunner(ERROR_M), tmp_path_factory.getbasetemp() / "index of test_evaluations"
    runner.run = Run(RunDir(tmp_path / "run", world_config(sim_world, "run.seed=3")), runner, Told(), shared)
    return runner.run


@pytest.fixture
def store(run: Run, tmp_path: Path) -> Store:
    """A store that makes nothing, since the teacher needs no student."""
    return Store(tmp_path / "store", run.config, lambda *_: pytest.fail("made"))


def space_of(**more: Any) -> SearchSpace:
    base = {"name": "s", "question": "?", "trains": "teacher", "metric": "bev_iou", "variants": {"plain": []}}
    return SearchSpace(**base | more)


def clicked(run: Run) -> list[SampleRecord]:
    return [record for record in run.records if record.role == "point" and len(record.clicks)]


def clicks(records: list[SampleRecord]) -> int:
    return sum(len(record.clicks) for record in records)


def figures(quality: Mapping[str, Any]) -> tuple[int, float]:
    """The number of clicks, and the mean error of centers, rounded to 0.1 mm."""
    return quality["n"], round(quality["center_error_m"], 4)


def curve_in(rows: list[Any]) -> Callable[..., None]:
    return lambda stage, step, quality: rows.append((stage, step, *figures(quality)))


def test_at_the_clicks_of_point_labeled_samples(run: Run, store: Store) -> None:
    """Curve and corrupted input use the first sample with clicks; final figures and floors use the first two."""
    asked = {"start": True, "floors": True, "corruption": CORRUPTION}
    space = space_of(measured_on="point_labeled", samples=1, final_samples=2, evaluations=asked)
    curve: list[Any] = []
    made = measured_teacher(run, space, curve_in(curve), store)
    one, two = clicks(clicked(run)[:1]), clicks(clicked(run)[:2])
    assert 0 < one < two < clicks(clicked(run))
    assert curve == [("teacher", step, one, error) for step, error in ERROR_M.items()]
    assert figures(made["final"]["teacher"]) == (two, 0.25)
    floors = [made["final"][name] for name in ("class_mean", "class_mean_pca")]
    assert [floor["n"] for floor in floors] == [two, two] and floors[0]["bev_iou"] < floors[1]["bev_iou"] < 1
    blurred = made["corruption"]["corruption.blur_px"]
    assert {value: figures(quality) for value, quality in blurred.items()} == {"0": (one, 0.25), "2.5": (one, 0.2525)}
    assert made["costs"]["step_s"] == 2.0 and made["costs"]["peak_memory_bytes"] is None
    parameters = build("teacher", run.config, run.prior).model.parameters()
    assert made["costs"]["parameters"] == sum(p.numel() for p in parameters if p.requires_grad)
    assert (made["measured_on"], made["final_samples"]) == ("point_labeled", 2)
    assert isinstance(run.observer, Told) and isinstance(run.runner, KnownRunner)
    (logged,) = run.observer.logged
    assert logged["point_labeled/center_error_m"] == pytest.approx(0.25, abs=1e-4)
    assert run.runner.trainings[-1].name == "teacher"


def test_all_of_them_without_more_evaluations(run: Run, store: Store) -> None:
    curve: list[Any] = []
    made = measured_teacher(run, space_of(measured_on="point_labeled"), curve_in(curve), store)
    assert [step for _, step, *_ in curve] == [6, 294] and made["corruption"] == {}
    assert list(made["final"]) == ["teacher"] and figures(made["final"]["teacher"]) == (clicks(clicked(run)), 0.25)


def test_on_the_val_split_only_step_0_is_scored_here(run: Run, store: Store) -> None:
    """Kept checkpoints are scored while they are trained."""
    curve: list[Any] = []
    space = space_of(evaluations={"start": True, "floors": True, "corruption": CORRUPTION}, samples=1)
    made = measured_teacher(
        run, space, lambda stage, step, found: curve.append((step, figures(found), run.result("teacher"))), store
    )
    index, data = run.data.index, run.config.data
    objects = {
        split: [len(index.annotations(token).boxes()) for token in index.tokens(split)]
        for split in (data.select_split, data.val_split)
    }
    assert curve == [(0, (sum(objects[data.select_split]), 1.0), None)], "before the training"
    assert figures(made["final"]["teacher"]) == (sum(objects[data.val_split]), 0.25)
    assert made["final"]["class_mean"]["n"] == sum(objects[data.val_split])
    assert figures(made["corruption"]["corruption.blur_px"]["2.5"]) == (objects[data.val_split][0], 0.2525)


def test_clean_input_is_predicted_once(run: Run) -> None:
    corruption = {"corruption.blur_px": (0.0, 1.0), "corruption.extrinsics_deg": (0.0, 1.0)}
    found = on_corrupted_input(run, corruption, Path("step_0000006.pt"), run.known_clicks(clicked(run)))
    assert isinstance(run.runner, KnownRunner) and len(run.runner.asked) == 3
    assert [list(values) for values in found.values()] == [["0", "1"], ["0", "1"]]


def test_a_curve_begins_with_the_teacher_before_training(run: Run) -> None:
    file = untrained(run)
    weights = checkpoint.load(file)["model"]
    expected = build("teacher", run.config, run.prior).model.state_dict()
    assert file.name == "step_0000000.pt" and weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], value) for name, value in expected.items())
    made_at = file.stat().st_mtime_ns
    assert untrained(run).stat().st_mtime_ns == made_at, "made again"


def test_what_cannot_be_measured_is_refused(run: Run) -> None:
    check_known(run)
    unknown: Any = SimpleNamespace(path=run.path, records=run.records, known_clicks=lambda records: [])
    with pytest.raises(DataError, match="the true box of no click is in the tables"):
        check_known(unknown)
    boxed: Any = SimpleNamespace(
        path=run.path, records=run.records.select(run.records.boxed), known_clicks=run.known_clicks
    )
    with pytest.raises(DataError, match="no point-labeled sample has clicks; label.ratio must leave some"):
        check_known(boxed)
