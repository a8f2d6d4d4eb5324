"""Tests of an annotator's actions: the files after each action, two annotators, files that hold no clicks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pdetr3d.cli import main
from pdetr3d.click import click_file, session
from pdetr3d.click.click_file import COLUMNS, Click, only_annotator, read_clicks
from pdetr3d.click.session import Session
from pdetr3d.data.index.index import Index
from pdetr3d.data.index.nuscenes import build_index
from pdetr3d.data.labels.manifest import LabelManifest
from pdetr3d.geometry.rigid import apply, chain
from pdetr3d.schema import DataError

SPLIT = "sim_train"


@pytest.fixture(scope="module")
def index(sim_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Index:
    return Index.open(build_index(sim_world, "v1.0-sim", tmp_path_factory.mktemp("index") / "index.arrow"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "clicks.csv"


def rows(file: Path) -> list[list[str]]:
    """The file's rows, without sample token, frame and track."""
    lines = [line.split(",") for line in file.read_text().splitlines()]
    assert lines[0] == list(COLUMNS)
    assert all(line[5] == "lidar" for line in lines[1:])
    return [[*line[1:5], line[6]] for line in lines[1:]]


def marked(file: Path) -> tuple[list[str], list[str]]:
    found = json.loads(file.with_name(file.name + ".done.json").read_text())
    return found["done"], found["empty"]


def test_each_act_is_on_the_disk_and_can_be_undone(index: Index, file: Path) -> None:
    work = Session(index, SPLIT, file)
    token = work.tokens[0]
    car, region = ["1.0", "2.5", "-0.1", "car", ""], ["4.0", "5.0", "0.0", "ignore", "3.0"]
    first = work.add(token, (1, 2.5, -0.1), "car")
    assert rows(file) == [car]
    work.add(token, (4, 5, 0), "ignore", 3.0)
    assert rows(file) == [car, region]
    moved = work.move(first, (7, 8, 0.1 + 0.2))
    far = ["7.0", "8.0", "0.30000000000000004"]
    assert rows(file) == [[*far, "car", ""], region]
    named = work.rename(moved, "bus")
    assert rows(file) == [[*far, "bus", ""], region]
    work.delete(named)
    assert rows(file) == [region]
    for expected in ([[*far, "bus", ""], region], [[*far, "car", ""], region], [car, region], [car], []):
        assert work.undo() == token
        assert rows(file) == expected
    assert work.undo() is None


def test_a_session_goes_on_where_the_last_one_ended(index: Index, file: Path) -> None:
    work = Session(index, SPLIT, file)
    a, b = work.tokens[:2]
    work.add(b, (1 / 3, 2, 3), "pedestrian")
    work.add(a, (4, 5, 6), "ignore", 1.5)
    work.set_done(b)
    again = Session(index, SPLIT, file)
    assert again.clicks(a) == work.clicks(a) and again.clicks(b) == work.clicks(b)
    assert again.clicks(b)[0].xyz_m == (1 / 3, 2, 3)
    assert (again.done(a), again.done(b), again.done_count()) == (False, True, 1)
    assert again.next_open() == a
    assert again.undo() is None


def test_done_frames_are_listed_by_whether_they_hold_clicks(index: Index, file: Path) -> None:
    work = Session(index, SPLIT, file)
    a, b = work.tokens[:2]
    work.set_done(a)
    assert marked(file) == ([], [a]) and rows(file) == []
    click = work.add(a, (1, 2, 0), "car")
    assert marked(file) == ([a], [])
    work.add(b, (1, 2, 0), "ignore", 2.0)  # a region alone: no object
    work.set_done(b)
    assert marked(file) == ([a], [b])
    work.delete(click)
    assert marked(file) == ([], [a, b])
    work.set_done(a, False)
    assert marked(file) == ([], [b])
    assert work.undo() == a and marked(file) == ([], [a, b])


