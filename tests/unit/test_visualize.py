"""Tests of the inspection picture: it shows its input, and empty samples are no error."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from pdetr3d.class_list import NUSCENES_CLASSES
from pdetr3d.config import DataConfig
from pdetr3d.data.index.index import Index
from pdetr3d.data.index.nuscenes import build_index
from pdetr3d.data.label_manifest import inspection_record
from pdetr3d.data.loading.load import load_sample
from pdetr3d.geometry.regions import Regions
from pdetr3d.schema import Boxes3D, PointLabels, Sample
from pdetr3d.visualize import COLORS, draw_sample, inspect_sample


@pytest.fixture(scope="module")
def sample(sim_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Sample:
    index = Index.open(build_index(sim_world, "v1.0-sim", tmp_path_factory.mktemp("index") / "index.arrow"))
    record = inspection_record(index, index.tokens("sim_train")[1])
    return load_sample(record, DataConfig(num_sweeps=2, image_size_px=(160, 90)), cameras=True)


def _pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def _count(pixels: np.ndarray, color: str) -> int:
    rgb = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return int((np.abs(pixels - rgb).sum(-1) < 12).sum())


def test_picture_of_a_sample(sample: Sample, tmp_path: Path) -> None:
    path = inspect_sample(sample, tmp_path / "deep" / "a.png", classes=NUSCENES_CLASSES)
    pixels = _pixels(path)
    assert pixels.shape[1] > 2.5 * pixels.shape[0] > 2000
    assert [p.name for p in path.parent.iterdir()] == ["a.png"]


def _bare(sample: Sample, boxes: Boxes3D) -> Sample:
    bev = dataclasses.replace(sample, images=np.zeros((0, 0, 0, 3), np.uint8), points=np.zeros((0, 5), np.float32))
    return dataclasses.replace(bev, boxes=boxes, clicks=PointLabels.empty())


def test_box_is_drawn_where_it_is(sample: Sample, tmp_path: Path) -> None:
    # A bus ahead and to the right: upper right of the ego in the picture, in the class color, longer than wide.
    bus = Boxes3D.build(np.array([[20.0, 30, 0]]), np.array([[16.0, 4, 3]]), np.array([np.pi / 2]), np.array([3]))
    pixels = _pixels(inspect_sample(_bare(sample, bus), tmp_path / "a.png", classes=NUSCENES_CLASSES))
    height, width = pixels.shape[:2]
    rgb = [int(COLORS[3][i : i + 2], 16) for i in (1, 3, 5)]
    rows, columns = np.nonzero(np.abs(pixels[: int(0.9 * height)] - rgb).sum(-1) < 12)  # without the legend
    scale = 7.4 * 120 / 104  # pixels per meter of the bird's-eye view
    center_x, center_y = 0.06 * 120 + 52 * scale, 0.5 * 120 + 52 * scale
    assert (columns.min() - center_x) / scale == pytest.approx(18, abs=0.4)
    assert (columns.max() - center_x) / scale == pytest.approx(22, abs=0.4)
    assert (center_y - rows.max()) / scale == pytest.approx(22, abs=0.4)
    assert (center_y - rows.min()) / scale == pytest.approx(
        38.8, abs=0.4
    )  # the heading tick reaches 0.8 m beyond the front


def test_the_view_follows_the_range_and_shows_the_regions(sample: Sample, tmp_path: Path) -> None:
    """For x -40 .. 40 m and y 0 .. 70.4 m the view is a square of 80 m, plus 0.8 m on each side, round (0, 35.2)."""
    range_m = (-40.0, 0.0, 40.0, 70.4)
    bus = Boxes3D.build(np.array([[20.0, 60, 0]]), np.array([[16.0, 4, 3]]), np.zeros(1), np.array([3]))
    pixels = _pixels(inspect_sample(_bare(sample, bus), tmp_path / "a.png", range_m=range_m, classes=NUSCENES_CLASSES))
    rgb = [int(COLORS[3][i : i + 2], 16) for i in (1, 3, 5)]
    rows, columns = np.nonzero(np.abs(pixels[: int(0.9 * len(pixels))] - rgb).sum(-1) < 12)
    scale = 7.4 * 120 / 81.6
    center_x, center_y = 0.06 * 120 + 40.8 * scale, 0.5 * 120 + 40.8 * scale
    assert (columns.min() - center_x) / scale == pytest.approx(12, abs=0.4)
    assert (center_y - rows.min()) / scale == pytest.approx(62 - 35.2, abs=0.4)
    square = np.array([[-30.0, 10], [-10, 10], [-10, 30], [-30, 30]])
    marked = dataclasses.replace(_bare(sample, bus), regions=Regions(None, (square,)))
    changed = (
        np.abs(
            _pixels(inspect_sample(marked, tmp_path / "b.png", range_m=range_m, classes=NUSCENES_CLASSES)) - pixels
        ).sum(-1)
        > 30
    )
    rows, columns = np.nonzero(changed)
    assert len(rows) > 300
    for found, low, high in (((columns - center_x) / scale, -30, -10), (35.2 + (center_y - rows) / scale, 10, 30)):
        assert found.min() == pytest.approx(low, abs=0.4) and found.max() == pytest.approx(high, abs=0.4)


def test_predictions_have_their_scores_and_the_legend_says_which_lines_are_whose(
    sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, *a, **k: (figures.append(figure), save(figure, *a, **k)))
    boxes = replaced(sample.boxes, np.linspace(0.9, 0.1, len(sample.boxes)))
    draw_sample(_bare(sample, sample.boxes), boxes, classes=NUSCENES_CLASSES)
    written = [text.get_text() for text in figures[0].axes[0].texts]
    assert [text for text in written if text.startswith("0.")][:2] == ["0.90", f"{boxes.score[1]:.2f}"]
    names = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert names[-3:] == ["click", "solid: truth", "dashed: prediction"]
    draw_sample(_bare(sample, sample.boxes), classes=NUSCENES_CLASSES)
    assert not [text for text in figures[1].axes[0].texts if text.get_text().startswith("0.")]
    assert [text.get_text() for text in figures[1].legends[0].get_texts()][-1] == "click"


def replaced(boxes: Boxes3D, score: np.ndarray) -> Boxes3D:
    return dataclasses.replace(boxes, score=score.astype(np.float32))


def test_predictions_are_dashed(sample: Sample, tmp_path: Path) -> None:
    bus = Boxes3D.build(np.array([[20.0, 30, 0]]), np.array([[16.0, 4, 3]]), np.zeros(1), np.array([3]))
    solid = _count(_pixels(inspect_sample(_bare(sample, bus), tmp_path / "a.png", classes=NUSCENES_CLASSES)), COLORS[3])
    dashed = _count(
        _pixels(
            inspect_sample(
                _bare(sample, Boxes3D.empty()), tmp_path / "b.png", predictions=bus, classes=NUSCENES_CLASSES
            )
        ),
        COLORS[3],
    )
    none = _count(
        _pixels(inspect_sample(_bare(sample, Boxes3D.empty()), tmp_path / "c.png", classes=NUSCENES_CLASSES)), COLORS[3]
    )
    assert none < dashed < solid


def test_empty_sample(sample: Sample, tmp_path: Path) -> None:
    empty = dataclasses.replace(
        _bare(sample, Boxes3D.empty()), images=np.zeros_like(sample.images), camera_valid=np.zeros(6, bool)
    )
    assert inspect_sample(empty, tmp_path / "a.png", predictions=Boxes3D.empty(), classes=NUSCENES_CLASSES).is_file()


@pytest.mark.parametrize(
    ("there", "rows", "columns"),
    [([0], 1, 1), ([0, 1], 1, 2), ([0, 3], 2, 1), ([2, 5], 2, 2), ([], 2, 3), ([0, 1, 2, 3, 4], 2, 3)],
)
def test_rows_and_columns_without_cameras_are_left_out(
    sample: Sample, tmp_path: Path, there: list[int], rows: int, columns: int
) -> None:
    """CAM_FRONT is 0, with 1 to its right and 2 to its left; CAM_BACK is 3, with 5 to its right in the picture.

    The bird's-eye view is 7.4 inches wide; an image is 3.67 inches high, and 16 / 9 of that wide.
    """
    some = dataclasses.replace(sample, camera_valid=np.isin(np.arange(6), there))
    pixels = _pixels(inspect_sample(some, tmp_path / "a.png", classes=NUSCENES_CLASSES))
    expected = 120 * (7.4 + 0.12 + columns * (3.67 * 16 / 9 + 0.06))
    assert pixels.shape[1] == pytest.approx(expected, abs=2)
    lower = pixels[int(0.6 * len(pixels)) : int(0.9 * len(pixels)), int(120 * 7.6) :]
    ground = np.array([int("#10141a"[i : i + 2], 16) for i in (1, 3, 5)])
    assert (np.abs(lower - ground).max() > 60) == (rows == 2)


def test_a_failure_leaves_no_file(sample: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fail)
    with pytest.raises(KeyboardInterrupt):
        inspect_sample(sample, tmp_path / "a.png", classes=NUSCENES_CLASSES)
    assert list(tmp_path.iterdir()) == []
