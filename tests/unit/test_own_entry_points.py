"""Tests of all commands with a list of own classes: they show and write only the list's names."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from unittest.mock import MagicMock

import mlflow.pyfunc
import numpy as np
import pandas as pd
import pytest
import torch

from pdetr3d.cli import main
from pdetr3d.click.desk import Desk
from pdetr3d.click.page import Page
from pdetr3d.click.rays import Ray
from pdetr3d.click.session import Session
from pdetr3d.config import Config
from pdetr3d.data.index.index import Index
from pdetr3d.data.index.nuscenes import build_index
from pdetr3d.data.label_manifest import LabelManifest, inspection_records
from pdetr3d.data.labels.pseudo_table import write_pseudo_labels
from pdetr3d.data.storage.files import write_json
from pdetr3d.evaluation.nuscenes_eval import load_tables, score
from pdetr3d.evaluation.pseudo_label_quality import pseudo_label_quality
from pdetr3d.finished.capacity.measure import measure
from pdetr3d.finished.report.reproduce import run_command
from pdetr3d.finished.report.runs import open_runs
from pdetr3d.presets import load
from pdetr3d.pseudo_labels import class_mean_boxes, to_pseudo_labels
from pdetr3d.schema import CLASSES, Boxes3D, DataError
from pdetr3d.training import checkpoint
from pdetr3d.training.build import build
from ray_jobs.searches.space_files import check_space, load_space, trial_config
from ray_jobs.stages.report import print_arms, print_quality
from tests.model_cases import shaken
from tests.own_cases import Own
from tests.report_cases import cells, plant_trial, space_of, write_search
from tests.score_cases import ground_truth_predictions

pytestmark = pytest.mark.xdist_group("own")  # the fixtures of this file take seconds

TEN = re.compile(rf"\b({'|'.join(CLASSES)})\b")


@pytest.fixture(scope="module")
def run(own: Own, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run directory in which nothing was trained.

    It has class-mean boxes at the clicks, their quality, the scores of the true boxes, and a student with random noise
    on its weights.
    """
    folder = own.copy_run(tmp_path_factory.mktemp("own") / "run")
    index, classes, config = own.world.data.index, own.classes, own.world.run.config
    manifest, prior = own.world.data.manifest, own.world.prior_size_m
    records = [r for r in inspection_records(index, list(manifest.roles), manifest) if len(r.clicks)]
    records = [r for r in records if manifest.roles[r.sample_token] == "point"]
    boxes = [class_mean_boxes(record.clicks, prior) for record in records]
    pairs = zip(records, boxes, strict=True)
    table = pd.concat(
        [to_pseudo_labels(r, b, prior, "teacher", (-60, -60, -5, 60, 60, 5), classes=classes) for r, b in pairs],
        ignore_index=True,
    )
    write_pseudo_labels(folder / "pseudo_labels" / "pseudo_labels.parquet", table, classes)
    known = [record.clicks.box_index >= 0 for record in records]
    mine = Boxes3D.concatenate([b[k] for b, k in zip(boxes, known, strict=True)])
    truth = Boxes3D.concatenate([r.boxes[r.clicks.box_index[k]] for r, k in zip(records, known, strict=True)])
    distance = np.linalg.norm(truth.center_m[:, :2], axis=1)
    quality = pseudo_label_quality(mine, truth, distance, classes=classes)
    labels = {"teacher": quality, "class_mean": quality, "class_mean_pca": quality, "clicks": len(table)}
    write_json(folder / "pseudo_labels" / "done.json", labels | {"accepted": int(table["accepted"].sum())})
    nusc = load_tables(index.dataroot, index.version, classes=classes)
    said, poses = ground_truth_predictions(nusc, "frames_val", classes)
    scores = score(index.dataroot, index.version, "frames_val", said, poses, folder / "scores", nusc, classes=classes)
    write_json(folder / "evaluate_ours" / "done.json", scores)
    model = shaken(build("student", config, prior, guidance=False).model)
    checkpoint.save(folder / "student_ours", model, None, 1, config.to_json())
    write_json(folder / "student_ours" / "done.json", {"checkpoints": ["checkpoint.pt"], "steps": 1})
    return folder


