"""Tests of seven own classes from import to the click page, in one process: no step uses nuScenes' ten instead."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pdetr3d.class_list import ClassList, read_classes
from pdetr3d.cli import main
from pdetr3d.click.panel import status_html
from pdetr3d.click.session import Session
from pdetr3d.data.index.index import Index
from pdetr3d.data.index.nuscenes import build_index
from pdetr3d.data.label_manifest import training_records, write_pseudo_labels
from pdetr3d.data.labels.people_manifest import import_clicks
from pdetr3d.data.loading.records import eval_records, inspection_records
from pdetr3d.data.storage.files import write_json
from pdetr3d.evaluation.nuscenes_eval import score
from pdetr3d.evaluation.pseudo_label_quality import pseudo_label_quality
from pdetr3d.finished.deploy.contract import describe
from pdetr3d.inference.click_boxes import ClickBoxes
from pdetr3d.inference.detector import Detector
from pdetr3d.inference.teacher import TeacherPredictor
from pdetr3d.pseudo_labels import to_pseudo_labels
from pdetr3d.schema import Boxes3D, DataError
from pdetr3d.training import checkpoint
from tests.own_cases import Own
from tests.training_cases import one_thread, open_world, run_locally

pytestmark = pytest.mark.xdist_group("own")  # the fixtures of this file take seconds


def test_labels_are_places_in_the_own_list(own: Own) -> None:
    """The index has the CSV's boxes under their own names; a bus is a lorry, as defined in the list."""
    index, classes = own.world.data.index, own.classes
    assert len(classes) == 7 and own.world.run.config.tasks == ((0,), (1,), (2,), (3,), (4, 5, 6))
    boxes = pd.read_csv(own.folder / "root/boxes.csv")
    expected = boxes["category"].replace({"bus": "lkw/omnibus", "lkw": "lkw/omnibus"}).value_counts().to_dict()
    found = np.concatenate([index.annotations(token).label for token in index.tokens("frames_all")])
    assert {classes.names[label]: int(n) for label, n in zip(*np.unique(found, return_counts=True), strict=True)} == (
        expected
    )
    clicks = own.world.data.manifest.clicks.to_pandas()
    assert set(clicks["source"]) == {"human", "sim"} and set(clicks["class"]) <= set(classes.names)
    assert own.world.prior_size_m.shape == (7, 3)


def test_the_whole_way(own: Own, tmp_path: Path) -> None:
    """Teacher (two steps), labels at people's clicks, student (two steps), export, predictions and score."""
    world, config, classes = own.world, own.world.run.config, own.classes
    run_locally("teacher", config, world.boxed, tmp_path / "teacher", 2)
    file = tmp_path / "teacher/step_0000002/checkpoint.pt"
    teacher = TeacherPredictor.load(file, torch.device("cpu"))
    assert teacher.config.classes == classes and teacher.prior_size_m.shape == (7, 3)
    tables, mine, truth = [], [], []
    known = {r.sample_token: r for r in inspection_records(world.data.index, list(world.data.manifest.roles))}
    for record in (record for record in world.records if record.role == "point" and len(record.clicks)):
        with one_thread():
            boxes = teacher.boxes(record, record.clicks.xyz_m, record.clicks.label)
        prior, range_m = teacher.prior_size_m, config.model.range_m
        tables.append(to_pseudo_labels(record, boxes, prior, "teacher", range_m, classes=classes))
        true = known[record.sample_token].boxes
        nearest = np.linalg.norm(true.center_m[None] - record.clicks.xyz_m[:, None], axis=2).argmin(1)
        assert (true.label[nearest] == boxes.label).mean() > 0.9
        mine.append(boxes)
        truth.append(true[nearest])
    labels = pd.concat(tables, ignore_index=True)
    assert set(labels["class"]) == {classes.names[label] for label in Boxes3D.concatenate(mine).label}
    true = Boxes3D.concatenate(truth)
    quality = pseudo_label_quality(Boxes3D.concatenate(mine), true, np.zeros(len(true)), classes=classes)
    assert list(quality["per_class"]) == list(classes.names) and list(quality["by_group"]) == list(classes.groups)
    assert quality["per_class"]["huetchen"]["yaw_error_rad"] is None
    labels["accepted"] |= np.arange(len(labels)) % 2 == 0
    pseudo = write_pseudo_labels(tmp_path / "labels.parquet", labels, classes)
    learned = training_records(world.data.index, world.data.manifest, pseudo)
    assert sum(len(record.boxes) for record in learned if record.role == "point") == labels["accepted"].sum()

    run_locally("student", config, list(learned), tmp_path / "student", 2)
    detector = Detector.load("student", tmp_path / "student/step_0000002/checkpoint.pt", torch.device("cpu"))
    told = describe(detector.config)
    assert told["classes"] == classes.names
    assert told["tasks"] == [["huetchen"], ["mensch"], ["zweirad"], ["bake"], ["anhaenger", "lkw/omnibus", "pkw"]]
    records = list(eval_records(world.data.index, "frames_val"))
    run = own.copy_run(tmp_path / "run")
    checkpoint.save(run / "student_ours", detector.task.model, None, 2, config.to_json())
    write_json(run / "student_ours" / "done.json", {"checkpoints": ["checkpoint.pt"]})
    table = tmp_path / "boxes.csv"
    arguments = ["--index", world.data.index.path, "--split", "frames_val", "--out", table]
    assert main(["predict", str(run), *map(str, arguments)]) == 0
    seen = pd.read_csv(table)
    assert len(seen) > 0 and set(seen["class"]) <= set(classes.names)
    boxes = {name: _boxes(rows, classes) for name, rows in seen.groupby("sample")}
    poses = {record.sample_token: (record.lidar2ego, record.ego2global) for record in records}
    said = {token: boxes.get(token, Boxes3D.empty()) for token in poses}
    root = Path(config.data.dataroot)
    report = score(root, "v1.0-frames", "frames_val", said, poses, tmp_path / "score", classes=classes)
    assert list(report["per_class"]) == list(classes.names) and report["n_gt"]["pkw"] > 0
    assert report["per_class"]["huetchen"]["AOE"] is None and np.isfinite(report["NDS"])


