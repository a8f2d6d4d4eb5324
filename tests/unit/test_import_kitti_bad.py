"""Bad input of the KITTI import: named by file and line, exit code 2, nothing written."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from pdetr3d.cli import main
from pdetr3d.importers.kitti import import_kitti
from pdetr3d.schema import DataError
from tests.reference import tiny_kitti

CAR = tiny_kitti.CAR


def part(root: Path, folder: str, name: str = "000001") -> Path:
    return next((root / "training" / folder).glob(f"{name}.*"))


def label(line: str) -> Callable[[Path], object]:
    return lambda root: part(root, "label_2").write_text(f"{CAR}\n\n{line}\n")


def cut(folder: str, share: float) -> Callable[[Path], object]:
    def act(root: Path) -> None:
        file = part(root, folder)
        file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])

    return act


def calib(old: str, new: str) -> Callable[[Path], object]:
    def act(root: Path) -> None:
        file = part(root, "calib")
        text = file.read_text()
        assert re.search(old, text)
        file.write_text(re.sub(old, new, text, count=1))

    return act


def larger(root: Path) -> None:
    file = part(root, "image_2")
    cv2.imwrite(str(file), cv2.resize(cv2.imread(str(file)), None, fx=3.0, fy=3.0))


def smaller(root: Path) -> None:
    """Images smaller by a tenth: the principal point is still near the middle, but a label's rectangle is outside."""
    part(root, "label_2").write_text("Car 0.00 0 -1.58 240 45 299 60 1.50 1.70 4.20 1.00 1.70 15.00 -1.50\n")
    file = part(root, "image_2")
    cv2.imwrite(str(file), cv2.resize(cv2.imread(str(file)), None, fx=0.9, fy=0.9))


def scenes(text: str) -> Callable[[Path], object]:
    return lambda root: (root / "scenes.csv").write_text(text)


def velodyne(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], object]:
    def act(root: Path) -> None:
        file = part(root, "velodyne")
        change(np.fromfile(file, np.float32).reshape(-1, 4)).astype(np.float32).tofile(file)

    return act


def file_names(root: Path) -> None:
    (root / "ImageSets").mkdir()
    (root / "ImageSets" / "train.txt").write_text("000000.png\n000001.png\n")


