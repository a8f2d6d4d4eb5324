"""Tests of lists of own classes: reading, refused lists, and the config keys that depend on the list."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from nuscenes.eval.common.config import config_factory
from nuscenes.eval.detection.constants import ATTRIBUTE_NAMES
from nuscenes.eval.detection.utils import category_to_detection_name, detection_name_to_rel_attributes

from pdetr3d import presets
from pdetr3d.class_list import ATTRIBUTES, NUSCENES_CLASSES, read_classes
from pdetr3d.cli import main
from pdetr3d.config import Config, DataConfig, override
from pdetr3d.data.index.facts import IndexFacts
from pdetr3d.losses.center_criterion import CenterCriterion
from pdetr3d.schema import CLASSES, FALLBACK_SIZE_M, DataError
from tests.model_cases import same_on_all_ranks, tiny_config

# Seven of a company's own, none of them a name of nuScenes'; groups stand apart in the list.
SEVEN = """{
pkw: {size_m: [4.6, 1.9, 1.7], categories: [vehicle.car], group: big, attributes: [vehicle.moving, vehicle.parked]},
fussgaenger: {size_m: [0.7, 0.7, 1.8], range_m: 40, categories: [human.pedestrian.adult], group: people},
lkw: {size_m: [7, 2.5, 2.9], categories: [vehicle.truck, vehicle.construction, vehicle.bus.rigid], group: big},
anhaenger: {size_m: [12, 3, 3.9], categories: [vehicle.trailer], group: big},
zweirad: {size_m: [2, 0.7, 1.4], categories: [vehicle.motorcycle, vehicle.bicycle], group: cycles},
bake: {size_m: [0.5, 2.5, 1], range_m: 30, categories: [movable_object.barrier], heading: axis, velocity: false},
huetchen: {size_m: [0.4, 0.4, 1.1], range_m: 30, categories: [movable_object.trafficcone], heading: none, velocity: false}
}"""  # noqa: E501


def test_the_ten_are_the_devkits() -> None:
    """Categories, ranges and attributes of the default list equal the devkit's."""
    assert NUSCENES_CLASSES.names == CLASSES and not NUSCENES_CLASSES.own and NUSCENES_CLASSES.text == ""
    categories = [category for each in NUSCENES_CLASSES.classes for category in each.categories]
    assert len(categories) == 14 and None not in map(category_to_detection_name, categories)
    for category in [*categories, "vehicle.emergency.police", "car", "static_object.bicycle_rack"]:
        assert NUSCENES_CLASSES.class_of(category) == category_to_detection_name(category)
    assert dict(NUSCENES_CLASSES.range_m) == config_factory("detection_cvpr_2019").class_range
    assert sorted(ATTRIBUTES) == sorted(ATTRIBUTE_NAMES)
    for each in NUSCENES_CLASSES.classes:
        assert set(each.attributes) <= set(detection_name_to_rel_attributes(each.name))
    np.testing.assert_array_equal(NUSCENES_CLASSES.fallback_size_m, FALLBACK_SIZE_M)


def test_seven_of_ones_own() -> None:
    seven = read_classes(SEVEN)
    assert seven.own and len(seven) == 7 and seven.names[:3] == ("pkw", "fussgaenger", "lkw")
    assert seven.tasks == ((0, 2, 3), (1,), (4,), (5,), (6,))
    assert dict(seven.groups) == {
        "big": ("pkw", "lkw", "anhaenger"), "people": ("fussgaenger",), "cycles": ("zweirad",), "bake": ("bake",),
        "huetchen": ("huetchen",),
    }  # fmt: skip
    assert (seven.labels("axis", "none"), seven.labels("none")) == ((5, 6), (6,))
    assert seven.class_of("vehicle.bus.rigid") == "lkw" and seven.class_of("vehicle.emergency.police") is None
    assert seven.category_of("zweirad") == "vehicle.motorcycle"
    assert [each.undefined for each in seven.classes[-2:]] == [
        ("attr_err", "vel_err"), ("attr_err", "vel_err", "orient_err")
    ]  # fmt: skip
    assert seven.classes[0].undefined == () and seven.classes[1].undefined == ("attr_err",)
    assert read_classes(seven.text) == seven


def test_the_ten_written_out_are_the_default() -> None:
    """Digests and golden numbers of a run are the same for the default classes and for that list written out."""
    ten = NUSCENES_CLASSES.classes
    rows = [
        f"{each.name}: {{size_m: {[float(side) for side in each.size_m]}, range_m: {each.range_m}, categories: "
        f"{list(each.categories)}, group: {each.group}, heading: {each.heading}, velocity: {each.velocity}"
        + (f", attributes: {list(each.attributes)}}}" if each.attributes else "}")
        for each in ten
    ]
    assert read_classes("{" + ", ".join(rows) + "}") is NUSCENES_CLASSES
    assert tiny_config("data.classes={" + ", ".join(rows) + "}") == tiny_config()


