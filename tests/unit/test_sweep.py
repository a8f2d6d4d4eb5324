"""The sweep's command, what it tells Ray Tune, its budget, and the folders that trials share."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import BasicVariantGenerator
from ray.tune.search.optuna import OptunaSearch
from ray.tune.search.sample import Float, Integer

from pdetr3d.config import ScalingConfig, override
from pdetr3d.presets import load
from pdetr3d.schema import DataError
from ray_jobs.shared_stages import SharedStages, SweepFolder, shared_config
from ray_jobs.space import Domain, SearchSpace, load_space, trial_config
from ray_jobs.stages import labels_key, pretraining_key
from ray_jobs.sweep import changed, check_same, concurrency, parameters, parse, room, scheduler, searcher, was_stopped
from ray_jobs.sweep_progress import BudgetSpent
from ray_jobs.trial import Curve

RANDOM = SearchSpace(
    name="r",
    question="?",
    trains="teacher",
    metric="yaw_error_rad",
    search="random",
    trials=3,
    asha=True,
    space={
        "teacher.roi_grid": Domain(values=(1, 3)),
        "teacher.free_points": Domain(integers=(0, 8)),
        "optim.lr": Domain(loguniform=(0.1, 1.0)),
    },
)


def test_words_in_any_order() -> None:
    args = parse(["mask_sigma", "optim.lr=1", "--preset", "quickstart", "--trials", "3", "label.ratio=0.5"])
    assert (args.space, args.trials, args.overrides, args.seeds) == (
        "mask_sigma", 3, ["optim.lr=1", "label.ratio=0.5"], [])  # fmt: skip
    assert parse(["label_ratio", "--preset", "x", "--seeds", "1", "2", "a=b"]).seeds == [1, 2]
    for name in ("trials", "concurrent", "budget"):
        with pytest.raises(DataError, match=f"--{name} 0: must be at least 1"):
            parse(["mask_sigma", "--preset", "quickstart", f"--{name}", "0"])


def test_the_command_line_changes_trials_and_seeds() -> None:
    words = ["--preset", "quickstart"]
    assert changed(RANDOM, parse(["r", *words, "--trials", "7", "--seeds", "4"])).model_dump(
        include={"trials", "seeds"}
    ) == {"trials": 7, "seeds": (4,)}
    with pytest.raises(DataError, match="one seed for all trials"):
        changed(RANDOM, parse(["r", *words, "--seeds", "4", "5"]))
    with pytest.raises(DataError, match="is a grid, which trains all 18"):
        changed(load_space("label_ratio"), parse(["label_ratio", *words, "--trials", "2"]))


def test_a_run_directory_holds_one_sweep(tmp_path: Path) -> None:
    check_same(tmp_path / "asked.json", {"metric": "mAP", "trials": 3})
    check_same(tmp_path / "asked.json", {"metric": "mAP", "trials": 3})
    with pytest.raises(DataError, match="trials: 3 there, 4 now"):
        check_same(tmp_path / "asked.json", {"metric": "mAP", "trials": 4})


def test_room_is_what_a_trial_s_larger_half_takes() -> None:
    two = ScalingConfig(workers=2, inference_workers=3, cpus_per_worker=2, data_cpus=1)
    assert room(two, {"CPU": 20}) == 2  # 3 predicting actors x 2 CPUs + 1 = 7 CPUs each
    assert room(two, {"CPU": 3}) == 1
    half = ScalingConfig(workers=1, cpus_per_worker=1, data_cpus=1, use_gpu=True, gpus_per_worker=0.5)
    assert room(half, {"CPU": 100, "GPU": 3}) == 3  # half a GPU trains, half a GPU scores


def test_more_at_once_than_there_is_room_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scaling, machine = ScalingConfig(workers=1, cpus_per_worker=1, data_cpus=0.5), {"CPU": 4.0}
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert concurrency(None, scaling, machine) == concurrency(2, scaling, machine) == 2
    with pytest.raises(DataError, match=r"--concurrent 3: there is room for 2 \(4 CPUs.*scaling.cpus_per_worker = 1"):
        concurrency(3, scaling, machine)
    monkeypatch.setenv("RAY_ADDRESS", "auto")  # may grow
    assert concurrency(3, scaling, machine) == 3 and "warning: --concurrent 3" in capsys.readouterr().err


def test_what_tune_is_told() -> None:
    told = parameters(RANDOM)
    assert told["teacher.roi_grid"].categories == [1, 3] and told["seed"] == 0
    drawn = told["teacher.free_points"]
    assert isinstance(drawn, Integer) and (drawn.lower, drawn.upper) == (0, 9)  # Tune leaves the upper one out
    rate = told["optim.lr"]
    assert isinstance(rate, Float) and (rate.lower, rate.upper) == (0.1, 1.0)
    grid = parameters(load_space("label_ratio"))
    assert grid["label.ratio"] == {"grid_search": [0.02, 0.05, 0.1, 0.2, 0.5, 1.0]}
    assert grid["seed"] == {"grid_search": [0, 1, 2]}
    base = trial_config(RANDOM, "quickstart", ["teacher.optim.checkpoints_from=0.25"], {})
    asha = scheduler(RANDOM, base)
    assert isinstance(asha, ASHAScheduler) and (asha._time_attr, asha._max_t) == ("progress", 100)
    assert isinstance(scheduler(RANDOM.model_copy(update={"asha": False}), base), FIFOScheduler)
    drawing = searcher(RANDOM, 2)
    assert isinstance(drawing, BasicVariantGenerator) and drawing.max_concurrent == 2
    assert isinstance(searcher(RANDOM.model_copy(update={"search": "optuna"}), 2), OptunaSearch)


def test_trials_that_lag_behind_end_early_but_none_that_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ``Curve`` tells of four checkpoints each, as Tune hands it to the scheduler; less yaw error is better."""
    base = trial_config(RANDOM, "quickstart", ["teacher.optim.checkpoints_from=0.25"], {})
    asha = scheduler(RANDOM, base)
    assert asha.set_search_properties(RANDOM.metric, "min")
    told: list[dict[str, Any]] = []
    monkeypatch.setattr("ray_jobs.trial.tune.report", told.append)

    def decisions(name: str, errors: list[float]) -> list[str]:
        (tmp_path / name).mkdir()
        curve, trial = Curve(tmp_path / name, RANDOM, {}, 100, base.teacher.optim), SimpleNamespace(trial_id=name)
        asha.on_trial_add(None, trial)  # type: ignore[arg-type]
        made = []
        for step, error in zip((25, 50, 75, 100), errors, strict=True):
            curve.add("teacher", step, {RANDOM.metric: error})
            made.append(asha.on_trial_result(None, trial, told[-1]))  # type: ignore[arg-type]
        assert [row["progress"] for row in curve.rows.values()] == [25, 50, 75, 100]
        return made

    go, stop = TrialScheduler.CONTINUE, TrialScheduler.STOP
    assert decisions("good", [1.0, 0.8, 0.7, 0.6]) == [go] * 4
    assert decisions("as good until its end", [1.0, 0.8, 0.7, 0.9]) == [go] * 4
    assert decisions("worse from its first checkpoint on", [1.5, 1.5, 1.5, 1.5])[0] == stop
    assert decisions("worse half-way", [0.9, 1.2, 1.2, 1.2])[:2] == [go, stop]


