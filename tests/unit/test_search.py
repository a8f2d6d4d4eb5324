"""Tests of the search: its command, its reports to Ray Tune, its budget, and the folders that trials share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import BasicVariantGenerator
from ray.tune.search.optuna import OptunaSearch
from ray.tune.search.sample import Float, Integer

from pdetr3d.config import ScalingConfig
from pdetr3d.data.storage.files import write_json
from pdetr3d.presets import load
from pdetr3d.schema import DataError
from pdetr3d.tracking.client import connect
from pdetr3d.tracking.runs import Tracker
from pdetr3d.training import lease
from ray_jobs import search
from ray_jobs.search import check_same, was_stopped
from ray_jobs.searches import trial, tuning
from ray_jobs.searches.command import changed
from ray_jobs.searches.folder import SearchFolder
from ray_jobs.searches.progress import BudgetSpent, Progress, note_stopped
from ray_jobs.searches.space import Domain, SearchSpace
from ray_jobs.searches.space_files import load_space, trial_config
from ray_jobs.searches.trial import PROGRESS, TRAINED, Curve
from ray_jobs.searches.tuning import concurrency, parameters, room, scheduler, searcher
from tests.jobs import parse_search, run_verb
from tests.training_cases import world_arguments

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
    args = parse_search(["mask_sigma", "optim.lr=1", "--preset", "quickstart", "--trials", "3", "label.ratio=0.5"])
    assert (args.space, args.trials, args.overrides, args.seeds) == (
        "mask_sigma", 3, ["optim.lr=1", "label.ratio=0.5"], [])  # fmt: skip
    assert parse_search(["label_ratio", "--preset", "quickstart", "--seeds", "1", "2", "a=b"]).seeds == [1, 2]
    with pytest.raises(DataError, match="'one' is neither a seed"):
        parse_search(["mask_sigma", "--preset", "quickstart", "--seeds", "one"])


@pytest.mark.parametrize("count", ["--trials=0", "--concurrent=0", "--budget=0", "--samples=0", "--final-samples=-1"])
def test_a_count_that_is_too_small(count: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_verb(["search", "mask_sigma", "--preset", "quickstart", count]) == 2
    assert f"Invalid value for '{count.split('=')[0]}': " in capsys.readouterr().err


def test_the_command_line_changes_trials_and_seeds() -> None:
    words = ["--preset", "quickstart"]
    assert changed(RANDOM, parse_search(["r", *words, "--trials", "7", "--seeds", "4"])).model_dump(
        include={"trials", "seeds"}
    ) == {"trials": 7, "seeds": (4,)}
    with pytest.raises(DataError, match="one seed for all trials"):
        changed(RANDOM, parse_search(["r", *words, "--seeds", "4", "5"]))
    with pytest.raises(DataError, match="is a grid, which trains all 18"):
        changed(load_space("label_ratio"), parse_search(["label_ratio", *words, "--trials", "2"]))


def test_a_run_directory_holds_one_search(tmp_path: Path) -> None:
    check_same(tmp_path / "asked.json", {"metric": "mAP", "trials": 3})  # none yet
    write_json(tmp_path / "asked.json", {"metric": "mAP", "trials": 3})
    check_same(tmp_path / "asked.json", {"metric": "mAP", "trials": 3})
    with pytest.raises(DataError, match="trials: 3 there, 4 now\n.*or choose another --run-dir"):
        check_same(tmp_path / "asked.json", {"metric": "mAP", "trials": 4})


def job_of(space: SearchSpace, folder: Path) -> trial.Job:
    base = trial_config(space, "quickstart", ["teacher.optim.checkpoints_from=0.25"], {})
    return trial.Job(SearchFolder(folder, base, ""), space, "quickstart", ())


@pytest.mark.parametrize("more", [["--budget", "200"], ["--concurrent", "2"], []])
def test_a_rerun_that_tune_would_not_heed_is_refused(
    more: list[str], sim_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tune continues with its first budget and concurrency, so a rerun with others is refused."""
    calls: list[object] = []
    monkeypatch.setattr(search, "init_ray", lambda *_, **__: calls.append("Ray") or {})
    monkeypatch.setattr(search, "run_trials", lambda job, concurrent, budget: calls.append((concurrent, budget)) or 0)
    monkeypatch.setattr(search.Tracker, "start", lambda *_, **__: Tracker("", "", None))
    words = ["mask_sigma", "--preset", "quickstart", "--run-dir", str(tmp_path / "run"), "--out", str(tmp_path)]
    world = world_arguments(sim_world)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(DataError, match="--concurrent 99: there is room for 1"):
        search.run(parse_search([*words, "--concurrent", "99", *world]))
    calls.clear()
    search.run(parse_search([*words, "--budget", "100", "--concurrent", "1", *world]))  # the refused one left nothing
    assert calls == ["Ray", (1, 100)]
    same = [] if "--budget" in more else ["--budget", "100"]
    key, there, now = ("budget", 100, 200) if "--budget" in more else ("concurrent", 1, 2 if more else None)
    with pytest.raises(DataError, match=f"  {key}: {there} there, {now} now"):
        search.run(parse_search([*words, *same, *more, *world]))
    assert len(calls) == 2


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


