"""What LiDAR and cameras show of objects by distance, in the box-labeled keyframes of a run (PDETR3D_RUN, default
runs/quickstart): the size of the question that fusion answers. Prints a table, and skips without a run."""

from __future__ import annotations

import pytest
from rich.console import Console
from rich.table import Table

from pdetr3d.config import Config
from pdetr3d.data.index import Index
from pdetr3d.data.label_manifest import training_records
from pdetr3d.data.load import load_sample
from pdetr3d.data.manifest import LabelManifest
from pdetr3d.evaluation.visibility import visibility
from pdetr3d.training import checkpoint
from tests.benchmarks.bench_loaders import RUN


def test_print_visibility() -> None:
    """One table."""
    files = sorted((RUN / "teacher").glob("step_*.pt"))
    if not files:
        pytest.skip(f"{RUN} holds no trained teacher: run `make quickstart`, or set PDETR3D_RUN")
    config = Config.from_json(checkpoint.load(files[-1])["config"])
    records = training_records(Index.open(RUN / "data" / "index.arrow"), LabelManifest.open(RUN / "data" / "manifest"))
    boxed = [records[i] for i in range(len(records)) if records[i].role == "box"]
    width, height = config.data.image_size_px
    found = visibility((load_sample(record, config.data, cameras=False) for record in boxed), (width, height))
    table = Table("m", *found.columns, title=f"{len(boxed)} keyframes, images of {width} x {height}")
    for name, row in found.iterrows():
        table.add_row(str(name), f"{row.objects:.0f}", *(f"{value:.2f}" for value in row.iloc[1:]))
    Console(width=100).print(table)
    assert found.objects.sum() > 0