def _boxes(rows: pd.DataFrame, classes: ClassList) -> Boxes3D:
    numbers = rows[["x", "y", "z", "l", "w", "h", "yaw"]].to_numpy()
    label = np.array([classes.label_of[name] for name in rows["class"]])
    return Boxes3D.build(numbers[:, :3], numbers[:, 3:6], numbers[:, 6], label, score=rows["score"].to_numpy())


def test_the_truth_scores_one(own: Own, tmp_path: Path) -> None:
    index, classes = own.world.data.index, own.classes
    said = {r.sample_token: r.boxes for r in inspection_records(index, index.tokens("frames_val"))}
    records = list(eval_records(index, "frames_val"))
    poses = {record.sample_token: (record.lidar2ego, record.ego2global) for record in records}
    report = score(index.dataroot, index.version, "frames_val", said, poses, tmp_path, classes=classes)
    assert report["mAP_present"] == pytest.approx(1, abs=1e-6)
    present = [name for name, count in report["n_gt"].items() if count]
    assert len(present) >= 5 and max(report["per_class"][name]["ATE"] for name in present) < 1e-5


def test_clicks_of_the_page_are_of_the_own_classes(own: Own, tmp_path: Path) -> None:
    session = Session(own.world.data.index, "frames_train", tmp_path / "page.csv")
    token = session.tokens[0]
    session.add(token, (3.0, 9.0, -1.0), "zweirad")
    with pytest.raises(DataError, match="class 'bicycle': allowed are huetchen, mensch"):
        session.add(token, (3.0, 12.0, -1.0), "bicycle")
    shown = status_html(session, token, label=2, chosen=None, mode="", suggestions=None, state="")
    assert "6 pkw" in shown and "2 zweirad" in shown and "car" not in shown
    assert Session(own.world.data.index, "frames_train", tmp_path / "page.csv").clicks(token)[0].name == "zweirad"


def test_what_is_of_other_classes_is_refused(own: Own, tmp_path: Path, sim_world: Path) -> None:
    index = own.world.data.index
    token = index.tokens("frames_train")[0]
    clicks = tmp_path / "clicks.csv"
    clicks.write_text(f"sample_token,x,y,z,class,frame\n{token},3,9,-1,bicycle,lidar\n{token},3,9,-1,zweirat,lidar\n")
    with pytest.raises(DataError) as caught:
        import_clicks(index, "frames_train", own.world.run.config.label, clicks, tmp_path / "labels")
    for word in (f"{clicks}: 2 of 2 rows", "row 1: class 'bicycle' is no class here", "(did you mean 'zweirad'?)",
                 "allowed are huetchen, mensch, zweirad", "data.classes"):  # fmt: skip
        assert word in str(caught.value)
    ten = open_world(sim_world, tmp_path / "ten", "teacher.fusion=none")
    run_locally("teacher", ten.run.config, ten.boxed[:2], tmp_path / "teacher", 1)
    teacher = TeacherPredictor.load(tmp_path / "teacher/step_0000001/checkpoint.pt", torch.device("cpu"))
    with pytest.raises(DataError, match=r"step_0000001/checkpoint.pt was trained on the classes car, .*has huetchen"):
        ClickBoxes(teacher, index, clicks)


def test_a_mapping_to_a_class_that_is_not_in_the_list_is_refused(
    own: Own, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text("pkw: pkv\nbus: lkw/omnibus\n")
    arguments = ["--root", own.folder / "root", "--out", tmp_path / "out", "--forward", "y"]
    arguments += ["--classes", own.list_file, "--mapping", mapping]
    assert main(["import", "frames", *map(str, arguments)]) == 2
    said = " ".join(capsys.readouterr().err.split())
    for word in (f"--mapping {mapping}", "pkw: 'pkv' (did you mean 'pkw'?)", "allowed: huetchen, mensch"):
        assert word in said
    assert not (tmp_path / "out").exists()


def test_a_category_that_no_class_claims_is_left_out_and_counted(own: Own, tmp_path: Path) -> None:
    """With a list of two classes for the same tables the index leaves out five kinds of objects."""
    two = read_classes("{pkw: {size_m: [4, 2, 1.5]}, mensch: {size_m: [1, 1, 2]}}")
    data = own.world.run.config.data.model_copy(update={"classes": two.text})
    index = Index.open(build_index(own.folder / "dataset", "v1.0-frames", tmp_path / "index.arrow", data))
    boxes = pd.read_csv(own.folder / "root/boxes.csv")["category"].value_counts()
    assert index.facts.unknown_categories == boxes.drop(["pkw", "mensch"]).to_dict()
    assert index.digest != own.world.data.index.digest
