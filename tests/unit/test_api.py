"""Tests of the Python API: its names, ``load_sample``, ``draw`` and its messages."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

import pdetr3d
from pdetr3d.batch import Batch
from pdetr3d.class_list import NUSCENES_CLASSES, ClassList
from pdetr3d.data.index.index import Index
from pdetr3d.data.index.nuscenes import build_index
from pdetr3d.errors import DataError
from pdetr3d.inference.student import StudentPredictor
from pdetr3d.inference.teacher import TeacherPredictor
from pdetr3d.presets import QUICKSTART
from pdetr3d.schema import Boxes3D
from pdetr3d.visualize import inspect_sample
from tests.model_cases import tiny_config

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def index(sim_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Index:
    return pdetr3d.open_index(build_index(sim_world, "v1.0-sim", tmp_path_factory.mktemp("api") / "index.arrow"))


def test_the_page_lists_every_name() -> None:
    rows = re.findall(r"^\| `pdetr3d\.(\w+)\(", (ROOT / "docs/api.md").read_text(), re.MULTILINE)
    assert sorted([*rows, "Picture"]) == sorted(pdetr3d.API)
    assert all(getattr(pdetr3d, name).__doc__ for name in pdetr3d.API)
    with pytest.raises(AttributeError, match="no attribute 'load_smaple'; the Python API: Picture, decode_maps"):
        _ = pdetr3d.load_smaple


def test_a_sample_by_number_by_place_in_a_split_and_by_token(index: Index) -> None:
    tokens = index.table.column("sample_token").to_pylist()
    mine = index.tokens("sim_val")
    assert [pdetr3d.load_sample(index, n).record.sample_token for n in (0, 3)] == [tokens[0], tokens[3]]
    assert pdetr3d.load_sample(index.path, 1, split="sim_val").record.sample_token == mine[1]
    sample = pdetr3d.load_sample(index, mine[1])
    assert len(sample.boxes) == len(index.annotations(mine[1]).boxes()) > 0 and len(sample.clicks) == 0
    assert sample.images.shape == (6, 90, 160, 3)  # the files' own size
    assert set(sample.points[:, 4]) == {0.0}  # the keyframe's sweep alone


def test_a_sample_as_a_model_was_trained_on(index: Index) -> None:
    config = tiny_config("data.num_sweeps=3", "data.image_size_px=[48,24]")
    student = StudentPredictor(config, Path("a"), lambda batch: [])
    sample = pdetr3d.load_sample(index, 1, split="sim_val", like=student)
    assert sample.images.shape[1:3] == (24, 48) and len(np.unique(sample.points[:, 4])) == 3


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"sample": 12}, r"sample number 12: .*index\.arrow has 12 samples, 0\.\.11"),
        ({"sample": -1}, r"sample number -1: "),
        ({"sample": 4, "split": "sim_val"}, r"split 'sim_val' of .* has 4 samples, 0\.\.3"),
        ({"split": "sim_vla"}, "did you mean 'sim_val'"),
        ({"sample": "abc"}, "sample token 'abc' is not in"),
        ({"sweeps": 11}, r"sweeps=11: allowed 1\.\.10"),
    ],
)
def test_a_sample_that_is_not_there(index: Index, asked: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        pdetr3d.load_sample(index, **asked)


def test_a_picture_is_that_of_inspect_with_the_clicks_given(index: Index, tmp_path: Path) -> None:
    sample = pdetr3d.load_sample(index, 0)
    sample = dataclasses.replace(sample, images=sample.images[:0], points=sample.points[:500])
    picture = pdetr3d.draw(sample, sample.boxes[:1])
    assert (
        picture._repr_png_()
        == inspect_sample(sample, tmp_path / "a.png", sample.boxes[:1], classes=NUSCENES_CLASSES).read_bytes()
    )
    assert picture.save(tmp_path / "b.png").read_bytes() == picture.png
    assert pdetr3d.draw(sample, sample.boxes[:1], clicks=np.array([[1.0, 20, 0]])).png != picture.png


def test_a_picture_has_the_names_of_the_samples_own_classes(index: Index, tmp_path: Path) -> None:
    sample = pdetr3d.load_sample(index, 0)
    assert sample.classes == index.classes
    own = ClassList(tuple(dataclasses.replace(each, name=f"my {each.name}") for each in NUSCENES_CLASSES.classes))
    sample = dataclasses.replace(sample, images=sample.images[:0], points=sample.points[:500], classes=own)
    drawn = inspect_sample(sample, tmp_path / "a.png", classes=own).read_bytes()
    assert pdetr3d.draw(sample).png == drawn != pdetr3d.draw(sample, classes=NUSCENES_CLASSES).png


def test_clicks_of_named_classes(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A click's class may be a name or a position in the list. Bad classes and points are refused before any read."""
    seen = []

    class Recorder:
        """A detector that finds nothing and keeps the classes of the clicks that it is asked about."""

        config = tiny_config()

        def __call__(self, batch: Batch) -> list[Boxes3D]:
            seen.append(batch.click_label.tolist())
            return [Boxes3D.empty()]

    teacher = TeacherPredictor(Recorder(), tmp_path / "teacher.pt")  # type: ignore[arg-type]
    record, clicks = pdetr3d.load_sample(index, 0).record, np.array([[3.0, 4, 0], [5, 6, 0]])
    teacher.boxes(record, clicks, ["car", "pedestrian"])
    teacher.boxes(record, clicks, np.array([0, 8]))
    assert seen == [[[0, 8]], [[0, 8]]]
    for labels, message in (
        (["car", "lorry"], "unknown class 'lorry'"),
        ([0, 10], "unknown class 10"),
        (["car"], r"clicks of shape \(2, 3\) with 1 classes"),
    ):
        with pytest.raises(DataError, match=message):
            teacher.boxes(record, clicks, labels)


def test_a_config(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("preset: quickstart\noptim: {lr: 0.5}\n")
    config = pdetr3d.load_config(file=tmp_path / "a.yaml", overrides=["label.ratio=0.1"])
    assert (config.optim.lr, config.label.ratio) == (0.5, 0.1)
    assert pdetr3d.load_config("quickstart") == QUICKSTART
