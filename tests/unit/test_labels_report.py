"""Tests of the report of pseudo labels: its numbers against single boxes, its order, its page and pictures."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pdetr3d.class_list import NUSCENES_CLASSES
from pdetr3d.cli import main
from pdetr3d.config import DataConfig
from pdetr3d.data.labels.pseudo_table import to_boxes
from pdetr3d.data.loading.load import load_sample
from pdetr3d.evaluation.pseudo_label_quality import bev_iou, yaw_error_rad
from pdetr3d.finished.labels.measure import MeasuredLabels
from pdetr3d.finished.labels.pictures import PSEUDO, TRUE, best_camera
from pdetr3d.finished.labels.run_labels import RunLabels
from pdetr3d.schema import CAMERAS, CLASSES, Boxes3D
from tests.label_cases import simulated_run, tracked_run


@pytest.fixture(scope="module")
def labels(sim_world: Path, tmp_path_factory: pytest.TempPathFactory) -> RunLabels:
    return simulated_run(tmp_path_factory.mktemp("report") / "run", sim_world)


@pytest.fixture(scope="module")
def measured(labels: RunLabels) -> MeasuredLabels:
    return MeasuredLabels(labels)


def test_each_row_is_measured_against_the_box_of_its_own_click(labels: RunLabels, measured: MeasuredLabels) -> None:
    """The test joins rows and boxes by the manifest's annotation token, unlike the report."""
    token_of = {row["click_id"]: row["annotation_token"] for row in labels.manifest.clicks.to_pylist()}
    assert len(measured.table) > 60 and measured.table["known"].all()
    for i in range(0, len(measured.table), 5):
        row = measured.table.iloc[i]
        annotations = labels.index.annotations(row["sample_token"])
        x, y, z, *size, yaw = annotations.box[list(annotations.token).index(token_of[row["click_id"]])]
        truth = Boxes3D.build([[x, y, z]], [size], np.array([yaw]), np.array([CLASSES.index(row["class"])]))
        own = to_boxes(measured.table.iloc[i : i + 1], classes=NUSCENES_CLASSES)
        assert row["bev_iou"] == pytest.approx(bev_iou(own, truth)[0], abs=1e-5)
        assert row["center_error_m"] == pytest.approx(np.hypot(row["x"] - x, row["y"] - y), abs=1e-4)
        error = yaw_error_rad(own, truth, classes=NUSCENES_CLASSES)[0]
        if row["class"] == "traffic_cone":
            assert np.isnan(row["yaw_error_rad"]) and np.isnan(row["reversed"])
        else:
            assert row["yaw_error_rad"] == pytest.approx(error, abs=1e-5)
            barrier = row["class"] == "barrier"  # looks the same from both sides
            assert np.isnan(row["reversed"]) if barrier else row["reversed"] == (error > np.pi / 2)
        assert row["distance_m"] == pytest.approx(np.hypot(row["x"], row["y"]), abs=1e-4)  # boxes sit on their clicks


def test_a_table_in_another_order_gives_the_same_report(labels: RunLabels, measured: MeasuredLabels) -> None:
    shuffled = dataclasses.replace(labels, table=labels.table.sample(frac=1, random_state=0))
    again = MeasuredLabels(shuffled)
    first, second = json.loads(json.dumps(measured.report())), json.loads(json.dumps(again.report()))
    assert second["all"] == pytest.approx(first["all"]) and second["by_class"]["car"] == pytest.approx(
        first["by_class"]["car"]
    )


def test_groups_count_every_click_once_and_average_what_is_accepted(measured: MeasuredLabels) -> None:
    report, table = measured.report(), measured.table
    json.dumps(report, allow_nan=False)
    for group in ("by_class", "by_distance", "by_score", "by_reason"):
        assert sum(row["clicks"] for row in report[group].values()) == len(table)
        assert (
            sum(row["accepted"] for row in report[group].values())
            == table["accepted"].sum()
            == report["all"]["accepted"]
        )
    assert report["by_reason"]["implausible size"]["accepted"] == 0
    assert report["by_reason"]["implausible size"]["bev_iou"] == pytest.approx(
        table["bev_iou"][table["reason"] == "implausible size"].mean()
    )
    low = table[table["accepted"] & (table["score"] >= 0.2) & (table["score"] < 0.3)]
    assert report["by_score"]["0.2-0.3"]["bev_iou"] == pytest.approx(low["bev_iou"].mean())
    near = table[table["accepted"] & (table["distance_m"] >= 10) & (table["distance_m"] < 20)]
    assert report["by_distance"]["10-20"]["center_error_m"] == pytest.approx(near["center_error_m"].mean())
    assert report["all"]["known"] == table["accepted"].sum() and report["calibration"]["ece"] > 0


