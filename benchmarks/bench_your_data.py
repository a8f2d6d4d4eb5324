"""Runs docs/your-data.md at the quickstart's size, on a world without the annotations that people would not have.

``python -m benchmarks.bench_your_data FOLDER [DATAROOT] [key=value ...]`` makes the world (or uses a world of
``pdetr3d simulate`` in DATAROOT). It removes the annotations of all frames that have clicks in the quickstart from the
tables, and runs the page's commands in order; the pipeline also gets the given keys. An interrupted benchmark continues
with the same command. It writes FOLDER/your-data.json for ``tools/result_tables.py your-data FOLDER``: the run's report
and the quality of its pseudo labels, which is measured with the complete tables.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pdetr3d import presets
from pdetr3d.data.index.index import Index
from pdetr3d.data.index.nuscenes import build_index
from pdetr3d.data.label_manifest import build_manifest
from pdetr3d.finished.labels.measure import MeasuredLabels
from pdetr3d.finished.labels.run_labels import RunLabels
from pdetr3d.simulator.simulate import simulate
from pdetr3d.tracking.provenance import git_state
from tests.people_cases import of_role, without_annotations, write_clicks
from tests.tutorial import SPLITS, page_commands

ROOT = Path(__file__).resolve().parents[1]
# Keys of the pipeline without a GPU, from the page.
KEYS = [*(key for key in SPLITS if "select" not in key), "data.select_split=sim_select"]


def run(folder: Path, dataroot: Path | None = None, more: Sequence[str] = ()) -> dict[str, Any]:
    """Do the remaining work in ``folder``; returns the content of ``your-data.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = _world(folder, dataroot or folder / "simulated")
    times = folder / "seconds.json"
    seconds: dict[str, float] = json.loads(times.read_text()) if times.exists() else {}
    for words in page_commands(folder / "world"):
        name = words[2] if words[0] == "python" else words[1]
        if name == "label":  # there are two
            name = words[words.index("--out") + 1]
        if words[:2] == ["pdetr3d", "click"] or name in seconds:
            continue
        keys = [*KEYS, *more] if words[0] == "python" else []
        program = words[1:] if words[0] == "python" else ["-m", "ray_jobs.commands", *words[1:]]
        print("\n$", *words, *keys, flush=True)
        began = time.monotonic()
        path = {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        subprocess.run([sys.executable, *program, *keys], cwd=folder, env={**os.environ, **path}, check=True)
        seconds[name] = time.monotonic() - began
        times.write_text(json.dumps(seconds))
    labels = RunLabels.open(folder / "runs" / "mine")
    told = MeasuredLabels(labels).report()
    truth = MeasuredLabels(dataclasses.replace(labels, index=whole)).report()
    report = json.loads((folder / "runs" / "mine" / "report.json").read_text())
    found = {
        "commit": git_state()["git.commit"],
        "keys": list(more),
        "seconds": seconds,
        "roles": labels.manifest.role_counts(),
        "report": report,
        "known_to_the_run": told,
        "known_to_the_whole_tables": truth,
    }
    (folder / "your-data.json").write_text(json.dumps(found, indent=1) + "\n")
    return found


def _world(folder: Path, dataroot: Path) -> Index:
    """The whole world's index. Missing parts are made: the world, its tables as people have them, their clicks."""
    config = presets.load("quickstart")
    if not (folder / "clicks.csv").exists():
        simulate(dataroot, config.sim)
        index = Index.open(build_index(dataroot, config.data.version, folder / "whole.arrow"))
        drawn = build_manifest(index, config.data.train_split, config.label, folder / "drawn")
        if not (folder / "world").exists():
            without_annotations(dataroot, folder / "world", of_role(drawn, "point"))
        names = {index.value(token, "scene_name") for token in of_role(drawn, "box")}
        (folder / "boxed.txt").write_text("\n".join(sorted(names)))
        write_clicks(index, drawn, folder / "clicks.csv")
    return Index.open(folder / "whole.arrow")


if __name__ == "__main__":
    places = [Path(word).resolve() for word in sys.argv[1:] if "=" not in word]
    run(places[0], *places[1:2], more=[word for word in sys.argv[1:] if "=" in word])
