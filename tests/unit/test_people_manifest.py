"""Tests of manifests of people's labels: roles, clicks on boxes, lists of frames, refused input."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from pdetr3d.cli import main
from pdetr3d.config import LabelConfig
from pdetr3d.data.index.index import Index
from pdetr3d.data.index.nuscenes import build_index
from pdetr3d.data.label_manifest import LabelManifest, build_manifest, training_records
from pdetr3d.data.labels.click_places import misplaced
from pdetr3d.data.labels.people_manifest import STRAYS, import_clicks
from pdetr3d.data.labels.roles import People, read_samples
from pdetr3d.data.labels.summary import summarize
from pdetr3d.schema import CLASSES, DataError
from tests.people_cases import of_role, without_annotations, write_clicks

CONFIG = LabelConfig(seed=4)


@pytest.fixture(scope="module")
def whole(sim_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Index:
    """Three train scenes of two samples, all annotated."""
    return Index.open(build_index(sim_world, "v1.0-sim", tmp_path_factory.mktemp("whole") / "index.arrow"))


@pytest.fixture(scope="module")
def index(whole: Index, sim_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Index:
    """The same index, in which only the first scene has annotations."""
    folder = tmp_path_factory.mktemp("people")
    world = without_annotations(sim_world, folder / "world", whole.tokens("sim_train")[2:])
    return Index.open(build_index(world, "v1.0-sim", folder / "index.arrow"))


def _file(folder: Path, rows: list[tuple], name: str = "clicks.csv") -> Path:
    """A click file of rows (token, x, y, z, class) in the LiDAR frame; class ignore also has a radius."""
    with (folder / name).open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["sample_token", "x", "y", "z", "class", "frame", "radius_m"])
        writer.writerows([*row[:5], "lidar", *row[5:]] for row in rows)
    return folder / name


def test_roles_follow_what_people_did(index: Index, tmp_path: Path) -> None:
    """Samples have annotations (box), clicks (point), no objects (empty), an ignore region, or nothing at all."""
    tokens = index.tokens("sim_train")
    rows = [(tokens[2], 5, 6, -1, "car"), (tokens[2], 9, 9, -1, "ignore", 1.5), (tokens[4], 3, 1, 0, "ignore")]
    manifest = import_clicks(
        index,
        "sim_train",
        CONFIG,
        _file(tmp_path, rows),
        tmp_path / "out",
        People(empty={tokens[3]: "--empty looked.txt"}),
    )
    assert list(manifest.roles.values()) == ["box", "box", "point", "empty", "unlabeled", "unlabeled"]
    assert manifest.role_counts() == {"unlabeled": 2, "box": 2, "point": 1, "empty": 1}
    assert manifest.achieved_ratio == manifest.config.ratio == pytest.approx(1 / 3)
    assert manifest.ignore.to_pylist() == [
        {"sample_token": tokens[2], "x": 9.0, "y": 9.0, "z": -1.0, "radius_m": 1.5},
        {"sample_token": tokens[4], "x": 3.0, "y": 1.0, "z": 0.0, "radius_m": 2.0},
    ]
    assert LabelManifest.open(tmp_path / "out").digest == manifest.digest
    records = training_records(index, manifest)
    assert [record.role for record in records] == list(manifest.roles.values())
    kept = index.annotations(tokens[0]).kept.sum()
    assert len(records[0].boxes) == len(records[0].clicks) == kept > 0
    assert [len(record.clicks) for record in records[2:]] == [1, 0, 0, 0]
    assert sum(len(record.boxes) for record in records[2:]) == 0
    np.testing.assert_array_equal(records.labeled, [True, True, True, True, False, False])
    np.testing.assert_array_equal(records.whole, [True, True, False, True, False, False])


def test_the_page_says_which_frames_are_done(index: Index, tmp_path: Path) -> None:
    tokens = index.tokens("sim_train")
    file = _file(tmp_path, [(tokens[2], 5, 6, -1, "car"), (tokens[4], 5, 6, -1, "car")])
    beside = tmp_path / "clicks.csv.done.json"
    other = index.tokens("sim_val")[0]
    beside.write_text(json.dumps({"done": [tokens[2], tokens[3], other], "empty": [tokens[3]]}))
    manifest = import_clicks(index, "sim_train", CONFIG, file, tmp_path / "out")
    assert list(manifest.roles.values()) == ["box", "box", "point", "empty", "point", "unlabeled"]
    assert manifest.facts["not_done"] == 1  # the fifth sample, whose clicks are unfinished
    beside.write_text('{"done": 3}')
    with pytest.raises(DataError, match=r'clicks\.csv\.done\.json: must be \{"done": \[sample tokens\]'):
        import_clicks(index, "sim_train", CONFIG, file, tmp_path / "out")


def test_who_has_boxes_can_be_said(whole: Index, tmp_path: Path) -> None:
    """All six samples are annotated, but only the named ones count as box-labeled."""
    tokens = whole.tokens("sim_train")
    scenes = whole.column("scene_name", tokens)
    (tmp_path / "boxes.txt").write_text(f"# done by hand\n{scenes[2]}  # a scene\n\n{tokens[0]}\n")
    named = read_samples(whole, "sim_train", str(tmp_path / "boxes.txt"), "--boxes-of")
    assert named == {tokens[0], tokens[2], tokens[3]}
    file = _file(tmp_path, [(tokens[4], 5, 6, -1, "car")])
    manifest = import_clicks(whole, "sim_train", CONFIG, file, tmp_path / "out", People(named))
    assert list(manifest.roles.values()) == ["box", "unlabeled", "box", "box", "point", "unlabeled"]
    # Without people's clicks the others' are simulated.
    simulated = build_manifest(whole, "sim_train", CONFIG, tmp_path / "sim", People(named))
    assert list(simulated.roles.values()) == ["box", "point", "box", "box", "point", "point"]
    assert read_samples(whole, "sim_train", "sim_train", "--boxes-of") == set(tokens)


def test_boxes_of_a_sample_without_annotations_say_that_it_is_empty(
    index: Index, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens = index.tokens("sim_train")
    people = People(frozenset(tokens[:4]))
    file = _file(tmp_path, [(tokens[4], 5, 6, -1, "car")])
    manifest = import_clicks(index, "sim_train", CONFIG, file, tmp_path / "out", people)
    assert list(manifest.roles.values()) == ["box", "box", "empty", "empty", "point", "unlabeled"]
    (tmp_path / "boxed.txt").write_text("\n".join(tokens[:4]))
    words = ["--index", str(index.path), "--import", str(file), "--boxes-of", str(tmp_path / "boxed.txt")]
    assert main(["label", *words, "--out", str(tmp_path / "verb")]) == 0
    assert "2 samples that --boxes-of names have no box in the tables, so they" in capsys.readouterr().out


def test_clicks_on_boxes_are_matched_and_strays_listed(index: Index, tmp_path: Path) -> None:
    """A click on an object replaces the simulated one; two other clicks match no box."""
    tokens = index.tokens("sim_train")
    annotations = index.annotations(tokens[0])
    boxes, names = annotations.boxes(), annotations.token[annotations.kept]
    label, center = int(boxes.label[0]), boxes.center_m[0].astype(float)
    absent = next(c for c in range(10) if c not in boxes.label)
    rows = [
        (tokens[2], 5, 6, -1, CLASSES[label]),
        (tokens[0], *center, CLASSES[label]),
        (tokens[0], *(center + [0, 0, 30]), CLASSES[label]),
        (tokens[0], *center, CLASSES[absent]),
    ]
    manifest = import_clicks(index, "sim_train", CONFIG, _file(tmp_path, rows), tmp_path / "out")
    record = training_records(index, manifest)[0]
    assert len(record.boxes) == len(names) and len(record.clicks) == len(names) + 2
    human = np.array([str(name).startswith("human") for name in record.clicks.click_id])
    own = record.clicks.box_index
    assert sorted(own[human]) == [-1, -1, 0] and sorted(own[own >= 0]) == list(range(len(names)))
    mine = manifest.clicks.to_pandas()
    assert str(names[0]) not in set(mine["annotation_token"]) and str(names[1]) in set(mine["annotation_token"])
    with (tmp_path / "out" / STRAYS).open() as stream:
        strays = list(csv.DictReader(stream))
    assert [(row["row"], row["class"]) for row in strays] == [("3", CLASSES[label]), ("4", CLASSES[absent])]
    assert float(strays[0]["nearest_box_m"]) <= 30.01 and strays[1]["nearest_box_m"] == ""
    facts = manifest.facts
    assert (facts["human_clicks"], facts["matched_clicks"], facts["clicks_without_box"]) == (4, 1, 2)
    assert facts["classes_without_boxes"] == [] or CLASSES[absent] in facts["classes_without_boxes"]


def test_a_share_of_the_annotated_samples_may_stand_for_all(whole: Index, tmp_path: Path) -> None:
    """For studies with boxes on all samples, a third of the samples counts as box-labeled."""
    tokens = whole.tokens("sim_train")
    file = _file(tmp_path, [(token, 5, 6, -1, "car") for token in tokens])
    config = LabelConfig(ratio=0.3)
    manifest = import_clicks(whole, "sim_train", config, file, tmp_path / "out", drawn=True)
    assert manifest.roles == build_manifest(whole, "sim_train", config, tmp_path / "sim").roles
    assert manifest.config.ratio == 0.3 and "human" in manifest.clicks["source"].to_pylist()


def test_a_scene_without_annotations_is_no_background(index: Index, tmp_path: Path) -> None:
    """Simulated labels: two of three scenes have no annotations, so their samples are unlabeled, not empty."""
    manifest = build_manifest(index, "sim_train", LabelConfig(ratio=1.0), tmp_path)
    assert list(manifest.roles.values()) == ["box"] * 2 + ["unlabeled"] * 4


@pytest.mark.parametrize(
    ("people", "message"),
    [
        ({"empty": [2]}, r"\n  sample \w+: --empty looked.txt says that it holds no object, but it has clicks$"),
        ({"empty": [0]}, r"\n  sample \w+: --empty looked.txt says that it holds no object, but it has boxes$"),
        ({"boxes_of": [3]}, r"no sample of split 'sim_train' is box-labeled \(1 point, 1 empty, 4 unlabeled\), but"),
    ],
)
def test_roles_that_cannot_be(people: dict, message: str, index: Index, tmp_path: Path) -> None:
    tokens = index.tokens("sim_train")
    named = {key: dict.fromkeys((tokens[i] for i in places), "--empty looked.txt") for key, places in people.items()}
    said = People(frozenset(named["boxes_of"]) if "boxes_of" in named else None, named.get("empty", {}))
    file = _file(tmp_path, [(tokens[2], 5, 6, -1, "car")])
    with pytest.raises(DataError, match=message):
        import_clicks(index, "sim_train", CONFIG, file, tmp_path / "out", said)
    assert not (tmp_path / "out").exists()


def test_the_page_and_a_list_say_different_things(index: Index, tmp_path: Path) -> None:
    """The page marks frames 0 (boxes) and 2 (a click) as empty; frame 3 is done, but its clicks are missing."""
    tokens = index.tokens("sim_train")
    file = _file(tmp_path, [(tokens[2], 5, 6, -1, "car"), (tokens[4], 5, 6, -1, "car")])
    beside = tmp_path / "clicks.csv.done.json"
    beside.write_text(json.dumps({"done": [tokens[3], tokens[4]], "empty": [tokens[0], tokens[2]]}))
    with pytest.raises(DataError) as refused:
        import_clicks(index, "sim_train", CONFIG, file, tmp_path / "out", People(empty={tokens[4]: "--empty e.txt"}))
    assert str(refused.value).splitlines()[1:] == [
        f"  sample {tokens[0]}: {beside} says that it holds no object, but it has boxes",
        f"  sample {tokens[2]}: {beside} says that it holds no object, but it has clicks",
        f"  sample {tokens[3]}: {beside} says that all its objects are clicked, but it has no click",
        f"  sample {tokens[4]}: --empty e.txt says that it holds no object, but it has clicks",
    ]
    assert not (tmp_path / "out").exists()


def test_lists_of_samples_that_name_nothing(whole: Index, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("nowhere\n# fine\nscene-7\n")
    with pytest.raises(DataError, match=r"a\.txt: 2 lines name no .*\n  line 1: 'nowhere'\n  line 3: 'scene-7'"):
        read_samples(whole, "sim_train", str(tmp_path / "a.txt"), "--empty")
    with pytest.raises(DataError, match=r"--boxes-of sim_tran: neither a file nor a split .*splits: sim_select"):
        read_samples(whole, "sim_train", "sim_tran", "--boxes-of")
    with pytest.raises(DataError, match="that split shares no sample with 'sim_train'"):
        read_samples(whole, "sim_train", "sim_val", "--boxes-of")
    (tmp_path / "a.txt").write_text("# nothing\n")
    with pytest.raises(DataError, match="names no sample"):
        read_samples(whole, "sim_train", str(tmp_path / "a.txt"), "--empty")


def test_a_bad_ignore_radius(index: Index, tmp_path: Path) -> None:
    tokens = index.tokens("sim_train")
    rows = [(tokens[2], 5, 6, -1, "car"), (tokens[2], 5, 6, -1, "ignore", "wide"), (tokens[3], 5, 6, -1, "ignore", 0)]
    with pytest.raises(DataError, match=r"row 2: radius_m 'wide' is not a number above 0.*\n  row 3: radius_m '0'"):
        import_clicks(index, "sim_train", CONFIG, _file(tmp_path, rows), tmp_path / "out")


def test_tracks_end_where_annotations_are_missing(sim_world: Path, whole: Index, tmp_path: Path) -> None:
    """One of a scene's two samples has no annotations, so the other's objects have no neighbor and no velocity."""
    tokens = whole.tokens("sim_train")
    world = without_annotations(sim_world, tmp_path / "world", [tokens[1]])
    index = Index.open(build_index(world, "v1.0-sim", tmp_path / "index.arrow"))
    assert not np.isnan(whole.annotations(tokens[0]).velocity_m_s).all()
    np.testing.assert_array_equal(index.annotations(tokens[0]).box, whole.annotations(tokens[0]).box)
    assert np.isnan(index.annotations(tokens[0]).velocity_m_s).all() and len(index.annotations(tokens[1]).token) == 0
    np.testing.assert_array_equal(index.annotations(tokens[2]).velocity_m_s, whole.annotations(tokens[2]).velocity_m_s)


def test_clicks_in_a_wrong_frame_are_seen(
    whole: Index, sim_world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """LIDAR_TOP's x points right and the ego frame's x forward.

    Clicks (X, Y) of one frame that are declared to be in the other one move to (-Y, X).
    """
    drawn = build_manifest(whole, "sim_train", LabelConfig(ratio=0.3), tmp_path / "drawn")
    world = without_annotations(sim_world, tmp_path / "world", of_role(drawn, "point"))
    index = Index.open(build_index(world, "v1.0-sim", tmp_path / "index.arrow"))
    right = write_clicks(whole, drawn, tmp_path / "right.csv", "lidar")
    wrong = tmp_path / "wrong.csv"
    wrong.write_text(right.read_text().replace(",lidar", ",ego"))
    assert misplaced(index, import_clicks(index, "sim_train", CONFIG, right, tmp_path / "good"), right) == ""
    words = ["label", "--index", str(index.path), "--split", "sim_train", "--out", str(tmp_path / "bad")]
    assert main([*words, "--import", str(wrong)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "would be turned by 270 degrees. The clicks may be in another frame" in said


def _centers(index: Index, count: int, change: tuple[tuple[int, int], tuple[int, int]] = ((1, 0), (0, 1))) -> list:
    """Rows of clicks at the first ``count`` kept objects of the train split, x and y changed by a matrix."""
    rows = []
    for token in index.tokens("sim_train"):
        boxes = index.annotations(token).boxes()
        for center, label in zip(boxes.center_m.astype(float), boxes.label, strict=True):
            rows.append((token, *(np.array(change) @ center[:2]).tolist(), float(center[2]), CLASSES[label]))
    assert len(rows) >= count
    return rows[:count]


def _complaint(index: Index, rows: list, folder: Path) -> str:
    file = _file(folder, rows)
    return misplaced(index, import_clicks(index, "sim_train", CONFIG, file, folder / "labels"), file)


def test_clicks_at_nothing_are_seen_and_very_few_are_not_judged(whole: Index, tmp_path: Path) -> None:
    token = whole.tokens("sim_train")[2]
    nowhere = [(token, 99, 3 * place, -1, "car") for place in range(40)]
    found = _complaint(whole, nowhere, tmp_path)
    assert found.startswith("0% of 40 clicks have an object's LiDAR points within 1 m")
    assert found.endswith(f"with pdetr3d inspect ({tmp_path / 'clicks.csv'}, row 1, 2, 3, 4, 5, ... and 35 more)")
    assert _complaint(whole, nowhere[:10], tmp_path).startswith("0% of 10 clicks")
    assert _complaint(whole, nowhere[:9], tmp_path) == ""
    manifest = import_clicks(whole, "sim_train", CONFIG, _file(tmp_path, nowhere), tmp_path / "labels")
    table = dict(summarize(whole, ["sim_train"], manifest, (-100, -54, -5, 100, 54, 3)).rows())
    assert table["clicks outside range"].startswith("21 of people's clicks")  # y = 57, 60, ..., 117
    assert "clicks outside range" not in dict(summarize(whole, ["sim_train"], manifest).rows())


def test_wrong_axes_are_seen_in_twenty_five_clicks(whole: Index, tmp_path: Path) -> None:
    assert _complaint(whole, _centers(whole, 25), tmp_path) == ""
    turned = _complaint(whole, _centers(whole, 25, ((0, 1), (-1, 0))), tmp_path)
    assert "would be turned by 90 degrees" in turned and " of 25 clicks have an object's" in turned


@pytest.mark.parametrize(
    ("z", "said"),
    [(50.0, "0% of "), (-40.0, "0% of "), (0.0, "100% of 40 clicks have z = 0 in frame lidar, as a 2D tool writes")],
)
def test_heights_of_clicks_are_judged(z: float, said: str, whole: Index, tmp_path: Path) -> None:
    rows = [(token, x, y, z, name) for token, x, y, _, name in _centers(whole, 40)]
    found = _complaint(whole, rows, tmp_path)
    assert found.startswith(said) and "z is the height of the object's center [m]" in found
    rows = "row 1, 2, 3, 4, 5, ... and 35 more" if z == 0 else "row 2, 3, 4, 5, 6, ... and 25 more"  # 10 see no point
    assert found.endswith(f"({tmp_path / 'clicks.csv'}, {rows})")


def test_two_clicks_on_one_object_are_seen(whole: Index, tmp_path: Path) -> None:
    """Cars are 1.97 m wide: clicks 0.9 m apart are on one car, and 1.1 m apart may be on two."""
    token, other = whole.tokens("sim_train")[2:4]
    far = [
        (token, 10, 5, -1, "car"),
        (token, 11.1, 5, -1, "car"),
        (token, 10, 5.9, -1, "bus"),
        (other, 10, 5, -1, "car"),
    ]
    assert _complaint(whole, far, tmp_path) == ""
    found = _complaint(whole, [*far, (token, 10, 4.1, -1, "car")], tmp_path)
    assert found.startswith("1 pairs of clicks of one class are nearer than half")
    assert f"car at (10.0, 4.1) and (10.0, 5.0) m from the LiDAR in sample {token}" in found
    assert found.endswith(f" ({tmp_path / 'clicks.csv'}, row 1, 5)")


def test_clicks_whose_lidar_files_are_gone_are_said_to_be_unchecked(whole: Index, tmp_path: Path) -> None:
    moved = Index.open(whole.path)
    moved.dataroot = tmp_path / "moved"
    found = _complaint(moved, _centers(whole, 3), tmp_path)
    assert found.startswith(
        "no LiDAR file of the samples with clicks can be read, so the places of the clicks were not"
    )
