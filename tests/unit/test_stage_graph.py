"""Tests of stages' digests, which decide on sharing: versions, config fields in use, and earlier stages."""

from __future__ import annotations

import pytest

from pdetr3d.config import Config, override
from pdetr3d.config_seen import seen_by
from pdetr3d.pipeline.graph import GRAPH, ancestors, digest_of, outside, stage_digest
from pdetr3d.presets import load
from pdetr3d.training.stage_versions import STAGE_VERSIONS

GIVEN = {"index": "i", "labels": "l"}
BASE = override(load("quickstart"), ["teacher.lidar_init=none"])  # a teacher that starts from no student
TAUGHT = override(BASE, ["teacher.lidar_init=boxes_only"])
SHARED = ("student_boxes_only", "teacher", "pseudo_labels")


def differing(base: Config, word: str) -> set[str]:
    """The shared stages of searches whose digest changes with the override."""
    changed = override(base, [word])
    return {stage for stage in SHARED if digest_of(stage, base, GIVEN) != digest_of(stage, changed, GIVEN)}


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("student.guidance=none", set()),
        ("student.mask_sigma_factor=0.1", set()),
        ("scaling.data_cpus=0.25", set()),
        ("run.name=x", set()),
        ("run.arms=[ours]", set()),
        ("data.skip_limit=0.5", set()),
        ("optim.lr=1", {"student_boxes_only"}),
        ("student.cbgs=true", {"student_boxes_only"}),
        ("teacher.roi_grid=3", {"teacher", "pseudo_labels"}),
        ("label.snap=true", {"pseudo_labels"}),
        ("label.click_share=0.5", {"pseudo_labels"}),
        ("label.pseudo_for=all", {"pseudo_labels"}),
        ("label.ratio=0.2", {*SHARED}),
        ("label.redraw_clicks=false", {*SHARED}),
        ("model.norm=group", {*SHARED}),
        ("data.num_sweeps=1", {*SHARED}),
        ("run.seed=3", {*SHARED}),
    ],
)
def test_runs_share_what_their_keys_do_not_touch(word: str, expected: set[str]) -> None:
    assert differing(BASE, word) == expected


def test_a_teacher_that_starts_from_a_student_depends_on_what_the_student_depends_on() -> None:
    assert ancestors("pseudo_labels", BASE) == ("crops", "teacher", "pseudo_labels")
    assert ancestors("teacher", TAUGHT) == ("student_boxes_only", "crops", "teacher")
    assert differing(TAUGHT, "optim.lr=1") == {*SHARED}
    assert differing(TAUGHT, "student.mask_sigma_factor=0.1") == set()
    assert differing(TAUGHT, "teacher.roi_grid=3") == {"teacher", "pseudo_labels"}


def test_a_crop_branch_that_labels_clicks_is_trained_twice_and_depends_on_the_clicks() -> None:
    twice = override(BASE, ["teacher.crop_self_labels=100"])
    assert ancestors("teacher", twice) == ("crops", "crops_again", "teacher")
    assert ancestors("holdout", twice) == ("crops_holdout", "crops_again_holdout", "teacher_holdout", "holdout")
    assert ancestors("teacher", override(twice, ["teacher.query_init=implicit"])) == ("teacher",)
    baseline = override(BASE, ["teacher.model=crop"])
    assert ancestors("teacher", baseline) == ("teacher",)
    assert ancestors("teacher", override(baseline, ["teacher.crop_self_labels=100"])) == ("crops", "teacher")
    assert differing(twice, "label.click_share=0.5") == {"teacher", "pseudo_labels"}
    assert differing(twice, "student.guidance=none") == set()
    assert differing(BASE, "teacher.crop_self_labels=100") == {"teacher", "pseudo_labels"}


def test_the_index_depends_on_the_dataset_alone() -> None:
    same = ("teacher.roi_grid=3", "label.seed=1", "run.seed=3", "model.norm=group", "data.sensor.lidar_beams=8")
    for word, equal in [*((word, True) for word in same), ("data.num_sweeps=1", False), ("sim.seed=1", False)]:
        assert (outside(override(BASE, [word])) == outside(BASE)) == equal, word


def test_other_tables_labels_and_versions_are_other_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {name: digest_of(name, BASE, GIVEN) for name in GRAPH}
    assert len({*before.values()}) == len(GRAPH)

    def changed(given: dict[str, str] = GIVEN) -> set[str]:
        return {name for name in GRAPH if digest_of(name, BASE, given) != before[name]}

    assert changed(GIVEN | {"index": "other"}) == changed(GIVEN | {"labels": "other"}) == {*GRAPH}
    monkeypatch.setitem(STAGE_VERSIONS, "pseudo_labels", STAGE_VERSIONS["pseudo_labels"] + 1)
    assert changed() == {name for name in GRAPH if "pseudo_labels" in ancestors(name, BASE)}
    assert "student_ours" in changed() and not changed() & {"teacher", "holdout", "student_boxes_only", "student_full"}


def test_a_digest_is_of_the_digests_of_what_is_needed() -> None:
    assert stage_digest("teacher", BASE, {"crops": "a"}) != stage_digest("teacher", BASE, {"crops": "b"})


def test_fields_that_no_stage_sees_are_where_a_run_computes_and_what_it_is_called() -> None:
    hidden = BASE.flat().keys() - seen_by(BASE).keys()
    assert {key for key in hidden if not key.startswith(("scaling.", "storage."))} == {
        "run.name", "run.arms", "data.skip_limit", "label.manifest",
    }  # fmt: skip
    assert {key for key in BASE.flat() if key.startswith(("scaling.", "storage."))} <= hidden