HEAD = "sample,scene,timestamp_us\n"
CASES = {
    "no calib": (lambda root: part(root, "calib").unlink(), r"calib/000001.txt: calibration cannot be read \(No such"),
    "no label": (lambda root: part(root, "label_2").unlink(), r"label_2/000001.txt: labels cannot be read \(No such"),
    "no image": (lambda root: part(root, "image_2").unlink(), r"image_2/000001.png: no such image"),
    "14 columns": (label(CAR.rsplit(" ", 1)[0]), r"label_2/000001.txt:3: 14 columns instead of 15 .* cut"),
    "a score": (label(f"{CAR} 0.9"), r"label_2/000001.txt:3: 16 columns instead of 15 .* a score"),
    "unknown class": (label(CAR.replace("Car", "Carr")), r"label_2/000001.txt:3: class 'Carr' .*did you mean 'Car'\?"),
    "occluded 4": (label(CAR.replace("0.00 0", "0.00 4")), r"000001.txt:3: occluded 4 is not allowed: 0, 1, 2, 3, -1"),
    "no number": (label(CAR.replace("15.00", "15,00")), r"000001.txt:3: z '15,00' is not a number"),
    "nan": (label(CAR.replace("15.00", "nan")), r"000001.txt:3: z 'nan' is not finite"),
    "flat box": (label(CAR.replace("1.50 1.70", "0.00 1.70")), r"000001.txt:3: height, width, length 0 1.7 4.2"),
    "degrees": (label(CAR.rsplit(" ", 1)[0] + " -86.00"), r"000001.txt:3: rotation_y -86.00 is more than one turn: an"),
    "crossed rectangle": (label(CAR.replace("140 45 160", "160 45 140")), r"000001.txt:3: left, top, right, bottom"),
    "cut image": (cut("image_2", 0.6), r"image_2/000001.png: .*(truncated|broken)"),
    "no image at all": (cut("image_2", 0.0), r"image_2/000001.png: missing or broken PNG"),
    "cut velodyne": (cut("velodyne", 0.501), r"velodyne/000001.bin: truncated LiDAR file \(\d+ bytes, not a mul"),
    "empty velodyne": (cut("velodyne", 0.0), r"velodyne/000001.bin: truncated LiDAR file \(empty\)"),
    "five columns": (
        velodyne(lambda p: np.c_[p, p[:, :1]]),
        r"velodyne/000001.bin: these are not points .*[^=]; KITTI's files hold 4 float32 a point \(x, y, z, refl",
    ),
    "reflectance": (velodyne(lambda p: p * [1, 1, 1, 255]), r"000001.bin: \d+% of the reflectances are above 1, the"),
    "image set": (file_names, r"ImageSets/train.txt: '000000.png' is a file's name \(2 lines alike\); write the"),
    "larger image": (larger, r"image_2/000001.png: 900 x 300 px, but P2 has .* about 296 x 92 px"),
    "smaller image": (smaller, r"label_2/000001.txt:1: right, bottom 299 60 is out of 000001.png, 270 x 90 px"),
    "no P2": (calib("P2:.*", ""), r"calib/000001.txt: P2 missing"),
    "short P2": (calib("P2: [^ ]+ ", "P2: "), r"calib/000001.txt:2: P2 must be 12 numbers"),
    "no rotation": (calib("R0_rect: [^ ]+ ", "R0_rect: 3.0 "), r"calib/000001.txt: R0_rect and Tr_velo_to_cam are no "),
    "stray sample": (scenes(f"{HEAD}000009,a,0\n"), r"scenes.csv:2: sample '000009' is no frame"),
    "twice": (scenes(f"{HEAD}000001,a,0\n000001,a,1\n"), r"scenes.csv:3: sample '000001' is in line 2, too"),
    "one time": (scenes(f"{HEAD}000001,a,0\n000002,a,0\n"), r"scenes.csv:3: scene 'a' has timestamp_us 0 in line 2"),
    "bad time": (scenes(f"{HEAD}000001,a,1.5\n"), r"scenes.csv:2: timestamp_us '1.5' is not a whole number"),
    "no column": (scenes("sample,scene\n000001,a\n"), r"column\(s\) \['timestamp_us'\] missing"),
    "two splits": (
        scenes("sample,scene,timestamp_us,split\n000001,a,0,train\n000002,a,1,val\n"),
        r"scenes.csv:3: split 'val' of scene 'a' is 'train' in line 2",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_is_wrong_is_named_and_nothing_is_written(case: str, tmp_path: Path) -> None:
    spoil, expected = CASES[case]
    tiny_kitti.write(tmp_path / "root", {"000000": [CAR], "000001": [CAR], "000002": [CAR]})
    spoil(tmp_path / "root")
    with pytest.raises(DataError, match=expected):
        import_kitti(tmp_path / "root", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["root"]


def test_problems_are_said_together_and_the_exit_code_is_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_kitti.write(tmp_path / "root", {"000000": [CAR], "000001": [CAR], "000002": [f"{CAR} 0.5"]})
    part(tmp_path / "root", "calib").unlink()
    assert main(["import", "kitti", "--root", str(tmp_path / "root"), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "2 problems, nothing was written" in said and "Traceback" not in said
    assert "calib/000001.txt" in said and "label_2/000002.txt:1" in said
    assert not (tmp_path / "out").exists()


def test_what_exists_is_not_overwritten(tmp_path: Path) -> None:
    tiny_kitti.write(tmp_path / "root", {"000000": [CAR]})
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match="exists and is not overwritten"):
        import_kitti(tmp_path / "root", tmp_path / "out")


def test_another_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no frames at .*KITTI's object layout is training/velodyne/000000.bin"):
        import_kitti(tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[Car]", "must be a mapping of names"),
        ("Car: car\nVan: car\nCar: truck\n", "'Car' stands twice; each may stand once"),
        ("Car: [car]", r"'Car': \['car'\]"),
        ("Car: {", "cannot be read as YAML"),
        ("Van: car\n", "class 'Car' is not in --mapping .*did you mean 'Van'|known are Van"),
    ],
)
def test_mappings_that_are_none(text: str, expected: str, tmp_path: Path) -> None:
    tiny_kitti.write(tmp_path / "root", {"000000": [CAR]})
    (tmp_path / "map.yaml").write_text(text)
    with pytest.raises(DataError, match=expected):
        import_kitti(tmp_path / "root", tmp_path / "out", tmp_path / "map.yaml")


def test_a_torn_scene_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "root"
    tiny_kitti.write(root, {"000000": [CAR], "000001": [CAR]})
    scenes(f"{HEAD}000000,a,0\n000001,a,1\n")(root)
    (root / "ImageSets").mkdir()
    (root / "ImageSets" / "train.txt").write_text("000000\n")
    with pytest.raises(DataError, match="ImageSets/train.txt has a part of the frames of scene 'a' only"):
        import_kitti(root, tmp_path / "out")


def test_points_that_are_not_finite_stay_for_readers_to_leave_out(tmp_path: Path) -> None:
    """The import keeps points that are not finite; jobs count and report them, as in other datasets."""
    tiny_kitti.write(tmp_path / "root", {"000000": [CAR]})
    file = part(tmp_path / "root", "velodyne", "000000")
    points = np.fromfile(file, "<f4").reshape(-1, 4)
    points[:5, 0] = np.nan
    points.tofile(file)
    import_kitti(tmp_path / "root", tmp_path / "out")
    written = np.fromfile(tmp_path / "out/samples/LIDAR_TOP/000000.pcd.bin", "<f4").reshape(-1, 5)
    assert len(written) == len(points) and np.isfinite(written).all(1).sum() == len(points) - 5