@pytest.mark.parametrize("act", ["add", "delete"])
@pytest.mark.parametrize("dies_at", [1, 2])
def test_a_kill_between_two_files_never_leaves_clicks_in_an_empty_frame(
    index: Index, file: Path, monkeypatch: pytest.MonkeyPatch, act: str, dies_at: int
) -> None:
    work = Session(index, SPLIT, file)
    token = work.tokens[0]
    click = work.add(token, (1, 2, 0), "car")
    work.set_done(token)
    if act == "add":
        work.delete(click)
    writes = []

    def dying(write: Callable[..., None]) -> Callable[..., None]:
        def run(*arguments: object) -> None:
            writes.append(write)
            if len(writes) == dies_at:
                raise OSError("killed")
            write(*arguments)

        return run

    monkeypatch.setattr(session, "write_clicks", dying(click_file.write_clicks))
    monkeypatch.setattr(session, "write_done", dying(click_file.write_done))
    with pytest.raises(OSError, match="killed"):
        work.add(token, (1, 2, 0), "car") if act == "add" else work.delete(click)
    assert not (rows(file) and token in marked(file)[1])
    assert token in sum(marked(file), [])
    # A failed action has no effect on the session either.
    assert len(work.clicks(token)) == (0 if act == "add" else 1)


def test_what_the_import_would_refuse_is_refused(index: Index, file: Path) -> None:
    work = Session(index, SPLIT, file)
    token = work.tokens[0]
    click = work.add(token, (1, 2, 0), "car")
    other = index.tokens("sim_val")[0]
    for arguments, message in [
        ((token, (1.01, 2, 0), "car"), "already clicked"),
        ((token, (1, 2, 0), "tram"), "class 'tram'"),
        ((token, (1, 2, 0), "ignore"), "with a radius"),
        ((token, (1, 2, 0), "ignore", 0.0), "must be over 0"),
        ((token, (201, 0, 0), "car"), "within 200 m"),
        ((token, (np.nan, 0, 0), "car"), "within 200 m"),
        ((other, (1, 2, 0), "car"), "not in the split"),
    ]:
        with pytest.raises(DataError, match=message):
            work.add(*arguments)
    with pytest.raises(DataError, match="not in the split"):
        work.set_done(other)
    assert work.clicks(token) == (click,) and len(rows(file)) == 1
    work.add(token, (1.01, 2, 0), "bus")  # another class may be there
    work.delete(click)
    with pytest.raises(DataError, match="not there any more"):
        work.move(click, (5, 5, 5))


def test_clicks_per_minute_leave_out_pauses(index: Index, file: Path) -> None:
    now = [0.0]
    work = Session(index, SPLIT, file, clock=lambda: now[0])
    token = work.tokens[0]
    assert work.per_minute() == 0
    for i in range(3):
        work.add(token, (i, 0, 0), "car")
        now[0] += 10
    assert work.per_minute() == pytest.approx(9)  # 3 clicks in 20 s
    now[0] += 10_000
    work.add(token, (9, 9, 0), "car")
    assert work.per_minute() == pytest.approx(3)  # 4 clicks in 80 s


def test_earlier_clicks_of_the_scene_stand_still_in_the_world(index: Index, file: Path) -> None:
    work = Session(index, SPLIT, file)
    a, b = work.tokens[:2]
    assert index.value(a, "scene_token") == index.value(b, "scene_token")
    assert index.value(a, "timestamp_us") < index.value(b, "timestamp_us")
    work.add(a, (10, 5, -1), "car")
    work.add(a, (10, 5, -1), "ignore", 1.0)
    clicks, places = work.earlier(b)
    assert [click.name for click in clicks] == ["car"]
    first, second = index.record(a), index.record(b)
    world = apply(chain(first.lidar2ego, first.ego2global), np.array([10.0, 5, -1]))
    np.testing.assert_allclose(apply(chain(second.lidar2ego, second.ego2global), places[0]), world, atol=1e-6)
    assert work.earlier(a)[0] == []
    later = next(token for token in work.tokens if index.value(token, "scene_token") != index.value(a, "scene_token"))
    assert work.earlier(later)[0] == []