def done(run: Path, stage: str) -> dict:
    return json.loads((run / stage / "done.json").read_text())


def test_label_draws_by_names_of_the_index(own: Own, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """data.classes is not given, since the index has the list."""
    index = own.world.data.index
    frames = [set(index.annotations(token).boxes().label) for token in index.tokens("frames_train")]
    rare = min(own.classes.names, key=lambda name: sum(own.classes.label_of[name] in frame for frame in frames))
    arguments = ["label", "--index", index.path, "--split", "frames_train", "--split-by", "keyframe"]
    words = ["label.ratio=0.1", f"label.no_boxes_of=[{rare}]"]
    assert main([*map(str, arguments), "--out", str(tmp_path / "labels"), *words]) == 0
    assert not TEN.search(capsys.readouterr().out)
    manifest = LabelManifest.open(tmp_path / "labels")
    boxed = [token for token, role in manifest.roles.items() if role == "box"]
    label = own.classes.label_of[rare]
    assert boxed and not any((index.annotations(token).boxes().label == label).any() for token in boxed)
    assert rare in set(manifest.clicks["class"].to_pylist()) <= set(own.classes.names)
    assert main([*map(str, arguments), "--out", str(tmp_path / "no"), "label.no_boxes_of=[barrier]"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "'barrier' is no class" in said and "allowed are huetchen, mensch" in said
    assert not (tmp_path / "no").exists()


def test_keys_of_the_click_page(own: Own, tmp_path: Path) -> None:
    """Key 1 is the second class of the list, and there are as many keys as classes."""
    session, client = Session(own.world.data.index, "frames_train", tmp_path / "clicks.csv"), MagicMock()
    client.camera.image_width, client.camera.image_height = 1200, 800
    client.gui.add_slider.side_effect = lambda *arguments: MagicMock(value=arguments[4])
    page = Page(client, Desk(session), lambda: None)
    calls = [call for call in client.gui.add_command.call_args_list if call.args[0].startswith("class ")]
    keys = {call.kwargs["hotkey"]: call.args[0].removeprefix("class ") for call in calls}
    assert keys == {str(number): name for number, name in enumerate(own.classes.names)}
    page.choose_class(4)
    page.click(Ray.of((10, 5, 300), (0, 0, -1)))
    (click,) = session.clicks(page.token)
    assert click.name == "anhaenger" and "6 pkw" in str(page.status.content) and not TEN.search(page.status.content)


def test_report_labels(own: Own, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "report"
    assert main(["report-labels", str(run), "--worst", "7", "--out", str(out)]) == 0
    report = json.loads((out / "report.json").read_text())
    clicks = LabelManifest.open(run / "data" / "manifest").clicks.to_pandas()
    roles = own.world.data.manifest.roles
    expected = clicks[clicks["sample_token"].map(roles) == "point"]["class"].value_counts()
    assert list(report["by_class"]) == list(own.classes.names)
    assert {name: row["clicks"] for name, row in report["by_class"].items() if row["clicks"]} == expected.to_dict()
    page = (out / "index.html").read_text()
    pictures = re.findall(r'src="([^"]+)"', page)
    assert len(pictures) == 7 and all((out / name).stat().st_size > 5000 for name in pictures)
    assert any("lkw_omnibus" in name for name in pictures) and "lkw/omnibus" in page and not TEN.search(page)


def test_export_labels(own: Own, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The tables have a category of the list for every accepted label, and are read back with the same list."""
    table = pd.read_parquet(run / "pseudo_labels" / "pseudo_labels.parquet")
    accepted = table[table["accepted"]]
    expected = [int((accepted["class"] == name).sum()) for name in own.classes.names]
    assert main(["export-labels", str(run), "--out", str(tmp_path / "tables")]) == 0
    rows = {
        name: json.loads((tmp_path / "tables" / "v1.0-frames" / f"{name}.json").read_text())
        for name in ("category", "instance", "sample_annotation")
    }
    category = {row["token"]: row["name"] for row in rows["category"]}
    of_instance = {row["token"]: own.classes.class_of(category[row["category_token"]]) for row in rows["instance"]}
    pseudo = [of_instance[row["instance_token"]] for row in rows["sample_annotation"] if "click_id" in row]
    assert [pseudo.count(name) for name in own.classes.names] == expected and min(expected) > 0
    data = own.world.run.config.data
    index = Index.open(build_index(tmp_path / "tables", "v1.0-frames", tmp_path / "index.arrow", data))
    assert index.classes == own.classes and index.facts.unknown_categories == {}
    assert main(["export-labels", str(run), "--format", "results", "--out", str(tmp_path / "boxes.json")]) == 0
    results = json.loads((tmp_path / "boxes.json").read_text())["results"]
    boxed = {token for token, role in own.world.data.manifest.roles.items() if role == "box"}
    names = [box["detection_name"] for token in results.keys() - boxed for box in results[token]]
    assert [names.count(name) for name in own.classes.names] == expected


def test_doctor_and_compare(own: Own, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(run), "--json"]) == 0
    said = capsys.readouterr().out
    results = json.loads(said)
    assert results["teacher"]["verdict"] == "problem"  # its boxes are the class-mean boxes
    assert not TEN.search(said)
    other = own.copy_run(tmp_path / "other")
    identity = json.loads((other / "run.json").read_text())
    (other / "run.json").write_text(json.dumps(identity | {"data.classes": ""}))
    write_json(other / "evaluate_ours" / "done.json", done(run, "evaluate_ours"))
    page = tmp_path / "page.html"
    assert main(["compare", str(run), str(other), "--html", str(page)]) == 0
    assert "may not be comparable: the runs differ in data.classes" in " ".join(capsys.readouterr().out.split())
    assert "huetchen" in page.read_text()


def test_the_command_that_repeats_a_run_has_its_classes(own: Own, run: Path, tmp_path: Path) -> None:
    (mine, _) = open_runs([run, own.copy_run(tmp_path / "again")])
    words = [word for word in shlex.split(run_command(mine)) if "=" in word and not word.startswith("label.manifest")]
    config = load("quickstart", [word for word in words if not word.startswith("label.")])
    assert config.classes == own.classes and config.tasks == own.world.run.config.tasks


def test_tables_of_a_pipeline(run: Path, own: Own, capsys: pytest.CaptureFixture[str]) -> None:
    print_arms({"ours": done(run, "evaluate_ours")})
    print_quality(done(run, "pseudo_labels"))
    lines = capsys.readouterr().out.splitlines()
    assert not TEN.search("\n".join(lines)) and max(map(len, lines)) <= 80
    (header,) = [line for line in lines if line.startswith("labels of the student")]
    assert header.rstrip().endswith("huetchen AP")
    kinds, boxes = (
        lines.index(next(line for line in lines if line.startswith(word))) for word in ("kind ", "boxes at")
    )
    for group in own.classes.groups:
        assert any(line.startswith(f"{group} ") for line in lines[kinds:boxes]), group
        assert any(line.startswith(f"  {group} ") for line in lines[boxes:]), group


def test_inspect_and_predict_draw_and_write_own_names(
    own: Own, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []
    legend = "pdetr3d.visualize.Line2D"
    monkeypatch.setattr(legend, _recorder(legend, shown))
    index = run / "data" / "index.arrow"
    assert main(["inspect", "0", "--index", str(index), "--out", str(tmp_path / "sample.png")]) == 0
    assert set(shown) & set(own.classes.names) and not TEN.search(" ".join(map(str, shown)))
    for ending in ("csv", "json"):
        arguments = [run, "--index", index, "--split", "frames_val", "--out", tmp_path / f"boxes.{ending}"]
        assert main(["predict", *map(str, arguments)]) == 0
    seen = pd.read_csv(tmp_path / "boxes.csv")
    assert len(seen) and set(seen["class"]) <= set(own.classes.names)
    results = json.loads((tmp_path / "boxes.json").read_text())["results"]
    assert {box["detection_name"] for boxes in results.values() for box in boxes} == set(seen["class"])


def _recorder(name: str, shown: list[str]) -> Callable:
    module, _, attribute = name.rpartition(".")
    original = getattr(__import__(module, fromlist=[attribute]), attribute)

    def record(*arguments: object, **named: object) -> object:
        shown.append(str(named.get("label")))
        return original(*arguments, **named)

    return record


def test_exported_models_say_and_use_own_names(own: Own, run: Path, tmp_path: Path) -> None:
    for kind in ("torchscript", "mlflow"):
        assert main(["export", str(run), "--format", kind, "--out", str(tmp_path / kind)]) == 0
    told = json.loads((tmp_path / "torchscript" / "export.json").read_text())
    assert told["classes"] == list(own.classes.names) and told["thresholds"]["circle_radius_m"] == []
    assert [name for task in told["tasks"] for name in task] == list(own.classes.names)
    arguments = [
        "--index",
        str(run / "data" / "index.arrow"),
        "--split",
        "frames_val",
        "--out",
        str(tmp_path / "b.csv"),
    ]
    assert main(["predict", str(tmp_path / "torchscript"), *arguments]) == 0
    model = mlflow.pyfunc.load_model(str(tmp_path / "mlflow"))
    assert model.metadata.metadata["classes"] == list(own.classes.names)
    record = inspection_records(own.world.data.index, own.world.data.index.tokens("frames_val"))[0]
    with torch.no_grad():
        answer = model.predict([{"sweeps": [{"path": record.lidar_path}], "sample": record.sample_token}])
    written = pd.read_csv(tmp_path / "b.csv")
    mine = written[written["sample"] == record.sample_token]
    assert len(mine) and sorted(answer["class"]) == sorted(mine["class"]) and set(mine["class"]) <= {*own.classes.names}


def test_the_report_of_a_search(own: Own, run: Path, tmp_path: Path) -> None:
    """The search's document has the figures by class under the own names."""
    space = space_of({"optim.lr": {"values": [0.001, 0.002]}})
    scores = done(run, "evaluate_ours")
    for number, lr in enumerate((0.001, 0.002)):
        plant_trial(tmp_path, space, f"t{number}", {"optim.lr": lr}, 0.3)
        file = tmp_path / "trials" / f"t{number}" / "trial" / "done.json"
        result = json.loads(file.read_text())
        result["final"]["student_ours"] = scores
        file.write_text(json.dumps(result))
    write_search(tmp_path, space, [f"data.classes={own.list_file}"])
    assert main(["report", str(tmp_path)]) == 0
    page = (tmp_path / "report.html").read_text()
    headings = [row for row in cells(page) if row[1:] == list(own.classes.names)]
    assert len(headings) == 1 and not {cell for row in cells(page) for cell in row} & set(CLASSES)


def test_searches_take_a_list(own: Own) -> None:
    """All trials' configs have the user's list, in every space and variant."""
    word = f"data.classes={own.list_file}"
    space = load_space("unseen_classes")
    with pytest.raises(DataError, match="'bicycle' is no class.*allowed are huetchen"):
        check_space(space, "quickstart", [word])
    configs = [trial_config(load_space("label_ratio"), "quickstart", [word], {"label.ratio": 0.1})]
    for space in map(load_space, ("headline", "fusion")):
        configs += [trial_config(space, "quickstart", [word], {"variant": name}) for name in space.variants]
    for config in configs:
        assert config.classes == own.classes and config.tasks == own.classes.tasks
        assert config.student.gt_sampling == () and Config.from_json(config.to_json()) == config


def test_costs_are_measured_on_own_classes(own: Own, tmp_path: Path) -> None:
    config = own.world.run.config
    label = config.label.model_copy(update={"source": "simulate", "manifest": ""})
    made = measure(config.model_copy(update={"label": label}))
    assert made.train_samples == len(own.world.data.index.tokens("frames_train"))


def test_console_takes_names_in_brackets(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Names in brackets are printed in full, though rich would parse them as styles."""
    scores = done(run, "evaluate_ours")
    odd = {"pkw [m]": scores["per_class"]["pkw"]}
    print_arms({"ours": scores | {"per_class": odd, "by_group": {"gross [m]": scores["by_group"]["gross"]}}})
    said = capsys.readouterr().out
    assert "pkw [m] AP" in said and "gross [m]" in said
