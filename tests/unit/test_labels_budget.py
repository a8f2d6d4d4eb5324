"""Tests of the label budget: curves with known parameters, costs by hand, recommendations, refused input."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pdetr3d.cli import main
from pdetr3d.data.labels.manifest import CLICKS_SCHEMA, SAMPLES_SCHEMA
from pdetr3d.data.storage.files import table_digest, write_arrow, write_json
from pdetr3d.finished.labels import efficiency
from pdetr3d.finished.labels.budget import Dataset, Planner, Prices, plan_budget, predict
from pdetr3d.finished.labels.efficiency import Curve, fit_curves, points, resampled_curves
from pdetr3d.finished.labels.measured_runs import MeasuredRun, read_runs
from pdetr3d.schema import DataError

N, OBJECTS = 100, 4  # keyframes, objects on each
RATIOS = (10, 20, 50)
MIX, BOXES = "boxes + clicks", "boxes only"


def alone(boxed: float) -> float:
    """Planted SPNDS of the arm boxes_only."""
    return 0.6 - 0.3 * (boxed / 10) ** -0.6


def ours(boxed: float) -> float:
    """Planted SPNDS of the arm ours, as if a clicked keyframe were worth a fifth of a box-labeled one."""
    return alone(boxed + 0.2 * (N - boxed))


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficiency, "RESAMPLES", 20)


def run(boxed: int, seed: int = 0, noise: float = 0.0, arms: tuple[str, ...] = ("ours", "boxes_only")) -> MeasuredRun:
    truth = {"ours": ours(boxed), "boxes_only": alone(boxed), "full": alone(N)}
    spnds = {arm: truth[arm] + noise for arm in arms}
    return MeasuredRun(Path(f"r{boxed}s{seed}"), seed, "i", {}, N, boxed, boxed * OBJECTS, (N - boxed) * OBJECTS, spnds)


def runs_of(*arms: str) -> list[MeasuredRun]:
    return [run(boxed, arms=arms or ("ours", "boxes_only")) for boxed in RATIOS]


def test_a_curve_with_known_parameters_is_recovered() -> None:
    """Five points determine the curve; between them its error is at most 0.001."""
    x = np.array([20.0, 50.0, 100.0, 200.0, 500.0])
    curve = Curve.fit(x, 0.65 - 0.4 * (x / 20) ** -0.7)
    assert curve.ceiling == pytest.approx(0.65, abs=0.01) and curve.gap == pytest.approx(0.4, abs=0.01)
    assert curve.exponent == pytest.approx(0.7, abs=0.03)
    between = np.array([30.0, 75.0, 350.0])
    assert curve(between) == pytest.approx(0.65 - 0.4 * (between / 20) ** -0.7, abs=1e-3)
    assert (curve.low, curve.high) == (20, 500)


def test_noise_moves_a_curve_by_less_than_itself() -> None:
    x = np.repeat([20.0, 50.0, 100.0, 200.0, 500.0], 3)
    noise = np.random.default_rng(0).normal(0, 0.01, len(x))
    curve = Curve.fit(x, 0.65 - 0.4 * (x / 20) ** -0.7 + noise)
    grid = np.geomspace(20, 500, 50)
    assert np.sqrt(np.mean((curve(grid) - (0.65 - 0.4 * (grid / 20) ** -0.7)) ** 2)) < 0.01


def test_a_curve_says_nothing_outside_its_points() -> None:
    curve = Curve.fit([10, 20, 50], [0.3, 0.4, 0.5])
    assert np.isnan(curve([9.9, 50.1])).all() and np.isfinite(curve([10, 50])).all()


def test_scores_that_fall_give_a_flat_curve() -> None:
    """The fitted curve never falls, so for the scores 0.4, 0.35 and 0.3 it is their mean everywhere."""
    assert Curve.fit([10, 20, 50], [0.4, 0.35, 0.3])([10, 50]) == pytest.approx([0.35, 0.35], abs=1e-3)


def test_full_is_the_end_of_both_curves_once_a_seed() -> None:
    some = [run(b, s, 0.1 * s, ("ours", "boxes_only", "full")) for b in RATIOS for s in (0, 1)]
    for arm, (x, y) in points(some).items():
        assert x.tolist() == [10, 10, 20, 20, 50, 50, N, N], arm
        assert y[-2:] == pytest.approx([alone(N), alone(N) + 0.1])
    curves = fit_curves(some)
    assert curves["ours"].high == curves["boxes_only"].high == N


def test_costs_by_hand() -> None:
    """R keyframes of 100 have boxes at 2, all others clicks at 0.5: 4 (2 R + 0.5 (100 - R)) = 6 R + 200."""
    for budget, boxed, cost in ((320, 20, 320), (325.9, 20, 320), (326, 21, 326)):
        document = plan_budget(runs_of("ours"), Prices(2, 0.5, budget))
        answer = document["allocations"][MIX]
        assert list(document["allocations"]) == [MIX] and document["recommended"] == MIX
        assert (answer["boxed"], answer["clicked"], answer["annotated"]) == (boxed, N - boxed, N)
        assert (answer["boxes"], answer["clicks"], answer["cost"]) == (4 * boxed, 4 * (N - boxed), cost)
        assert answer["share"] == boxed / 100 and answer["spnds"] == pytest.approx(ours(boxed), abs=0.01)
    assert [r["cost"] for r in document["runs"]] == [260, 320, 500]


def test_more_money_than_was_measured_is_left_over() -> None:
    """No run has more than 50 box-labeled keyframes, so the plan spends 6 * 50 + 200 = 500 of 10000."""
    document = plan_budget(runs_of("ours"), Prices(2, 0.5, 10_000))
    assert document["allocations"][MIX]["boxed"] == 50
    assert any(note.startswith("9500 of the budget is left over") for note in document["notes"])
    assert any("50 box-labeled keyframes: more may be better" in note for note in document["notes"])


@pytest.mark.parametrize(("arms", "budget"), [(("ours",), 259), (("ours", "boxes_only"), 79)])
def test_less_money_than_was_measured_is_refused(arms: tuple[str, ...], budget: float) -> None:
    """No run has fewer than 10 box-labeled keyframes: 6 * 10 + 200 = 260 with clicks on all others, 80 without."""
    with pytest.raises(
        DataError, match=rf"--budget {budget} is less .* 10 keyframes with boxes .* {budget + 1} in all"
    ):
        plan_budget(runs_of(*arms), Prices(2, 0.5, budget))
    assert plan_budget(runs_of(*arms), Prices(2, 0.5, budget + 1))["allocations"]


def test_free_clicks_go_everywhere() -> None:
    """400 pays for boxes on 50 keyframes at 2 each; all other objects are clicked."""
    document = plan_budget(runs_of() * 4, Prices(2, 0, 400))
    assert document["recommended"] == MIX
    answer = document["allocations"][MIX]
    assert (answer["boxed"], answer["clicked"], answer["cost"]) == (50, 50, 400)
    assert document["recommended_over_resamples"]["with_clicks"] == 1
    assert document["difference"]["share_of_resamples_with_clicks_better"] == 1


def test_clicks_as_dear_as_boxes_are_not_bought() -> None:
    """At a price of 2 each, 320 pays for 40 keyframes of either kind, and a clicked one is worth less."""
    document = plan_budget(runs_of() * 4, Prices(2, 2, 320))
    assert document["recommended"] == BOXES
    answer = document["allocations"][BOXES]
    assert (answer["boxed"], answer["clicked"], answer["share"]) == (40, 0, 1)
    assert document["recommended_over_resamples"]["with_clicks"] == 0
    assert document["difference"]["interval"][1] < 0


def test_cheaper_clicks_never_mean_more_boxes_only() -> None:
    """As the click's price rises, the recommendation turns from clicks to boxes once."""
    kinds = [plan_budget(runs_of(), Prices(2, click, 200))["recommended"] for click in (0, 0.05, 0.2, 0.6, 1.2, 2)]
    assert kinds[0] == MIX and kinds[-1] == BOXES and kinds == sorted(kinds)  # "+" sorts before "o"


