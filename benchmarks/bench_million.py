"""Measures time and memory until the first epoch of a dataset with a million keyframes is shuffled.

The index is replicated: it has the keyframes of the simulated world's train split under other tokens, with their
sweeps, cameras, annotations and clicks; KEYFRAMES of them (PDETR3D_KEYFRAMES), written as Arrow files (some gigabytes,
in a temporary folder). A process of its own opens them, makes the training records and the order of an epoch, and reads
RANDOM records. Prints a table, asserts no time.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pytest
from rich.console import Console
from rich.table import Table

from pdetr3d.class_list import NUSCENES_CLASSES
from pdetr3d.config import LabelConfig
from pdetr3d.data.index.index import FILE, LAYOUT, Index
from pdetr3d.data.label_manifest import build_manifest, training_records
from pdetr3d.data.labels.manifest import CLICKS_SCHEMA, SAMPLES_SCHEMA, VERIFIED_CLICKS, LabelManifest
from pdetr3d.data.loading.records import prior_size_m
from pdetr3d.data.storage.files import open_arrow, table_digest
from pdetr3d.training.plan import permutation

SELF = "benchmarks.bench_million"
KEYFRAMES, RATIO, RANDOM = int(os.environ.get("PDETR3D_KEYFRAMES", 1_000_000)), 0.05, 1_000
COPIES = 2_000  # of the template, in a chunk of the file


def replicate(template: pa.Table, keys: list[str], copies: range) -> pa.Table:
    """Repeat the table ``len(copies)`` times, with the number of the copy at the end of each key."""
    whole = pa.concat_tables([template] * len(copies)).combine_chunks()
    number = np.repeat(np.array([f"-{copy}" for copy in copies]), template.num_rows)
    for key in keys:
        place, column = whole.schema.get_field_index(key), whole[key].combine_chunks()
        if pa.types.is_list(column.type):
            lengths = np.diff(column.offsets.to_numpy())
            texts = pa.compute.binary_join_element_wise(column.flatten(), np.repeat(number, lengths), "")
            column = pa.ListArray.from_arrays(column.offsets, texts)
        else:
            column = pa.compute.binary_join_element_wise(column, number, "")
        whole = whole.set_column(place, template.schema.field(key), column)
    return whole


def with_roles(samples: pa.Table, boxed: int) -> pa.Table:
    """Make only the first ``boxed`` samples box-labeled."""
    whole = np.arange(samples.num_rows) < boxed
    return samples.set_column(3, "role", pa.array(np.where(whole, "box", "point")))


def write(index: Index, folder: Path, keyframes: int) -> None:
    """Write index and manifest of so many keyframes."""
    small = build_manifest(index, "sim_train", LabelConfig(ratio=RATIO), folder / "small")
    template = index.table.take(pa.array(index.rows("sim_train")))
    copies = -(-keyframes // template.num_rows)
    metadata = {"dataroot": str(index.dataroot), "version": index.version, "layout": LAYOUT, "digest": "replicated"}
    tables = {
        FILE: (template.replace_schema_metadata(metadata), ["sample_token", "scene_token", "ann_token"]),
        "samples.arrow": (small.samples, ["sample_token", "scene_token"]),
        "clicks.arrow": (small.clicks, ["click_id", "sample_token", "annotation_token"]),
    }
    rows, boxed = {}, round(RATIO * copies * template.num_rows)
    for name, (table, keys) in tables.items():
        rows[name] = table.num_rows * copies
        with pa.ipc.new_file(str(folder / name), table.schema) as writer:
            for begin in range(0, copies, COPIES):
                chunk = replicate(table, keys, range(begin, min(begin + COPIES, copies)))
                writer.write_table(
                    with_roles(chunk, boxed - begin * table.num_rows) if name == "samples.arrow" else chunk
                )
    info = json.loads((small.path / "manifest.json").read_text())
    info |= {"samples": rows["samples.arrow"], "clicks": rows["clicks.arrow"]}
    if rows["clicks.arrow"] <= VERIFIED_CLICKS:
        schemas = {"samples.arrow": SAMPLES_SCHEMA, "clicks.arrow": CLICKS_SCHEMA}
        info["digest"] = table_digest(*(open_arrow(folder / name, schema) for name, schema in schemas.items()))
    (folder / "manifest.json").write_text(json.dumps(info))


def opened(folder: Path) -> dict[str, float]:
    """Seconds and bytes of a training's work before its first batch."""
    idle = psutil.Process().memory_full_info().pss
    began = time.perf_counter()
    index, manifest = Index.open(folder / FILE), LabelManifest.open(folder)
    records = training_records(index, manifest)
    prior_size_m(records, classes=NUSCENES_CLASSES)
    found = {"open": time.perf_counter() - began}
    order = permutation(0, 0, "order", len(records))
    found["shuffle"] = time.perf_counter() - began - found["open"]
    memory = psutil.Process().memory_full_info()
    found |= {"pss": memory.pss, "more": memory.pss - idle}
    found["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    began = time.perf_counter()
    clicks = sum(len(records[int(place)].clicks) for place in order[:RANDOM])
    found["random record"] = (time.perf_counter() - began) / RANDOM
    found |= {"keyframes": len(records), "clicks": manifest.clicks.num_rows, "boxes": len(records.boxes)}
    assert clicks > 0 and records.boxed.mean() == pytest.approx(RATIO, rel=0.01)
    return found


@pytest.mark.timeout(1800)
def test_print_opening(sim_world: Path, tmp_path: Path) -> None:
    """Print the table."""
    from pdetr3d.data.index.nuscenes import build_index

    write(Index.open(build_index(sim_world, "v1.0-sim", tmp_path / "one.arrow")), tmp_path, KEYFRAMES)
    size = sum(file.stat().st_size for file in tmp_path.glob("*.arrow"))
    command = [sys.executable, "-m", SELF, str(tmp_path)]
    lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found = json.loads(lines.splitlines()[-1])
    table = Table("", "", title=f"{found['keyframes']:,} keyframes, {found['clicks']:,} clicks, {size / 1e9:.1f} GB")
    table.add_row("open index and manifest, training records, boxes' mean sizes", f"{found['open']:.2f} s")
    table.add_row("order of an epoch", f"{found['shuffle']:.2f} s")
    table.add_row("a random record", f"{1e6 * found['random record']:.0f} us")
    table.add_row("memory (PSS) then, and more than before", f"{found['pss'] / 1e9:.2f}, {found['more'] / 1e9:.2f} GB")
    table.add_row("peak until then, mapped pages of the files included", f"{found['peak'] / 1e9:.2f} GB")
    table.add_row("boxes of box-labeled samples", f"{found['boxes']:,}")
    Console(width=100).print(table)
    assert found["keyframes"] >= KEYFRAMES


if __name__ == "__main__":
    print(json.dumps(opened(Path(sys.argv[1]))))