@pytest.mark.parametrize("concurrent", [1, 2, 3, 7, 32, 50])
def test_no_more_trials_fit_than_are_asked_for(concurrent: int) -> None:
    share = tuning.head_share(concurrent)
    assert round(share * 10_000) == pytest.approx(share * 10_000)  # Ray's unit
    assert concurrent * share <= 0.99 < 0.999 < (concurrent + 1) * share


def test_what_tune_is_told() -> None:
    given = parameters(RANDOM)
    assert given["teacher.roi_grid"].categories == [1, 3] and given["seed"] == 0
    drawn = given["teacher.free_points"]
    assert isinstance(drawn, Integer) and (drawn.lower, drawn.upper) == (0, 9)  # Tune leaves the upper one out
    rate = given["optim.lr"]
    assert isinstance(rate, Float) and (rate.lower, rate.upper) == (0.1, 1.0)
    grid = parameters(load_space("label_ratio"))
    assert grid["label.ratio"] == {"grid_search": [0.02, 0.05, 0.1, 0.2, 0.5, 1.0]}
    assert grid["seed"] == {"grid_search": [0, 1, 2]}
    assert isinstance(scheduler(job_of(RANDOM, Path("nowhere"))), ASHAScheduler)
    assert isinstance(scheduler(job_of(RANDOM.model_copy(update={"asha": False}), Path("nowhere"))), FIFOScheduler)
    drawing = searcher(RANDOM, 2)
    assert isinstance(drawing, BasicVariantGenerator) and drawing.max_concurrent == 2
    assert isinstance(searcher(RANDOM.model_copy(update={"search": "optuna"}), 2), OptunaSearch)


class Asha:
    """ASHA on the yaw error, fed by ``Curve`` like Tune; a second one on the same folder acts as a restored search."""

    def __init__(self, folder: Path) -> None:
        self.job = job_of(RANDOM, folder)
        self.scheduler: Any = scheduler(self.job)
        assert self.scheduler.set_search_properties(RANDOM.metric, "min")
        self.reports: list[dict[str, Any]] = []

    def add(self, name: str) -> None:
        self.scheduler.on_trial_add(None, SimpleNamespace(trial_id=name))

    def decisions(self, name: str, errors: dict[int, float]) -> list[str]:
        """ASHA's decision at each step of 100."""
        folder = self.job.search.path / "trials" / name
        curve = Curve(folder, RANDOM, {}, 100, self.job.search.base.teacher.optim, self.reports.append)
        made = []
        for step, error in errors.items():
            curve.add("teacher", step, {RANDOM.metric: error})
            made.append(self.scheduler.on_trial_result(None, SimpleNamespace(trial_id=name), self.reports[-1]))
        return made


