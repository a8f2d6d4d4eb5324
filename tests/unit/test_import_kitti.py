"""Tests of the import of KITTI's object layout: boxes, projections, regions, splits, loading by the devkit."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from nuscenes import NuScenes

from pdetr3d.class_list import NUSCENES_CLASSES
from pdetr3d.config import DataConfig
from pdetr3d.data.index.index import Index
from pdetr3d.data.index.nuscenes import build_index
from pdetr3d.data.index.regions import read_regions
from pdetr3d.data.label_manifest import inspection_record
from pdetr3d.data.loading.load import load_sample
from pdetr3d.evaluation.nuscenes_eval import load_tables, score
from pdetr3d.geometry.boxes import corners
from pdetr3d.geometry.camera import project
from pdetr3d.importers.kitti import VERSION, import_kitti
from pdetr3d.importers.kitti_files import read_calibration
from pdetr3d.importers.rows import sample_token
from tests.reference import tiny_kitti
from tests.score_cases import ground_truth_predictions

pytestmark = pytest.mark.xdist_group("import_kitti")  # the fixtures of this file take seconds

DATA = DataConfig(lidar_ring=False, num_sweeps=1, image_size_px=(tiny_kitti.WIDTH, tiny_kitti.HEIGHT))
DONT_CARE = "DontCare -1 -1 -10 200.00 40.00 240.00 60.00 -1 -1 -1 -1000 -1000 -1000 -10"
TRAM = "Tram 0 0 0 0 0 9 9 3 3 15 -9 2 40 1"
LABELS = {
    "000000": [tiny_kitti.CAR, "Pedestrian 0.00 1 0.2 200 40 210 70 1.80 0.60 0.80 3.00 1.60 12.00 0.30", DONT_CARE],
    "000001": ["Van 0.10 2 1.2 100 40 130 60 2.10 1.90 5.00 -3.00 1.80 25.00 2.90"],
    "000002": ["Cyclist 0.00 3 0.1 150 40 160 60 1.70 0.60 1.80 0.50 1.60 9.00 -3.10", TRAM],
    "000003": [],
    "000004": ["Truck 0.00 -1 0.1 100 30 190 60 3.20 2.60 9.00 2.00 1.90 30.00 1.55"],
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """root/ in KITTI's layout, dataset/ made of it, index.arrow."""
    folder = tmp_path_factory.mktemp("kitti")
    tiny_kitti.write(folder / "root", LABELS)
    import_kitti(folder / "root", folder / "dataset")
    build_index(folder / "dataset", VERSION, folder / "index.arrow", DATA)
    return folder


def record(made: Path, name: str):  # noqa: ANN201
    return inspection_record(Index.open(made / "index.arrow"), sample_token(VERSION, name))


def check_boxes(index: Index, root: Path, names: list[str]) -> int:
    """Check that the index's boxes equal the label files', in rect and in the image; returns their number."""
    count = 0
    for name in names:
        part = root / "training"
        lines = (part / "label_2" / f"{name}.txt").read_text().splitlines()
        rows = {
            line.split()[0]: line.split()[1:]
            for line in (part / "calib" / f"{name}.txt").read_text().splitlines()
            if line
        }
        p2 = np.array([float(v) for v in rows["P2:"]]).reshape(3, 4)
        r0, tr = np.eye(4), np.eye(4)
        r0[:3, :3] = np.array([float(v) for v in rows["R0_rect:"]]).reshape(3, 3)
        tr[:3] = np.array([float(v) for v in rows["Tr_velo_to_cam:"]]).reshape(3, 4)
        token = sample_token(VERSION, name)
        found = index.annotations(token)
        wanted = [line for line in lines if line.split()[0] not in ("DontCare", "Tram", "Misc")]
        assert len(found.label) == len(wanted)
        camera = index.record(token).cameras[0]
        assert camera is not None
        for box, line in zip(found.box, wanted, strict=True):
            kitti = np.array(tiny_kitti.corners_rect(line))
            # Of the development kit: P2 of rect corners. Ours: lidar2img of LIDAR_TOP corners, in another order.
            theirs = np.array([tiny_kitti.project(p2, corner) for corner in kitti])
            mine = corners(box[None, :3], box[None, 3:6], box[None, 6])[0]
            pixels, _ = project(camera.lidar2img, mine)
            if kitti[:, 2].min() > 0.1:
                distance = np.linalg.norm(theirs[:, None] - pixels[None], axis=-1)
                assert distance.min(1).max() < 0.1 and distance.min(0).max() < 0.1
            # Rect -> LIDAR_TOP by hand: x right = rect x, y forward = rect z, z up = -rect y.
            velodyne = (r0 @ tr)[:3, 3]
            x, y, z = np.mean(kitti, 0) - velodyne
            assert np.abs(box[:3] - [x, z, -y]).max() < 1e-3
            h, w, length, *_, ry = (float(v) for v in line.split()[8:15])
            assert np.abs(box[3:6] - [length, w, h]).max() < 1e-3
            assert abs(math.remainder(box[6] + ry, 2 * math.pi)) < 1e-4
            count += 1
    return count


