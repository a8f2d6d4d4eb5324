"""Tests of ``pdetr3d report RUN``: the page has scores, label quality and floors, examples, curves and commands."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest
from PIL import Image

from pdetr3d.cli import main
from pdetr3d.data.storage.files import write_json
from pdetr3d.evaluation.pseudo_label_quality import bev_iou
from pdetr3d.finished.report.pictures import SAMPLES
from pdetr3d.finished.report.run_page import write_run_page
from tests.doctor_cases import PlantedRun
from tests.report_cases import cells, student_scores, svg_texts, svg_uris

pytestmark = pytest.mark.xdist_group("run_page")  # the fixtures of this file take seconds


@pytest.fixture(scope="module")
def run(sim_world: Path, tmp_path_factory: pytest.TempPathFactory) -> PlantedRun:
    planted = PlantedRun(tmp_path_factory.mktemp("page") / "run", sim_world)
    planted.write_labels(planted.good_boxes())
    planted.write_curves("student_ours", planted.path.parent)
    for arm, value in (("ours", 0.3), ("full", 0.5)):
        write_json(planted.path / f"evaluate_{arm}" / "done.json", student_scores(value))
    return planted


@pytest.fixture(scope="module")
def page(run: PlantedRun) -> str:
    return write_run_page(run.path).read_text()


def test_the_page_holds_everything(run: PlantedRun, page: str) -> None:
    assert (run.path / "report.html").read_text() == page
    titles = [html.unescape(title) for title in re.findall(r"<h2[^>]*>(.*?)</h2>", page)]
    assert titles == ["Students", "Boxes at the clicks", "Learning curves", "Commands"]  # no picture was drawn
    for words in (
        "Devkit scores, val split",
        "the same along nearby LiDAR points (PCA)",
        "(b) ours: boxes, clicks",
        "Good labels",
        "Bad labels",
        "pdetr3d doctor",
    ):
        assert words in html.unescape(page)
    students = next(row for row in cells(page) if "(c) boxes everywhere" in row)
    assert students == ["", "(b) ours: boxes, clicks", "(c) boxes everywhere"]  # in the order of their letters
    assert page.count("data:image/jpeg") == 6 and "http://" not in re.sub(r"http://www.w3.org\S*", "", page)
    assert main(["report", str(run.path), "--baseline", "a=1"]) == 2


def test_the_histogram_has_the_floor_of_the_run(run: PlantedRun, page: str) -> None:
    said = {text for uri in svg_uris(page) for text in svg_texts(uri)}
    means = {
        name: bev_iou(boxes, run.truth).mean()
        for name, boxes in (("teacher", run.good_boxes()), ("class-mean box at the click", run.floor))
    }
    assert {f"{name}, mean {mean:.3f}" for name, mean in means.items()} <= said


def test_a_run_that_has_only_begun_has_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_json(tmp_path / "run.json", {"preset": "quickstart"})
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "a.html")]) == 0
    assert "a.html" in capsys.readouterr().out.replace("\n", "")
    assert "No student is scored yet." in (tmp_path / "a.html").read_text()


def test_models_stand_side_by_side_under_each_frame(tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", {"preset": "quickstart"})
    for stage, token in (("student_ours", "t2"), ("student_full", "t2"), ("teacher", "t1")):
        folder = tmp_path / stage / "images" / token
        folder.mkdir(parents=True)
        Image.new("RGB", (8, 4)).save(folder / "bev_cameras.png")
    Image.new("RGB", (8, 4)).save(tmp_path / "predictions_ours.png")
    page = html.unescape(write_run_page(tmp_path).read_text())
    section = page[page.index(">Predictions<") :]
    shown = re.findall(r"<h3[^>]*>(.*?)</h3>|<figcaption>(.*?)</figcaption>", section)
    assert ["".join(pair) for pair in shown][:7] == [
        "First frame of the val split",
        "",
        "Frame t1",
        "teacher",
        "Frame t2",
        "(b) ours: boxes, clicks",
        "(c) boxes everywhere",
    ]


def test_the_page_of_a_run_shows_a_few_frames_of_many(tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", {"preset": "quickstart"})
    for number in range(SAMPLES + 2):
        folder = tmp_path / "teacher" / "images" / f"t{number:02}"
        folder.mkdir(parents=True)
        Image.new("RGB", (8, 4)).save(folder / "bev_cameras.png")
    shown = re.findall(r">Frame (\w+)<", write_run_page(tmp_path).read_text())
    assert shown == [f"t{number:02}" for number in range(SAMPLES)]
