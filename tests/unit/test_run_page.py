"""Tests of ``pdetr3d report RUN``: the page has scores, label quality and floors, examples, curves and commands."""

from __future__ import annotations

import html
import re
from pathlib import Path

import numpy as np
import pytest

from pdetr3d.cli import main
from pdetr3d.data.storage.files import write_json
from pdetr3d.evaluation.pseudo_label_quality import bev_iou
from pdetr3d.finished.labels.measure import MeasuredLabels
from pdetr3d.finished.labels.run_labels import RunLabels
from pdetr3d.finished.report.run_page import _floor, _histogram
from tests.doctor_cases import PlantedRun
from tests.report_cases import student_scores, svg_texts


@pytest.fixture(scope="module")
def run(sim_world: Path, tmp_path_factory: pytest.TempPathFactory) -> PlantedRun:
    planted = PlantedRun(tmp_path_factory.mktemp("page") / "run", sim_world)
    planted.write_labels(planted.good_boxes())
    planted.write_curves("student_ours", planted.path.parent)
    for arm, value in (("ours", 0.3), ("full", 0.5)):
        write_json(planted.path / f"evaluate_{arm}" / "done.json", student_scores(value))
    return planted


def test_the_page_holds_everything(run: PlantedRun, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run.path)]) == 0
    assert "report.html" in capsys.readouterr().out
    page = (run.path / "report.html").read_text()
    titles = [html.unescape(title) for title in re.findall(r"<h2[^>]*>(.*?)</h2>", page)]
    assert titles == ["Students", "Boxes at the clicks", "Learning curves", "Commands"]  # no picture was drawn
    for words in ("Devkit scores, val split", "class_mean_pca", "Good labels", "Bad labels", "pdetr3d doctor"):
        assert words in html.unescape(page)
    assert page.count("data:image/jpeg") == 6 and "http://" not in re.sub(r"http://www.w3.org\S*", "", page)
    assert main(["report", str(run.path), "--baseline", "a=1"]) == 2


def test_the_floor_of_the_histogram_is_that_of_the_run(run: PlantedRun) -> None:
    labels = RunLabels.open(run.path)
    floor = _floor(labels, MeasuredLabels(labels))
    np.testing.assert_allclose(np.sort(floor), np.sort(bev_iou(run.floor, run.truth)), atol=1e-6)
    chart = _histogram({"teacher": np.array([0.25, 0.75]), "class_mean": np.array([0.5])})
    assert {"teacher, mean 0.500", "class_mean, mean 0.500"} <= set(svg_texts(chart.uri))


def test_a_run_that_has_only_begun_has_a_page(tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", {"preset": "quickstart"})
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "a.html")]) == 0
    assert "No student is scored yet." in (tmp_path / "a.html").read_text()
