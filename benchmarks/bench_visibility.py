"""Measures objects' visibility in LiDAR and cameras by distance, which shows how much fusion can gain.

The objects are those of box-labeled keyframes of a run (PDETR3D_RUN, default runs/quickstart). The benchmark prints a
table; without a run it skips.
"""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from benchmarks.bench_loaders import run_data
from pdetr3d.data.loading.load import load_sample
from pdetr3d.evaluation.visibility import visibility


def test_print_visibility() -> None:
    """Print the table."""
    config, records = run_data()
    boxed = [record for record in records if record.role == "box"]
    width, height = config.data.image_size_px
    found = visibility((load_sample(record, config.data, cameras=False) for record in boxed), (width, height))
    table = Table("m", *found.columns, title=f"{len(boxed)} keyframes, images of {width} x {height}")
    for name, row in found.iterrows():
        table.add_row(str(name), f"{row.objects:.0f}", *(f"{value:.2f}" for value in row.iloc[1:]))
    Console(width=100).print(table)
    assert found.objects.sum() > 0
