"""``pdetr3d export``: the exported student equals the student; refused exports leave no half-written folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pdetr3d.cli import main
from pdetr3d.config import Config
from pdetr3d.finished.deploy import torchscript
from pdetr3d.finished.deploy.contract import OUTPUTS
from pdetr3d.finished.deploy.exported import ExportedDetector
from pdetr3d.finished.deploy.source import TrainedStudent, chosen_checkpoint
from pdetr3d.finished.deploy.sweeps import to_sample
from pdetr3d.finished.deploy.torchscript import TOLERANCE, ExportedStudent, compare, export_torchscript
from pdetr3d.schema import CLASSES, Boxes3D, DataError
from tests.deploy_cases import BATCH_NORM, VOXEL, own_boxes, trained_run
from tests.model_cases import make_batch

SIX_TASKS = "student.tasks=[[0],[1,2],[3,4],[5],[6,7],[9,8]]"  # the last in another order than the classes
CPU = torch.device("cpu")
CLOUDS = {"as traced": 2000, "small": 37, "large": 12_000, "one point": 1, "empty": 0}


@pytest.fixture(
    scope="module",
    params=[[*BATCH_NORM, SIX_TASKS], ["student.nms=circle"]],
    ids=["batch", "group"],
)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ExportedDetector]:
    """A checkpoint, and the detector read back from its export."""
    folder = tmp_path_factory.mktemp("export")
    trained_run(folder, *request.param)
    assert main(["export", str(folder), "--out", str(folder / "out")]) == 0
    return folder / "student_ours" / "step_1.pt", ExportedDetector.load(folder / "out")


def cloud(count: int) -> Tensor:
    """Random points, some of them out of range."""
    return make_batch(1, points=count, seed=count).points * torch.tensor([1.2, 1.2, 1, 1, 1])


@pytest.mark.parametrize("name", CLOUDS)
def test_maps_equal_eager(exported: tuple[Path, ExportedDetector], name: str) -> None:
    file, detector = exported
    points, trained = cloud(CLOUDS[name]), TrainedStudent.load(file)
    with torch.no_grad():
        (maps, *rest), (their_maps, *their_rest) = ExportedStudent(trained.model)(points), detector.model(points)
        for ours, theirs in zip([*maps, *rest], [*their_maps, *their_rest], strict=True):
            assert ours.dtype == theirs.dtype
            torch.testing.assert_close(theirs, ours, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", CLOUDS)
def test_boxes_are_identical(exported: tuple[Path, ExportedDetector], name: str) -> None:
    file, detector = exported
    got, expected = detector(cloud(CLOUDS[name])), own_boxes(file, cloud(CLOUDS[name]))
    assert len(expected) > 20
    for field, values in vars(expected).items():
        np.testing.assert_array_equal(getattr(got, field), values, err_msg=field)


def test_the_json_says_how_to_use_it(tmp_path: Path) -> None:
    """The JSON file alone suffices to decode the best box, without pdetr3d's decoder."""
    config = trained_run(tmp_path, *BATCH_NORM, SIX_TASKS)
    info = export_torchscript(TrainedStudent.load(chosen_checkpoint(tmp_path, "ours")), tmp_path / "out", CPU)
    assert json.loads((tmp_path / "out" / "export.json").read_text()) == json.loads(json.dumps(info))
    assert Config.from_json(json.dumps(info["config"])) == config
    assert info["tasks"][1:] == [list(CLASSES[i : i + 2]) for i in (1, 3)] + [["barrier"], ["motorcycle", "bicycle"],
        ["traffic_cone", "pedestrian"]]  # fmt: skip
    assert info["thresholds"]["score_threshold"] == 0.09 and info["max_difference_to_eager"] <= TOLERANCE
    model = torch.jit.load(str(tmp_path / "out" / "student.pt"))
    heatmaps, peak, regression = model(cloud(500))
    found = own_boxes(tmp_path / "student_ours" / "step_1.pt", cloud(500))
    best = CLASSES[found.label[0]]
    task = next(n for n, classes in enumerate(info["tasks"]) if best in classes)
    heatmap = heatmaps[task][0, info["tasks"][task].index(best)]
    assert found.score[0] == pytest.approx(heatmap.sigmoid().max().item())
    row, column = divmod(int(heatmap.argmax()), heatmap.shape[1])
    code = regression[(peak == torch.tensor([task, row, column])).all(1)][0].numpy()
    assert found.center_m[0] == pytest.approx(
        [(column + code[0]) * info["cell_m"] - 12.8, (row + code[1]) * info["cell_m"] - 12.8, code[2]], abs=1e-4
    )
    assert found.size_m[0] == pytest.approx(np.exp(code[3:6]), rel=1e-4)
    angle = np.arctan2(code[6], code[7]) / 2
    if code[8] * np.cos(angle) + code[9] * np.sin(angle) < 0:
        angle += np.pi
    assert np.angle(np.exp(1j * (found.yaw_rad[0] - angle))) == pytest.approx(0, abs=1e-4)
    assert set(info["outputs"]) == set(OUTPUTS)


def test_another_models_answer_is_noticed(tmp_path: Path) -> None:
    config = trained_run(tmp_path, *BATCH_NORM)
    trained = TrainedStudent.load(chosen_checkpoint(tmp_path, "ours"))
    other = TrainedStudent.load(chosen_checkpoint(tmp_path, "ours"))
    with torch.no_grad():
        other.model.head.heatmaps[0][-1].bias += 1e-2  # type: ignore[index,operator,union-attr]
    assert compare(ExportedStudent(trained.model), ExportedStudent(trained.model), config) == 0
    with pytest.raises(RuntimeError, match="exported heatmaps of 0 points"):
        compare(ExportedStudent(trained.model), ExportedStudent(other.model), config)