def test_fifths_by_direction_hold_accepted_labels_of_classes_that_have_one(measured: MeasuredLabels) -> None:
    """The surer a label's direction, the higher the fifth; each fifth shows the share of its turned headings."""
    measured = copy.copy(measured)
    measured.table = table = measured.table.assign(direction=np.linspace(0.5, 1, len(measured.table)))
    mine = table[table["accepted"] & ~table["class"].isin(["barrier", "traffic_cone"])]
    fifths = measured.report()["by_direction"]
    assert list(fifths) == ["0-20", "20-40", "40-60", "60-80", "80-100"]
    sizes = [row["accepted"] for row in fifths.values()]
    assert sum(sizes) == len(mine) and max(sizes) - min(sizes) <= 1
    assert fifths["0-20"]["reversed"] == pytest.approx(mine["reversed"][: sizes[0]].mean())
    assert fifths["80-100"]["reversed"] == pytest.approx(mine["reversed"][-sizes[-1] :].mean())


def test_the_worst_take_turns_by_class(measured: MeasuredLabels) -> None:
    rows = measured.table.iloc[measured.worst(1000)]
    assert sorted(rows.index) == sorted(measured.table.index[measured.table["accepted"]])
    classes = measured.table["class"][measured.table["accepted"]].nunique()
    first = rows.iloc[:classes]
    assert first["class"].nunique() == classes and first["bev_iou"].is_monotonic_increasing
    for name, row in first.set_index("class").iterrows():
        mine = measured.table[measured.table["accepted"] & (measured.table["class"] == name)]
        assert row["bev_iou"] == mine["bev_iou"].min()
    assert measured.worst(3) == list(rows.index[:3])


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.pictures: list[str] = []
        self.tables = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tables += tag == "table"
        if tag == "img":
            self.pictures.append(str(dict(attributes)["src"]))


def test_report_and_exports_by_command_line(
    labels: RunLabels, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = str(labels.path), tmp_path / "report"
    assert main(["report-labels", run, "--worst", "2", "--out", str(out)]) == 0
    assert f"{labels.table['accepted'].sum()} of {len(labels.table)}" in capsys.readouterr().out
    page = _Page((out / "index.html").read_text())
    assert page.tables == 5 and len(page.pictures) == 2
    assert sorted(page.pictures) == sorted(path.name for path in out.glob("*.png"))
    assert json.loads((out / "report.json").read_text())["all"]["clicks"] == len(labels.table)
    for name in page.pictures:
        pixels = np.asarray(Image.open(out / name).convert("RGB")).astype(int)
        for color in (TRUE, PSEUDO):  # drawn, and not in the legend alone, which is cut off
            rgb = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
            assert (np.abs(pixels[80:-45] - rgb).sum(-1) < 12).sum() > 300
    assert main(["report-labels", run, "--out", str(out)]) == 2
    assert re.search(r"report exists and is not overwritten", capsys.readouterr().err)
    assert main(["export-labels", run, "--format", "results", "--out", str(tmp_path / "a.json")]) == 0
    assert main(["export-labels", run, "--format", "kitti", "--out", str(tmp_path / "b")]) == 2
    error = capsys.readouterr().err
    assert "kitti" in error and "results" in error and "tables" in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "report"]


def test_without_true_boxes_counts_and_scores_are_left(sim_world: Path, tmp_path: Path) -> None:
    """People's clicks lie 50 m above all objects, so no box matches them."""
    measured = MeasuredLabels(
        tracked_run(tmp_path / "run", sim_world, 50.0, "model.range_m=[-51.2,-51.2,-5,51.2,51.2,60]")
    )
    report = measured.report()
    assert not measured.table["known"].any() and report["all"]["known"] == 0 and report["all"]["accepted"] > 50
    assert report["all"]["bev_iou"] is None and report["calibration"]["ece"] is None
    assert report["all"]["score"] == pytest.approx(measured.table["score"][measured.table["accepted"]].mean())
    scores = measured.table["score"].iloc[measured.worst(1000)[:5]]
    assert scores.iloc[0] == measured.table["score"][measured.table["accepted"]].min()


def test_the_best_camera_looks_at_the_box(labels: RunLabels) -> None:
    sample = load_sample(labels.records[0], DataConfig(num_sweeps=1, image_size_px=(160, 90)), cameras=True)

    def at(x: float, y: float) -> Boxes3D:
        return Boxes3D.build([[x, y, -1]], [[4, 2, 2]], np.zeros(1), np.zeros(1, int))

    slots = [best_camera(sample, at(*xy)) for xy in ((0, 20), (14, 14), (-14, 14), (0, -20))]
    names = ["CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_FRONT_LEFT", "CAM_BACK"]
    assert slots == [CAMERAS.index(name) for name in names]
    assert best_camera(sample, Boxes3D.build([[0, 0, 500]], [[4, 2, 2]], np.zeros(1), np.zeros(1, int))) is None
    bare = dataclasses.replace(sample, images=np.zeros((0, 0, 0, 3), np.uint8))
    assert best_camera(bare, at(0, 20)) is None
