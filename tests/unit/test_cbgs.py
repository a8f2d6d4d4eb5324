"""Tests of CBGS: sizes by hand, equal shares of all classes, only visible boxes count, determinism."""

from __future__ import annotations

from collections import Counter

import numpy as np

from pdetr3d.class_list import NUSCENES_CLASSES
from pdetr3d.data.loading.cbgs import class_balanced
from pdetr3d.schema import Boxes3D, PointLabels, SampleRecord

EYE = np.eye(4)


def record(token: str, *labels: int) -> SampleRecord:
    n = len(labels)
    boxes = Boxes3D.build(np.zeros((n, 3)), np.ones((n, 3)), np.zeros(n), np.array(labels, np.int64))
    return SampleRecord(token, "s", 0, "box", "x", (), (), EYE, EYE, boxes, PointLabels.empty())


def drawn(records: list[SampleRecord], seed: int = 0) -> list[str]:
    return [r.sample_token for r in class_balanced(records, seed, classes=NUSCENES_CLASSES)]


def test_sizes_by_hand() -> None:
    """6 samples have cars (0), 2 have buses (3; one has four), 2 are empty: D = 8, so each class draws 4 samples."""
    records = [record(f"car{i}", 0, 0) for i in range(4)] + [record("both", 0, 3), record("both4", 0, 3, 3, 3, 3)]
    records += [record("empty0"), record("empty1")]
    tokens = drawn(records)
    assert len(tokens) == 8
    assert not {"empty0", "empty1"} & set(tokens)
    assert set(tokens[4:]) <= {"both", "both4"}  # the bus's half


def test_classes_become_equally_frequent() -> None:
    records = [record(f"a{i}", 0) for i in range(900)] + [record(f"b{i}", 9) for i in range(100)]
    counts = Counter(token[0] for token in drawn(records))
    assert counts == {"a": 500, "b": 500}
    assert len({t for t in drawn(records) if t[0] == "b"}) > 90  # of 100, each missed with probability e^-5


def test_the_seed_decides() -> None:
    records = [record(f"r{i}", i % 10) for i in range(50)]
    assert drawn(records, 1) == drawn(records, 1) != drawn(records, 2)


def test_absent_classes_and_no_boxes_at_all() -> None:
    assert Counter(drawn([record("a", 7), record("b", 7)])).total() == 2
    assert drawn([record("a"), record("b")]) == ["a", "b"]
    assert drawn([]) == []
