"""Tests of a search's page: tables, charts and pictures equal the trials' results; the page runs and loads nothing."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pdetr3d.cli import main
from pdetr3d.data.storage.files import write_json
from pdetr3d.finished.report import charts
from pdetr3d.finished.report.page import Chart, Section, Table, Text, write_page
from pdetr3d.finished.report.pictures import galleries
from pdetr3d.finished.report.search import Search
from pdetr3d.finished.report.search_page import write_report
from pdetr3d.finished.report.spread import Spread
from pdetr3d.finished.report.teacher_sections import samples_to
from pdetr3d.schema import DataError
from ray_jobs.searches.space import SearchSpace
from tests.report_cases import BINS, cells, plant_trial, space_of, svg_of, svg_texts, write_search

EVIL = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def ratios(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search of three ratios (0.05 is the preset's), seeds 0 to 2, arms ours and boxes_only, and one failed trial.

    SPNDS of ours is 0.20, 0.32, 0.41 at 0.05 and 0.23, 0.34, 0.45 at 0.1 (paired p 0.035, see test_report_spread).
    """
    folder = tmp_path_factory.mktemp("ratios")
    space = space_of(
        {"label.ratio": {"values": [0.02, 0.05, 0.1]}},
        trains=["ours", "boxes_only"],
        seeds=[0, 1, 2],
        question=f"Boxes or clicks? {EVIL}",
    )
    figures = {0.02: (0.1, 0.2, None), 0.05: (0.20, 0.32, 0.41), 0.1: (0.23, 0.34, 0.45)}
    for ratio, values in figures.items():
        for seed, value in enumerate(values):
            chosen, name = {"label.ratio": ratio, "seed": seed}, f"t{ratio}_{seed}"
            if value is None:
                plant_trial(folder, space, name, chosen, 0.0, status="failed", error=f"bad {EVIL}")
            else:
                plant_trial(folder, space, name, chosen, {"ours": value, "boxes_only": value / 2})
    shared = folder / "shared" / "labels-abc"
    write_json(shared / "run.json", {})
    write_json(shared / "teacher" / "done.json", {"steps": 3})
    quality = {"bev_iou": 0.625, "yaw_error_rad": 0.775, "size_error": 0.319, "center_error_m": 0.253}
    write_json(shared / "pseudo_labels" / "done.json", {"accepted": 26199, "teacher": quality})
    write_search(folder, space)
    return folder


@pytest.fixture(scope="module")
def page(ratios: Path) -> str:
    said = write_report(ratios)
    assert said["report"] == ratios / "report.html"
    assert said["baseline"] == "ratio=0.05 (the config's own values)"
    assert said["best"] == "ratio=0.1: SPNDS 0.340 ± 0.110 (val)"
    assert said["trials"] == "9 trials: 8 finished, 1 failed"
    return (ratios / "report.html").read_text()


def test_the_table_compares_every_row_with_the_baseline(page: str) -> None:
    head = ["ratio", "SPNDS (select)", "SPNDS (val)", "to the baseline", "p", "test", "ours mAP", "ours NDS"]
    rows = cells(page)
    assert rows[0] == [*head, "boxes_only SPNDS", "boxes_only mAP", "boxes_only NDS", "finished"]
    assert rows[1][:6] == ["0.1", "0.360 ± 0.110", "0.340 ± 0.110", "+0.030", "0.035", "paired, 3 seeds"]
    assert rows[1][8] == "0.170 ± 0.055" and rows[1][-1] == "3/3"
    assert rows[2][:6] == ["0.05", "0.330 ± 0.105", "0.310 ± 0.105", "-", "-", "baseline"]
    assert rows[3][2:4] == ["0.150 ± 0.071", "-0.160"] and rows[3][5] == "Welch, 2 and 3 seeds" and rows[3][-1] == "2/3"
    assert page.count('<tr class="marked">') == 1 and "not corrected for the 2 comparisons" in page


