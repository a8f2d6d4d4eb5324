"""The command line: each verb on a small world, default places, and the exit codes of good and bad input."""

from __future__ import annotations

import json
import locale
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pdetr3d.cli import main
from pdetr3d.data.index.index import Index
from pdetr3d.data.labels.manifest import CLICKS_SCHEMA, SAMPLES_SCHEMA
from pdetr3d.data.storage.files import open_arrow
from pdetr3d.presets import QUICKSTART


@pytest.fixture(scope="module")
def index_file(sim_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "index.arrow"
    assert main(["index", "--dataroot", str(sim_world), "--version", "v1.0-sim", "--out", str(path)]) == 0
    return path


def test_show_config_prints_the_resolved_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show-config", "--json", "--preset", "nuscenes-pillar", "optim.lr=0.5", "run.name=a"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["preset"] == "nuscenes-pillar" and shown["optim"]["lr"] == 0.5 and shown["run"]["name"] == "a"


def test_show_config_defaults_to_quickstart(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show-config", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(QUICKSTART.to_json())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show-config", "optim.lrr=1"], "did you mean 'optim.lr'?"),
        (["show-config", "--preset", "quikstart"], "did you mean 'quickstart'?"),
        (["label", "--index", "missing.parquet"], "missing.parquet"),
        (["label", "--index", "missing.parquet", "--ratio", "0"], "config key label.ratio = 0.0"),
        (["label", "--index", "missing.parquet", "--split-by", "town"], "'scene', 'keyframe' or 'prefix'"),
        (["label", "--index", "a", "--ratio", "0.1", "label.ratio=0.2"], "label.ratio=0.2 is also an option of this"),
        (["inspect", "3", "--index", "missing.parquet"], "missing.parquet"),
        (["index", "--dataroot", "nowhere", "--version", "v1.0-mini"], "nowhere"),
        (["simulate", "--dataroot", "unused", "sim.scenes=0"], "config key sim.scenes = 0"),
        (["label"], "--index"),
        (["show-config", "--preset", "kitti", "--preset=quickstart"], "--preset is given 2 times: kitti, quickstart;"),
        (
            ["show-config", "--config", "a.yaml", "--config", "b.yaml"],
            "--config is given 2 times: a.yaml, b.yaml; give",
        ),
        (["import", "kitti", "a", "--out", "b", "--out", "c"], "--out is given 2 times: b, c; give it once"),
        (["labbel"], "labbel"),
    ],
)
def test_bad_input_is_exit_code_2_and_a_message_without_traceback(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err and "Traceback" not in captured.err
    assert list(tmp_path.iterdir()) == []  # nothing half-written


def test_of_two_values_of_a_config_key_the_last_counts_and_this_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--preset", "kitti", "--preset", "kitti", "optim.lr=0.5", "run.name=--config=a", "optim.lr=0.25"]
    assert main(["show-config", "--json", *words]) == 0
    said = capsys.readouterr()
    assert said.err == "optim.lr is given 2 times: 0.5, 0.25; 0.25 counts\n"
    assert json.loads(said.out)["optim"]["lr"] == 0.25


def test_words_that_the_system_s_encoding_cannot_hold(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With LC_ALL=C an argument "ü" is two surrogates."""
    monkeypatch.setattr(locale, "getencoding", lambda: "ANSI_X3.4-1968")
    assert main(["show-config", "run.name=" + "ü".encode().decode("ascii", "surrogateescape")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: this system's encoding, ANSI_X3.4-1968, cannot hold") and "PYTHONUTF8=1" in said


def test_help_exits_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "show-config" in capsys.readouterr().out


def test_the_installed_command_passes_exit_codes_on() -> None:
    command = [sys.executable, "-m", "ray_jobs.commands", "show-config", "label.ratio=2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "error: config key label.ratio = 2: Input should be less than or equal to 1\n"


def test_index_goes_to_runs_by_default_and_tells_what_it_found(
    sim_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["index", "--dataroot", str(sim_world), "--version", "v1.0-sim"]) == 0
    assert len(Index.open(tmp_path / "runs/index/v1.0-sim/index.arrow")) == 12  # 6 scenes of 2 keyframes
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "scenes 6" in lines and "keyframes 12" in lines and "split sim_train 6 keyframes" in lines


def test_index_and_label_replace_no_other_files(
    sim_world: Path, index_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sensor.json").write_text("[]")
    build = ["index", "--dataroot", str(sim_world), "--version", "v1.0-sim", "--out"]
    for place, said in ((tmp_path / "sensor.json", "exists and is no index"), (tmp_path, "is a folder; name a file")):
        assert main([*build, str(place)]) == 2
        assert f"{place} {said}" in capsys.readouterr().err
    assert main(["label", "--index", str(index_file), "--out", str(tmp_path)]) == 2
    assert f"{tmp_path} holds other files (sensor.json) and no manifest" in capsys.readouterr().err
    assert main(["label", "--index", str(index_file), "--out", str(tmp_path / "sensor.json")]) == 2
    assert f"{tmp_path / 'sensor.json'} is a file; name a folder by --out" in capsys.readouterr().err
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("sensor.json", "[]")]
    for _ in range(2):  # earlier output is replaced
        assert main(["label", "--index", str(index_file), "--out", str(tmp_path / "labels")]) == 0


def test_index_counts_files_that_cannot_be_used(
    sim_world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One LiDAR file holds zeros and one mostly NaN. Both come later than the file from which the layout is detected.

    One image is cut, and one is of another size.
    """
    world = shutil.copytree(sim_world, tmp_path / "world", copy_function=os.link)
    zeros, nan = sorted((world / "samples/LIDAR_TOP").iterdir())[1:4:2]  # the second keyframes of two scenes
    points = np.fromfile(nan, np.float32).reshape(-1, 5)
    points[: int(0.8 * len(points)), 2] = np.nan
    for file, content in ((zeros, bytes(zeros.stat().st_size)), (nan, points.tobytes())):
        file.unlink()
        file.write_bytes(content)
    cut, small = sorted((world / "samples/CAM_BACK").iterdir())[3:5]
    content = cut.read_bytes()[:-100]
    cut.unlink()
    cut.write_bytes(content)
    small.unlink()
    Image.new("RGB", (32, 18)).save(small)
    assert main(["index", "--dataroot", str(world), "--version", "v1.0-sim", "--out", str(tmp_path / "i.arrow")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert re.search(r"warning 2 of \d+ LiDAR files that were read cannot be used: jobs refuse them", said), said
    assert zeros.name in said or nan.name in said
    assert "warning 2 of 72 images that were looked at cannot be used: jobs refuse them" in said  # of 12 keyframes
    assert f"{cut}: truncated JPEG (no end marker)" in said and "images 72 looked at (--deep: all)" in said


def test_label_takes_the_train_split_and_the_shortcuts(index_file: Path, tmp_path: Path) -> None:
    """Of 3 train scenes with 2 keyframes each, 2 scenes (4 of 6 samples) reach a ratio of one half."""
    arguments = [
        "label",
        "--index",
        str(index_file),
        "--ratio",
        "0.5",
        "--seed",
        "3",
        "--out",
        str(tmp_path / "labels"),
    ]
    assert main(arguments) == 0
    roles = open_arrow(tmp_path / "labels/samples.arrow", SAMPLES_SCHEMA).column("role").to_pylist()
    assert sorted(roles) == ["box"] * 4 + ["point"] * 2
    info = json.loads((tmp_path / "labels/manifest.json").read_text())
    assert info["split"] == "sim_train" and info["config"]["seed"] == 3


def test_label_draws_by_a_config_file_as_by_words(
    index_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only a ratio that differs from the preset's draws the box-labeled samples; otherwise all annotated ones are.

    Drawing the box-labeled samples and naming them at once is refused.
    """
    token = _tokens(index_file, "sim_train")[0]
    (tmp_path / "clicks.csv").write_text(f"sample_token,x,y,z,class,frame\n{token},5,1,0,car,lidar\n")
    (tmp_path / "boxed.txt").write_text(token)
    verb = ["label", "--index", str(index_file), "--import", str(tmp_path / "clicks.csv"), "--config"]
    for ratio, boxed in ((0.3, "box-labeled 2 (33.33%; "), (0.05, "box-labeled 6 (100.00%)")):
        file = tmp_path / f"{ratio}.yaml"
        file.write_text(f"preset: quickstart\nlabel:\n  ratio: {ratio}\n")
        assert main([*verb, str(file), "--out", str(tmp_path / f"{ratio}")]) == 0
        assert boxed.split(";")[0] in capsys.readouterr().out
    named = [*verb, str(tmp_path / "0.3.yaml"), "--boxes-of", str(tmp_path / "boxed.txt")]
    assert main([*named, "--out", str(tmp_path / "named")]) == 2
    assert "says who is box-labeled, label.ratio draws it" in capsys.readouterr().err


def test_label_defaults_beside_the_index(index_file: Path) -> None:
    assert main(["label", "--index", str(index_file), "label.ratio=0.02", "--split", "sim_val"]) == 0
    folder = index_file.parent / "labels" / "sim_val-sim-scene-0.02-seed0"
    assert open_arrow(folder / "samples.arrow", SAMPLES_SCHEMA).num_rows == 4


def test_label_refuses_a_split_that_is_not_there(index_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["label", "--index", str(index_file), "--split", "sim_trian"]) == 2
    assert "did you mean 'sim_train'?" in capsys.readouterr().err


def test_label_imports_peoples_clicks(index_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    token = _tokens(index_file, "sim_train")[0]
    clicks = tmp_path / "clicks.csv"
    clicks.write_text(f"sample_token,x,y,z,class,frame\n{token},5,1,0,car,lidar\n")
    folder = tmp_path / "labels"
    arguments = ["label", "--index", str(index_file), "--import", str(clicks), "--out", str(folder)]
    assert main(arguments) == 0
    row = [r for r in open_arrow(folder / "clicks.arrow", CLICKS_SCHEMA).to_pylist() if r["source"] == "human"]
    said = capsys.readouterr().out
    assert "box-labeled 6 (100.00%)" in said and "are these counts what you expect?" in said
    assert "1 clicks on box-labeled samples match no box of their class" in said
    assert [(r["sample_token"], r["class"], r["x"], r["y"], r["z"], r["source"]) for r in row] == [
        (token, "car", 5.0, 1.0, 0.0, "human")
    ]
    clicks.write_text(f"sample_token,x,y,z,class,frame\n{token},5,1,0,lorry,lidar\n{token},x,1,0,car,lidar\n")
    arguments[-1] = str(tmp_path / "other")
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert "lorry" in message and "'x'" in message and not (tmp_path / "other").exists()


def test_inspect_draws_a_sample_by_token_or_number(
    index_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import cv2

    monkeypatch.chdir(tmp_path)
    token = Index.open(index_file).table.column("sample_token")[1].as_py()
    assert main(["label", "--index", str(index_file), "--out", "labels"]) == 0
    assert main(["inspect", token, "--index", str(index_file), "--manifest", "labels", "--out", "by_token.png"]) == 0
    assert main(["inspect", "1", "--index", str(index_file)]) == 0
    picture = cv2.imread(str(tmp_path / "by_token.png"))
    assert picture is not None and picture.std() > 10
    assert (tmp_path / "runs" / "inspect" / f"{token}.png").is_file()
    assert main(["inspect", "12", "--index", str(index_file)]) == 2
    assert "has 12 samples, 0..11" in capsys.readouterr().err
    assert main(["inspect", "abc", "--index", str(index_file)]) == 2


def _tokens(index_file: Path, split: str) -> list[str]:
    table = Index.open(index_file).table.select(["sample_token", "splits"]).to_pylist()
    return [row["sample_token"] for row in table if split in row["splits"]]
