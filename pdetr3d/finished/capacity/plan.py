"""Prints the capacity plan (``pdetr3d plan``) as tables: costs, the plan, plans for more GPUs; writes it as JSON."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from pdetr3d.config import Config
from pdetr3d.data.storage.files import write_json
from pdetr3d.finished.capacity import model
from pdetr3d.finished.capacity.costs import Cluster, Measurement, read_measurement
from pdetr3d.finished.capacity.table import (
    assumption_lines,
    cost_table,
    duration,
    measured_line,
    plan_table,
    scaling_table,
)
from pdetr3d.schema import DataError

WIDTH = 130  # of the tables, in characters


def costs(config: Config, measure: Path | None, measured: Path | None) -> Measurement:
    """Measure the costs and write them to the file ``measure``, or read them from the file ``measured``.

    Raises:
        DataError: when both or none of the files are given, and as ``measure.measure`` and ``read_measurement``.
    """
    if (measure is None) == (measured is None):
        raise DataError(
            "pdetr3d plan needs costs: --measure FILE data.dataroot=FOLDER measures them here and writes FILE, "
            "--measured FILE takes them from there; give one of the two"
        )
    if measured is not None:
        return read_measurement(measured, config)
    from pdetr3d.finished.capacity.measure import measure as measure_costs

    made = measure_costs(config)
    assert measure is not None
    write_json(measure, made.model_dump(mode="json"))
    Console(width=WIDTH).print(cost_table(made))
    return made


def print_plan(
    measured: Measurement,
    config: Config,
    cluster: Cluster,
    samples: int | None,
    rates: dict[str, float],
    json_file: Path | None,
) -> None:
    """Print the assumptions, the plan, and the plans for more GPUs and samples; write them to ``json_file``, too.

    Args:
        samples: of the train split; None: as many as in the measured dataset. rates: see ``model.plan``.

    Raises:
        DataError: as ``model.estimate``.
    """
    samples = samples or measured.train_samples
    plans = model.plans(measured, config, cluster, samples, rates)
    plan = plans[cluster.gpus][samples]
    lines = assumption_lines(config, cluster, samples, rates)
    console = Console(width=WIDTH)
    console.print(Text(measured_line(measured)), soft_wrap=True)
    for line in lines:
        console.print(Text("assumed", style="bold"), Text(line), soft_wrap=True)
    console.print(plan_table(config.preset, cluster.gpus, plan))
    arms = len(config.run.arms)
    hours = plan["teacher"].hours + plan["pseudo_labels"].hours + arms * plan["student"].hours
    console.print(Text(f"{duration(hours)} for all: teacher, pseudo labels, {arms} students (run.arms) one by one"))
    for stage in ("teacher", "student"):
        console.print(scaling_table(stage, plans))
    if json_file is not None:
        write_json(json_file, _document(measured, cluster, samples, rates, lines, plans) | {"hours": hours})


def _document(
    measured: Measurement,
    cluster: Cluster,
    samples: int,
    rates: dict[str, float],
    lines: list[str],
    plans: dict[int, dict[int, dict[str, model.Estimate]]],
) -> dict[str, Any]:
    """The JSON document. ``plans`` is a list of {gpus, samples, stages}; ``load`` is each resource's needs / has."""

    def stages(plan: dict[str, model.Estimate]) -> dict[str, Any]:
        loads = {stage: {name: r.load for name, r in one.resources.items()} for stage, one in plan.items()}
        return {stage: asdict(one) | {"load": loads[stage]} for stage, one in plan.items()}

    rows = [
        {"gpus": gpus, "samples": size, "stages": stages(plan)}
        for gpus, by_size in plans.items()
        for size, plan in by_size.items()
    ]
    inputs = {"cluster": cluster.model_dump(), "samples": samples, "samples_per_s": rates, "assumptions": lines}
    return {**inputs, "measured": measured.model_dump(mode="json"), "plans": rows}
