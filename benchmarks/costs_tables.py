"""Writes the tables of docs/results.md and docs/nuscenes.md from what ``benchmarks/costs.py`` measured."""

from __future__ import annotations

from typing import Any

from pdetr3d.finished.capacity.costs import Measurement
from pdetr3d.finished.capacity.model import Estimate, Resource, Work
from pdetr3d.finished.capacity.table import measured_line, plan_table
from pdetr3d.markdown import markdown_table


def _measured(found: dict[str, Any]) -> str:
    """The start of a sentence: command, commit and machine of the costs."""
    machine = found["plan"]["measured"]
    return f"`{found['command']}` at commit {found['commit'][:7]} on {machine['cores']} CPU cores ({machine['cpu']})"


def training_steps(found: dict[str, Any]) -> str:
    """The time of training steps by part, and their memory."""
    cases = [[part for part in case["parts_s"] if not part.startswith(" ")] for case in found["steps"]]
    names = dict.fromkeys(
        part for cut in (slice(-2), slice(-2, None)) for case in cases for part in case[cut]
    )  # sums last
    rows = []
    for case in found["steps"]:
        parts = [case["parts_s"].get(name) for name in names]
        cells = ["-" if seconds is None else f"{1000 * seconds:.0f}" for seconds in parts]
        what = f"`{case['preset']}` {case['stage']}, {case['amp']}, batch {case['batch']}"
        rows.append([what, *cells, f"{case['peak_bytes'] / 2**30:.1f}"])
    return "\n".join([f"{_measured(found)}:", "", *markdown_table(["ms", *names, "peak [GiB]"], rows)])


def loading(found: dict[str, Any]) -> str:
    """The samples/s of Ray Data, torch's DataLoader and plain reading."""
    ways = list(found["loaders"]["teacher"])
    names = {"bare": "files read and decoded, nothing else", "ray": "Ray Data"}
    rows = []
    for kind, rate in found["loaders"].items():
        best = max(rate[way] for way in ways if way.startswith("torch"))
        cells = [f"{rate[way]:.1f}" for way in ways]
        rows.append([kind, *cells, f"{rate['ray'] / best:.2f}", f"{rate['ray'] / rate['bare']:.2f}"])
    header = [names.get(way, f"{way} processes") for way in ways]
    compared = ["Ray Data / best torch", "Ray Data / reading alone"]
    return "\n".join([f"{_measured(found)}:", "", *markdown_table(["samples/s", *header, *compared], rows)])


def capacity(found: dict[str, Any]) -> str:
    """The plan of a training on 8 GPUs, as ``pdetr3d plan`` prints it."""
    plan = {}
    for stage, one in found["plan"]["stages"].items():
        one["resources"] = {name: Resource(**values) for name, values in one["resources"].items()}
        one["work"] = Work(**one["work"])
        plan[stage] = Estimate(**{name: value for name, value in one.items() if name != "load"})
    columns = plan_table("", 8, plan).columns
    rows = [list(cells) for cells in zip(*(column.cells for column in columns), strict=True)]
    machine = measured_line(Measurement.model_validate(found["plan"]["measured"]))
    lines = markdown_table([str(column.header) for column in columns], rows)
    return "\n".join([f"{_measured(found)}; {machine}.", "", *lines])