def test_a_config_keeps_the_content_and_follows_it(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(SEVEN[1:-1].replace("},\n", "}\n"))
    config = tiny_config(f"data.classes={file}")
    file.unlink()
    assert config.classes == read_classes(SEVEN) and config.tasks == read_classes(SEVEN).tasks
    assert Config.from_json(config.to_json()) == config
    # The presets' counts for the ten classes do not apply to these seven; counts given with the list do.
    ten = presets.QUICKSTART.student
    assert ten.gt_sampling and ten.tasks and ten.circle_radius_m
    preset = presets.load("quickstart", [f"data.classes={SEVEN}"]).student
    assert (preset.gt_sampling, preset.tasks, preset.circle_radius_m) == ((), (), ())
    said = ["student.gt_sampling=[1,2,1,1,1,1,1]", "student.tasks=[[0,1,2,3,4,5,6]]"]
    own_counts = presets.load("quickstart", [*said, f"data.classes={SEVEN}"]).student
    assert own_counts.gt_sampling == (1, 2, 1, 1, 1, 1, 1) and own_counts.tasks == (tuple(range(7)),)
    kitti = presets.load("kitti", ["data.classes=kitti"])  # the preset's own list: nothing is dropped
    assert kitti == presets.load("kitti") and kitti.student.gt_sampling == (2, 3, 4, 2, 6)
    assert presets.load("kitti", ["data.classes="]).student.gt_sampling == ()
    # In a config with seven classes other overrides keep the counts.
    assert (
        override(tiny_config(f"data.classes={SEVEN}", *said), ["optim.lr=0.1"]).student
        == tiny_config(f"data.classes={SEVEN}", *said).student
    )
    criterion = CenterCriterion(config, same_on_all_ranks)
    assert (criterion.undirected, criterion.round) == ((5, 6), (6,))
    ten = CenterCriterion(tiny_config(), same_on_all_ranks)
    assert (ten.undirected, ten.round) == ((5, 9), (9,))
    own = IndexFacts(DataConfig(), classes=config.classes)
    assert IndexFacts.from_json(own.to_json()) == own and own.identity != IndexFacts().identity


def test_lists_that_come_with_the_package() -> None:
    kitti = presets.load("kitti-small").classes
    assert kitti.names == ("Car", "Truck", "Tram", "Pedestrian", "Cyclist")
    assert presets.load("kitti").classes == kitti == read_classes("kitti")
    # Both ways to import KITTI: with its own names, and with nuScenes'.
    assert [kitti.class_of(name) for name in ("Van", "vehicle.car", "Person_sitting")] == ["Car", "Car", "Pedestrian"]


BAD = {
    "a class twice": ("{a: {size_m: [1, 1, 1]}, a: {size_m: [2, 1, 1]}}", ["'a' stands twice"]),
    "unknown key": ("{a: {size_m: [1, 1, 1], rang_m: 3}}", ["a.rang_m: unknown key", "did you mean 'range_m'?"]),
    "no size": ("{a: {range_m: 3}}", ["a.size_m: is missing", "[length, width, height]"]),
    "a size of 0": ("{a: {size_m: [1, 0, 1]}}", ["a.size_m: [1, 0, 1] is not", "above 0"]),
    "a range below 0": ("{a: {size_m: [1, 1, 1], range_m: -3}}", ["a.range_m: -3 is not a number above 0"]),
    "a heading": ("{a: {size_m: [1, 1, 1], heading: both}}", ["a.heading: 'both'", "direction, axis, none"]),
    "an attribute": ("{a: {size_m: [1, 1, 1], attributes: [fast, slow]}}", ["a.attributes: ['fast', 'slow']"]),
    "a category of two": (
        "{a: {size_m: [1, 1, 1], categories: [x]}, b: {size_m: [1, 1, 1], categories: [x]}}",
        ["b.categories: 'x' is of class a, too"],
    ),
    "reserved": ("{ignore: {size_m: [1, 1, 1]}}", ["'ignore': a class's name is a text, and not ignore"]),
    "a number": ("{1: {size_m: [1, 1, 1]}}", ["1: a class's name is a text"]),
    "no YAML": ("{a: [", ["is no YAML"]),
    "no file": ("mine.yaml", ["data.classes mine.yaml: cannot be read", "lists by name: kitti"]),
}


@pytest.mark.parametrize(("value", "words"), BAD.values(), ids=BAD)
def test_bad_lists_are_named(value: str, words: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        tiny_config(f"data.classes={value}")
    for word in ["data.classes", *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["student.tasks=[[0,1],[2]]"], ["each class index 0..6 exactly once", "pkw first"]),
        (["student.tasks=[]", "student.gt_sampling=[1,2]"], ["must hold 7 counts", "pkw first"]),
        (["student.tasks=[]", "student.nms=circle"], ["it needs 7"]),
        (["student.tasks=[]", "label.no_boxes_of=[car]"], ["'car' is no class", "allowed are pkw, fussgaenger"]),
    ],
)
def test_what_does_not_fit_the_classes_is_named(overrides: list[str], words: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        tiny_config(f"data.classes={SEVEN}", *overrides)
    for word in words:
        assert word in str(caught.value)


def test_the_command_line_says_it_and_ends_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.yaml").write_text("lkw: {size_m: [1, 2]}\npkw: {sise_m: [1, 2, 3]}\n")
    assert main(["show-config", f"data.classes={tmp_path / 'mine.yaml'}"]) == 2
    said = capsys.readouterr().err
    for word in (f"data.classes {tmp_path / 'mine.yaml'}", "lkw.size_m: [1, 2]", "did you mean 'size_m'?"):
        assert word in said.replace("\n", " ").replace("  ", " ") or word in said
    assert "Traceback" not in said
