"""Tests of jobs on a label manifest: identity, keys that the manifest fixes, refused manifests."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest

from pdetr3d.cli.app import app
from pdetr3d.config import LabelConfig
from pdetr3d.data.index.index import Index
from pdetr3d.data.index.nuscenes import build_index
from pdetr3d.data.label_manifest import build_manifest
from pdetr3d.presets import load
from pdetr3d.schema import DataError
from pdetr3d.training.label_source import fixed_by_manifest, typical_sizes, with_manifest
from pdetr3d.training.run_dir import RunDir, prepare
from tests.people_cases import without_annotations
from tests.training_cases import world_config


@pytest.fixture(scope="module")
def index(sim_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Index:
    return Index.open(build_index(sim_world, "v1.0-sim", tmp_path_factory.mktemp("index") / "index.arrow"))


def _manifest(index: Index, folder: Path, **label: object) -> list[str]:
    build_manifest(index, "sim_train", LabelConfig(**label), folder)  # type: ignore[arg-type]
    return ["label.source=manifest", f"label.manifest={folder}"]


def test_a_job_trains_with_the_imported_clicks(sim_world: Path, tmp_path: Path) -> None:
    """A job trains on a person's own point annotations, given on the command line or by the run directory."""
    index_file = tmp_path / "index.arrow"
    index = Index.open(build_index(sim_world, "v1.0-sim", index_file))
    with (tmp_path / "clicks.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow("sample_token x y z class frame".split())
        for token in index.tokens("sim_train"):
            writer.writerow([token, 3.25, 12.5, -1.0, "car", "lidar"])
    words = ["label", "--index", str(index_file), "--split", "sim_train", "--ratio", "0.3"]
    app([*words, "--import", str(tmp_path / "clicks.csv"), "--out", str(tmp_path / "labels")], standalone_mode=False)
    keys = [f"data.dataroot={sim_world}", "label.ratio=0.3"]
    keys += ["label.source=manifest", f"label.manifest={tmp_path / 'labels'}"]
    data = prepare(RunDir(tmp_path / "run", load("quickstart", keys)))
    sources = data.manifest.clicks["source"].to_pylist()
    assert sources.count("human") == 6 and sorted(data.manifest.roles.values()) == ["box"] * 2 + ["point"] * 4


def test_the_manifest_is_part_of_the_run(index: Index, sim_world: Path, tmp_path: Path) -> None:
    words = _manifest(index, tmp_path / "labels", ratio=0.6, seed=7, split_by="keyframe", click_share=0.5)
    run = RunDir(tmp_path / "run", world_config(sim_world, *words))
    label = run.config.label  # the run's config has the manifest's values, not those of a draw
    assert (label.ratio, label.seed, label.split_by, label.click_share) == (0.6, 7, "keyframe", 0.5)
    manifest = prepare(run).manifest
    there = json.loads((tmp_path / "labels" / "manifest.json").read_text())
    assert manifest.digest == there["digest"] == json.loads((run.path / "run.json").read_text())["labels"]
    # The same labels elsewhere are the same run; other labels in the same folder are another one.
    (tmp_path / "labels").rename(tmp_path / "moved")
    moved = world_config(sim_world, "label.source=manifest", f"label.manifest={tmp_path / 'moved'}")
    assert RunDir(tmp_path / "run", moved).digest == run.digest
    _manifest(index, tmp_path / "moved", ratio=0.6, seed=8, split_by="keyframe", click_share=0.5)
    with pytest.raises(DataError, match=r"holds another run; it differs in\n  label\.seed: 7 there, 8 now\n  labels: "):
        RunDir(tmp_path / "run", moved)


def test_manifests_that_do_not_fit(index: Index, sim_world: Path, tmp_path: Path) -> None:
    """Another split, other samples or other tables are refused before any work; the run directory stays unclaimed."""
    words = _manifest(index, tmp_path / "labels")
    other = without_annotations(sim_world, tmp_path / "other", index.tokens("sim_train")[:1])
    with pytest.raises(DataError, match=r"was made with index .* and pdetr3d label again"):
        prepare(RunDir(tmp_path / "run", world_config(other, *words)))
    assert not (tmp_path / "run" / "data").exists()
    with pytest.raises(DataError, match=r"is of split 'sim_train', but data\.train_split is 'sim_val'"):
        prepare(RunDir(tmp_path / "run", world_config(sim_world, *words, "data.train_split=sim_val")))
    table = json.loads((sim_world / "v1.0-sim" / "splits.json").read_text())
    cut = without_annotations(sim_world, tmp_path / "cut", [])
    drop = next(s for s in table["sim_train"])
    tables = {name: json.loads((cut / "v1.0-sim" / f"{name}.json").read_text()) for name in ("scene", "sample")}
    gone = next(scene["token"] for scene in tables["scene"] if scene["name"] == drop)
    lost = {sample["token"] for sample in tables["sample"] if sample["scene_token"] == gone}
    for name in ("sample", "sample_data", "sample_annotation"):
        file = cut / "v1.0-sim" / f"{name}.json"
        key = "token" if name == "sample" else "sample_token"
        file.write_text(json.dumps([row for row in json.loads(file.read_text()) if row[key] not in lost]))
    with pytest.raises(DataError, match=r"2 of its 6 samples are not in the dataset .*; label this dataset by pdetr3d"):
        prepare(RunDir(tmp_path / "run", world_config(cut, *words)))
    assert prepare(RunDir(tmp_path / "run", world_config(sim_world, *words))).manifest.roles


def test_a_manifest_whose_config_was_edited(index: Index, sim_world: Path, tmp_path: Path) -> None:
    build_manifest(index, "sim_train", LabelConfig(ratio=0.5), tmp_path / "labels")
    file = tmp_path / "labels" / "manifest.json"
    info = json.loads(file.read_text())
    info["config"]["ratio"] = 7.0
    file.write_text(json.dumps(info))
    config = world_config(sim_world, "label.source=manifest", f"label.manifest={tmp_path / 'labels'}")
    with pytest.raises(
        DataError, match=r"label\.manifest .*labels: config in manifest\.json is not valid \(ratio: .*anew"
    ):
        with_manifest(config)


def test_a_folder_without_a_manifest(sim_world: Path, tmp_path: Path) -> None:
    config = world_config(sim_world, "label.source=manifest", f"label.manifest={tmp_path / 'none'}")
    with pytest.raises(DataError, match=r"label\.manifest .*none: .*no label manifest here .*run pdetr3d label again"):
        RunDir(tmp_path / "run", config)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["label.source=manifest"],
            "label.source=manifest needs label.manifest: the folder",
        ),
        (["label.manifest=there"], "label.manifest 'there' with label.source=simulate.*: set label.source=manifest"),
        (["label.holdout=1"], "label.holdout = 1"),
    ],
)
def test_keys_that_contradict(words: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load("quickstart", words)


def test_clicked_classes_of_unknown_size_are_named_with_the_size_that_is_taken(index: Index, tmp_path: Path) -> None:
    manifest = build_manifest(index, "sim_train", LabelConfig(ratio=0.3), tmp_path / "labels")
    label = index.classes.label_of["bus"]
    length, width, height = index.classes.fallback_size_m[label]
    assert "bus" in manifest.clicks["class"].to_pylist()
    said = typical_sizes(manifest, ["bus"], index.classes)
    assert said.endswith(f"is taken: bus ({length:g} x {width:g} x {height:g} m)") and said.startswith("warning: ")
    nobody = SimpleNamespace(clicks=pa.table({"class": ["car"]}))
    assert typical_sizes(nobody, ["bus"], index.classes) == typical_sizes(manifest, [], index.classes) == ""  # type: ignore[arg-type]


def test_what_a_manifest_fixes_cannot_be_varied() -> None:
    config = load("quickstart", ["label.source=manifest", "label.manifest=there"])
    fixed_by_manifest(config, ["optim.lr", "label.snap", "label.pseudo_for", "label.holdout"])
    with pytest.raises(DataError, match=r"label\.click_share, label\.ratio cannot be varied with label\.source"):
        fixed_by_manifest(config, ["label.ratio", "optim.lr", "label.click_share"])
    fixed_by_manifest(load("quickstart"), ["label.ratio"])


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ({"seed": 3}, "label.seed 3 there, 0 now"),
        (
            {"ratio": 0.6, "split_by": "keyframe"},
            "label.ratio 0.6 there, 0.3 now; label.split_by keyframe there, scene",
        ),
        ({"ratio": 0.3}, ""),
    ],
)
def test_a_manifest_that_was_copied_into_a_run_is_checked(
    made: dict[str, object], said: str, index: Index, sim_world: Path, tmp_path: Path
) -> None:
    run = RunDir(tmp_path / "run", world_config(sim_world))
    build_manifest(index, "sim_train", LabelConfig(**{"ratio": 0.3, **made}), run.path / "data" / "manifest")  # type: ignore[arg-type]
    if not said:
        assert prepare(run).manifest.config.ratio == 0.3
        return
    with pytest.raises(DataError, match=f"{run.path}/data/manifest holds other labels .*{said}"):
        prepare(run)


def test_a_copied_manifest_of_other_data_is_refused(index: Index, sim_world: Path, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run", world_config(sim_world))
    place = run.path / "data" / "manifest"
    build_manifest(index, "sim_val", LabelConfig(ratio=0.3), place)
    with pytest.raises(DataError, match="is of split 'sim_val', but data.train_split is 'sim_train'"):
        prepare(run)
    build_manifest(index, "sim_train", LabelConfig(ratio=0.3), place)
    info = json.loads((place / "manifest.json").read_text())
    (place / "manifest.json").write_text(json.dumps(info | {"index_digest": "another"}))
    with pytest.raises(DataError, match=f"was made with index another, .* has index {index.digest}"):
        prepare(run)


def test_other_labels_than_the_named_manifests_are_refused(index: Index, sim_world: Path, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run", world_config(sim_world, *_manifest(index, tmp_path / "labels", ratio=0.6)))
    build_manifest(index, "sim_train", LabelConfig(ratio=0.3), run.path / "data" / "manifest")
    with pytest.raises(DataError, match=f"holds other labels .*digest .* in {tmp_path}/labels"):
        prepare(run)
