"""The verb ``score``, which scores results files of any detector."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pdetr3d.cli.app import app, say
from pdetr3d.cli.dataset import IndexFile
from pdetr3d.evaluation.figures import SCORES
from pdetr3d.words import number

HEAD = (*SCORES, "mAVE", "mAAE")
COLUMNS = ("AP", "ATE", "ASE", "AOE", "AVE", "AAE", "n_gt")


@app.command()
def score(
    results: Annotated[Path, typer.Argument(help="nuScenes results file of any detector.", metavar="RESULTS.json")],
    index_file: IndexFile,
    split: Annotated[str, typer.Option(help="Split whose samples are scored: all of them must be in the file.")],
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the whole score (by class, distance, group) to this file.")
    ] = None,
) -> None:
    """Score a nuScenes results file of any detector as jobs score their students: mAP, NDS and SPNDS, by class.

    Matching, filters and means are the devkit's (detection_cvpr_2019); regions
    of VERSION/regions.parquet count. Boxes are taken as they stand in the file,
    with their velocities and attributes. Samples of other splits are left out.

    Example: pdetr3d score results.json --index INDEX --split val
    """
    import json

    from pdetr3d.data.index.index import Index
    from pdetr3d.data.label_manifest import eval_records
    from pdetr3d.data.storage.files import atomic_path
    from pdetr3d.evaluation.foreign_results import odd_entries, read_entries
    from pdetr3d.evaluation.nuscenes_eval import load_tables, score_entries

    index = Index.open(index_file)
    records = eval_records(index, split)
    entries = read_entries(results, [record.sample_token for record in records], index.classes)
    poses = {record.sample_token: (record.lidar2ego, record.ego2global) for record in records}
    odd = odd_entries(results, entries, poses, index.classes)
    names, counted = index.facts.names, index.counted_points()
    nusc = load_tables(index.dataroot, index.version, names, counted, classes=index.classes)
    regions = {record.sample_token: record.regions for record in records if record.regions is not None}
    report = score_entries(nusc, split, entries, poses, regions, classes=index.classes)
    _show(report)
    for line in odd:
        say(warning=line)
    if json_file is not None:
        with atomic_path(json_file) as temporary:
            temporary.write_text(json.dumps(report, indent=1))
        say(json=json_file)


def _show(report: dict[str, Any]) -> None:
    """Print the means, and a row for each class."""
    from rich.console import Console
    from rich.table import Table

    say(**{name: number(report[name]) for name in HEAD}, objects=sum(report["n_gt"].values()))
    table = Table("class", box=None)
    for name in COLUMNS:
        table.add_column(name, justify="right")
    for name, row in report["per_class"].items():
        table.add_row(name, *(number(row[column]) for column in COLUMNS))
    Console().print(table)
