"""Checks that the tables in documents are exactly those that tools/result_tables.py makes from results/*.json."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

import pytest

from tools.student_tables import headline_ratios

ROOT = Path(__file__).resolve().parents[2]
TOOL = runpy.run_path(str(ROOT / "tools" / "result_tables.py"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES.remove(ROOT / "docs" / "configuration.md")  # made from the config (tests/contract/test_docs.py)
FIGURE = r"[<±\d.,% /-]*\d[±\d.,% /<*-]*(?: (?:ms|s|min|h|GiB|MiB|GB))?"


def typed_measurements(text: str) -> list[str]:
    """Lines outside of generated blocks that look measured: a table row with two figures, or the name of a commit."""
    typed = re.sub(r"<!-- ([\w-]+): begin.*?<!-- \1: end -->", "", text, flags=re.DOTALL)
    found = []
    for line in typed.splitlines():
        cells = [cell.strip() for cell in line.strip("| ").split("|")] if line.startswith("|") else []
        if sum(bool(re.fullmatch(FIGURE, cell)) for cell in cells) > 1 or re.search(r"commit [0-9a-f]{7}", line):
            found.append(line)
    return found


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_nobody_types_a_measurement(path: Path) -> None:
    assert typed_measurements(path.read_text()) == [], "let tools/result_tables.py write it from a file in results/"


def test_typed_measurements_are_seen() -> None:
    rows = [
        "| student | 68 | 700 |",
        "| pillar, bf16 | - | 1.5 / 32 < | 2.9 min |",
        "loading takes 40 ms (commit 98e49d1)",
    ]
    words = ["| ms | step | peak |", "|---|---|---|", "| 2 | The input is wrong. |", "| 1 `index` | keyframes | 3 |"]
    block = ["<!-- a-b: begin (a tool) -->", "| student | 68 | 700 |", "<!-- a-b: end -->"]
    assert typed_measurements("\n".join([*rows, *words, *block])) == rows


@pytest.mark.parametrize("path", sorted(set(TOOL["DOCUMENTS"].values())), ids=lambda path: path.name)
def test_a_document_says_what_the_json_says(path: Path) -> None:
    assert path.read_text() == TOOL["documents"]()[path], "run python -m tools.result_tables"


def test_the_picture_of_the_teachers_on_kitti_shows_those_of_the_json() -> None:
    drawn = TOOL["PICTURE"].read_text()
    search = json.loads(TOOL["FILES"]["kitti-clicks"].read_text())
    assert all(f"<!-- {name} -->" in drawn for name in search["space"]["variants"])
    assert re.sub(r"[\d.-]+", "", drawn) == re.sub(r"[\d.-]+", "", TOOL["picture"](search).decode())  # CPUs round


def test_a_score_that_somebody_types_is_seen() -> None:
    full = json.loads((ROOT / "results" / "quickstart.json").read_text())["arms"]["full"]
    row = f"| (c) boxes everywhere | {full['mAP']:.3f} | {full['NDS']:.3f} | {full['SPNDS']:.3f} |"
    assert row in (ROOT / "README.md").read_text()


def test_ratios_are_those_of_ours_to_the_others() -> None:
    found = json.loads(TOOL["FILES"]["headline"].read_text())
    scores = {"boxes only": (0.25, 0.4), "ours": (0.5, 0.6), "boxes everywhere": (0.8, 0.75)}
    for trial in found["trials"]:
        trial["final"]["student"] |= dict(zip(("mAP", "SPNDS"), scores[trial["parameters"]["variant"]], strict=True))
    assert headline_ratios(found) == (
        "mAP and SPNDS of `ours` are 2.000 and 1.500 times those of `boxes only` and "
        "0.625 and 0.800 times those of `boxes everywhere`"
    )


def test_a_document_without_its_marks_is_refused() -> None:
    assert TOOL["put"]("a\n<!-- x: begin -->\nold\n<!-- x: end -->\nb\n", "x", "new") == (
        "a\n<!-- x: begin -->\nnew\n<!-- x: end -->\nb\n"
    )
    with pytest.raises(SystemExit, match="0 pairs of marks named x"):
        TOOL["put"]("nothing\n", "x", "new")


COSTS = {
    "command": "python -m benchmarks.costs costs.json",
    "commit": "0123456789",
    "steps": [
        {
            "preset": "nuscenes-pillar",
            "stage": "student",
            "amp": "bf16",
            "batch": 1,
            "parts_s": {"lidar": 0.048, "  nested": 0.01, "losses": 0.6, "step": 1.3384},
            "peak_bytes": 1.25 * 2**30,
        },
        {
            "preset": "nuscenes-pillar",
            "stage": "teacher",
            "amp": "bf16",
            "batch": 1,
            "parts_s": {"lidar": 0.034, "images": 11.209, "losses": 32.8, "step": 44.975},
            "peak_bytes": 2**30,
        },
    ],
    "loaders": {"teacher": {"bare": 80.0, "torch 1": 30.0, "torch 2": 20.0, "ray": 40.0}},
    "plan": {"measured": {"cores": 2, "cpu": "a CPU"}},
}


def test_the_tables_of_costs() -> None:
    head = "`python -m benchmarks.costs costs.json` at commit 0123456 on 2 CPU cores (a CPU):"
    assert TOOL["training_steps"](COSTS).splitlines() == [
        head,
        "",
        "| ms | lidar | images | losses | step | peak [GiB] |",
        "| --- | --- | --- | --- | --- | --- |",
        "| `nuscenes-pillar` student, bf16, batch 1 | 48 | - | 600 | 1338 | 1.2 |",
        "| `nuscenes-pillar` teacher, bf16, batch 1 | 34 | 11209 | 32800 | 44975 | 1.0 |",
    ]
    assert TOOL["loading"](COSTS).splitlines()[4] == "| teacher | 80.0 | 30.0 | 20.0 | 40.0 | 1.33 | 0.50 |"


def test_the_table_of_a_plan() -> None:
    """A plan that went through a JSON file has the rows that ``pdetr3d plan`` prints."""
    work = {"records": 8, "delivered": 8, "local_batch": 1, "steps": 1, "checkpoints": 1, "saves": 1}
    resources = {
        "GPU compute": {"needs": 4.0, "has": 4.0, "unit": "GPUs"},
        "CPU loading": {"needs": 3.0, "has": 2.0, "unit": "cores"},
    }
    numbers = dict.fromkeys(("allreduce_bytes", "spill_gb", "head_spill_gb", "checkpoint_gb"), 0.0)
    stage = {"work": work, "gpu_samples_per_s": 20.0, "samples_per_s": 10.0, "hours": 0.05, "resources": resources}
    stage |= {
        "bottlenecks": ["CPU loading", "GPU compute"],
        "cores_per_gpu": 1.5,
        **numbers,
        "load": {"CPU loading": 1.5},
    }
    machine = {"preset": "nuscenes-voxel", "depends_on": {}, "train_samples": 1, "measured_samples": 1, "sweeps": 10}
    machine |= {"stand_in_sweeps": 9, "cpu": "a CPU", "cores": 2, "load_average": 0, "stages": {}}
    lines = TOOL["capacity"](COSTS | {"plan": {"measured": machine, "stages": {"student": stage}}}).splitlines()
    assert "| CPU loading, cores | 3 / 2 < |" in lines
    assert "| time | 3 min |" in lines and "the keyframe was read again for 9 sweeps" in lines[0]