def test_only_trials_that_were_ended_early_count_as_stopped(tmp_path: Path) -> None:
    for status in ("stopped", "failed"):
        (tmp_path / status).mkdir()
        (tmp_path / status / "status.json").write_text(f'{{"status": "{status}", "error": null}}')
    names = ("stopped", "failed", "still_running")
    assert [was_stopped(tmp_path / name) for name in names] == [True, False, False]


def test_the_budget_counts_the_samples_of_all_trials() -> None:
    stop = BudgetSpent(100)
    assert not stop("a", {"samples": 30}) and not stop("b", {"samples": 30})
    assert not stop("a", {"samples": 60}) and not stop.stop_all()  # 60 + 30: a trial's newest count replaces its last
    assert stop("b", {"samples": 40}) and stop.stop_all()


def test_trials_share_what_their_parameters_do_not_touch() -> None:
    base = load("quickstart")
    wide, narrow, other = (
        override(base, words)
        for words in (["student.mask_sigma_factor=1"], ["student.mask_sigma_factor=0.1"], ["teacher.roi_grid=3"])
    )
    shared = shared_config(base, wide, labels_key(wide))
    assert shared == shared_config(base, narrow, labels_key(narrow)) == base
    assert shared_config(base, other, labels_key(other)).teacher.roi_grid == 3
    assert labels_key(other) != labels_key(wide) and pretraining_key(other) == pretraining_key(wide)
    assert pretraining_key(override(base, ["optim.lr=1"])) != pretraining_key(base)


class OneAtATime(SweepFolder):
    """A sweep whose stages note when they are worked on."""

    def stages(self, folder: Path, config: object, tracker: object) -> Any:
        return folder

    def tracker(self, folder: Path, config: object, name: str) -> Any:
        return nullcontext()


def test_a_shared_stage_is_made_by_one_trial_at_a_time(tmp_path: Path) -> None:
    base = load("quickstart")
    stages = SharedStages(OneAtATime(tmp_path, base, ""))
    inside: dict[Path, int] = {}
    seen: list[int] = []

    def make(folder: Any) -> None:
        inside[folder] = inside.get(folder, 0) + 1
        for _ in range(20_000):  # long enough for other threads to come
            pass
        seen.append(inside[folder])
        inside[folder] -= 1

    configs = [base, override(base, ["optim.lr=1"]), override(base, ["teacher.roi_grid=3"])] * 4
    with ThreadPoolExecutor(12) as pool:
        folders = list(pool.map(lambda c: stages._once("labels", c, labels_key, make), configs))
    assert len(set(folders)) == 2 and folders[0] == folders[1] != folders[2]
    assert seen == [1] * 12
