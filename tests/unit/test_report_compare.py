"""Tests of runs side by side: figures of finished stages and differing keys, on the terminal and as a page."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pdetr3d.cli import main
from pdetr3d.config_seen import seen_by
from pdetr3d.data.storage.files import write_json
from pdetr3d.finished.report.compare import config_table, notes, tables, warning, write_comparison
from pdetr3d.finished.report.page import Table
from pdetr3d.finished.report.reproduce import run_command
from pdetr3d.finished.report.runs import differing, open_runs, short_names
from pdetr3d.presets import load
from pdetr3d.schema import DataError
from pdetr3d.tracking.runs import Tracker
from tests.report_cases import cells, plant_trial, space_of, student_scores, svg_texts, svg_uris, teacher_scores


def plant_run(folder: Path, overrides: list[str], stages: dict[str, Any], **identity: Any) -> Path:
    """A run directory as ``RunDir`` begins it and its stages finish it."""
    flat = seen_by(load("quickstart", overrides))
    write_json(folder / "run.json", flat | {"code": "c1", "tables": ""} | identity)
    for stage, result in stages.items():
        write_json(folder / stage / "done.json", result)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A pipeline; a pipeline with other code and ratio that has only begun to score; a search's trial of a teacher."""
    root = tmp_path_factory.mktemp("runs")
    labels = {"teacher": teacher_scores(0.5), "class_mean": teacher_scores(1.5), "accepted": 77}
    first = plant_run(root / "a" / "run", [], {"evaluate_ours": student_scores(0.3), "pseudo_labels": labels})
    report = {"timing": {"wall_s": 12.34, "student_ours": 5.0}, "memory": {"peak_rss_bytes": 300 * 2**20}}
    write_json(first / "report.json", report)
    second = plant_run(
        root / "b" / "run",
        ["label.ratio=0.1", "optim.lr_multipliers=[[x,0.5]]"],
        {"evaluate_ours": student_scores(0.4), "evaluate_full": student_scores(0.5)},
        code="c2",
    )
    space = space_of({"teacher.roi_grid": {"values": [3]}}, trains="teacher", metric="yaw_error_rad")
    plant_trial(root, space, "t0", {"teacher.roi_grid": 3}, 0.25)
    third = plant_run(root / "trials" / "t0", ["teacher.roi_grid=3"], {}, tables="t3", **{"new.key": 0})
    return [first, second, third]


def table(made: list[Table], start: str) -> dict[str, list[str]]:
    """The rows of the table whose title starts with ``title``."""
    (found,) = (each for each in made if each.title.startswith(start))
    return {row[0]: list(row[1:]) for row in found.rows}


def test_figures_stand_side_by_side(runs: list[Path]) -> None:
    made = tables(open_runs(runs))
    assert [made[0].headings, [each.title.split(":")[0] for each in made]] == [
        ["", "a/run", "b/run", "trials/t0"],
        ["Student full", "Student ours", "Teacher", "Pseudo labels", "Time and memory (0"],
    ]
    ours = table(made, "Student ours")
    assert ours["SPNDS"] == ["0.300", "0.400", "-"] and ours["mATE"] == ["0.500", "0.500", "-"]
    assert ours["mAP at 0-10 m"] == ["0.300", "0.400", "-"] and ours["mAP at 40-52 m"] == ["0.100", "0.200", "-"]
    assert table(made, "Student full")["NDS"] == ["-", "0.490", "-"]
    teacher = table(made, "Teacher")
    assert teacher["yaw_error_rad"] == ["-", "-", "0.250"] and teacher["yaw_error_rad at 10-20 m"] == [
        "-",
        "-",
        "0.350",
    ]
    labels = table(made, "Pseudo labels")
    assert labels["accepted"] == ["77", "-", "-"] and labels["yaw_error_rad"] == ["0.500", "-", "-"]
    costs = table(made, "Time")
    assert costs["wall [s]"] == ["12.3", "-", "-"] and costs["student_ours [s]"] == ["5.0", "-", "71.4"]
    assert costs["peak memory [MiB]"] == ["300", "-", "-"]


