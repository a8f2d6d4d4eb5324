"""Tests of named variants in search spaces: fields, configs, shipped variants, and teachers of another world."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pdetr3d.config import Config, override
from pdetr3d.presets import load
from pdetr3d.schema import FALLBACK_SIZE_M, DataError
from pdetr3d.training import checkpoint
from pdetr3d.training.build import build, check_models
from ray_jobs.searches.command import changed
from ray_jobs.searches.pretrained import with_pretrained
from ray_jobs.searches.space import SearchSpace, Variant
from ray_jobs.searches.space_files import check_space, load_space, names, trial_config
from tests.jobs import parse_search
from tests.model_cases import shaken, tiny_config

TEACHERS: dict[str, Any] = {
    "name": "queries",
    "question": "Which queries?",
    "trains": "teacher",
    "metric": "bev_iou",
    "seeds": (0, 1),
    "variants": {"plain": [], "implicit": ["teacher.query_init=implicit", "teacher.matching=direct"]},
}
STUDENTS: dict[str, Any] = {
    "name": "arms",
    "question": "Which labels?",
    "trains": ("ours",),
    "metric": "SPNDS",
    "variants": {"boxes only": {"trains": "boxes_only"}, "ours": {"trains": "ours", "overrides": ["optim.lr=0.5"]}},
}
WITH_VARIANTS = [name for name in names() if load_space(name).variants]


def space_of(base: dict[str, Any], **changes: Any) -> SearchSpace:
    return SearchSpace(**base | changes)


def test_every_variant_is_trained_with_every_seed_and_value() -> None:
    space = space_of(TEACHERS, space={"teacher.roi_grid": {"values": [1, 3]}})
    assert space.size == 8 and len(list(space.combinations())) == 8
    assert next(space.combinations()) == {"variant": "plain", "teacher.roi_grid": 1, "seed": 0}
    assert list(space.domains) == ["variant", "teacher.roi_grid"]
    assert space.variants["implicit"] == Variant(overrides=("teacher.query_init=implicit", "teacher.matching=direct"))


def test_a_variants_config_is_settings_then_overrides_then_its_own() -> None:
    space = space_of(TEACHERS, settings=("optim.lr=0.5", "teacher.roi_grid=3"))
    config = trial_config(space, "quickstart", ["optim.lr=0.25"], {"variant": "implicit", "seed": 4})
    assert (config.optim.lr, config.teacher.roi_grid, config.teacher.query_init) == (0.25, 3, "implicit")
    assert (config.run.seed, config.label.seed) == (4, 4)
    assert trial_config(space, "quickstart", [], {"variant": "plain"}).teacher.query_init == "explicit"


def test_variants_may_train_an_arm_of_their_own() -> None:
    space = space_of(STUDENTS)
    assert space.arms == ("boxes_only", "ours") and space.judged == "student"
    first = {"variant": "boxes only", "seed": 0}
    assert space.arms_of(first) == ("boxes_only",) and space.judged_stage(first) == "student_boxes_only"
    assert trial_config(space, "quickstart", [], first).run.arms == ("boxes_only",)
    assert trial_config(space, "quickstart", [], {"variant": "ours"}).optim.lr == 0.5
    assert space_of(TEACHERS).judged == "teacher" and space_of(TEACHERS).arms == ()


WRONG: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "nothing": (TEACHERS, {"variants": {}}, "needs variants: .* or space:"),
    "reference": (TEACHERS, {"reference": "implcit"}, "'implcit' is no variant; there are plain, implicit"),
    "some arms": (STUDENTS, {"variants": {"a": {"trains": "full"}, "b": []}}, "variant a has trains:, so every"),
    "two arms": (STUDENTS, {"trains": ("ours", "full")}, "whose trains: has one student arm"),
    "student at clicks": (STUDENTS, {"measured_on": "point_labeled"}, "need trains: teacher"),
    "students' floors": (STUDENTS, {"evaluations": {"floors": True}}, "need trains: teacher"),
    "asha at clicks": (TEACHERS, {"measured_on": "point_labeled", "asha": True}, "without asha"),
    "corruption": (TEACHERS, {"evaluations": {"corruption": {"optim.lr": [1]}}}, "optim.lr: allowed are only keys"),
    "an unknown corruption": (TEACHERS, {"evaluations": {"corruption": {"corruption.blurr": [1]}}}, "did you mean"),
    "an unknown key": (TEACHERS, {"variants": {"a": ["teacher.roi_grit=3"]}}, "teacher.roi_grit.*did you mean"),
    "a value": (TEACHERS, {"variants": {"a": ["teacher.roi_grid=-3"]}}, "teacher.roi_grid"),
    "a seed": (TEACHERS, {"variants": {"a": ["run.seed=3"]}}, "run.seed: trials are seeded by"),
    "the search's own": (TEACHERS, {"variants": {"a": ["scaling.workers=3"]}}, "scaling.workers is the same in all"),
}


@pytest.mark.parametrize("case", WRONG)
def test_refused(case: str) -> None:
    base, changes, message = WRONG[case]
    with pytest.raises((DataError, ValueError), match=message):
        check_space(space_of(base, **changes), "quickstart", [])


def test_a_key_of_a_variant_cannot_be_set_for_all() -> None:
    with pytest.raises(DataError, match=r"teacher\.matching: the space queries varies this key"):
        check_space(space_of(TEACHERS), "quickstart", ["teacher.matching=hungarian"])


def test_without_a_select_split_a_grid_alone_is_compared_by_its_final_figures() -> None:
    word = ['data.select_split=""']
    space = space_of(STUDENTS)
    assert space.scored_on(check_space(space, "quickstart", word)) == ""
    assert space.scored_on(load("quickstart")) == "select"
    assert space_of(TEACHERS, measured_on="point_labeled").scored_on(load("quickstart")) == "point_labeled"


# --- those we ship ---


@pytest.mark.parametrize("name", WITH_VARIANTS)
@pytest.mark.parametrize("preset", ["quickstart", "fusion-study"])
def test_variants_differ_and_hold_their_reference(name: str, preset: str) -> None:
    space = load_space(name)
    base = check_space(space, preset, [])
    configs = {(trial_config(space, preset, [], {"variant": v}), space.arms_of({"variant": v})) for v in space.variants}
    assert len(configs) == len(space.variants)
    assert space.reference in space.variants or len(space.variants) == 1
    if space.trains == "teacher":
        curve = 1 if name == "self_labels" else 12  # it asks for the end alone
        assert base.teacher.lidar_init == "none" and base.teacher.optim.checkpoints == curve


def test_there_is_every_comparison_that_studies_had() -> None:
    assert {*WITH_VARIANTS} == {
        "initialization",
        "fusion",
        "robustness",
        "baselines",
        "kitti_clicks",
        "headline",
        "self_labels",
    }
    assert {load_space("headline").arms_of({"variant": name})[0] for name in load_space("headline").variants} == {
        "boxes_only", "self_training", "mean_teacher", "ours", "full"}  # fmt: skip


def test_the_headlines_variants_can_be_built() -> None:
    """Its preset names parameters of the crop branch, which a Point-DETR teacher does not have."""
    space = load_space("headline")
    for name in space.variants:
        check_models(trial_config(space, "headline", [], {"variant": name}), FALLBACK_SIZE_M)


def test_a_name_means_the_same_teacher_in_every_space() -> None:
    configs: dict[str, set[Config]] = {}
    for space in map(load_space, ("initialization", "fusion", "robustness", "baselines")):
        for name in space.variants:
            configs.setdefault(name, set()).add(trial_config(space, "quickstart", [], {"variant": name}))
    assert {name: len(different) for name, different in configs.items()} == dict.fromkeys(configs, 1)
    assert len(configs) < 10 + 3 + 1 + 3


def test_evaluations_change_the_corruption_alone_and_begins_with_none() -> None:
    base, corruption = load("quickstart"), load_space("robustness").evaluations.corruption
    assert len(corruption) == 4
    for key, values in corruption.items():
        settings = [override(base, [f"{key}={value:g}"]) for value in values]
        assert len(set(settings)) == len(values) >= 4 and base in settings
        assert {config.model_copy(update={"corruption": base.corruption}) for config in settings} == {base}


def test_queries_of_the_paper_see_nothing_of_the_points_at_their_click() -> None:
    spaces = [load_space("initialization"), load_space("baselines")]
    configs = {n: trial_config(s, "quickstart", [], {"variant": n}).teacher for s in spaces for n in s.variants}
    plain = {name for name, c in configs.items() if (c.heading_start, c.point_crop) == ("forward", False)}
    assert configs.keys() - plain == {"explicit-direct-crop", "crop"}
    one, two = configs["implicit-direct-one-layer"], configs["implicit-direct"]
    assert two.decoder_layers == 3 and one == two.model_copy(update={"decoder_layers": 1})


# --- the command line ---


def asked(name: str, *words: str) -> SearchSpace:
    return changed(load_space(name), parse_search([name, "--preset", "quickstart", *words]))


def test_chosen_variants_come_in_the_spaces_order_under_a_name_of_their_own() -> None:
    space = asked("headline", "--variant", "ours", "--variant", "mean teacher", "optim.lr=1")
    assert list(space.variants) == ["mean teacher", "ours"] and space.name == "headline-mean_teacher-ours"
    assert space.reference == "ours" and space.size == 6
    assert asked("headline", "--variant", "boxes only").reference is None
    with pytest.raises(DataError, match="--variant 'theirs': headline has no such.* allowed 'boxes only', 'self-tr"):
        asked("headline", "--variant", "theirs")
    with pytest.raises(DataError, match="label_ratio has no such variant; allowed none"):
        asked("label_ratio", "--variant", "ours")


def test_how_many_samples_are_measured() -> None:
    space = asked("fusion", "--samples", "40", "--final-samples", "200", "--seeds", "3")
    assert (space.samples, space.final_samples, space.seeds) == (40, 200, (3,))
    assert (asked("fusion").samples, asked("fusion").final_samples, asked("fusion").seeds) == (100, 0, (0, 1, 2))
    with pytest.raises(DataError, match="--final-samples 7: sensors is measured on the whole val split"):
        asked("sensors", "--final-samples", "7")


def test_teachers_begin_with_those_of_another_world(tmp_path: Path) -> None:
    """They begin with the teacher of the lowest trained seed; variants keep their own settings."""
    space = load_space("kitti_clicks")
    for name, variant in space.variants.items():
        for seed in (10, 2, 1):
            place = tmp_path / "trials" / f"{name}-{seed}"
            config = tiny_config(*variant.overrides)
            weights = shaken(build("teacher", config, FALLBACK_SIZE_M).model)
            saved = checkpoint.save(place / "teacher", weights, None, 7, config.to_json())
            saved.rename(place / "teacher" / "step_0000009.pt")
            (place / "trial.json").write_text(json.dumps({"parameters": {"variant": name, "seed": seed}}))
            if seed > 1:  # the first was interrupted
                (place / "teacher" / "done.json").write_text('{"checkpoints": ["step_0000009.pt"]}')
    both = with_pretrained(space, tmp_path).variants
    assert list(both) == ["crop", "none", "d_roi", "crop-pretrained", "none-pretrained", "d_roi-pretrained"]
    file = tmp_path.resolve() / "trials" / "none-2" / "teacher" / "step_0000009.pt"
    assert both["none-pretrained"].overrides == (*both["none"].overrides, f'teacher.start_from="{file}"')
    config = trial_config(space.model_copy(update={"variants": both}), "quickstart", [], {"variant": "none-pretrained"})
    assert config.teacher.start_from == str(file) and config.teacher.fusion == "none"
    with pytest.raises(DataError, match="no trained teacher of variant 'crop' is there"):
        with_pretrained(space, tmp_path / "nowhere")
    with pytest.raises(DataError, match="headline has no variants of a teacher"):
        with_pretrained(load_space("headline"), tmp_path)