def test_fewer_keyframes_are_annotated_where_clicks_on_all_are_too_dear() -> None:
    """Of 160, 80 pay for ten keyframes of boxes, the minimum, and 80 for 40 clicked keyframes at 2 each."""
    flat = {"boxes_only": Curve(10, 50, 0.3, 0.0, 1), "ours": Curve(10, 50, 0.5, 0.0, 1)}
    best = Planner(flat, Dataset(N, OBJECTS), Prices(2, 0.5, 160)).best(flat, clicks=True)
    assert best is not None and (best.boxed, best.clicked, best.cost) == (10, 40, 160)
    assert best.spnds == pytest.approx(0.3 + 0.2 * 40 / 90)  # 40 of the 90 that ours has clicked
    document = plan_budget(runs_of(), Prices(2, 0.1, 100))  # 80 and 20: 50 clicked ones at 0.4
    answer = document["allocations"][document["recommended"]]
    assert (answer["boxed"], answer["clicked"], answer["annotated"]) == (10, 50, 60)
    assert any("(40 keyframes without any label)" in note for note in document["notes"])


def test_more_money_never_buys_less() -> None:
    rows = plan_budget(runs_of("ours", "boxes_only", "full"), Prices(2, 0.1, 100))["by_budget"]
    for kind in (MIX, BOXES):
        bought = [row[kind]["spnds"] for row in rows if kind in row]
        assert len(bought) > 20 and all(np.diff(bought) >= -1e-9)


