"""Tests of predictions in blocks: finished blocks are kept, foreign folders refused, bad input found before Ray."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from pdetr3d.inference.blocks import IDENTITY, SAMPLES, Blocks, identity, open_folder
from pdetr3d.inference.frames import Asked
from pdetr3d.inference.student import StudentPredictor
from pdetr3d.schema import DataError
from ray_jobs import predict as job
from ray_jobs.commands import main
from tests.deploy_cases import trained_run


@pytest.fixture(scope="module")
def lidar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with five files of random points, one of them with a point that is not finite."""
    folder, rng = tmp_path_factory.mktemp("blocks") / "lidar", np.random.default_rng(0)
    folder.mkdir()
    for number in range(5):
        points = rng.uniform([-12, -12, -2, 0], [12, 12, 1, 255], (300, 4)).astype(np.float32)
        if number == 3:
            points[7, 2] = np.nan
        points.tofile(folder / f"{number}.bin")
    return folder


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    trained_run(folder, "student.score_threshold=0.12", "student.max_boxes=50")
    return folder


def test_blocks_hold_each_sample_once_and_what_is_there_stays(lidar: Path, run_dir: Path, tmp_path: Path) -> None:
    student = StudentPredictor.load(run_dir, device=torch.device("cpu"))
    frames = Asked([lidar], "x,y,z,intensity").frames(2)
    blocks = Blocks(tmp_path, frames, 2)
    assert blocks.count == 3 and blocks.todo() == [0, 1, 2]
    for block in (2, 0):
        blocks.predict(block, student, 0.0)
    assert blocks.todo() == [1]
    blocks.predict(1, student, 0.0)
    assert blocks.todo() == []
    names = [json.loads(pq.read_schema(blocks.file(block)).metadata[SAMPLES]) for block in range(3)]
    assert names == [["0.bin", "1.bin"], ["2.bin", "3.bin"], ["4.bin"]]
    total, table = blocks.total(), pd.read_parquet(tmp_path)
    assert (total.samples, total.dropped_points, total.dropped_in, total.boxes) == (5, 1, 1, len(table))
    for frame in frames:
        expected = student.predict(frame.load(student.config).sample.points)
        got = table[table["sample"] == frame.name]
        np.testing.assert_allclose(got[["x", "y", "z", "l", "w", "h", "yaw"]], expected.rows, atol=1e-4)
    (tmp_path / "block-000001.parquet").write_bytes(b"cut")
    with pytest.raises(DataError, match=r"block-000001.parquet: no block of predictions .* remove it"):
        blocks.total()


def test_a_folder_of_other_predictions_is_refused(lidar: Path, run_dir: Path, tmp_path: Path) -> None:
    file, frames = run_dir / "student_ours" / "step_1.pt", Asked([lidar], "x,y,z,intensity").frames(2)
    now, folder = identity(file, frames, {"min_score": 0.0}), tmp_path / "out"
    open_folder(folder, now)
    (folder / ".block-000000.parquet.123.tmp").write_bytes(b"half")
    open_folder(folder, now)  # continues, without the files of a killed process
    assert [path.name for path in folder.iterdir()] == [IDENTITY]
    other = tmp_path / "other.pt"
    other.write_bytes(file.read_bytes() + b"x")
    for changed, key in (
        (identity(other, frames, {"min_score": 0.0}), "model"),
        (identity(file, frames[1:], {"min_score": 0.0}), "samples"),
        (identity(file, frames[::-1], {"min_score": 0.0}), "frames"),
        (identity(file, frames, {"min_score": 0.5}), "min_score: 0.0 there, 0.5 now"),
    ):
        with pytest.raises(DataError, match=f"holds other predictions; they differ in\n(.*\n)*  {key}"):
            open_folder(folder, changed)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "text").write_text("mine")
    with pytest.raises(DataError, match="holds no predictions"):
        open_folder(tmp_path / "mine", now)


def test_the_job_refuses_bad_input_before_ray_starts(
    lidar: Path, run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "init_ray", lambda *_: pytest.fail("Ray was started"))
    out = ["--out", str(tmp_path / "out")]
    cases: dict[tuple[str, ...], str] = {
        (str(tmp_path), *out, "--lidar", str(lidar)): "no student is trained there",
        (str(run_dir), *out): "either --lidar FOLDER",
        (str(run_dir), *out, "--lidar", str(tmp_path)): "the folder holds nothing",
        (str(run_dir), *out, "--lidar", str(lidar), "--columns", "x,y"): "missing ['z', 'intensity']",
        (str(run_dir), "--out", str(tmp_path / "no" / "out"), "--lidar", str(lidar)): "does not exist; make it",
    }
    for arguments, message in cases.items():
        assert main(["predict-blocks", *arguments]) == 2, arguments
        assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert main(["predict-blocks", str(run_dir), *out, "--lidar", str(lidar), "--block-samples", "0"]) == 2
