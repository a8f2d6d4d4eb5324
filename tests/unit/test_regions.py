"""Tests of regions: valid places by hand and by a plain loop, the file beside the tables, and its errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pdetr3d.data.index.regions import FILE, REGIONS_SCHEMA, disks, read_regions, write_regions
from pdetr3d.data.labels.manifest import IGNORE_SCHEMA
from pdetr3d.geometry.regions import EVERYWHERE, Regions, disk
from pdetr3d.schema import DataError

# A sector in front of the sensor: x right, y forward, 90 degrees wide, 10 m far at its sides.
SECTOR = np.array([[0.0, 0.0], [10.0, 10.0], [-10.0, 10.0]])
SQUARE = np.array([[1.0, 5.0], [3.0, 5.0], [3.0, 7.0], [1.0, 7.0]])


def inside_by_loop(x: float, y: float, corners: np.ndarray) -> bool:
    """The even-odd rule, edge by edge."""
    inside = False
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, 0), strict=True):
        if (y0 > y) != (y1 > y) and x < x0 + (y - y0) / (y1 - y0) * (x1 - x0):
            inside = not inside
    return inside


def test_places_of_a_sector_and_a_square() -> None:
    regions = Regions((SECTOR,), (SQUARE,))
    places = np.array([[0, 5], [2, 6], [6, 5], [0, -1], [0, 11]])  # in front; in the square; beside; behind; too far
    assert regions.valid_at(places).tolist() == [True, True, False, False, False]
    assert regions.ignored_at(places).tolist() == [False, True, False, False, False]
    assert regions.known_at(places).tolist() == [True, False, False, False, False]


def test_places_equal_the_loop() -> None:
    rng = np.random.default_rng(0)
    star = np.array(
        [(r * np.cos(a), r * np.sin(a)) for r, a in zip(rng.uniform(2, 9, 11), np.arange(11) * 0.57, strict=True)]
    )
    places = rng.uniform(-10, 10, (40, 50, 2))
    found = Regions((star, SQUARE + 4)).valid_at(places)
    assert found.shape == (40, 50) and 100 < found.sum() < 1900
    expected = [[any(inside_by_loop(x, y, c) for c in (star, SQUARE + 4)) for x, y in row] for row in places]
    assert found.tolist() == expected


def test_without_regions_every_place_counts_and_nothing_is_valid_nowhere() -> None:
    places = np.zeros((3, 3))
    assert not EVERYWHERE and EVERYWHERE.known_at(places).all()
    assert Regions(()) and not Regions(()).valid_at(places).any()


def test_regions_move_with_the_points() -> None:
    """A place is valid before augmentation (turn by 90 degrees, mirror, scale) if and only if it is valid after it."""
    matrix = np.diag([2.0, 2.0, 2.0, 1.0]) @ np.array([[0, -1.0, 0, 3], [-1, 0, 0, -4], [0, 0, 1, 5], [0, 0, 0, 1]])
    regions, places = Regions((SECTOR,), (SQUARE,)), np.random.default_rng(1).uniform(-8, 12, (200, 3))
    moved = regions.moved(matrix)
    there = places @ matrix[:3, :3].T + matrix[:3, 3]
    assert (moved.valid_at(there) == regions.valid_at(places)).all()
    assert (moved.ignored_at(there) == regions.ignored_at(places)).all()


def test_disks_of_people_s_not_sure() -> None:
    rows = [{"sample_token": "a", "x": 4.0, "y": -2.0, "z": 1.0, "radius_m": 2.0}]
    found = disks(pa.Table.from_pylist(rows, schema=IGNORE_SCHEMA))
    ignore = EVERYWHERE.joined(found["a"])
    assert ignore.ignored_at(np.array([[5.98, -2.0], [4.0, -3.98], [6.02, -2.0]])).tolist() == [True, True, False]
    assert np.hypot(*(disk(np.zeros(2), 3.0).T)) == pytest.approx(3.0)


def test_written_and_read_again(tmp_path: Path) -> None:
    given = {"a": Regions((SECTOR,), (SQUARE,)), "b": Regions(None, (SQUARE,)), "c": Regions(())}
    write_regions(tmp_path, given)
    found = read_regions(tmp_path, {"a", "b", "c", "d"})
    assert list(found) == ["a", "b", "c"]
    assert (found["a"].valid[0] == SECTOR).all() and (found["a"].ignore[0] == SQUARE).all()  # type: ignore[index]
    assert found["b"].valid is None and found["c"].valid == () and found["c"].ignore == ()
    assert read_regions(tmp_path / "none") == {}


def test_bad_rows_are_named_together(tmp_path: Path) -> None:
    rows = [
        {"sample_token": "a", "valid": [[[0, 0], [1, 1]]], "ignore": []},
        {"sample_token": "b", "valid": None, "ignore": [[[0, 0], [1, 1], [1, 0], [0, 1]]]},
        {"sample_token": "c", "valid": None, "ignore": [[[0, 0], [1, np.nan], [1, 0]]]},
        {"sample_token": "d", "valid": None, "ignore": None},
        {"sample_token": "d", "valid": None, "ignore": None},
        {"sample_token": "x", "valid": None, "ignore": None},
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=REGIONS_SCHEMA), tmp_path / FILE)
    with pytest.raises(DataError) as caught:
        read_regions(tmp_path, {"a", "b", "c", "d"})
    text = str(caught.value)
    assert str(tmp_path / FILE) in text
    for line in (
        "row 0, sample_token 'a': valid polygon 0 has shape (2, 2)",
        "row 1, sample_token 'b': ignore polygon 0 has sides that cross",
        "row 2, sample_token 'c': ignore polygon 0 has a corner that is not finite",
        "row 4, sample_token 'd': has a row already",
        "row 5, sample_token 'x': is no sample of this dataset",
    ):
        assert line in text, line
    assert "row 3" not in text


def test_another_file_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"sample_token": ["a"]}), tmp_path / FILE)
    with pytest.raises(DataError, match="valid"):
        read_regions(tmp_path)
