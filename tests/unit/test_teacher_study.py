"""Teacher studies: variants are valid configs that differ; figures over seeds by hand; JSON and pictures."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pdetr3d import presets
from pdetr3d.class_list import NUSCENES_CLASSES
from pdetr3d.config import Config, override
from pdetr3d.evaluation.pseudo_label_quality import pseudo_label_quality
from pdetr3d.pseudo_labels import FLOORS
from pdetr3d.schema import FALLBACK_SIZE_M, Boxes3D, DataError
from pdetr3d.training import checkpoint
from pdetr3d.training.build import build
from pdetr3d.training.run_dir import RunDir
from ray_jobs import teacher_study
from ray_jobs.studies import STUDIES, study, variant_config
from ray_jobs.study_command import commit
from ray_jobs.study_report import draw_study, print_study
from ray_jobs.study_results import mean_curve, spread, steps_to, summarize, there_from_the_start
from ray_jobs.teacher_study import parse
from tests.model_cases import tiny_config

EVERY = [(name, variant) for name, which in STUDIES.items() for variant in which.variants]


@pytest.mark.parametrize(("name", "variant"), EVERY)
@pytest.mark.parametrize("preset", ["quickstart", "fusion-study"])
def test_every_variant_is_a_valid_config(name: str, variant: str, preset: str) -> None:
    config = variant_config(preset, [], STUDIES[name].variants[variant], variant, 7)
    assert (config.run.seed, config.label.seed, config.run.name) == (7, 7, f"{variant}-seed7")
    assert config.teacher.lidar_init == "none" and config.teacher.optim.checkpoints == 12


@pytest.mark.parametrize("name", STUDIES)
def test_variants_differ_and_hold_their_reference(name: str) -> None:
    chosen = study(name)
    configs = {variant_config("quickstart", [], v, "x", 0) for v in chosen.variants.values()}
    assert len(configs) == len(chosen.variants) and chosen.reference in chosen.variants


def test_a_name_means_the_same_teacher_in_every_study() -> None:
    overrides: dict[str, set[tuple[str, ...]]] = {}
    for name, variant in EVERY:
        overrides.setdefault(variant, set()).add(STUDIES[name].variants[variant])
    assert all(len(different) == 1 for different in overrides.values())
    assert len(overrides) < len(EVERY), "the studies share no teacher: does this test still mean anything?"


def test_troubles_change_the_corruption_alone_and_begin_with_none() -> None:
    base = presets.load("quickstart")
    assert len(STUDIES["robustness"].troubles) == 4
    for key, values in STUDIES["robustness"].troubles.values():
        settings = [override(base, [f"{key}={value}"]) for value in values]
        assert len(set(settings)) == len(values) >= 4 and base in settings
        assert {config.model_copy(update={"corruption": base.corruption}) for config in settings} == {base}


def test_a_variant_wins_over_the_users_overrides_which_win_over_the_studys() -> None:
    mine = ["teacher.fusion=d_roi", "teacher.optim.checkpoints=3", "teacher.lidar_init=boxes_only", "run.seed=5"]
    config = variant_config("quickstart", mine, STUDIES["fusion"].variants["none"], "none", 1)
    assert config.teacher.fusion == "none" and config.teacher.optim.checkpoints == 3
    assert config.teacher.lidar_init == "none" and config.run.seed == 1


def test_queries_of_the_paper_see_nothing_of_the_points_at_their_click() -> None:
    variants = {**STUDIES["initialization"].variants, **STUDIES["baselines"].variants}
    configs = {name: variant_config("quickstart", [], v, name, 0).teacher for name, v in variants.items()}
    plain = {name for name, c in configs.items() if (c.heading_start, c.point_crop) == ("forward", False)}
    assert variants.keys() - plain == {"explicit-direct-crop", "crop"}
    one, two = configs["implicit-direct-one-layer"], configs["implicit-direct"]
    assert two.decoder_layers == 3 and one == two.model_copy(update={"decoder_layers": 1})


def test_an_unknown_study_is_the_users_error() -> None:
    with pytest.raises(DataError, match="allowed initialization, fusion, robustness, baselines"):
        study("fusoin")


def test_spread_by_hand() -> None:
    assert spread([1.0, 2.0, 3.0]) == {"mean": 2.0, "std": 1.0, "n": 3}
    assert spread([4, None]) == {"mean": 4.0, "std": None, "n": 1}
    assert spread([None]) == {"mean": None, "std": None, "n": 0}


def test_steps_to_a_threshold_are_interpolated() -> None:
    curve = [[10, 0.2], [20, 0.4], [40, 0.3], [80, 0.6]]
    assert steps_to(curve, 0.3) == pytest.approx(15)  # the first time, not the last
    assert steps_to(curve, 0.4) == 20
    assert steps_to(curve, 0.5) == pytest.approx(40 + 40 * 2 / 3)
    assert steps_to(curve, 0.1) == 10  # there from the start
    assert steps_to(curve, 0.61) is None and steps_to([], 0.1) is None
    assert there_from_the_start(curve, 0.2) and not there_from_the_start(curve, 0.21)
    assert not there_from_the_start([[0, 0.2], *curve], 0.2) and not there_from_the_start([], 0.1)


def boxes(shift: float) -> Boxes3D:
    """Two cars at 5 and 25 m, moved along their length of 4 m: BEV IoU (4 - shift) / (4 + shift)."""
    return Boxes3D.build(
        [[5 + shift, 0, 0], [25 + shift, 0, 0]], [[4, 2, 1.5]] * 2, [0.0, 0.0], [0, 0], score=np.array([0.5, 0.7])
    )


def figures(
    shift: float, curve: list[list[float]], troubles: dict[str, dict[str, float]] | None = None
) -> dict[str, Any]:
    def quality(moved: float) -> dict[str, Any]:
        return pseudo_label_quality(boxes(moved), boxes(0), np.array([5.0, 25.0]), classes=NUSCENES_CLASSES)

    return {
        "steps": curve[-1][0],
        "curve": curve,
        "final": quality(shift),
        "class_mean": quality(2.0),
        "class_mean_pca": quality(1.5),
        "step_s": 0.5,
        "peak_memory_bytes": None,
        "troubles": {t: {v: quality(moved) for v, moved in line.items()} for t, line in (troubles or {}).items()},
    }


def variants() -> dict[str, dict[str, dict[str, Any]]]:
    reference = {"0": figures(1.0, [[10, 0.1], [20, 0.5]]), "1": figures(0.0, [[10, 0.5], [20, 1.0]])}
    other = {"0": figures(4.0, [[10, 0.2], [20, 0.6]]), "1": figures(4.0, [[10, 0.0], [20, 0.8]])}
    return {"good": reference, "bad": other}


def test_summary_by_hand() -> None:
    summary = summarize(variants(), "good")
    assert summary["good"]["bev_iou"]["mean"] == pytest.approx((3 / 5 + 1) / 2)
    assert summary["good"]["bev_iou"]["std"] == pytest.approx(0.4 / np.sqrt(2))
    assert summary["bad"]["bev_iou"]["mean"] == 0 and summary["bad"]["center_error_m"]["mean"] == pytest.approx(4)
    # 90 % of the same seed's last point of "good": 0.45 for seed 0, 0.9 (never reached by "bad") for seed 1.
    assert summary["bad"]["steps_to_share"] == {
        "mean": pytest.approx(10 + 10 * 0.25 / 0.4),
        "std": None,
        "n": 1,
        "at_most": False,
    }
    assert summary["good"]["steps_to_share"]["mean"] == pytest.approx((10 + 10 * 0.35 / 0.4 + 18) / 2)
    assert summary["good"]["by_distance"]["0-10"]["bev_iou"]["n"] == 2
    assert summary["good"]["by_distance"]["10-20"]["bev_iou"]["mean"] is None
    assert summary["good"]["floors"]["class_mean"]["bev_iou"]["mean"] == pytest.approx(1 / 3)
    assert summary["good"]["step_s"] == {"mean": 0.5, "std": 0.0, "n": 2}
    assert summary["good"]["peak_memory_bytes"]["mean"] is None and summary["good"]["troubles"] == {}
    assert summarize(variants(), "absent")["good"]["steps_to_share"]["n"] == 0
    early = {"good": variants()["good"], "other": {"0": figures(1.0, [[10, 0.46], [20, 0.5]])}}
    assert summarize(early, "good")["other"]["steps_to_share"] == {"mean": 10, "std": None, "n": 1, "at_most": True}


def test_troubles_are_summarized_by_name_and_value() -> None:
    runs = {str(s): figures(0, [[1, 1.0]], {"blur": {"0": 0.0, "2": float(s)}}) for s in (0, 1)}
    blur = summarize({"d_roi": runs}, "d_roi")["d_roi"]["troubles"]["blur"]
    assert blur["0"]["bev_iou"]["mean"] == 1 and blur["2"]["bev_iou"]["mean"] == pytest.approx((1 + 3 / 5) / 2)
    assert blur["2"]["yaw_error_rad"] == {"mean": 0.0, "std": 0.0, "n": 2}


def test_mean_curve_is_over_the_steps_that_all_seeds_have() -> None:
    runs = {"0": {"curve": [[10, 0.2], [20, 0.4]]}, "1": {"curve": [[10, 0.4], [15, 0.9], [20, 0.4]]}}
    assert mean_curve(runs) == [(10, pytest.approx(0.3), pytest.approx(0.2 / np.sqrt(2))), (20, 0.4, 0.0)]
    assert mean_curve({"0": {"curve": [[5, 0.1]]}}) == [(5, 0.1, 0.0)] and mean_curve({}) == []


def test_document_is_json_printed_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = variants()
    for run in parts["good"].values():
        run["troubles"] = {"blur [px]": {"0": run["final"], "2": parts["bad"]["0"]["final"]}}
    parts["bad"]["0"]["curve"] = [[10, 0.46], [20, 0.6]]  # 0.45 is asked for
    document = {
        "study": "robustness",
        "seeds": [0, 1],
        "clicks_from": 100,
        "reference": "good",
        "variants": {name: {"parameters": 1234567, "runs": runs} for name, runs in parts.items()},
        "summary": summarize(parts, "good"),
    }
    again = json.loads(json.dumps(document, allow_nan=False))
    assert again == document
    print_study(again)
    shown = capsys.readouterr().out
    for words in ("0.800 +- 0.283", "<= 10", "1,234,567", "PCA heading", "bev_iou: blur [px]"):
        assert words in shown
    files = draw_study(again, tmp_path)
    assert [f.name for f in files] == [f"robustness_{what}.png" for what in ("curves", "distance", "troubles")]
    assert all(f.read_bytes()[:4] == b"\x89PNG" for f in files) and len(list(tmp_path.iterdir())) == 3


def test_overrides_may_follow_the_seeds() -> None:
    args = parse(["fusion", "--preset", "quickstart", "--seeds", "0", "2", "2", "sim.scenes=3", "optim.lr=1"])
    assert (args.study, args.seeds, args.overrides) == ("fusion", [0, 2], ["sim.scenes=3", "optim.lr=1"])
    args = parse(["fusion", "optim.lr=1", "--preset", "quickstart"])
    assert (args.seeds, args.overrides, args.clicks_from) == ([0, 1, 2], ["optim.lr=1"], 100)
    for words in (["--seeds", "one"], ["--seeds", "a=b"], ["--clicks-from", "0"], ["--seeds", "-1"]):
        with pytest.raises((DataError, SystemExit)):
            parse(["fusion", "--preset", "quickstart", *words])


class OneTeacher:
    """Stands for the stages of one trained teacher whose run directory is real."""

    def __init__(self, folder: Path, config: Config) -> None:
        self.run, self.config, self.prior = RunDir(folder, config), config, FALLBACK_SIZE_M
        self.records = [SimpleNamespace(role="point", clicks=[1], name=n) for n in "abc"]

    def teacher(self) -> None:
        """Is trained."""

    def known_clicks(self, records: list[Any]) -> list[str]:
        return [record.name for record in records]


def test_floors_are_added_to_what_another_study_has_evaluated_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And kept for a study that does not ask for them; nothing is evaluated again."""
    asked: list[Any] = []
    monkeypatch.setattr(teacher_study, "evaluated", lambda *_: asked.append("evaluated") or {"final": 0.5})
    monkeypatch.setattr(teacher_study, "floors", lambda known, *_: asked.append(known) or dict.fromkeys(FLOORS, 0.4))
    stages: Any = OneTeacher(tmp_path, presets.load("quickstart"))

    def once(name: str, with_floors: bool, final_from: int = 2) -> dict[str, Any]:
        return teacher_study.one_run(stages, STUDIES[name], 100, final_from, with_floors=with_floors)

    first = once("initialization", False)
    assert first["final"] == 0.5 and not first.keys() & set(FLOORS)
    second = once("baselines", True)
    assert second == {**first, "class_mean": 0.4, "class_mean_pca": 0.4} == stages.run.result("study")
    assert asked == ["evaluated", ["a", "b"]]
    assert once("baselines", True) == once("initialization", False) == second and len(asked) == 2
    assert once("baselines", True, 0)["asked"]["final_from"] == 0 and asked[2:] == ["evaluated", ["a", "b", "c"]]


def test_a_curve_begins_with_the_teacher_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, loaded = tiny_config("run.seed=3"), []

    def predict(kind: str, config: Config, prior: Any, files: list[Path], records: list[Any]) -> list[float]:
        loaded.append(files[0].read_bytes())
        return [0.1 * n for n in range(len(files))]

    monkeypatch.setattr(teacher_study, "predict", predict)
    known = SimpleNamespace(quality=lambda boxes: {"bev_iou": boxes})
    stages: Any = OneTeacher(tmp_path, config)
    stages.known_clicks = lambda records: known
    first, files = teacher_study.untrained(stages), [Path("step_0000006.pt"), Path("step_0000294.pt")]
    assert teacher_study.learning_curve(stages, files, []) == [[0, 0], [6, 0.1], [294, 0.2]]
    assert loaded == [first.read_bytes()]
    weights, expected = checkpoint.load(first)["model"], build("teacher", config, FALLBACK_SIZE_M).model.state_dict()
    assert weights.keys() == expected.keys() and all(torch.equal(weights[name], v) for name, v in expected.items())


def test_the_commit_is_named() -> None:
    assert re.fullmatch(r"([0-9a-f]{40}\+?)?", commit())  # empty in an unpacked archive
