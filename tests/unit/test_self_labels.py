"""Labels of self-training: thresholds, the file, and records without clicks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pdetr3d.class_list import NUSCENES_CLASSES
from pdetr3d.data.labels.self_labels import (
    SELF_SCHEMA,
    half_labeled,
    read_self_labels,
    self_labeled,
    without_clicks,
    write_self_labels,
)
from pdetr3d.data.storage.files import read_parquet, write_parquet
from pdetr3d.schema import SOURCE_PSEUDO, Boxes3D, DataError, PointLabels, SampleRecord


def cars(*x: float, score: list[float]) -> Boxes3D:
    n = len(x)
    center = np.stack([np.array(x), np.zeros(n), np.ones(n)], 1)
    return Boxes3D.build(
        center, np.tile([4.0, 2, 1.5], (n, 1)), np.full(n, 0.5), np.full(n, 9), velocity_m_s=np.ones((n, 2)),
        score=np.array(score),
    )  # fmt: skip


def record(token: str, role: str, boxes: Boxes3D) -> SampleRecord:
    clicks = PointLabels(np.array([f"{token}/0"], object), np.ones((1, 3)), np.array([3]), np.array([-1]))
    return SampleRecord(token, "scene", 0, role, "", (), (), np.eye(4), np.eye(4), boxes, clicks)


def test_boxes_above_the_threshold_come_back(tmp_path: Path) -> None:
    file = tmp_path / "self_training" / "labels.parquet"
    found = {"b": cars(1, 2, 3, score=[0.9, 0.5, 0.25]), "a": cars(7, score=[0.75]), "c": cars(4, score=[0.125])}
    assert write_self_labels(file, found, 0.5, classes=NUSCENES_CLASSES) == 2  # 0.5 is not above 0.5
    labels = read_self_labels(file, classes=NUSCENES_CLASSES)
    assert labels.keys() == {"a", "b"}
    np.testing.assert_array_equal(labels["b"].rows, found["b"][:1].rows)
    assert labels["b"].score.tolist() == [np.float32(0.9)] and labels["b"].label.tolist() == [9]
    assert np.isnan(labels["b"].velocity_m_s).all() and labels["b"].source.tolist() == [SOURCE_PSEUDO]
    first = file.read_bytes()
    write_self_labels(file, dict(reversed(found.items())), 0.5, classes=NUSCENES_CLASSES)
    assert file.read_bytes() == first  # equal labels, equal files
    assert [f.name for f in file.parent.iterdir()] == ["labels.parquet"]


@pytest.mark.parametrize("boxes", [{}, {"a": Boxes3D.empty()}, {"a": cars(1, score=[0.2])}])
def test_no_box_is_an_empty_file(boxes: dict[str, Boxes3D], tmp_path: Path) -> None:
    assert write_self_labels(tmp_path / "labels.parquet", boxes, 0.5, classes=NUSCENES_CLASSES) == 0
    assert read_self_labels(tmp_path / "labels.parquet", classes=NUSCENES_CLASSES) == {}


@pytest.mark.parametrize(("column", "value"), [("class", "cat"), ("l", 0.0), ("x", float("nan"))])
def test_a_broken_row_is_refused(column: str, value: object, tmp_path: Path) -> None:
    file = tmp_path / "labels.parquet"
    write_self_labels(file, {"a": cars(1, score=[0.9])}, 0.5, classes=NUSCENES_CLASSES)
    table = read_parquet(file, SELF_SCHEMA)
    index = SELF_SCHEMA.get_field_index(column)
    write_parquet(file, table.set_column(index, column, pa.array([value], SELF_SCHEMA.field(index).type)))
    with pytest.raises(DataError, match=f"{file}: .*train the arm self_training again"):
        read_self_labels(file, classes=NUSCENES_CLASSES)


def test_records_of_self_training_by_hand() -> None:
    human, own = cars(1, score=[1.0]), cars(2, 3, score=[0.9, 0.8])
    records = [
        record("a", "box", human),
        record("b", "point", Boxes3D.empty()),
        record("c", "point", cars(9, score=[1.0])),
    ]
    # "a" has people's boxes; the pseudo label that "c" came with is not among the labels: it is gone.
    result = self_labeled(records, {"a": own, "b": own})
    assert [len(r.boxes) for r in result] == [1, 2, 0]
    assert result[0].boxes is human and result[1].boxes is own
    assert all(len(r.clicks) == 0 for r in result) and [r.role for r in result] == ["box", "point", "point"]


def test_without_clicks_takes_nothing_else() -> None:
    before = record("a", "box", cars(1, score=[1.0]))
    (after,) = without_clicks([before])
    assert len(before.clicks) == 1 and len(after.clicks) == 0 and replace(after, clicks=before.clicks) == before


def test_half_labeled_by_hand() -> None:
    a, b, c, d, e = (record(name, "box", Boxes3D.empty()) for name in "abcde")

    def names(result: list[SampleRecord]) -> str:
        return "".join(r.sample_token for r in result)

    assert names(half_labeled([a, b], [c, d, e])) == "abacde"
    assert names(half_labeled([a, b, c], [d])) == "abcddd"
    assert names(half_labeled([a, b], [])) == "ab" and names(half_labeled([], [d])) == "d"
