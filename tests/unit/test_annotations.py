"""Columns of annotations as flat arrays, which annotations are kept, and boxes within a range; values by hand."""

import numpy as np
import pyarrow as pa
import pytest

from pdetr3d.data.index.annotations import LIDAR, RADAR, flat, kept, row_of
from pdetr3d.data.index.rows import INDEX_SCHEMA
from pdetr3d.geometry.boxes import in_range


@pytest.fixture
def table() -> pa.Table:
    """Rows with 2, 0 and 1 annotations, in two chunks, of which the second begins within its buffers."""
    columns = {
        "ann_label": [[4, 0], [], [9]],
        "ann_box": [[[1, 2, 3, 4, 5, 6, 7], [8, 9, 10, 11, 12, 13, 14]], [], [[15, 16, 17, 18, 19, 20, 21]]],
        LIDAR: [[0, 0], [], [2]],
        RADAR: [[0, 1], [], [0]],
    }
    whole = pa.table(columns, schema=pa.schema([INDEX_SCHEMA.field(name) for name in columns]))
    return pa.concat_tables([whole.slice(0, 1), whole.slice(1)])


def test_columns_are_flattened_in_the_order_of_rows(table: pa.Table) -> None:
    assert flat(table, "ann_label").tolist() == [4, 0, 9] and row_of(table).tolist() == [0, 0, 2]
    assert flat(table, "ann_box").tolist() == np.arange(1.0, 22).reshape(3, 7).tolist()
    assert flat(table.slice(1, 1), "ann_box").shape == (0, 7)


def test_one_lidar_or_radar_point_is_enough_to_be_kept(table: pa.Table) -> None:
    assert kept(table).tolist() == [False, True, True] and kept(table.slice(1)).tolist() == [True]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_range_has_its_faces(dtype: type) -> None:
    """51.2 is no number of float32, so that a bound of float64 would leave out a point on the face."""
    points = np.array([[51.2, 0, 0, 9], [-51.2, -51.2, -5, 9], [51.3, 0, 0, 0], [0, 0, -5.1, 0], [0, 0, 3, 0]], dtype)
    assert in_range(points, (-51.2, -51.2, -5, 51.2, 51.2, 3)).tolist() == [True, True, False, False, True]
