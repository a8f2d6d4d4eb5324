"""Tests of row access and digests against Python lists, on tables with chunks of two or three rows."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pdetr3d.data.storage import files
from pdetr3d.data.storage.files import open_arrow, table_digest, write_arrow
from pdetr3d.data.storage.row_table import RowTable, TextPlaces, places, text_column
from pdetr3d.schema import DataError

SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("number", pa.int64()),
        ("matrix", pa.list_(pa.float64(), 16)),
        ("texts", pa.list_(pa.string())),
        ("pairs", pa.list_(pa.list_(pa.float64(), 2))),
    ]
)
ROWS = [
    {
        "name": f"row {i}",
        "number": i * i,
        "matrix": list(range(i, i + 16)),
        "texts": [None if j == 1 else f"{i}.{j}" for j in range(i % 4)],
        "pairs": [[i + j, -j] for j in range((2 * i) % 5)],
    }
    for i in range(8)
]


@pytest.fixture(params=[2, 3, 100])
def chunked(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RowTable:
    monkeypatch.setattr(files, "CHUNK_ROWS", request.param)
    write_arrow(tmp_path / "table.arrow", pa.Table.from_pylist(ROWS, schema=SCHEMA))
    table = RowTable(open_arrow(tmp_path / "table.arrow", SCHEMA))
    assert table.table.column("name").num_chunks == -(-8 // request.param)
    return table


def check_row(table: RowTable, row: int, expected: dict) -> None:
    assert (table.value("name", row), table.value("number", row)) == (expected["name"], expected["number"])
    np.testing.assert_array_equal(table.matrix("matrix", row), np.reshape(expected["matrix"], (4, 4)))
    assert table.items("texts", row).tolist() == expected["texts"]
    np.testing.assert_array_equal(table.items("pairs", row), np.reshape(expected["pairs"], (-1, 2)))


def test_every_row(chunked: RowTable) -> None:
    assert len(chunked) == 8
    for row in (5, 0, 7, 1, 6, 2, 4, 3, 5):
        check_row(chunked, row, ROWS[row])


def test_spans_may_cross_chunks(chunked: RowTable) -> None:
    for begin in range(8):
        for end in range(begin + 1, 9):
            found = chunked.span(("number", "name"), begin, end).to_pylist()
            assert found == [{"number": row["number"], "name": row["name"]} for row in ROWS[begin:end]]


@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4, 5, 6, 7], [1, 4, 6], [7], []])
def test_taken_rows_are_a_copy_that_travels(chunked: RowTable, rows: list[int]) -> None:
    taken = pickle.loads(pickle.dumps(chunked.take(np.array(rows, np.int64), SCHEMA.names)))
    assert len(taken) == len(rows)
    for place, row in enumerate(rows):
        check_row(taken, place, ROWS[row])


def test_a_file_is_mapped_not_read(tmp_path: Path) -> None:
    write_arrow(tmp_path / "table.arrow", pa.table({"number": np.arange(1_000_000)}))
    before = pa.total_allocated_bytes()
    table = RowTable(open_arrow(tmp_path / "table.arrow", pa.schema([("number", pa.int64())])))
    assert table.value("number", 777_777) == 777_777
    assert pa.total_allocated_bytes() - before < 10_000  # of eight million


def test_a_damaged_or_foreign_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "table.arrow"
    with pytest.raises(DataError, match="no such file"):
        open_arrow(file, SCHEMA)
    write_arrow(file, pa.Table.from_pylist(ROWS, schema=SCHEMA))
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"table\.arrow: no Arrow file"):
        open_arrow(file, SCHEMA)
    write_arrow(file, pa.table({"name": ["a"]}))
    with pytest.raises(DataError, match="columns name: string instead of name: string, number: int64, "):
        open_arrow(file, SCHEMA)


def test_digests_are_of_the_content_whatever_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "CHUNK_ROWS", 3)
    whole = pa.Table.from_pylist(ROWS, schema=SCHEMA)
    parts = pa.concat_tables([whole.slice(0, 1), whole.slice(1, 5), whole.slice(6)])
    assert table_digest(whole) == table_digest(parts) == table_digest(whole.replace_schema_metadata({"a": "b"}))
    changed = pa.Table.from_pylist([*ROWS[:-1], ROWS[-1] | {"texts": ["x"]}], schema=SCHEMA)
    assert len({table_digest(t) for t in (whole, changed, whole.slice(1), whole.take([1, 0, 2, 3, 4, 5, 6, 7]))}) == 4


def test_places() -> None:
    among = pa.chunked_array([["b", "a"], ["d"]])
    assert places(pa.chunked_array([["d", "x"], ["a", None, "b"]]), among).tolist() == [2, -1, 1, -1, 0]
    assert places(pa.chunked_array([[]], pa.string()), among).tolist() == []


@pytest.mark.parametrize("size", [1, 2, 100])
def test_places_of_texts_are_those_of_a_dict(size: int) -> None:
    """The texts include some whose order differs between UTF-16 and UTF-8."""
    texts = ["b", "", "a-10", "a-9", "\U0001f697", "\uffee", "ä", "a"]
    column = pa.chunked_array([texts[i : i + size] for i in range(0, len(texts), size)])
    found, expected = TextPlaces(column), {text: place for place, text in enumerate(texts)}
    assert dict(found) == expected and list(found) == texts and len(found) == 8
    assert all(text not in found for text in ("A", "a-1", "c", "\U0001f698"))
    assert found.get("a-99") is None and not len(found.repeated())


def test_texts_that_come_again() -> None:
    assert TextPlaces(text_column(["b", "a", "b", "c", "a", "b"])).repeated().to_pylist() == ["a", "b", "b"]
    assert TextPlaces(text_column([])).repeated().to_pylist() == [] and "a" not in TextPlaces(text_column([]))
