"""Tests of the report of named variants: reference, floors, corrupted input, own arms, results of older code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pdetr3d.cli import main
from pdetr3d.finished.report.reproduce import command
from pdetr3d.finished.report.search import Search
from pdetr3d.finished.report.search_page import write_report
from pdetr3d.finished.report.teacher_sections import corruptions
from pdetr3d.schema import DataError
from ray_jobs.searches.space import SearchSpace
from tests.report_cases import cells, plant_trial, space_of, svg_texts, teacher_scores, write_search
from tests.unit.test_report_search import configs

OLDER = Path(__file__).resolve().parents[1] / "data" / "older_results"
TEACHERS = {
    "trains": "teacher",
    "metric": "bev_iou",
    "measured_on": "point_labeled",
    "reference": "explicit",
    "seeds": [0, 1],
    "variants": {"explicit": [], "implicit": ["teacher.query_init=implicit", "teacher.matching=direct"]},
}


def plant_teachers(folder: Path) -> SearchSpace:
    """Teachers with planted BEV IoU 0.6, floors of 0.6 and lower figures on corrupted input.

    Their curves, whose ends sort the rows, end at 0.62 and 0.32.
    """
    space = space_of({}, **TEACHERS)
    for name, value in (("implicit", 0.3), ("explicit", 0.6)):
        for seed in (0, 1):
            plant_trial(folder, space, f"{name}-{seed}", {"variant": name, "seed": seed}, value)
            file = folder / "trials" / f"{name}-{seed}" / "trial" / "done.json"
            result = json.loads(file.read_text())
            quality = {**teacher_scores(0.5), "calibration": {"ece": 0.04, "rank_correlation": 0.5 + seed / 10}}
            result["final"] = {"teacher": quality, "class_mean": quality | {"iou_3d": 0.25}}
            result["corruption"] = {"corruption.blur_px": {"0": quality, "2": quality | {"bev_iou": 0.4 + seed / 10}}}
            result["costs"] = {"parameters": 1234567, "step_s": 0.5, "peak_memory_bytes": 3 * 2**20}
            file.write_text(json.dumps(result))
    return space


def test_teachers_stand_beside_floors_on_corrupted_input_and_with_their_costs(tmp_path: Path) -> None:
    write_search(tmp_path, plant_teachers(tmp_path))
    said = write_report(tmp_path)
    assert said["baseline"] == "explicit (the space's reference)"
    page = (tmp_path / "report.html").read_text()
    rows = cells(page)
    assert rows[0][:3] == ["variant", "bev_iou (curve)", "bev_iou (point_labeled)"] and rows[1][0] == "explicit"
    head = next(row for row in rows if row[-1:] == ["parameters"])
    explicit, _, floor = rows[rows.index(head) + 1 :][:3]
    assert dict(zip(head, explicit, strict=True)) == {
        "": "explicit", "bev_iou": "0.600 ± 0.000", "iou_3d": "0.500 ± 0.000", "center_error_m": "0.200 ± 0.000",
        "size_error": "0.300 ± 0.000", "yaw_error_rad": "0.500 ± 0.000", "ECE": "0.040 ± 0.000",
        "rank correlation": "0.550 ± 0.071", "step [s]": "0.500 ± 0.000", "peak [MiB]": "3", "parameters": "1,234,567",
    }  # fmt: skip
    assert floor[:3] == ["floor: class-mean box at the click", "0.600 ± 0.000", "0.250 ± 0.000"] and floor[-1] == "-"
    table = rows[rows.index(["", "0", "2"]) + 1]
    assert table == ["explicit", "0.600 ± 0.000", "0.450 ± 0.071"]  # of 0.4 and 0.5
    assert ["implicit", "", "teacher.query_init=implicit teacher.matching=direct"] in rows
    assert "the clicks of the point-labeled samples" in page and "the val split" not in page.split("Every row again")[0]


def test_corruption_is_drawn_by_its_values(tmp_path: Path) -> None:
    from pdetr3d.finished.report import charts

    write_search(tmp_path, plant_teachers(tmp_path))
    search = Search.open(tmp_path)
    drawn = charts.corruption_panels(search, ("bev_iou",), search.rows, {"corruption.blur_px": ["0", "2"]})
    assert {"corruption.blur_px", "bev_iou", "explicit", "implicit"} <= set(svg_texts(drawn.uri))


def test_an_older_document_names_corruption_otherwise(tmp_path: Path) -> None:
    write_search(tmp_path, plant_teachers(tmp_path))
    file = tmp_path / "search.json"
    now = corruptions(Search.open(file))
    older = file.read_text().replace('"corruption":', '"trouble":')
    assert older != file.read_text()
    file.write_text(older)
    assert corruptions(Search.open(file)) == now == {"corruption.blur_px": ["0", "2"]}


def test_arms_of_their_own_are_compared_and_trained_again(tmp_path: Path) -> None:
    variants = {"boxes only": {"trains": "boxes_only"}, "ours": {"trains": "ours", "overrides": ["optim.lr=0.5"]}}
    space = space_of({}, variants=variants, reference="boxes only")
    for name, value in (("boxes only", 0.2), ("ours", 0.3)):
        plant_trial(tmp_path, space, name.split()[0], {"variant": name}, {"student": value})
    write_search(tmp_path, space)
    search = Search.open(tmp_path)
    assert [(row.name, search.figures(row)) for row in search.rows] == [("ours", {0: 0.3}), ("boxes only", {0: 0.2})]
    assert search.baseline("ours")[0] is search.rows[0] and search.baseline()[0] is search.rows[1]
    (ours,), boxes = (configs(command(search, row)) for row in search.rows)
    assert ours[0] == "ray_jobs.pipeline" and ours[2].run.arms == ("ours",) and ours[2].optim.lr == 0.5
    assert [job for job, _, _ in boxes] == ["ray_jobs.train_student", "ray_jobs.evaluate"]
    assert boxes[0][2].run.arms == ("boxes_only",)
    write_report(tmp_path)
    assert ["boxes only", "0.220", "0.200"] in [row[:3] for row in cells((tmp_path / "report.html").read_text())]


OLD: dict[str, tuple[int, str, str]] = {
    "initialization": (24, "explicit-direct", "explicit-direct-crop"),
    "robustness": (1, "d_roi", "d_roi"),
    "headline": (12, "ours", "boxes everywhere"),
    "label_ratio": (6, "ratio=0.05", "ratio=0.5"),
}


@pytest.mark.parametrize("name", OLD)
def test_results_of_older_code_are_read(name: str, tmp_path: Path) -> None:
    """The page shows the best row with the figures of the results document."""
    trials, reference, best = OLD[name]
    search = Search.open(OLDER / f"{name}.json")
    assert len(search.trials) == trials and search.rows[0].name == best
    row, _ = search.baseline()
    assert row is not None and row.name == reference
    document = json.loads((OLDER / f"{name}.json").read_text())
    summary: dict[str, Any] = document.get("summary", {})
    for row in search.rows if summary else ():
        assert row.spread(search.judged, search.metric).mean == pytest.approx(summary[row.name][search.metric]["mean"])


def test_the_page_of_a_results_file_lies_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "robustness.json"
    file.write_bytes((OLDER / "robustness.json").read_bytes())
    assert main(["report", str(file)]) == 0
    rows = cells((tmp_path / "robustness.html").read_text())
    assert ["", "0", "0.5", "1", "2", "5"] in rows  # extrinsics off by so many degrees
    assert "floor: the same along nearby LiDAR points (PCA)" in [row[0] for row in rows]


def test_a_folder_of_older_code_is_read(tmp_path: Path) -> None:
    document = (OLDER / "label_ratio.json").read_text()
    (tmp_path / "sweep.json").write_text(document)
    assert Search.open(tmp_path).document == json.loads(document)
    with pytest.raises(DataError, match="search.json: no such file"):
        Search.open(tmp_path / "elsewhere")
