"""Tests of search spaces: their fields, refused files, and that the shipped spaces fit the presets."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from pdetr3d.schema import DataError
from ray_jobs.searches.space import SearchSpace
from ray_jobs.searches.space_files import FOLDER, check_space, load_space, names, trial_config


def space_file(folder: Path, **changes: object) -> str:
    """A valid grid of student keys, changed."""
    document = {
        "question": "?",
        "trains": ["ours"],
        "metric": "SPNDS",
        "space": {"student.mask_sigma_factor": {"values": [0.25, 0.5]}},
    }
    file = folder / "mine.yaml"
    file.write_text(yaml.safe_dump({k: v for k, v in (document | changes).items() if v is not None}))
    return str(file)


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("preset", ["quickstart", "nuscenes-pillar", "nuscenes-voxel"])
def test_every_space_applies_to_its_presets(name: str, preset: str) -> None:
    space = load_space(name)
    base = check_space(space, preset, [])
    assert base.preset == preset and space.space.keys() <= base.flat().keys()


def test_there_are_the_spaces_that_the_readme_names() -> None:
    readme = (FOLDER / "README.md").read_text().split("## Add one")[0]
    assert set(re.findall(r"`(\w+)`", readme)) == set(names()) > {"mask_sigma", "roi_offsets", "label_ratio"}
    ratios = load_space("label_ratio").space["label.ratio"].values
    assert ratios == (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


def test_a_grid_is_every_combination_with_every_seed(tmp_path: Path) -> None:
    two = {"student.guidance_weight": {"values": [0.1, 0.2]}, "optim.lr": {"values": [1e-3]}}
    space = load_space(space_file(tmp_path, space=two, seeds=[0, 5]))
    lr = {"optim.lr": 1e-3}
    assert list(space.combinations()) == [
        {"student.guidance_weight": 0.1, **lr, "seed": 0},
        {"student.guidance_weight": 0.1, **lr, "seed": 5},
        {"student.guidance_weight": 0.2, **lr, "seed": 0},
        {"student.guidance_weight": 0.2, **lr, "seed": 5},
    ]
    assert space.size == 4 and space.name == "mine" and space.judged == "student_ours" and space.mode == "max"
    assert load_space(space_file(tmp_path, metric="mATE")).mode == "min"
    assert load_space(space_file(tmp_path, search="random", trials=3)).size == 3


def test_a_trial_s_config_is_settings_then_overrides_then_its_parameters(tmp_path: Path) -> None:
    space = load_space(space_file(tmp_path, settings=["optim.lr=0.5", "optim.epochs=3"]))
    config = trial_config(space, "quickstart", ["optim.lr=0.25"], {"student.mask_sigma_factor": 0.75, "seed": 4})
    assert (config.optim.lr, config.optim.epochs, config.student.mask_sigma_factor) == (0.25, 3, 0.75)
    assert (config.run.seed, config.label.seed, config.run.arms) == (4, 4, ("ours",))


WRONG = {
    "key": ({"space": {"student.mask_sigma_facto": {"values": [1]}}}, r"mask_sigma_facto.*did you mean.*factor"),
    "value": ({"space": {"label.ratio": {"values": [0.5, 2.0]}}}, r"label.ratio = 2.0"),
    "extreme": ({"search": "random", "trials": 2, "space": {"optim.lr": {"uniform": [-1, 1]}}}, r"optim.lr = -1"),
    "combination": (
        {
            "trains": "teacher",
            "metric": "bev_iou",
            "space": {
                "teacher.query_init": {"values": ["explicit", "learned"]},
                "teacher.matching": {"values": ["hungarian", "direct"]},
            },
        },
        r"learned",
    ),
    "range in a grid": ({"space": {"optim.lr": {"uniform": [0.1, 1]}}}, r"optim.lr is a range"),
    "trials of a grid": ({"trials": 3}, r"leave trials out"),
    "no trials": ({"search": "optuna"}, r"needs trials"),
    "seeds of a search": ({"search": "random", "trials": 2, "seeds": [0, 1]}, r"one seed for all"),
    "lists for optuna": (
        {"search": "optuna", "trials": 2, "space": {"optim.lr_multipliers": {"values": [[["images", 0.1]], []]}}},
        r"optim.lr_multipliers has lists",
    ),
    "two kinds": ({"space": {"optim.lr": {"values": [1], "uniform": [0, 1]}}}, r"exactly one of"),
    "no bounds": ({"search": "random", "trials": 2, "space": {"optim.lr": {"uniform": [1, 1]}}}, r"below the second"),
    "log of nothing": ({"search": "random", "trials": 2, "space": {"optim.lr": {"loguniform": [0, 1]}}}, r"above 0"),
    "metric": ({"metric": "bev_iou"}, r"bev_iou.*none of mAP"),
    "arm": ({"trains": ["theirs"]}, r"trains"),
    "unknown word": ({"budget": 3}, r"budget"),
    "nothing": ({"space": None}, r"mine\.yaml: Value error, needs variants: .* or space:"),
    "the search's own": ({"space": {"scaling.workers": {"values": [1, 2]}}}, r"scaling.workers is the same"),
    "seeds": ({"space": {"label.seed": {"values": [0, 1]}}}, r"label.seed is the same.*give seeds: instead"),
    "seeds for all": ({"settings": ["label.seed=3"]}, r"label.seed: trials are seeded by --seeds"),
    "nothing to compare": ({"asha": True, "settings": ["optim.checkpoints=1"]}, r"optim.checkpoints is 1: set it to 2"),
}


@pytest.mark.parametrize("case", WRONG)
def test_refused(case: str, tmp_path: Path) -> None:
    changes, message = WRONG[case]
    with pytest.raises(DataError, match=message):
        check_space(load_space(space_file(tmp_path, **changes)), "quickstart", [])  # type: ignore[arg-type]


def test_refused_words(tmp_path: Path) -> None:
    space = load_space(space_file(tmp_path))
    with pytest.raises(DataError, match="mask_sigma_factor: the space mine varies this key"):
        check_space(space, "quickstart", ["student.mask_sigma_factor=1"])
    with pytest.raises(DataError, match="label.seed, run.seed: trials are seeded by --seeds"):
        check_space(space, "quickstart", ["run.seed=1", "label.seed=1"])
    with pytest.raises(DataError, match="no data.select_split"):
        early = load_space(space_file(tmp_path, asha=True, settings=["optim.checkpoints=2"]))
        check_space(early, "nuscenes-voxel", ['data.select_split=""'])
    with pytest.raises(DataError, match="did you mean 'mask_sigma'"):
        load_space("mask_sigm")
    (tmp_path / "list.yaml").write_text("- a")
    (tmp_path / "broken.yaml").write_text("a: [")
    (tmp_path / "object.yaml").write_text("!!python/object/apply:os.system ['true']")  # YAML is loaded safely
    for name, text, said in (
        ("twice", "trains: teacher\nmetric: a\ntrains: [ours]\n", r"twice\.yaml is not YAML: 'trains' stands twice"),
        ("octal", "trains: teacher\nseeds: [1, 010]\n", r"octal\.yaml is not YAML: 010 is not read as people read it"),
    ):
        (tmp_path / f"{name}.yaml").write_text(text)
        with pytest.raises(DataError, match=said):
            load_space(str(tmp_path / f"{name}.yaml"))
    with pytest.raises(DataError, match="list.yaml: a search space is a mapping"):
        load_space(str(tmp_path / "list.yaml"))
    for name in ("broken", "object"):
        with pytest.raises(DataError, match="is not YAML"):
            load_space(str(tmp_path / f"{name}.yaml"))


def test_frozen() -> None:
    assert SearchSpace.model_config["frozen"] and SearchSpace.model_config["extra"] == "forbid"


@pytest.mark.parametrize("name", ["label_ratio", "click_density", "unseen_classes"])
def test_what_people_labeled_is_no_matter_of_trials(name: str) -> None:
    with pytest.raises(DataError, match=r"label\.\w+.* cannot be varied with label\.source=manifest: what people"):
        check_space(load_space(name), "quickstart", ["label.source=manifest", "label.manifest=there"])
    check_space(load_space("mask_sigma"), "quickstart", ["label.source=manifest", "label.manifest=there"])