GO, STOP = TrialScheduler.CONTINUE, TrialScheduler.STOP


def test_trials_that_lag_behind_end_early_but_none_that_is_trained(tmp_path: Path) -> None:
    asha = Asha(tmp_path)
    for name in ("good", "as good until its end", "worse at first", "worse half-way", "trained at once"):
        asha.add(name)
    assert asha.decisions("good", {25: 1.0, 50: 0.8, 75: 0.7, 100: 0.6}) == [GO] * 4
    assert asha.decisions("as good until its end", {25: 1.0, 50: 0.8, 75: 0.7, 100: 0.9}) == [GO] * 4
    assert asha.decisions("worse at first", {24: 1.5, 25: 1.5}) == [GO, STOP]  # 25 %: checkpoints_from
    assert asha.decisions("worse half-way", {25: 0.9, 49: 1.2, 50: 1.2}) == [GO, GO, STOP]
    assert asha.decisions("trained at once", {100: 2.0}) == [GO]


def test_a_restored_search_compares_trials_at_what_they_told_at_the_same_share(tmp_path: Path) -> None:
    """Two trials had reached 75 % before the restore; after it both repeat their newest score per kept checkpoint.

    A new trial is compared with their scores at 25 % (1.0), not with their newest scores (0.5).
    """
    before = Asha(tmp_path)
    for name in ("a", "b"):
        before.add(name)
        assert before.decisions(name, {25: 1.0, 50: 0.8, 75: 0.5}) == [GO] * 3
    after = Asha(tmp_path)
    for name in ("a", "b", "new"):
        after.add(name)
    for name in ("a", "b", "a", "b"):
        assert after.decisions(name, {75: 0.5}) == [GO]
    assert after.decisions("new", {25: 0.9, 50: 0.9}) == [GO, STOP]


