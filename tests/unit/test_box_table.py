"""Tests of the mapped file of predicted boxes: boxes are read back unchanged, and no file remains."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pdetr3d.data.storage import box_table
from pdetr3d.data.storage.box_table import COLUMNS, SCHEMA, BoxTableWriter
from pdetr3d.data.storage.row_table import TextPlaces, text_column


@pytest.fixture(autouse=True)
def _temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def part(token: str, checkpoint: int, count: int, first: float) -> pa.Table:
    """``count`` boxes; all numbers of a row differ."""
    columns = {name: np.arange(count) + first + 0.125 * place for place, name in enumerate(COLUMNS)}
    columns |= {"yaw": np.full(count, 0.5), "score": np.full(count, 0.25), "label": np.arange(count) % 10}
    columns |= {"sample_token": np.full(count, token), "checkpoint": np.full(count, checkpoint)}
    return pa.table({name: pa.array(columns[name], SCHEMA.field(name).type) for name in SCHEMA.names})


def test_each_samples_boxes_come_back_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(box_table, "CHUNK_ROWS", 4)  # boxes of a sample lie in two blocks
    writer = BoxTableWriter(TextPlaces(text_column(["a", "b", "none"])), 2)
    writer.add(pa.concat_tables([part("b", 0, 3, 10.0), part("b", 1, 1, 20.0), part("a", 0, 2, 30.0)]))
    writer.add(SCHEMA.empty_table())
    writer.add(part("a", 1, 5, 40.0))
    first, second = writer.close()
    assert list(first) == ["a", "b", "none"] and len(first) == 3
    for table, token, count, start in (
        (first, "a", 2, 30),
        (first, "b", 3, 10),
        (second, "a", 5, 40),
        (second, "b", 1, 20),
    ):
        boxes = table[token]
        assert boxes.center_m[:, 0].tolist() == [start + i for i in range(count)]
        assert boxes.size_m[:, 2].tolist() == [start + i + 5 * 0.125 for i in range(count)]
        assert boxes.velocity_m_s[:, 1].tolist() == [start + i + 8 * 0.125 for i in range(count)]
        assert boxes.label.tolist() == list(range(count)) and boxes.score.tolist() == [0.25] * count
    assert len(first["none"]) == len(second["none"]) == 0 and "other" not in first
    with pytest.raises(KeyError):
        first["other"]
    assert not list(tmp_path.iterdir())  # mapped, but without a name


def test_whether_a_sample_is_there_is_told_without_making_its_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    writer = BoxTableWriter(TextPlaces(text_column(["a", "none"])), 1)
    writer.add(part("a", 0, 2, 1.0))
    [table] = writer.close()
    monkeypatch.setattr(box_table.Boxes3D, "build", lambda *_, **__: pytest.fail("boxes were made"))
    assert "a" in table and "none" in table and "other" not in table


def test_no_box_at_all() -> None:
    [table] = BoxTableWriter(TextPlaces(text_column(["a"])), 1).close()
    assert len(table["a"]) == 0


def test_a_sample_that_comes_twice_is_refused(tmp_path: Path) -> None:
    writer = BoxTableWriter(TextPlaces(text_column(["a"])), 1)
    writer.add(part("a", 0, 2, 0.0))
    with pytest.raises(ValueError, match="boxes of sample a came twice"):
        writer.add(part("a", 0, 2, 0.0))
    writer.abort()
    assert not list(tmp_path.iterdir())