def test_the_evaluations_choice_is_taken(tmp_path: Path) -> None:
    trained_run(tmp_path, steps=(1, 2, 3))
    assert chosen_checkpoint(tmp_path, "ours").name == "step_3.pt"
    (tmp_path / "evaluate_ours").mkdir()
    (tmp_path / "evaluate_ours" / "done.json").write_text('{"mAP": 0.1, "checkpoint": "step_2.pt"}')
    assert chosen_checkpoint(tmp_path, "ours") == tmp_path / "student_ours" / "step_2.pt"


def test_a_named_checkpoint_is_taken(tmp_path: Path) -> None:
    trained_run(tmp_path, *BATCH_NORM, steps=(1, 2))
    first = tmp_path / "student_ours" / "step_1.pt"
    assert main(["export", "nowhere", "--checkpoint", str(first), "--out", str(tmp_path / "out")]) == 0
    boxes = ExportedDetector.load(tmp_path / "out")(cloud(300))
    np.testing.assert_array_equal(boxes.rows, own_boxes(first, cloud(300)).rows)
    assert not np.array_equal(boxes.rows, own_boxes(first.with_name("step_2.pt"), cloud(300)).rows)


def test_what_is_wrong_is_said_and_nothing_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    trained_run(run, arm="full")
    trained_run(run, *VOXEL, arm="voxel")
    (tmp_path / "full_folder").mkdir()
    (tmp_path / "full_folder" / "mine.txt").write_text("mine")
    cases = {
        (str(run),): "holds no trained student: trained students there: full, voxel",
        (str(tmp_path),): "no student is trained there",
        (str(run), "--arm", "voxel"): "model.lidar=voxel cannot be exported as TorchScript",
        (str(run), "--arm", "full", "--device", "tpu"): "--device tpu: allowed cpu",
        (str(run), "--checkpoint", str(run / "no.pt")): "no.pt does not exist",
        (str(run), "--arm", "full", "--out", str(tmp_path / "full_folder")): "name another place with --out",
    }
    for arguments, message in cases.items():
        place = [] if "--out" in arguments else ["--out", str(out)]
        assert main(["export", *place, *arguments]) == 2, arguments
        error = capsys.readouterr().err
        assert message in error and "Traceback" not in error
    assert sorted(p.name for p in tmp_path.iterdir()) == ["full_folder", "run"]
    assert [p.name for p in (tmp_path / "full_folder").iterdir()] == ["mine.txt"]


def test_a_teachers_checkpoint_is_refused(tmp_path: Path) -> None:
    trained_run(tmp_path)
    file = tmp_path / "student_ours" / "step_1.pt"
    state = torch.load(file)
    torch.save({**state, "model": {"queries": torch.zeros(1)}}, file)
    with pytest.raises(DataError, match="does not hold a student of its own config"):
        TrainedStudent.load(file)


def test_an_interrupted_export_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained_run(tmp_path / "run")

    def interrupted(*_: object) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(torchscript, "compare", interrupted)  # student.pt is written, export.json is not
    assert main(["export", str(tmp_path / "run"), "--out", str(tmp_path / "deep" / "out")]) == 130
    assert list((tmp_path / "deep").iterdir()) == []


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    trained_run(tmp_path)
    export_torchscript(TrainedStudent.load(chosen_checkpoint(tmp_path, "ours")), tmp_path / "out", CPU)
    with (tmp_path / "out" / "student.pt").open("ab") as file:
        file.write(b"x")
    with pytest.raises(DataError, match=r"student.pt is not the file that export.json describes"):
        ExportedDetector.load(tmp_path / "out")
    (tmp_path / "out" / "export.json").unlink()
    with pytest.raises(DataError, match=r"export.json does not exist"):
        ExportedDetector.load(tmp_path / "out")


def test_boxes_are_plain_boxes(exported: tuple[Path, ExportedDetector]) -> None:
    boxes = exported[1](cloud(100))
    assert isinstance(boxes, Boxes3D) and (np.diff(boxes.score) <= 0).all()


FIFTH = {  # fifth columns of 64 points in people's files, and whether they can be ages
    "keyframe": (torch.zeros(64), True),
    "sweeps": (torch.arange(64) % 10 * 0.05, True),
    "ring": (torch.arange(64) % 32.0, False),  # nuScenes' own .pcd.bin
    "sweep's number": (torch.arange(64) % 10.0, False),
    "negative": (torch.arange(64) % 10 * -0.05, False),
    "microseconds": (torch.arange(64) % 10 * 50_000.5, False),
    "no number": (torch.full((64,), torch.nan), False),
}


@pytest.mark.parametrize("name", FIFTH)
def test_a_fifth_column_that_is_no_age_is_refused(exported: tuple[Path, ExportedDetector], name: str) -> None:
    """The exported file itself refuses such a column, on any machine."""
    fifth, fine = FIFTH[name]
    points = torch.cat([cloud(64)[:, :4], fifth[:, None]], 1)
    if fine:
        assert len(exported[1].model(points)) == 3 and len(exported[1](points)) >= 0
        assert len(to_sample({"points": points.numpy()}, "one", exported[1].config.data).points) == 64
        return
    with pytest.raises(torch.jit.Error, match="no age in seconds"):
        exported[1].model(points)
    with pytest.raises(DataError, match="the fifth column of the points is no age in seconds .* have the ring there"):
        exported[1](points)
    if name != "no number":  # an earlier check refuses it
        with pytest.raises(DataError, match="sample one: the fifth column"):
            to_sample({"points": points.numpy()}, "one", exported[1].config.data)
