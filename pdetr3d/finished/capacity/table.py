"""Formats the capacity plan as text and tables: assumptions, costs, stages, and plans for more GPUs."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from pdetr3d.config import Config
from pdetr3d.finished.capacity.costs import Cluster, Measurement
from pdetr3d.finished.capacity.model import GPU, Estimate

Plan = dict[str, Estimate]


def assumption_lines(config: Config, cluster: Cluster, samples: int, rates: dict[str, float]) -> list[str]:
    """The lines that list all assumptions, i.e. all inputs that ``pdetr3d plan --measure`` did not measure."""
    local = [section.batch_size // config.scaling.most_workers for section in (config.teacher.optim, config.optim)]
    speeds = [f"{stage} {rate:.3g} samples/s a GPU, as given" for stage, rate in rates.items()]
    if len(rates) < 2:
        speeds.append(f"--tflops {cluster.tflops:g} at --mfu {cluster.mfu:g} where no samples/s are given")
    return [
        f"accelerator: {'; '.join(speeds)}",
        f"cluster: --gpus-per-node {cluster.gpus_per_node}, --cores-per-node {cluster.cores_per_node:g} (each as fast "
        f"as one here), --network-gbit-s {cluster.network_gbit_s:g}, --storage-gb-s {cluster.storage_gb_s:g} in all, "
        f"--object-store-gb {cluster.object_store_gb:g}, --head-object-store-gb {cluster.head_object_store_gb:g}",
        f"--samples {samples:,}, all like the measured ones; label.ratio {config.label.ratio:g}; epochs stay",
        f"a GPU's share of a batch stays (teacher {local[0]}, student {local[1]}): batches grow with the GPUs",
        "gradients back cost twice the forward pass; all overlaps but checkpoint writes; nothing is cached between "
        "passes",
        "not counted: starts of stages and streams, Ray's scheduling, validation, spilling of a full object store",
    ]


def measured_line(measured: Measurement) -> str:
    """The line that says on which samples and which machine the costs were measured."""
    m = measured
    text = (
        f"measured: {m.preset}, {m.measured_samples} sample(s) of {m.sweeps:g} sweeps on {m.cpu}, {m.cores} cores, "
        f"load {m.load_average:.1f}"
    )
    lacks = f"; the keyframe was read again for {m.stand_in_sweeps:g} sweeps that the dataset lacks"
    return text + (lacks if m.stand_in_sweeps else "")


def cost_table(measured: Measurement) -> Table:
    """The table of the measured costs, a column per stage."""
    table = Table("of one sample", *measured.stages, title=escape(f"measured costs, {measured.preset}"))
    costs = measured.stages.values()
    parts = list(dict.fromkeys(part for cost in costs for part in cost.cpu_s))
    for part in parts:
        table.add_row(f"CPU ms, {part}", *(f"{1000 * c.cpu_s[part]:.1f}" if part in c.cpu_s else "-" for c in costs))
    rows = {
        "MB read from storage": [c.disk_bytes / 1e6 for c in costs],
        "MB in the object store, and sent": [c.batch_bytes / 1e6 for c in costs],
        "kB of its record": [c.record_bytes / 1e3 for c in costs],
        "GFLOPs, all passes": [c.flops / 1e9 for c in costs],
        "million parameters": [c.parameters / 1e6 for c in costs],
        "MB all-reduced a step": [c.gradient_bytes / 1e6 for c in costs],
        "MB of a checkpoint": [c.checkpoint_bytes / 1e6 for c in costs],
    }
    for name, values in rows.items():
        table.add_row(name, *(f"{value:,.1f}" for value in values))
    return table


def plan_table(preset: str, gpus: int, plan: Plan) -> Table:
    """The table of a plan, a column per stage: needs and supply of each resource; "<" marks the scarcest."""
    table = Table("needed at the GPUs' pace / there is", *plan, title=escape(f"{preset}: {gpus} GPUs"))
    stages = list(plan.values())
    names = list(dict.fromkeys(name for stage in stages for name in stage.resources if name != GPU))
    for name in names:
        unit = next(stage.resources[name].unit for stage in stages if name in stage.resources)
        table.add_row(f"{name}, {unit}", *(_share(stage, name) for stage in stages), end_section=name == names[-1])
    rows = {
        "samples/s of a GPU that never waits": [f"{e.gpu_samples_per_s:.1f}" for e in stages],
        "cores to keep a GPU fed": [f"{e.cores_per_gpu:.2f}" for e in stages],
        "GB spilled: a GPU node, the head": [f"{e.spill_gb:.3g}, {e.head_spill_gb:.3g}" for e in stages],
        "GB of checkpoints": [f"{e.checkpoint_gb:.3g}" for e in stages],
        "steps": [f"{e.work.steps:,}" for e in stages],
        "first bottleneck": [e.bottlenecks[0] for e in stages],
        "then": [e.bottlenecks[1] for e in stages],
        "samples/s of all": [f"{e.samples_per_s:,.1f}" for e in stages],
        "time": [duration(e.hours) for e in stages],
    }
    for name, cells in rows.items():
        table.add_row(name, *cells)
    return table


def scaling_table(stage: str, plans: dict[int, dict[int, Plan]]) -> Table:
    """Time and first bottleneck of a stage: a row per number of GPUs, a column per number of samples."""
    sizes = [f"{size:,} samples" for size in next(iter(plans.values()))]
    table = Table("GPUs", *sizes, title=f"{stage}: time, first bottleneck (* an object store spills)")
    for gpus, row in plans.items():
        table.add_row(str(gpus), *(_outcome(plan[stage]) for plan in row.values()))
    return table


def _outcome(stage: Estimate) -> str:
    spills = " *" if stage.spill_gb or stage.head_spill_gb else ""
    return f"{duration(stage.hours)}: {stage.bottlenecks[0]}{spills}"


def duration(hours: float) -> str:
    """Hours in the unit that fits: s, min, h or days."""
    for unit, of_an_hour, below in (("s", 3600, 1 / 60), ("min", 60, 1), ("h", 1, 48)):
        if hours < below:
            return f"{_number(hours * of_an_hour)} {unit}"
    return f"{_number(hours / 24)} days"


def _share(stage: Estimate, name: str) -> str:
    if name not in stage.resources:
        return "-"
    resource = stage.resources[name]
    return f"{_number(resource.needs)} / {_number(resource.has)}{' <' if name == stage.bottlenecks[0] else ''}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