def test_what_was_clicked_is_imported(index: Index, file: Path, tmp_path: Path) -> None:
    work = Session(index, SPLIT, file)
    by_scene: dict[str, list[str]] = {}
    for token in work.tokens:
        by_scene.setdefault(index.value(token, "scene_token"), []).append(token)
    (clicked, nothing, *_), (boxed, *_) = list(by_scene.values())[:2]
    work.add(clicked, (10, 5, -1), "car")
    work.add(clicked, (11, 5.5, -1), "pedestrian")
    work.add(clicked, (-9, 3, -1), "ignore", 3.5)
    work.set_done(clicked)
    work.set_done(nothing)
    boxes, out = tmp_path / "boxes.txt", tmp_path / "labels"
    boxes.write_text(boxed)
    command = ["label", "--index", str(index.path), "--split", SPLIT, "--import", str(file), "--out", str(out)]
    assert main([*command, "--boxes-of", str(boxes)]) == 0
    made = LabelManifest.open(out)
    assert [made.roles[token] for token in (clicked, boxed, nothing)] == ["point", "box", "empty"]
    found = [row for row in made.clicks.to_pylist() if row["source"] == "human"]
    assert sorted((row["sample_token"], row["x"], row["class"]) for row in found) == [
        (clicked, 10, "car"), (clicked, 11, "pedestrian"),
    ]  # fmt: skip
    assert made.ignore.to_pylist() == [{"sample_token": clicked, "x": -9, "y": 3, "z": -1, "radius_m": 3.5}]


def test_clicks_of_other_frames_and_splits_are_kept(index: Index, file: Path) -> None:
    here, other = index.tokens(SPLIT)[0], index.tokens("sim_val")[0]
    record = index.record(here)
    x, y, z = apply(chain(record.lidar2ego, record.ego2global), np.array([1.0, 2, 3]))
    header = ",".join(COLUMNS)
    lines = [f"{here},{x},{y},{z},car,global,,t7", f"{other},4,5,6,bus,lidar,,", f"{here},7,8,9,ignore,lidar,,"]
    file.write_text("\n".join([header, *lines]))
    work = Session(index, SPLIT, file)
    np.testing.assert_allclose(work.clicks(here)[0].xyz_m, [1, 2, 3], atol=1e-6)
    assert work.clicks(here)[1].radius_m == 2.0  # the import's default for rows without a radius
    work.add(here, (0, 0, 0), "car")
    kept = read_clicks(file, index)
    assert [(click.name, click.track_id) for click in kept] == [("car", "t7"), ("ignore", ""), ("car", ""), ("bus", "")]
    assert Click(other, (4, 5, 6), "bus") in kept


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("clicks.json", "[]", "ends with .csv"),
        ("clicks.csv", "sample_token,x\n", "missing"),
        ("clicks.csv", ",".join(COLUMNS) + ",note\nTOKEN,1,2,3,car,lidar,,,hello\n", "'note'.* would be lost"),
        (
            "clicks.csv",
            ",".join(COLUMNS) + "\nnone,1,2,3,car,lidar,,\nTOKEN,1,2,3,tram,lidar,,\nTOKEN,1,2,x,car,lidar,,\n"
            "TOKEN,1,2,inf,car,lidar,,\nTOKEN,1,2,3,car,map,,\nTOKEN,1,2,3,car,lidar,,\n",
            "(?s)5 of 6 rows.*row 1: sample.*'none'.*row 2: class 'tram'.*row 3.*row 4.*finite.*row 5: frame 'map'",
        ),
    ],
)
def test_files_that_are_no_clicks(index: Index, tmp_path: Path, name: str, text: str, message: str) -> None:
    file = tmp_path / name
    text = text.replace("TOKEN", index.tokens(SPLIT)[0])
    file.write_text(text)
    with pytest.raises(DataError, match=message):
        Session(index, SPLIT, file)
    assert file.read_text() == text


@pytest.mark.parametrize(
    "text", ["[]", "{", '{"done": [1]}', '{"done": ["x"], "empty": []}', '{"done": 1, "empty": 2}']
)
def test_done_files_that_are_none(index: Index, file: Path, text: str) -> None:
    file.with_name("clicks.csv.done.json").write_text(text)
    with pytest.raises(DataError, match="clicks.csv.done.json"):
        Session(index, SPLIT, file)


def test_a_second_annotator_is_told_who_has_the_file(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "clicks.csv"
    code = (
        "import sys, time; from pathlib import Path; from pdetr3d.click.click_file import only_annotator\n"
        "with only_annotator(Path(sys.argv[1])):\n    print('mine', flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(file)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "mine\n"
        with pytest.raises(DataError, match=f"is being clicked by .*process {other.pid}, since 20.*--out of their own"):
            with only_annotator(file):
                raise AssertionError("two annotators")
        os.kill(other.pid, signal.SIGKILL)  # the lock goes with the process
    with only_annotator(file):
        assert str(os.getpid()) in (tmp_path / "deep" / ".clicks.csv.annotator").read_text()