def test_boxes_are_kitti_s_own(made: Path) -> None:
    assert check_boxes(Index.open(made / "index.arrow"), made / "root", list(LABELS)) == 5


def test_points_stay_where_the_camera_sees_them(made: Path) -> None:
    """P2 R0_rect Tr_velo_to_cam of a velodyne point is the pixel that lidar2img gives of ours; the order is kept."""
    raw = np.fromfile(made / "root/training/velodyne/000000.bin", "<f4").reshape(-1, 4)
    sample = load_sample(record(made, "000000"), DATA, cameras=True)
    written = np.fromfile(sample.record.lidar_path, "<f4").reshape(-1, 5)
    r0, tr = np.eye(4), np.eye(4)
    r0[:3, :3], tr[:3] = tiny_kitti.R0, tiny_kitti.TR
    rect = (r0 @ tr @ np.c_[raw[:, :3], np.ones(len(raw))].astype(np.float64).T)[:3].T
    theirs = np.array([tiny_kitti.project(tiny_kitti.P2, point) for point in rect])
    ours, depth = project(sample.lidar2img[0], written[:, :3])
    assert np.nanmax(np.abs(ours - theirs)) < 0.05 and (depth > 1).all()
    assert np.allclose(np.linalg.norm(written[:, :3], axis=1), np.linalg.norm(raw[:, :3], axis=1), atol=1e-4)
    assert np.allclose(written[:, 3], raw[:, 3] * 255) and (written[:, 4] == 0).all()
    assert sample.camera_valid.tolist() == [True, False, False, False, False, False]


def test_objects_have_their_points(made: Path) -> None:
    index = Index.open(made / "index.arrow")
    for name, lines in LABELS.items():
        found = index.annotations(sample_token(VERSION, name)).num_lidar_pts
        kept = [line for line in lines if line.split()[0] not in ("DontCare", "Tram")]
        assert len(found) == len(kept) and (found >= 40).all()


def test_the_camera_s_view_is_valid(made: Path) -> None:
    """At depth 1 the image's column 0 lies 148 / 200 to the left, and column 300 lies 152 / 200 to the right."""
    regions = read_regions(made / "dataset" / VERSION)
    assert len(regions) == len(LABELS)
    found = regions[sample_token(VERSION, "000001")]
    shift = 12.5 / 200 - 148 / 200 * 0.0027  # P2's last column: the camera is to the left of rect's origin
    x0, y0 = 0.004 - shift, 0.27 * math.cos(TURN) + 0.076 * math.sin(TURN) - 0.0027
    for depth in (1.0, 20.0, 150.0):
        edges = (x0 - 0.74 * depth, x0 + 0.76 * depth)
        inside = [(edges[0] + 0.01, y0 + depth), (edges[1] - 0.01, y0 + depth)]
        outside = [(edges[0] - 0.01, y0 + depth), (edges[1] + 0.01, y0 + depth), (0.0, -depth)]
        assert found.valid_at(np.array(inside)).all() and not found.valid_at(np.array(outside)).any()
    assert found.ignore == ()


TURN = tiny_kitti.TURN


def test_dont_care_is_ignored_but_for_what_is_labeled(made: Path) -> None:
    """Columns 200 to 240 lie 52 / 200 to 92 / 200 to the right per meter of depth.

    The rectangle's lower side, row 60, meets the ground (1.65 m below) at 210 * 1.65 / 14 = 24.75 m. The region begins
    at four fifths of that distance, 19.8 m.
    """
    found = read_regions(made / "dataset" / VERSION)[sample_token(VERSION, "000000")]
    places = np.array([(0.36 * depth, depth) for depth in (19.0, 21.0, 100.0)])
    assert found.ignored_at(places).tolist() == [False, True, True]
    assert not found.ignored_at(np.array([(0.2 * 50, 50.0), (0.5 * 50, 50.0)])).any()


