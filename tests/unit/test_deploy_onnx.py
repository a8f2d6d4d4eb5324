"""``pdetr3d export --format onnx``: onnxruntime computes the student's maps, and one call decodes them to boxes."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import pdetr3d
from pdetr3d.cli import main
from pdetr3d.errors import DataError
from pdetr3d.finished.deploy import onnx_export
from pdetr3d.finished.deploy.exported import ExportedDetector
from pdetr3d.finished.deploy.onnx_export import ONNX_OUTPUTS, TOLERANCE, OnnxPillars
from pdetr3d.finished.deploy.source import TrainedStudent
from tests.deploy_cases import BATCH_NORM, VOXEL, own_boxes, trained_run
from tests.unit.test_deploy_torchscript import CLOUDS, SIX_TASKS, cloud

needs_runtime = pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime") is None, reason="onnxruntime is missing: pip install 'pdetr3d[onnx]'"
)


@pytest.fixture(scope="module", params=[[*BATCH_NORM, SIX_TASKS], ["student.nms=circle"]], ids=["batch", "group"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint, and the folder of its export."""
    folder = tmp_path_factory.mktemp("onnx")
    trained_run(folder, *request.param)
    assert main(["export", str(folder), "--format", "onnx", "--out", str(folder / "out")]) == 0
    return folder / "student_ours" / "step_1.pt", folder / "out"


@needs_runtime
@pytest.mark.parametrize("name", ["as traced", "small", "large"])  # where next to nothing is, rounding makes the peaks
def test_the_same_boxes_come_out(exported: tuple[Path, Path], name: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Boxes are equal up to the rounding of another runtime; a few boxes at the score threshold may differ."""
    import onnxruntime

    file, folder = exported
    points, expected = cloud(CLOUDS[name]), own_boxes(file, cloud(CLOUDS[name]))
    session = onnxruntime.InferenceSession(str(folder / "student.onnx"), providers=["CPUExecutionProvider"])
    *heatmaps, peak, regression = session.run(None, {"points": points.numpy()})
    assert capfd.readouterr().err == ""  # no complaint of onnxruntime about the graph
    got = pdetr3d.decode_maps(folder, heatmaps, peak, regression)
    np.testing.assert_array_equal(got.rows, ExportedDetector.load(folder)(points).rows)
    assert len(expected) > 20 and abs(len(got) - len(expected)) <= 2
    best = expected[expected.score > np.sort(expected.score)[len(expected) // 4]]  # three quarters: none at the rim
    for number in range(len(best)):
        near = np.abs(got.rows - best.rows[number]).max(1) + 10 * (got.label != best.label[number])
        assert near.min() < 1e-2 and abs(got.score[near.argmin()] - best.score[number]) < 1e-3


@needs_runtime
@pytest.mark.parametrize("count", [0, 1])
def test_a_cloud_of_next_to_nothing_is_no_error(exported: tuple[Path, Path], count: int) -> None:
    """The export compares the maps of clouds with few points, too (``COUNTS``)."""
    assert count in onnx_export.COUNTS and len(ExportedDetector.load(exported[1])(cloud(count))) > 20


@needs_runtime
def test_the_json_says_what_it_is(exported: tuple[Path, Path]) -> None:
    info = json.loads((exported[1] / "export.json").read_text())
    assert info["opset"] == 18 and info["kind"] == "pdetr3d student, ONNX"
    assert info["max_difference_to_eager"] <= TOLERANCE and set(info["outputs"]) == set(ONNX_OUTPUTS)


@needs_runtime
def test_predict_takes_the_folder(exported: tuple[Path, Path], tmp_path: Path) -> None:
    points = cloud(500)[:, :5].numpy()
    points[:, 4] = np.round(points[:, 4], 1)  # a file has few different ages
    points.tofile(tmp_path / "a.bin")
    words = ["--lidar", str(tmp_path / "a.bin"), "--columns", "x,y,z,intensity,age", "--out", str(tmp_path / "a.csv")]
    assert main(["predict", str(exported[1]), *words]) == 0
    assert len((tmp_path / "a.csv").read_text().splitlines()) > 20


@pytest.mark.parametrize("overrides", [["model.pillar_points=3"], [], ["model.norm=batch"]])
@pytest.mark.parametrize("name", CLOUDS)
def test_the_pillars_written_anew_equal_the_students(name: str, overrides: list[str], tmp_path: Path) -> None:
    trained_run(tmp_path, *overrides)
    pillars = TrainedStudent.load(tmp_path / "student_ours" / "step_1.pt").model.pillars
    points = cloud(CLOUDS[name])
    points[: len(points) // 4, :2] = torch.tensor([3.1, 3.2])  # more than fit into one pillar
    with torch.no_grad():
        wanted = pillars(points, torch.zeros(len(points), dtype=torch.long), 1)
        torch.testing.assert_close(OnnxPillars(pillars)(points), wanted, atol=1e-5, rtol=1e-5)
    assert CLOUDS[name] == 0 or wanted.abs().max() > 0.1


@needs_runtime
def test_another_models_answer_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained_run(tmp_path)
    monkeypatch.setattr(onnx_export, "scale_points", lambda points, reach: points * 1.01)
    assert main(["export", str(tmp_path), "--format", "onnx", "--out", str(tmp_path / "out")]) == 1
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_exported_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained_run(tmp_path, *VOXEL, arm="voxel")
    trained_run(tmp_path, "model.pad_pillars=true", arm="padded")
    monkeypatch.setattr(onnx_export, "check_runtime", lambda: None)
    for arm, message in {"voxel": "model.lidar=voxel cannot be", "padded": "model.pad_pillars=true cannot be"}.items():
        assert main(["export", str(tmp_path), "--format", "onnx", "--arm", arm, "--out", str(tmp_path / "out")]) == 2
        assert message in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["export", str(tmp_path), "--format", "onnx", "--arm", "padded", "--out", str(tmp_path / "out")]) == 2
    assert "needs onnx, onnxruntime: pip install 'pdetr3d[onnx]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_maps_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    trained_run(tmp_path)
    assert main(["export", str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    heatmaps, peak, regression = torch.jit.load(str(tmp_path / "out" / "student.pt"))(cloud(500))
    boxes = pdetr3d.decode_maps(tmp_path / "out" / "export.json", heatmaps, peak.numpy(), regression)
    np.testing.assert_array_equal(boxes.rows, own_boxes(tmp_path / "student_ours/step_1.pt", cloud(500)).rows)
    for wrong, message in (
        (([heatmaps[0][0]], peak, regression), r"heatmaps of shapes .* has \[\(1, 10, "),
        ((heatmaps, peak[:1], regression), r"peak of shape \(1, 3\) and regression of"),
        ((heatmaps, peak, regression[:, :5]), r"allowed \(N, 3\) and \(N, 12\)"),
    ):
        with pytest.raises(DataError, match=message):
            pdetr3d.decode_maps(tmp_path / "out", *wrong)
    with pytest.raises(DataError, match=r"export\.json does not exist: pdetr3d export writes it"):
        pdetr3d.decode_maps(tmp_path, heatmaps, peak, regression)