def test_the_students_of_one_run_stand_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The page shows figures, times and pictures of the same sample, without the teacher and without a config table."""
    scored = {"ours": student_scores(0.4), "boxes_only": student_scores(0.2)}
    stages = {f"evaluate_{arm}": scores for arm, scores in scored.items()} | {"evaluate_teacher": teacher_scores(0.5)}
    run = plant_run(tmp_path / "run", [], stages)
    write_json(run / "report.json", {"timing": {"wall_s": 9.0, "student_ours": 5.0}})
    for arm in scored:
        picture = run / f"student_{arm}" / "images" / "s1" / "bev_cameras.png"
        picture.parent.mkdir(parents=True)
        Image.new("RGB", (40, 20)).save(picture)
    made = tables(open_runs([run]))
    assert [each.headings[1:] for each in made] == [["boxes_only", "ours"]] * 3
    assert table(made, "Students: devkit")["SPNDS"] == ["0.200", "0.400"]
    assert table(made, "Students: devkit")["mAP at 10-20 m"] == ["0.150", "0.350"]
    assert table(made, "Students: AP by class") == {"car": ["0.200", "0.400"], "pedestrian": ["0.300", "0.500"]}
    assert table(made, "Time (0") == {"training [s]": ["-", "5.0"]}
    assert main(["compare", str(run), "--html", str(tmp_path / "page.html")]) == 0
    said, page = capsys.readouterr().out, (tmp_path / "page.html").read_text()
    assert "boxes_only" in said and "What the runs differ in" not in said and "same config" not in said
    assert (
        page.count("<figure>") == page.count('<input type="checkbox"') == 2 and "Students of run side by side" in page
    )


def test_a_teacher_that_its_job_scored_is_compared(tmp_path: Path, runs: list[Path]) -> None:
    scored = plant_run(tmp_path / "x", [], {"evaluate_teacher": teacher_scores(0.75)})
    made = tables(open_runs([scored, runs[2]]))
    assert [each.title.split(":")[0] for each in made] == ["Teacher", "Time and memory (0"]
    assert table(made, "Teacher")["yaw_error_rad"] == ["0.750", "0.250"]


def test_only_keys_that_differ_are_shown(runs: list[Path]) -> None:
    opened = open_runs(runs)
    assert {row[0]: list(row[1:]) for row in config_table(opened).rows} == {
        "label.ratio": ["0.05", "0.1", "0.05"],
        "new.key": ["absent", "absent", "0"],
        "optim.lr_multipliers": ["[]", '[["x",0.5]]', "[]"],
        "teacher.roi_grid": ["5", "5", "3"],
        "code": ["c1", "c2", "c1"],
        "tables": ["", "", "t3"],
    }
    assert differing(opened)[-2:] == ["code", "tables"], "the config comes first"


def test_other_data_to_score_on_is_said(runs: list[Path], tmp_path: Path) -> None:
    assert "differ in tables" in warning(open_runs(runs))
    assert warning(open_runs(runs[:2])) == ""
    world = plant_run(tmp_path / "w", ["sim.val_scenes=3"], {})
    assert "sim.val_scenes" in warning(open_runs([runs[0], world]))


def test_runs_without_figures_or_differences_say_so(tmp_path: Path) -> None:
    bare = open_runs([plant_run(tmp_path / name, [], {}) for name in "ab"])
    assert tables(bare) == [] and config_table(bare).rows == []
    assert len(notes(bare, [])) == 2


def test_names_are_as_short_as_can_be() -> None:
    assert short_names([Path("/x/a/run"), Path("/x/b/run")]) == ["a/run", "b/run"]
    assert short_names([Path("/x/a"), Path("/x/b")]) == ["a", "b"]
    assert short_names([Path("/a"), Path("/x/a")]) == ["/a", "x/a"]


def test_the_command_prints_and_writes_the_same(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    page = tmp_path / "page.html"
    assert main(["compare", *map(str, runs), "--html", str(page)]) == 0
    said = capsys.readouterr().out
    text = page.read_text()
    for row in (["SPNDS", "0.300", "0.400", "-"], ["label.ratio", "0.05", "0.1", "0.05"]):
        assert row in cells(text)
        assert any([cell.strip() for cell in line.strip("│").split("│")] == row for line in said.splitlines()), row
    assert "optim.lr_multipliers" in said and '[["x",0.5]]' in said, "brackets are no styles"
    assert said.count("may not be comparable") == text.count("may not be comparable") == 1
    assert str(page) in said and all(str(run) in text for run in runs)


def test_every_run_has_its_command(runs: list[Path], tmp_path: Path) -> None:
    """The command's overrides give the run's config, and its jobs give the finished stages."""
    finished = {"evaluate_teacher": teacher_scores(0.5)}
    teacher = plant_run(tmp_path / "my run", ["teacher.roi_grid=3"], finished)
    expected = [
        (["pipeline"], ['run.arms=["ours"]']),
        (["train_student", "evaluate"], ['run.arms=["full", "ours"]']),
        (["train_teacher"], []),
    ]
    for run, (jobs, arms) in zip(open_runs([*runs[:2], teacher]), expected, strict=True):
        lines = [shlex.split(line) for line in run_command(run).split(" && ")]
        assert [line[:3] for line in lines] == [["python", "-m", f"ray_jobs.{job}"] for job in jobs]
        for line in lines:
            assert line[3:6] == ["--preset", "quickstart", "--run-dir"]
            flat = json.loads(json.dumps(load("quickstart", line[7:]).flat()))
            assert {key: flat[key] for key in run.identity if key in flat} == {
                key: value for key, value in run.identity.items() if key in flat
            }
            assert [word for word in line if word.startswith("run.arms")] == arms
    page = tmp_path / "page.html"
    write_comparison(open_runs(runs), page)
    assert page.read_text().count("python -m ray_jobs.") == 4


def test_a_run_of_a_preset_that_is_gone_has_no_command(runs: list[Path], tmp_path: Path) -> None:
    gone = plant_run(tmp_path / "x", [], {}, preset="gone")
    write_comparison(open_runs([gone, runs[0]]), tmp_path / "page.html")
    assert "gone" in (tmp_path / "page.html").read_text().split("Every run again")[-1]


def test_curves_of_runs_lie_in_one_chart(tmp_path: Path) -> None:
    folders = [plant_run(tmp_path / name, [], {}) for name in ("a", "b")]
    for place, folder in enumerate(folders):
        with Tracker.start(folder, "e", "teacher", {}, {}, tracking_dir=tmp_path) as tracker:
            for step in (1, 2):
                tracker.log_metrics({"loss": step + place}, step)
    page = write_comparison(open_runs(folders), tmp_path / "page.html").read_text()
    (chart,) = [texts for texts in map(set, map(svg_texts, svg_uris(page))) if "optimizer step" in texts]
    assert {"a teacher", "b teacher", "loss"} <= chart
    (tmp_path / "mlflow.db").unlink()
    lost = write_comparison(open_runs(folders), tmp_path / "page.html").read_text()
    assert "no run logged any" in lost and not svg_uris(lost) and "a: " in lost and "b: " in lost


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a"], "compare needs two or more run directories, or one with two or more scored students; "),
        (["a", "../DIR/a"], "compare needs different run directories"),
        (["a", "missing"], "missing: no such folder"),
    ],
)
def test_bad_input_is_exit_code_2(
    names: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plant_run(tmp_path / "a", [], {})
    assert main(["compare", *(str(tmp_path / name.replace("DIR", tmp_path.name)) for name in names)]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and "Traceback" not in captured.err


def test_a_broken_file_is_named(runs: list[Path], tmp_path: Path) -> None:
    broken = plant_run(tmp_path / "x", [], {})
    (broken / "pseudo_labels").mkdir()
    (broken / "pseudo_labels" / "done.json").write_text(json.dumps({"teacher": 1})[:5])
    with pytest.raises(DataError, match="done.json: cannot be read as JSON"):
        tables(open_runs([broken, runs[0]]))