def test_between_the_edges_is_the_straight_line() -> None:
    curves, data = fit_curves(runs_of()), Dataset(N, OBJECTS)
    low, half, high = predict(curves, data, [20, 20, 20], [0, 40, 80])
    assert low == curves["boxes_only"](20) and high == curves["ours"](20) and half == pytest.approx((low + high) / 2)
    assert np.isnan(predict(curves, data, [5, 60, 60], [95, 0, 40])).all()
    assert np.isnan(predict({"ours": curves["ours"]}, data, [20], [79])).all()


def test_equal_scores_take_the_cheaper_plan() -> None:
    flat = {arm: Curve(10, 50, 0.5, 0.0, 1) for arm in ("ours", "boxes_only")}
    planner = Planner(flat, Dataset(N, OBJECTS), Prices(2, 0.5, 10_000))
    one, other = planner.best(flat, clicks=False), planner.best(flat, clicks=True)
    assert one is not None and other is not None
    assert (one.boxed, one.cost, other.boxed) == (10, 80, 10)


def test_the_interval_grows_with_the_noise() -> None:
    def width(noise: float) -> float:
        draws = np.random.default_rng(3).normal(0, noise, 6) if noise else np.zeros(6)
        some = [run(b, s, n) for (b, s), n in zip([(b, s) for b in RATIOS for s in (0, 1)], draws, strict=True)]
        low, high = plan_budget(some, Prices(2, 0.5, 320))["allocations"][MIX]["interval"]
        return high - low

    assert 0.001 < width(0.005) < width(0.02) < 0.1 and width(0) < 0.02


def test_resamples_keep_the_span_and_have_two_ratios() -> None:
    some = runs_of()
    curves = fit_curves(some)
    drawn = resampled_curves(some, curves)
    assert len(drawn) == 20 and {(c["ours"].low, c["ours"].high) for c in drawn} == {(10, 50)}
    assert len({c["ours"].ceiling for c in drawn}) > 2  # not the same runs each time


def test_the_answer_is_the_same_each_time() -> None:
    some = [run(b, s, 0.01 * s) for b in RATIOS for s in (0, 1)]
    first, second = (plan_budget(some, Prices(2, 0.5, 300)) for _ in range(2))
    assert json.dumps(first) == json.dumps(second)


def test_too_few_ratios() -> None:
    with pytest.raises(DataError, match=r'arm "ours" at 3 different label ratios or more; these runs have 0.1, 0.2'):
        plan_budget([run(10), run(20), run(20, 1)], Prices(1, 1, 1000))
    with pytest.raises(DataError, match="these runs have none"):
        plan_budget(runs_of("boxes_only"), Prices(1, 1, 1000))


@pytest.mark.parametrize("bad", [(-1, 1, 1), (1, -0.1, 1), (1, 1, -5), (float("nan"), 1, 1), (1, 1, float("inf"))])
def test_bad_prices(bad: tuple[float, float, float]) -> None:
    with pytest.raises(DataError, match=r"--(box-cost|click-cost|budget) \S+: must be a number of 0 or more"):
        Prices(*bad)


# Run directories