@pytest.mark.parametrize(("ended", "samples", "whole"), [(2, 10, False), (3, 10, True), (0, 10, False), (0, 100, True)])
def test_an_interrupted_search_is_none_that_ended(
    ended: int, samples: int, whole: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tune returns from a Ctrl-C as from a regular end; the search has three trials and a budget of 50 samples."""
    for name in range(ended):
        write_json(tmp_path / "trials" / f"t{name}" / "status.json", {"status": "finished", "error": None})
    row = {"step": 1, PROGRESS: 50.0, "samples": samples, "yaw_error_rad": 1.0}
    write_json(tmp_path / "trials" / "t0" / "trial.json", {"parameters": {}, "steps": 3, "curve": [row]})
    tuner = SimpleNamespace(fit=lambda: SimpleNamespace(num_errors=0))
    fake = SimpleNamespace(can_restore=lambda folder: True, restore=lambda *_, **__: tuner)
    for name, value in {"Tuner": fake, "with_parameters": lambda f, **_: f, "with_resources": lambda f, _: f}.items():
        monkeypatch.setattr(tuning.tune, name, value)
    with nullcontext() if whole else pytest.raises(KeyboardInterrupt):
        assert tuning.run_trials(job_of(RANDOM, tmp_path), 1, 50) == 0


def test_only_trials_that_were_ended_early_count_as_stopped(tmp_path: Path) -> None:
    for status in ("stopped", "failed"):
        (tmp_path / status).mkdir()
        (tmp_path / status / "status.json").write_text(f'{{"status": "{status}", "error": null}}')
    names = ("stopped", "failed", "still_running")
    assert [was_stopped(tmp_path / name) for name in names] == [True, False, False]


@pytest.mark.parametrize(("error", "status"), [(None, "FINISHED"), (ValueError("broke"), "FAILED")])
def test_a_directory_is_released_after_its_mlflow_run_has_ended(
    error: Exception | None, status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search corrects the MLflow run of a stopped trial when the trial's directory is released."""
    place, ends = tmp_path / "trial", list[tuple[str, bool]]()
    monkeypatch.setattr(Tracker, "finish", lambda _, end="FINISHED": ends.append((end, (place / lease.FILE).exists())))
    monkeypatch.setattr(SearchFolder, "tracker", lambda *_: Tracker("", "", None))
    monkeypatch.setattr(SearchFolder, "run", lambda *_: lease.hold(place))
    place.mkdir()
    base = load("quickstart")
    with nullcontext() if error is None else pytest.raises(ValueError, match="broke"):
        with SearchFolder(tmp_path, base, "").opened(place, base, "trial a"):
            if error is not None:
                raise error
    assert ends == [(status, True)] and not (place / lease.FILE).exists()


def test_waiting_for_stopped_trials_has_one_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three processes never end. The clock is moved by the waits; a trial that finished is not waited for."""
    clock, waits = [100.0], list[tuple[str, float]]()

    def wait(place: Path, wait_s: float) -> None:
        waits.append((place.name, wait_s))
        clock[0] += max(0.0, min(wait_s, 20.0))

    monkeypatch.setattr(search.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(search.lease, "wait", wait)
    for name, status in {"a": "stopped", "b": "stopped", "c": "stopped", "d": "finished"}.items():
        write_json(tmp_path / "trials" / name / "status.json", {"status": status, "error": None})
    search.end_all_runs(tmp_path)
    assert sorted(name for name, _ in waits) == ["a", "b", "c"]
    assert [seconds for _, seconds in waits] == [30.0, 10.0, 0.0]


def told(samples: int, progress: float = 50.0) -> dict[str, float]:
    """The fields of a trial's report to Tune that the budget reads."""
    return {"samples": samples, PROGRESS: progress}


def test_the_budget_counts_the_samples_of_all_trials(tmp_path: Path) -> None:
    stop = BudgetSpent(100, tmp_path)
    assert not stop("a", told(30)) and not stop("b", told(30))
    assert not stop("a", told(60)) and not stop.stop_all()  # 60 + 30: a trial's newest count replaces its last
    assert stop("b", told(40)) and stop.stop_all()


def test_a_spent_budget_waits_for_the_scores_of_trained_trials(tmp_path: Path) -> None:
    stop = BudgetSpent(100, tmp_path)
    assert not stop("trained", told(60, TRAINED)) and stop("half-way", told(40))
    assert not stop.stop_all()
    assert not stop("trained", told(60, TRAINED)), "told again once it is scored"
    write_json(tmp_path / "trials" / "trained" / "status.json", {"status": "finished", "error": None})
    assert stop.stop_all()


@pytest.mark.parametrize(("budget", "ended"), [(10, "stopped"), (11, None), (None, None)])
def test_trials_that_a_spent_budget_ended_are_stopped(tmp_path: Path, budget: int | None, ended: str | None) -> None:
    """4 + 6 samples were trained on. "scored" had already finished, and "failed" keeps its own status."""
    rows = {"silent": 4, "scored": 6, "failed": 0}
    for name, samples in rows.items():
        row = {"step": 1, PROGRESS: 50.0, "samples": samples, "yaw_error_rad": 1.0}
        write_json(tmp_path / "trials" / name / "trial.json", {"parameters": {}, "steps": 3, "curve": [row]})
    write_json(tmp_path / "trials" / "scored" / "trial" / "done.json", {})
    write_json(tmp_path / "trials" / "failed" / "status.json", {"status": "failed", "error": "broke"})
    note_stopped(tmp_path, RANDOM, budget)
    files = {name: tmp_path / "trials" / name / "status.json" for name in rows}
    found = {name: json.loads(file.read_text())["status"] for name, file in files.items() if file.exists()}
    assert found == {"failed": "failed"} | ({} if ended is None else {"silent": "stopped", "scored": "finished"})
    assert was_stopped(tmp_path / "trials" / "silent") == (ended == "stopped")


def test_trials_and_what_they_share_say_with_what_they_were_made(tmp_path: Path) -> None:
    base = load("quickstart")
    with SearchFolder(tmp_path, base, "").tracker(tmp_path / "trials" / "t0", base, "trial t0") as tracker:
        run = connect(tracker.uri).get_run(tracker.run_id)
    assert run.data.tags["env.ray"] and run.data.tags["search"] == tmp_path.name
    (config,) = tmp_path.rglob("artifacts/config.json")
    assert config.read_text() == base.to_json()


def test_progress_is_a_table_of_running_trials_and_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def plant(name: str, grid: int, curve: list[tuple[int, float]], status: str | None) -> SimpleNamespace:
        rows = [{"step": s, PROGRESS: float(s), "samples": s, "yaw_error_rad": v} for s, v in curve]
        chosen = {"teacher.roi_grid": grid, "teacher.free_points": 4, "optim.lr": 0.25, "seed": 7}
        write_json(tmp_path / "trials" / name / "trial.json", {"parameters": chosen, "steps": 100, "curve": rows})
        if status is not None:
            write_json(tmp_path / "trials" / name / "status.json", {"status": status, "error": None})
        last = {PROGRESS: rows[-1][PROGRESS]} if rows else {}
        return SimpleNamespace(trial_id=name, last_result=last, is_finished=lambda: status is not None)

    progress, clock = Progress(tmp_path, RANDOM), iter((100.0, 160.0, 400.0, 400.0, 400.0))
    monkeypatch.setattr("ray_jobs.searches.progress.time.monotonic", lambda: next(clock))
    fresh = plant("fresh", 3, [], None)
    progress.on_trial_start(0, [fresh], fresh)
    half = plant("half", 1, [(50, 0.5)], None)
    progress.on_trial_result(0, [fresh, half], half, {})
    assert capsys.readouterr().out == ""  # in a log: one table every three minutes
    progress.on_trial_result(0, [fresh, half], half, {})
    lines = capsys.readouterr().out.splitlines()
    # Half of one of three trainings took 300 s; two and a half are left.
    assert lines[0] == "search r: none ended of 3 trials | ETA 1500 s"
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    assert cells == [
        ["best", "1", "4", "0.25", "", "", "0.5"],
        ["fresh", "3", "4", "0.25", "7", "0%", "-"],
        ["half", "1", "4", "0.25", "7", "50%", "0.5"],
    ]


@pytest.mark.parametrize(
    ("arms", "shared"),
    [
        (("ours", "boxes_only"), ["student_boxes_only", "teacher", "pseudo_labels"]),
        (("boxes_only", "ours"), ["teacher", "pseudo_labels"]),  # judged: scored while it trains
    ],
)
def test_a_trial_takes_over_what_others_need_too(
    arms: tuple[str, ...], shared: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = load("quickstart")
    space = SimpleNamespace(trains=arms, arms_of=lambda chosen: arms, own_arms=False)
    job: Any = SimpleNamespace(space=space, search=SearchFolder(tmp_path, base, ""))
    seen: list[tuple[list[str], list[str]]] = []

    def note(goals: Sequence[str], run: object, store: object, shared: Sequence[str]) -> None:
        seen.append((list(goals), list(shared)))

    monkeypatch.setattr(trial, "execute", note)
    monkeypatch.setattr(trial, "evaluate", lambda run, arms: dict.fromkeys(arms, {}))
    run: Any = SimpleNamespace(
        config=base,
        result=lambda stage: None,
        lineage=dict,
        timing={},
        records=[],
        data=SimpleNamespace(manifest=SimpleNamespace(achieved_ratio=0.5)),
    )
    curve: Any = SimpleNamespace(add=None, chosen={})
    figures = trial.train(run, job, Tracker("", "", None), curve)
    assert seen == [([f"student_{arm}" for arm in arms], shared)] and list(figures["final"]) == [
        f"student_{arm}" for arm in arms
    ]
