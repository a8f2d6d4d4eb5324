"""Measures the overhead of a search: eight trials in a row, against the same eight trainings without a search.

Teachers are trained on the quickstart's world for EPOCHS of its 14 passes; with shorter trainings, the overhead weighs
more. Both score the val split; trials also score the select split. Seconds are wall time
of whole commands. No time is asserted.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from rich.table import Table

from pdetr3d.presets import load
from pdetr3d.run_files import SEED
from pdetr3d.simulator.simulate import simulate
from ray_jobs.searches.space_files import load_space

TRIALS, EPOCHS = int(os.environ.get("PDETR3D_TRIALS", 8)), float(os.environ.get("PDETR3D_EPOCHS", 4))
SPACE = {
    "question": "Does a search cost more than its trials?",
    "trains": "teacher",
    "metric": "bev_iou",
    "seeds": list(range(TRIALS)),
    "settings": [f"teacher.optim.epochs={EPOCHS}"],
    "space": {"teacher.query_init": {"values": ["explicit"]}},
}


def seconds(folder: Path, words: Sequence[str]) -> float:
    """The wall time of ``python -m WORDS`` with an own folder for ``results/``."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", *words], check=True, cwd=folder, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


@pytest.mark.timeout(7200)
def test_print_overhead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Print the table."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    base = load("quickstart")
    simulate(tmp_path / "world", base.sim, base.data.version)
    file = tmp_path / "eight.yaml"
    file.write_text(yaml.safe_dump(SPACE))
    space, given = load_space(str(file)), ["--preset", "quickstart", f"data.dataroot={tmp_path / 'world'}"]
    alone = []
    for chosen in space.combinations():
        seeded = [f"run.seed={chosen[SEED]}", f"label.seed={chosen[SEED]}", "--run-dir", f"alone{chosen[SEED]}"]
        alone.append(seconds(tmp_path, ["ray_jobs.train_teacher", *given, *space.settings, *seeded]))
    search = seconds(tmp_path, ["ray_jobs.search", str(file), *given, "--concurrent", "1", "--run-dir", "search"])
    ended = [trial["status"] for trial in json.loads((tmp_path / "search" / "search.json").read_text())["trials"]]
    assert ended == ["finished"] * TRIALS
    table = Table("trials", "passes", "alone, sum", "search", "ratio", title="wall time, s")
    table.add_row(str(TRIALS), f"{EPOCHS:g}", f"{sum(alone):.0f}", f"{search:.0f}", f"{search / sum(alone):.2f}")
    Console(width=100).print(table)