def test_a_labeled_object_in_a_dont_care_is_known(tmp_path: Path) -> None:
    car = "Car 0.00 0 0 205 45 235 60 1.50 1.70 4.20 14.40 1.70 40.00 0.00"
    tiny_kitti.write(tmp_path / "root", {"000000": [car, DONT_CARE]})
    import_kitti(tmp_path / "root", tmp_path / "out")
    found = read_regions(tmp_path / "out" / VERSION)[sample_token(VERSION, "000000")]
    places = np.array([[14.4, 40.2], [16.3, 40.2], [14.4, 41.5], [14.4, 38.5]])  # in it twice; behind; before
    assert found.ignored_at(places).tolist() == [False, False, True, True]


def test_the_devkit_scores_the_ground_truth_at_one(made: Path, tmp_path: Path) -> None:
    nusc = load_tables(made / "dataset", VERSION, classes=NUSCENES_CLASSES)
    boxes, poses = ground_truth_predictions(nusc, "kitti_all", classes=NUSCENES_CLASSES)
    report = score(made / "dataset", VERSION, "kitti_all", boxes, poses, tmp_path, nusc, classes=NUSCENES_CLASSES)
    present = {name for name, count in report["n_gt"].items() if count}
    assert present == {"car", "truck", "bicycle", "pedestrian"}
    assert all(report["per_class"][name]["AP"] == pytest.approx(1.0) for name in present)


def test_the_devkit_itself_loads_the_tables(made: Path) -> None:
    """The devkit also needs tables that pdetr3d does not read: maps, visibility, neighbors."""
    nusc = NuScenes(VERSION, str(made / "dataset"), verbose=False)
    assert len(nusc.sample) == len(nusc.scene) == len(LABELS) and len(nusc.sample_annotation) == 6
    path, boxes, intrinsic = nusc.get_sample_data(
        nusc.get("sample", sample_token(VERSION, "000000"))["data"]["CAM_FRONT"]
    )
    assert Path(path).is_file() and len(boxes) == 2 and intrinsic.tolist() == [row[:3] for row in tiny_kitti.P2]


def test_what_has_no_class_is_counted(made: Path) -> None:
    facts = json.loads((made / "dataset" / VERSION / "import.json").read_text())
    assert facts["frames"] == 5 and facts["frames_without_velodyne"] == 0 and facts["without_class"] == {"Tram": 1}
    assert facts["dont_care"] == 1 and facts["occlusion_unknown"] == 2
    assert facts["objects"] == {"Car": 1, "Pedestrian": 1, "Van": 1, "Cyclist": 1, "Tram": 1, "Truck": 1}
    assert Index.open(made / "index.arrow").facts.unknown_categories == {"Tram": 1}


def test_frames_are_split_by_scene(made: Path) -> None:
    splits = json.loads((made / "dataset" / VERSION / "splits.json").read_text())
    assert sorted(splits) == ["kitti_all", "kitti_train", "kitti_val"]
    assert sorted(splits["kitti_train"] + splits["kitti_val"]) == splits["kitti_all"]
    assert len(splits["kitti_val"]) == 2  # the first number of scenes of one frame that reaches 30 % of five


def test_scenes_and_links(tmp_path: Path) -> None:
    root = tmp_path / "root"
    tiny_kitti.write(root, LABELS)
    (root / "scenes.csv").write_text(
        "sample,scene,timestamp_us,split\n000001,a,2000000,train\n000000,a,1000000,train\n000004,b,5,val\n"
    )
    facts = import_kitti(root, tmp_path / "out", links=True)
    assert facts["frames"] == 3 and facts["frames_in_no_scene"] == 2
    assert facts["splits"] == {"kitti_all": 3, "kitti_train": 2, "kitti_val": 1}
    nusc = NuScenes(VERSION, str(tmp_path / "out"), verbose=False)
    first = nusc.get("sample", nusc.get("scene", nusc.scene[0]["token"])["first_sample_token"])
    assert (nusc.scene[0]["name"], first["timestamp"], first["token"]) == (
        "a",
        1_000_000,
        sample_token(VERSION, "000000"),
    )
    assert nusc.get("sample", first["next"])["token"] == sample_token(VERSION, "000001")
    assert all(row["prev"] == row["next"] == "" for row in nusc.sample_data)  # no poses: sweeps must not be joined
    image = tmp_path / "out" / "samples" / "CAM_FRONT" / "000004.png"
    assert image.is_symlink() and os.path.samefile(image, root / "training/image_2/000004.png")


