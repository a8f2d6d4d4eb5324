"""Tests of ``label.folds``: scenes are put into folds of equal size; all but one fold have boxes."""

from __future__ import annotations

from pathlib import Path

import pytest

from pdetr3d.class_list import NUSCENES_CLASSES
from pdetr3d.cli import main
from pdetr3d.config import LabelConfig
from pdetr3d.data.index.index import Index
from pdetr3d.data.index.nuscenes import build_index
from pdetr3d.data.label_manifest import LabelManifest
from pdetr3d.data.labels.roles import box_labeled
from pdetr3d.schema import DataError
from tests.model_cases import tiny_config

# Two drives of 5 and 4 frames, and four frames that are scenes of their own.
SCENES = ["b"] * 4 + ["a"] * 5 + ["s1", "s2", "s3", "s4"]
TOKENS = [f"{scene}{number}" for number, scene in enumerate(SCENES)]


def boxed(folds: int, seed: int) -> set[str]:
    config = LabelConfig(folds=folds, seed=seed)
    return box_labeled(TOKENS, SCENES, [0] * len(TOKENS), config, classes=NUSCENES_CLASSES)


def scenes_of(tokens: set[str]) -> set[str]:
    return {SCENES[TOKENS.index(token)] for token in tokens}


def test_drives_are_left_out_whole_and_each_once() -> None:
    """The largest scene goes to the first fold, the next one to the second, and the single frames to the third."""
    out = [scenes_of(set(TOKENS) - boxed(3, seed)) for seed in range(3)]
    assert out == [{"a"}, {"b"}, {"s1", "s2", "s3", "s4"}]
    assert boxed(3, 4) == boxed(3, 1)  # of more seeds than folds
    two = [set(TOKENS) - boxed(2, seed) for seed in (0, 1)]
    assert scenes_of(two[0]) == {"a", "s2"} | {"s4"} and scenes_of(two[1]) == {"b", "s1", "s3"}
    assert two[0] | two[1] == set(TOKENS) and not two[0] & two[1] and [len(fold) for fold in two] == [7, 6]


def test_the_order_of_samples_does_not_matter() -> None:
    config = LabelConfig(folds=3, seed=1)
    turned = box_labeled(TOKENS[::-1], SCENES[::-1], [0] * len(TOKENS), config, classes=NUSCENES_CLASSES)
    assert turned == boxed(3, 1)


def test_bad_folds() -> None:
    with pytest.raises(DataError, match=r"label.folds 7: there are 6 scenes .* at most 6"):
        boxed(7, 0)
    for words, message in (
        (["label.folds=1"], "label.folds 1 leaves no fold"),
        (["label.folds=2", "label.split_by=keyframe"], r"label.split_by keyframe.*set label.folds=0"),
        (["label.folds=2", "label.balance=true"], "label.balance True"),
        (["label.folds=2", "label.no_boxes_of=[car]"], r"label.no_boxes_of \['car'\]"),
    ):
        with pytest.raises(DataError, match=f"(?s){message}"):
            tiny_config(*words)
    assert tiny_config("label.folds=2").label.everywhere.folds == 0


def test_a_manifest_of_a_fold(sim_world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of three scenes with two keyframes each, one is clicked and two have boxes, independent of the ratio."""
    index = Index.open(build_index(sim_world, "v1.0-sim", tmp_path / "index.arrow"))
    words = ["label.folds=3", "label.seed=1", "label.ratio=0.05"]
    assert main(["label", "--index", str(tmp_path / "index.arrow"), "--split", "sim_train", *words]) == 0
    (folder,) = (tmp_path / "labels").iterdir()
    assert folder.name == "sim_train-sim-fold-of-3-seed1" and "asked for" not in capsys.readouterr().out
    roles = LabelManifest.open(folder).roles
    scene = dict(zip(roles, index.column("scene_token", list(roles)), strict=True))
    assert sorted(roles.values()) == ["box"] * 4 + ["point"] * 2
    clicked = {scene[token] for token, role in roles.items() if role == "point"}
    assert clicked == {sorted(set(scene.values()))[1]}
