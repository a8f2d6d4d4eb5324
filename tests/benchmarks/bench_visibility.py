"""Measures by distance what LiDAR and cameras see of objects, in box-labeled keyframes of a run (PDETR3D_RUN, default
runs/quickstart), which shows how much fusion can gain. It prints a table, and skips without a run."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from pdetr3d.data.loading.load import load_sample
from pdetr3d.evaluation.visibility import visibility
from tests.benchmarks.bench_loaders import run_data


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