def test_image_sets_make_splits(tmp_path: Path) -> None:
    root = tmp_path / "root"
    tiny_kitti.write(root, LABELS)
    (root / "ImageSets").mkdir()
    for name, frames in {"train": "000000\n000002\n", "val": "000001\n000003\n000901\n", "test": "000900\n"}.items():
        (root / "ImageSets" / f"{name}.txt").write_text(frames)
    facts = import_kitti(root, tmp_path / "out")
    assert facts["splits"] == {"kitti_all": 5, "kitti_train": 2, "kitti_val": 2}
    assert facts["image_sets_not_used"] == ["test"] and facts["frames_of_image_sets_without_files"] == 1


def test_a_mapping_of_one_s_own(tmp_path: Path) -> None:
    """The mapping may also lead to a name outside the ten classes."""
    tiny_kitti.write(tmp_path / "root", {"000000": [tiny_kitti.CAR, *LABELS["000001"], *LABELS["000002"]]})
    (tmp_path / "map.yaml").write_text("Car: truck\nVan: null\nCyclist: rider\nTram: bus\n")
    facts = import_kitti(tmp_path / "root", tmp_path / "out", tmp_path / "map.yaml")
    names = [row["name"] for row in json.loads((tmp_path / "out" / VERSION / "category.json").read_text())]
    assert names == ["vehicle.truck", "Van", "rider", "vehicle.bus.rigid"]
    assert facts["without_class"] == {"Van": 1}


def test_keys_of_the_tracking_benchmark(tmp_path: Path) -> None:
    text = tiny_kitti.calibration_text().replace("R0_rect:", "R_rect").replace("Tr_velo_to_cam:", "Tr_velo_cam")
    (tmp_path / "a.txt").write_text(tiny_kitti.calibration_text())
    (tmp_path / "b.txt").write_text(text)
    one, other = (read_calibration(tmp_path / name) for name in ("a.txt", "b.txt"))
    assert (one.velo2rect == other.velo2rect).all() and (one.p2 == other.p2).all()


@pytest.fixture(scope="module")
def real(kitti_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Index]:
    folder = tmp_path_factory.mktemp("real_kitti")
    import_kitti(kitti_data, folder / "dataset")
    return folder / "dataset", Index.open(build_index(folder / "dataset", VERSION, folder / "index.arrow", DATA))


def test_real_boxes_are_kitti_s_own(real: tuple[Path, Index], kitti_data: Path) -> None:
    names = sorted(path.stem for path in (kitti_data / "training" / "velodyne").glob("*.bin"))
    assert check_boxes(real[1], kitti_data, names) == 225


def test_the_devkit_scores_the_real_ground_truth_at_one(real: tuple[Path, Index], tmp_path: Path) -> None:
    nusc = load_tables(real[0], VERSION, classes=NUSCENES_CLASSES)
    boxes, poses = ground_truth_predictions(nusc, "kitti_all", classes=NUSCENES_CLASSES)
    report = score(real[0], VERSION, "kitti_all", boxes, poses, tmp_path, nusc, bins=False, classes=NUSCENES_CLASSES)
    present = {name for name, count in report["n_gt"].items() if count}
    # The only truck is 69 m away, beyond the devkit's range for trucks (50 m).
    assert present == {"car", "bicycle", "pedestrian"}
    assert all(report["per_class"][name]["AP"] == pytest.approx(1.0) for name in present)


def test_real_labels_lie_in_the_valid_region(real: tuple[Path, Index]) -> None:
    """The region also contains a label that the image border cuts and whose center lies outside the view."""
    regions, inside, known = read_regions(real[0] / VERSION), [], []
    for token, mine in regions.items():
        xy = real[1].annotations(token).box[:, :2]
        inside += mine.valid_at(xy).tolist()
        known += (~mine.ignored_at(xy)).tolist()
    assert len(inside) == 225 and all(inside) and all(known)
    assert sum(len(mine.valid or ()) for mine in regions.values()) == len(regions) + 1