def write_run(
    folder: Path, boxed: int, seed: int = 0, index: str = "i", report: bool = True, **changes: object
) -> Path:
    """A run with ten keyframes, two objects on all but the last; SPNDS is 0.1 * boxed (ours) and half (boxes_only)."""
    tokens = [f"s{i}" for i in range(10)]
    roles = ["box" if i < boxed else "point" for i in range(10)]
    samples = pa.table(
        {
            "sample_token": tokens,
            "scene_token": tokens,
            "split": ["train"] * 10,
            "role": roles,
            "clicks": [2] * 9 + [0],
        },
        schema=SAMPLES_SCHEMA,
    )
    rows = [{"click_id": f"c{i}", "sample_token": f"s{i // 2}", "class": "car", "source": "sim"} for i in range(18)]
    clicks = pa.Table.from_pylist([{"x": 0.0, "y": 0.0, "z": 0.0} | row for row in rows], schema=CLICKS_SCHEMA)
    info = {"config": {}, "split": "train", "index_digest": index, "digest": table_digest(samples, clicks)}
    info |= {"samples": 10, "clicks": 18}
    write_arrow(folder / "data/manifest/samples.arrow", samples)
    write_arrow(folder / "data/manifest/clicks.arrow", clicks)
    (folder / "data/manifest/manifest.json").write_text(json.dumps(info))
    config = {"label.ratio": boxed / 10, "run.seed": seed, "optim.lr": 0.1, **changes}
    (folder / "run.json").write_text(json.dumps(config))
    for arm in ("ours", "boxes_only"):
        write_json(folder / f"student_{arm}" / "done.json", {})
    scores = {"ours": {"SPNDS": 0.1 * boxed, "mAP": 0.9}, "boxes_only": {"SPNDS": 0.05 * boxed, "mAP": 0.9}}
    if report:
        (folder / "report.json").write_text(json.dumps({"arms": scores}))
    for arm, score in {} if report else scores.items():
        (folder / f"evaluate_{arm}").mkdir()
        (folder / f"evaluate_{arm}" / "done.json").write_text(json.dumps(score))
    return folder


def test_a_run_directory_is_counted(tmp_path: Path) -> None:
    """Keyframes 0-2 count as boxes and 3-8 as clicks; keyframe 9 has no objects."""
    for report in (True, False):
        found = read_runs([write_run(tmp_path / str(report), 3, seed=5, report=report)])[0]
        assert (found.keyframes, found.boxed, found.boxes, found.clicks, found.ratio) == (10, 3, 6, 12, 0.3)
        assert (
            found.seed == 5 and found.index == "i" and found.spnds == pytest.approx({"ours": 0.3, "boxes_only": 0.15})
        )


def test_arms_are_those_that_were_trained(tmp_path: Path) -> None:
    """The trained arms are found in the run directory, since run.json does not hold ``run.arms``."""
    alone = write_run(tmp_path / "alone", 3, report=False)
    for stage in ("student_ours", "evaluate_ours"):
        shutil.rmtree(alone / stage)
    assert read_runs([alone])[0].spnds == pytest.approx({"boxes_only": 0.15})
    begun = write_run(tmp_path / "begun", 3, report=False)  # killed while it trained a third arm
    (begun / "student_full" / "images").mkdir(parents=True)
    with pytest.raises(DataError, match="is not finished: no SPNDS of full"):
        read_runs([begun])


def test_the_student_that_a_teacher_starts_from_need_not_be_scored(tmp_path: Path) -> None:
    run = write_run(tmp_path, 3, report=False, **{"teacher.lidar_init": "boxes_only"})
    shutil.rmtree(run / "evaluate_boxes_only")
    assert read_runs([run])[0].spnds == pytest.approx({"ours": 0.3})


def test_an_arm_that_was_added_to_a_pipelines_run_counts(tmp_path: Path) -> None:
    """train_student and evaluate add an arm without a report."""
    run = write_run(tmp_path, 3)
    for stage in ("student_full", "evaluate_full"):
        write_json(run / stage / "done.json", {"SPNDS": 0.6})
    assert read_runs([run])[0].spnds == pytest.approx({"ours": 0.3, "boxes_only": 0.15, "full": 0.6})


def test_a_search_gives_its_finished_trials_each_once(tmp_path: Path) -> None:
    for boxed in (1, 2, 4):
        write_run(tmp_path / "trials" / str(boxed), boxed, report=False)
    trials = [{"run_dir": f"trials/{b}", "status": "finished"} for b in (4, 1, 2)]
    trials.append({"run_dir": "trials/gone", "status": "killed"})
    (tmp_path / "search.json").write_text(json.dumps({"trials": trials}))
    assert [run.boxed for run in read_runs([tmp_path, tmp_path / "trials" / "2"])] == [1, 2, 4]
    (tmp_path / "search.json").write_text(json.dumps({"trials": trials[3:]}))
    with pytest.raises(DataError, match="none of its 1 trials is finished"):
        read_runs([tmp_path])
    (tmp_path / "search.json").write_text(json.dumps({"trials": [{"status": "finished"}]}))
    with pytest.raises(DataError, match="run_dir"):
        read_runs([tmp_path])


