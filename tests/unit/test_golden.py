"""A stage's numbers change only together with its version, so that begun runs never mix old and new ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pdetr3d.training.stage_versions import STAGE_VERSIONS, code_version
from tests import golden_cases
from tests.golden_cases import STAGES, differences, golden_world, plain, verdict, write
from tests.training_cases import World

pytestmark = pytest.mark.xdist_group("golden")  # the fixtures of this file take seconds


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return golden_world(tmp_path_factory.mktemp("golden"))


def test_numbers_change_with_their_version_alone(world: World) -> None:
    problems = [verdict(stage, plain(numbers(world)), STAGE_VERSIONS[stage]) for stage, numbers in STAGES.items()]
    assert not any(problems), "\n\n".join(problem for problem in problems if problem)


def test_every_stage_has_numbers() -> None:
    assert STAGES.keys() == STAGE_VERSIONS.keys()
    assert {file.stem for file in golden_cases.FOLDER.glob("*.json")} == STAGES.keys()
    assert f"teacher {STAGE_VERSIONS['teacher']}" in code_version()


def test_rounding_is_no_difference_but_all_else_is() -> None:
    there = {"a": [1.0, "x", None, 3], "b": {"c": 0.0}}
    assert not differences(there, {"a": [1.0015, "x", None, 3], "b": {"c": 1e-5}})
    for changed, said in (
        ({"a": [1.01, "x", None, 3], "b": {"c": 0.0}}, ".a[0]: 1.0 there, 1.01 now"),
        ({"a": [1.0, "y", None, 3], "b": {"c": 0.0}}, ".a[1]: x there, y now"),
        ({"a": [1.0, "x", 0.0, 3], "b": {"c": 0.0}}, ".a[2]: None there, 0.0 now"),
        ({"a": [1.0, "x", None, 4], "b": {"c": 0.0}}, ".a[3]: 3 there, 4 now"),
        ({"a": [1.0, "x", None], "b": {"c": 0.0}}, ".a: 4 entries there, 3 now"),
        ({"a": [1.0, "x", None, 3], "b": {}}, ".b.c: only there"),
    ):
        assert differences(there, changed) == [said]


def test_what_to_do_is_said_and_old_numbers_are_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world: World
) -> None:
    monkeypatch.setattr(golden_cases, "FOLDER", tmp_path)
    monkeypatch.setattr(golden_cases, "STAGES", {"label": lambda _: {"x": 1.0}})
    monkeypatch.setattr(golden_cases, "STAGE_VERSIONS", {"label": 1})
    assert write(world) == [] and verdict("label", {"x": 1.0}, 1) == ""
    monkeypatch.setattr(golden_cases, "STAGES", {"label": lambda _: {"x": 2.0}})
    [said] = write(world)
    assert ".x: 1.0 there, 2.0 now" in said and "STAGE_VERSIONS['label'] to 2" in said and "make golden" in said
    assert json.loads((tmp_path / "label.json").read_text())["numbers"] == {"x": 1.0}
    assert "run `make golden`" in verdict("label", {"x": 2.0}, 2)
    monkeypatch.setattr(golden_cases, "STAGE_VERSIONS", {"label": 2})
    assert write(world) == [] and verdict("label", {"x": 2.0}, 2) == ""