def test_distance_classes_trials_and_shared_stages_are_there(page: str) -> None:
    rows = cells(page)
    assert ["ratio=0.1", "0.340 ± 0.110", "0.290 ± 0.110", "0.240 ± 0.110", "0.190 ± 0.110", "0.140 ± 0.110"] in rows
    assert ["", "car", "pedestrian"] in rows and ["ratio=0.1", "0.340 ± 0.110", "0.440 ± 0.110"] in rows
    done = ["t0.1_2", "0.1", "2", "finished", "100", "200", "0.470", "71", "2", "6", "64", "111", "-", "trials/t0.1_2"]
    failed = ["t0.02_2", "0.02", "2", "failed", "50", "100", "0.100", "-", "-", "-", "-", "-", "-", "trials/t0.02_2"]
    assert done in rows and failed in rows and ["t0.02_2", f"bad {EVIL}"] in rows
    stages = "pseudo_labels, teacher"
    assert ["shared/labels-abc", stages, "26199", "0.625", "0.775", "0.319", "0.253"] in rows
    assert "varies label.ratio alone" in page
    assert "for seed in 0 1 2; do python -m ray_jobs.pipeline" in page and f"git checkout {'a' * 40}" in page


def test_nothing_in_the_page_runs_or_loads(page: str) -> None:
    assert "<script" not in page and page.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 3  # title, heading, error
    assert re.findall(r"""(?:src|href)=["'](?!data:image/|#section-)""", page) == [] and "url(" not in page
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page
    assert page.count('class="chart" src="data:image/svg+xml;base64,') == 3  # parameter, curves, distance


def test_a_single_parameter_has_a_line_per_arm(ratios: Path) -> None:
    texts = svg_texts(charts.parameter_panels(Search.open(ratios)).uri)
    assert {"label.ratio", "SPNDS (val)", "student_ours", "student_boxes_only", "0.02", "0.05", "0.1"} <= set(texts)


def test_rows_lie_at_numbers_and_words_in_the_spaces_order(tmp_path: Path) -> None:
    kinds = {"optim.lr": {"values": [0.02, 0.01]}, "student.guidance": {"values": ["none", "full", "partial"]}}
    space = space_of(kinds)
    for place, (rate, word) in enumerate([(0.01, "partial"), (0.02, "none")]):
        plant_trial(tmp_path, space, f"t{place}", {"optim.lr": rate, "student.guidance": word}, 0.5 - place / 10)
    write_search(tmp_path, space)
    search = Search.open(tmp_path)
    assert charts.places(search, "optim.lr", search.rows) == ([0.01, 0.02], [])
    assert charts.places(search, "student.guidance", search.rows) == ([2.0, 0.0], ["none", "full", "partial"])


def test_curves_have_a_line_per_trial_dashed_where_it_is_unfinished(ratios: Path) -> None:
    drawn = charts.curves(Search.open(ratios)).uri
    assert {"training samples", "ratio=0.1", "ratio=0.02"} <= set(svg_texts(drawn))
    lines = re.findall(r'<g id="line2d_\d+">\s*<path d="[^"]*" clip-path="[^"]*" style="([^"]*)"', svg_of(drawn))
    own = [style for style in lines if "#b0b0b0" not in style]  # without the grid
    assert len(own) == 9 and sum("stroke-dasharray: 5" in style for style in own) == 1


def test_curves_of_very_different_lengths_are_all_legible(ratios: Path, tmp_path: Path) -> None:
    """The curves end at 200 samples, those of the longest row at 20,000: on a linear axis 200 would be at its left."""
    shutil.copytree(ratios, tmp_path / "long")
    found = json.loads((tmp_path / "long" / "search.json").read_text())
    for trial in found["trials"]:
        if trial["parameters"]["label.ratio"] == 0.1:
            for point in trial["curve"]:
                point["samples"] *= 100
    (tmp_path / "long" / "search.json").write_text(json.dumps(found))
    equal, long = (svg_texts(charts.curves(Search.open(folder)).uri) for folder in (ratios, tmp_path / "long"))
    assert {"0", "1000", "10000"} <= set(long) and "1000" not in equal


def test_long_words_below_a_panel_are_slanted(tmp_path: Path) -> None:
    words = ["a rather long name", "another long name", "a third long name"]
    space = space_of({"student.guidance": {"values": words}})
    for place, word in enumerate(words):
        plant_trial(tmp_path, space, f"t{place}", {"student.guidance": word}, 0.5)
    write_search(tmp_path, space)
    drawn = svg_of(charts.parameter_panels(Search.open(tmp_path)).uri)
    assert drawn.count("rotate(-20)") == 3