def _no_scores(folder: Path) -> None:
    (folder / "report.json").unlink()


def _one_arm(folder: Path) -> None:
    (folder / "report.json").write_text(json.dumps({"arms": {"ours": {"SPNDS": 0.1}}}))


def _no_spnds(folder: Path) -> None:
    (folder / "report.json").write_text(json.dumps({"arms": {"ours": {"mAP": 0.1}, "boxes_only": {"SPNDS": 0.1}}}))


def _broken(folder: Path) -> None:
    (folder / "report.json").write_text("{")


def _no_run(folder: Path) -> None:
    (folder / "run.json").unlink()


def _edited(folder: Path) -> None:
    info = {"config": {}, "digest": "other", "split": "train", "index_digest": "i"}
    (folder / "data/manifest/manifest.json").write_text(json.dumps(info))


def _half_clicked(folder: Path) -> None:
    config = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(config | {"label.click_share": 0.5}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_no_scores, "is not finished: no SPNDS of ours, boxes_only"),
        (_one_arm, "is not finished: no SPNDS of boxes_only"),
        (_no_spnds, "hold no number SPNDS"),
        (_broken, "report.json: cannot be read as JSON"),
        (_no_run, "not a run directory"),
        (_edited, "differ from manifest.json"),
        (_half_clicked, "label.click_share is 0.5 there, but plans assume that every object of a keyframe is clicked"),
    ],
)
def test_unfinished_and_broken_runs_are_refused(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(write_run(tmp_path / "run", 2))
    with pytest.raises(DataError, match=message):
        read_runs([tmp_path / "run"])


def test_runs_that_are_no_one_curve_are_refused(tmp_path: Path) -> None:
    first = write_run(tmp_path / "1", 1)
    free = {"label.seed": 3, "run.name": "b", "scaling.workers": 8, "code": "other"}
    assert len(read_runs([first, write_run(tmp_path / "2", 2, **free)])) == 2
    with pytest.raises(DataError, match="of another dataset"):
        read_runs([first, write_run(tmp_path / "3", 2, index="other")])
    with pytest.raises(DataError, match=r"more than its labels:\n  optim.lr: 0.2 there, 0.1 here"):
        read_runs([first, write_run(tmp_path / "4", 2, **{"optim.lr": 0.2})])


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """10 keyframes have 1.8 objects each: boxes on 4 at 1 and clicks on 6 at 0.1 cost 7.2 + 1.08 = 8.28."""
    folders = [str(write_run(tmp_path / str(b), b)) for b in (1, 2, 4)]
    prices = ["--box-cost", "1", "--click-cost", "0.1", "--budget", "8.3"]
    out = ["--json", str(tmp_path / "out/a.json"), "--png", str(tmp_path / "out/a.png")]
    assert main(["budget", *folders, *prices, *out]) == 0
    document = json.loads((tmp_path / "out/a.json").read_text())
    answer = document["allocations"][document["recommended"]]
    assert (answer["boxed"], answer["clicked"]) == (4, 6) and answer["cost"] == pytest.approx(8.28)
    assert Image.open(tmp_path / "out/a.png").size == (1440, 600)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.json", "a.png"]
    shown = " ".join(capsys.readouterr().out.split())
    assert "recommended: boxes + clicks" in shown and "Annotate 10 of 10 keyframes" in shown and "8.28" in shown
    assert "measured at 1, 2, 4 box-labeled keyframes of 10" in shown and "nothing is said below 1 or above 4" in shown
    assert "One seed" in shown


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--box-cost": "-1"}, "--box-cost -1.0"),
        ({"--budget": "0.5"}, "less than the cheapest labels"),
        ({}, "not a run directory"),
    ],
)
def test_the_command_refuses_bad_input(
    change: dict[str, str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [str(write_run(tmp_path / str(b), b)) for b in (1, 2, 4)] + ([] if change else [str(tmp_path)])
    prices = {"--box-cost": "1", "--click-cost": "0.1", "--budget": "8"} | change
    words = [word for pair in prices.items() for word in pair]
    assert main(["budget", *folders, *words, "--json", str(tmp_path / "a.json")]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "a.json").exists()