@pytest.mark.parametrize(
    ("metric", "target", "samples"),
    [
        ("bev_iou", 0.45, {"explicit": [30], "implicit": []}),
        ("yaw_error_rad", 0.5 / 0.9, {"explicit": [10], "implicit": [20]}),
    ],
)
def test_how_soon_teachers_converge(metric: str, target: float, samples: dict[str, list[int]], tmp_path: Path) -> None:
    """The threshold is 0.9 of the best row's last score, 0.5; for errors, where less is better, it is 0.5 / 0.9."""
    curves = {
        "bev_iou": {"explicit": (0.1, 0.44, 0.46, 0.5), "implicit": (0.0, 0.1, 0.2, 0.3)},
        "yaw_error_rad": {"explicit": (0.55, 0.6, 0.5, 0.5), "implicit": (0.9, 0.55, 0.6, 0.7)},
    }
    space = space_of({"teacher.query_init": {"values": ["explicit", "implicit"]}}, trains="teacher", metric=metric)
    for name, values in curves[metric].items():
        plant_trial(tmp_path, space, name, {"teacher.query_init": name}, 0.5)
        file = tmp_path / "trials" / name / "trial.json"
        rows = [{"step": i, "progress": 25.0 * i, "samples": 10 * i, metric: v} for i, v in enumerate(values, start=1)]
        write_json(file, json.loads(file.read_text()) | {"curve": rows})
    write_search(tmp_path, space)
    search = Search.open(tmp_path)
    assert {row.parameters["teacher.query_init"]: samples_to(search, row, target) for row in search.rows} == samples
    write_report(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert f"first is {target:.3g} (0.9 of" in page and 'alt="training samples until a score is reached"' in page
    rows = cells(page)
    table = rows[rows.index(["", "samples", "reached"]) + 1 :][:2]
    assert table == [[f"query_init={n}", str(s[0]) if s else "-", f"{len(s)}/1"] for n, s in samples.items()]
    drawn = charts.convergence(
        search, [Spread.of(samples[row.parameters["teacher.query_init"]]) for row in search.rows]
    )
    assert ("not reached" in svg_texts(drawn.uri)) == (not samples["implicit"])


def test_classes_without_boxes_stand_beside_the_others(tmp_path: Path) -> None:
    """The AP of car is the trial's value, and that of pedestrian is 0.1 higher (student_scores)."""
    space = space_of({"label.no_boxes_of": {"values": [[], ["pedestrian"], ["car", "pedestrian"]]}}, seeds=[0, 1])
    for place, (left_out, seed, value) in enumerate(
        [([], 0, 0.6), (["pedestrian"], 0, 0.3), (["pedestrian"], 1, 0.5), (["car", "pedestrian"], 0, 0.2)]
    ):
        plant_trial(tmp_path, space, f"t{place}", {"label.no_boxes_of": left_out, "seed": seed}, value)
    write_search(tmp_path, space)
    write_report(tmp_path)
    rows = cells((tmp_path / "report.html").read_text())
    table = rows[rows.index(["", "classes without boxes", "the others"]) + 1 :][:3]
    assert table == [
        ["no_boxes_of=[]", "-", "0.650"],
        ['no_boxes_of=["pedestrian"]', "0.500 ± 0.141", "0.400 ± 0.141"],
        ['no_boxes_of=["car","pedestrian"]', "0.250", "-"],
    ]


def test_two_lists_make_a_heat_map(tmp_path: Path) -> None:
    kinds = {"optim.lr": {"values": [0.01, 0.02]}, "student.guidance": {"values": ["full", "none"]}}
    space = space_of(kinds)
    for place, (rate, word, value) in enumerate([(0.02, "full", 0.123), (0.01, "none", 0.456), (0.01, "full", 0.789)]):
        plant_trial(tmp_path, space, f"t{place}", {"optim.lr": rate, "student.guidance": word}, value)
    write_search(tmp_path, space)
    search = Search.open(tmp_path)
    assert charts.is_grid_of_two(search)
    np.testing.assert_array_equal(charts.heat_cells(search, search.metric), [[0.789, 0.456], [0.123, np.nan]])
    texts = svg_texts(charts.heat_map(search, "all objects", search.metric).uri)
    assert {"optim.lr", "student.guidance", "full", "none", "0.01", "0.02", "0.789", "0.456", "0.123"} <= set(texts)
    assert "nan" not in texts
    far = charts.heat_cells(search, "by_distance", BINS[2], "mAP")  # 0.05 less in each bin, see student_scores
    np.testing.assert_allclose(far, [[0.689, 0.356], [0.023, np.nan]], atol=1e-9)
    write_report(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert [f"mAP by optim.lr and student.guidance, {name} m" in page for name in BINS] == [True] * len(BINS)


def test_distances_of_which_nothing_is_known_have_no_heat_map(tmp_path: Path) -> None:
    kinds = {"optim.lr": {"values": [0.01, 0.02]}, "student.guidance": {"values": ["full", "none"]}}
    space = space_of(kinds, metric="mAOE")
    plant_trial(tmp_path, space, "t0", {"optim.lr": 0.01, "student.guidance": "full"}, 0.5)
    write_search(tmp_path, space)
    write_report(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert [f"AOE by optim.lr and student.guidance, {name} m" in page for name in BINS] == [
        False, *[True] * (len(BINS) - 1)
    ]  # fmt: skip


def test_ranges_make_panels_and_importance_a_chart(tmp_path: Path) -> None:
    kinds = {"optim.lr": {"loguniform": [0.0001, 0.1]}, "student.guidance": {"values": ["full", "none"]}}
    space = space_of(kinds, search="optuna", trials=5, asha=True)
    for place, rate in enumerate((0.0002, 0.001, 0.01, 0.05)):
        chosen = {"optim.lr": rate, "student.guidance": "none" if place % 2 else "full"}
        plant_trial(tmp_path, space, f"t{place}", chosen, 0.1 * place)
    plant_trial(tmp_path, space, "t9", {"optim.lr": 0.09, "student.guidance": "none"}, 0.0, status="stopped")
    write_search(tmp_path, space)
    search = Search.open(tmp_path)
    assert not charts.is_grid_of_two(search)
    assert {"optim.lr", "student.guidance", "full", "none"} <= set(svg_texts(charts.parameter_panels(search).uri))
    write_report(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "by fANOVA on 4 finished trials" in page and 'alt="importance of parameters"' in page
    assert page.count("needs ≥ 2 seeds") == 3 and "5 trials: 4 finished, 1 stopped" in page
    assert "end early (ASHA)" in page and "stopped: ended early" in page


def test_charts_are_the_same_for_the_same_search(ratios: Path) -> None:
    assert charts.curves(Search.open(ratios)) == charts.curves(Search.open(ratios))


def test_a_name_is_no_formula() -> None:
    """matplotlib would parse $...$ as a formula and raise an error for text that is none."""

    def draw(figure: Any) -> None:
        figure.add_subplot(title="a$\\frac$b")

    assert "a$\\frac$b" in svg_texts(charts.chart("x", (2, 2), draw).uri)


def test_a_teachers_search_shows_its_metric_first(tmp_path: Path) -> None:
    space = space_of({"teacher.roi_grid": {"values": [3, 5]}}, trains="teacher", metric="yaw_error_rad", seeds=[0, 1])
    for place, (grid, seed) in enumerate([(3, 0), (3, 1), (5, 0), (5, 1)]):
        plant_trial(tmp_path, space, f"t{place}", {"teacher.roi_grid": grid, "seed": seed}, grid / 10 + seed / 50)
    write_search(tmp_path, space, commit="b" * 40 + "+")
    write_report(tmp_path, tmp_path / "other.html", "roi_grid=3")
    page = (tmp_path / "other.html").read_text()
    rows = cells(page)
    assert rows[0][:3] == ["roi_grid", "yaw_error_rad (select)", "yaw_error_rad (val)"]
    assert [row[0] for row in rows[1:3]] == ["3", "5"], "less is better"
    assert rows[1][5] == "baseline" and rows[2][3:6] == ["+0.200", "-", "the same difference for every seed"]
    assert "(less is better)" in page and "named by --baseline" in page
    assert page.index("yaw_error_rad by distance") < page.index("bev_iou by distance")
    assert "python -m ray_jobs.train_teacher" in page and f"git checkout {'b' * 40}<" in page
    assert "uncommitted changes" in page


@pytest.mark.parametrize("status", [None, "failed"])
def test_a_search_without_a_finished_trial_has_a_page_too(tmp_path: Path, status: str | None) -> None:
    space = space_of({"label.ratio": {"values": [0.02, 0.05]}, "optim.lr": {"values": [0.01, 0.02]}})
    plant_trial(tmp_path, space, "t0", {"label.ratio": 0.02, "optim.lr": 0.01}, 0.1, status=status, error="x")
    write_search(tmp_path, space)
    assert set(write_report(tmp_path)) == {"report", "trials"}
    page = (tmp_path / "report.html").read_text()
    assert "No comparison: no trial is finished" in page and "Shared stages" in page


def test_a_search_without_trials_has_a_page_too(tmp_path: Path) -> None:
    write_search(tmp_path, space_of({"label.ratio": {"values": [0.02]}}))
    assert write_report(tmp_path)["trials"] == "0 trials: none"


# --- pictures ---


def picture(file: Path, size: tuple[int, int] = (1600, 400)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (200, 10, 10)).save(file)


def test_pictures_at_one_path_stand_side_by_side(tmp_path: Path) -> None:
    runs = {name: tmp_path / name for name in "abcdefgh"}
    for name, run in runs.items():
        picture(run / "teacher" / "images" / "one" / "bev_cameras.png")
        picture(run / f"{name}.png")
        picture(run / "teacher" / "images" / name / "bev_cameras.png")
    picture(runs["a"] / "two.png", (2000, 500))
    picture(runs["c"] / "two.png", (30, 20))
    made = galleries(runs)
    assert [(g.title, [name for name, _ in g.pictures]) for g in made] == [
        ("teacher/images/one/bev_cameras.png", ["a", "b", "c", "d", "e", "f"]),
        ("two.png", ["a", "c"]),
    ]
    shown = [Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))) for _, uri in made[1].pictures]
    assert [image.size for image in shown] == [(1600, 400), (30, 20)]
    red, green, _ = shown[0].getpixel((5, 5))  # type: ignore[misc]
    assert red > 180 and green < 40


def test_rows_show_their_first_finished_trials_pictures(tmp_path: Path) -> None:
    space: SearchSpace = space_of({"label.ratio": {"values": [0.02, 0.05]}}, seeds=[0, 1])
    for ratio in (0.02, 0.05):
        plant_trial(tmp_path, space, f"{ratio}a", {"label.ratio": ratio, "seed": 0}, 0.1, status="failed")
        plant_trial(tmp_path, space, f"{ratio}b", {"label.ratio": ratio, "seed": 1}, 0.1)
        picture(tmp_path / "trials" / f"{ratio}b" / "student_ours" / "images" / "sample" / "bev_cameras.png", (8, 8))
    write_search(tmp_path, space)
    write_report(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/jpeg") == 2 and "<figcaption>ratio=0.05</figcaption>" in page


def test_a_broken_picture_is_named(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="a/x.png cannot be read"):
        galleries({name: tmp_path / name for name in "ab"})


# --- the page itself ---


def test_columns_of_numbers_are_told_from_words() -> None:
    table = Table(
        ["name", "a", "b", "c", "d"],
        [["1", "0.1 ± 0.2", "656ae_0", "-", "< 0.001"], ["2", "-1.0e-05", "3", "50%", "2/3"]],
    )
    assert [table.numeric(column) for column in range(5)] == [False, True, False, True, False]


def test_every_kind_of_block_is_written_and_escaped(tmp_path: Path) -> None:
    blocks = [
        Text(EVIL),
        Table([EVIL], [[EVIL]], EVIL),
        Table([EVIL], [[EVIL]], EVIL, folded=True),
        Chart("data:,", EVIL),
    ]
    file = write_page(tmp_path / "page.html", EVIL, [EVIL], [Section(EVIL, blocks)])
    text = file.read_text(encoding="utf-8")
    assert "<script" not in text and text.count("&lt;script&gt;") == 13 and "<details>" in text


def test_a_failing_page_leaves_the_old_one(tmp_path: Path) -> None:
    file = write_page(tmp_path / "page.html", "old", [], [])
    with pytest.raises(IndexError):
        write_page(file, "new", [], [Section("x", [Table(["a", "b"], [["only one"]])])])
    assert "old" in file.read_text() and list(tmp_path.iterdir()) == [file]


# --- the command ---


def test_the_command_writes_and_says_where(ratios: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / "page.html"
    assert main(["report", str(ratios), "--out", str(out), "--baseline", "ratio=0.02"]) == 0
    said = capsys.readouterr().out
    assert str(out) in said and "ratio=0.02 (named by --baseline)" in said and out.exists()


@pytest.mark.parametrize(("arguments", "message"), [([], "no such file"), (["--baseline", "ratio=0.3"], "ratio=0.05")])
def test_bad_input_is_exit_code_2(
    arguments: list[str], message: str, ratios: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(ratios if arguments else tmp_path), *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and "Traceback" not in captured.err
