"""The plan's arithmetic: what the GPUs ask for at their own pace, against what there is; the scarcest sets the pace.

Everything overlaps but the writing of checkpoints, for which training waits. Samples are read anew from the shared
storage in every pass, loaded on any GPU node, and as often on another one than that of their worker as nodes are there.
"""

from __future__ import annotations

from dataclasses import dataclass

from pdetr3d.config import Config
from pdetr3d.finished.capacity.costs import Cluster, Measurement, StageCost
from pdetr3d.schema import DataError
from pdetr3d.training.flow import PREDICT_BATCH, PREFETCH, TASK_BATCHES, steps_per_task, stream_bytes
from pdetr3d.training.plan import milestones, total_steps

GIGA = 1e9
GPU, CPU, STORAGE, NETWORK, STREAM = "GPU compute", "CPU loading", "storage reads", "network", "stream limit"
STORE, HEAD, CHECKPOINTS = "object store", "head's object store", "checkpoint writes"
PACES = (GPU, CPU, STORAGE, NETWORK, STREAM)  # what may slow down; the others do not fit, or make training wait
MOST_GPUS, SAMPLES = 512, (1_000_000, 10_000_000, 100_000_000)  # of the sweep


@dataclass(frozen=True)
class Work:
    """What a stage has to do: ``records`` different samples, ``delivered`` in all, ``local_batch`` of them a step and
    GPU, ``steps``, ``checkpoints`` kept, ``saves``: how often one is written, to be kept or to continue from."""

    records: int
    delivered: int
    local_batch: int
    steps: int
    checkpoints: int
    saves: int


@dataclass(frozen=True)
class Resource:
    """What the GPUs need at their own pace and what there is of it, both in ``unit``."""

    needs: float
    has: float
    unit: str

    @property
    def load(self) -> float:
        """needs / has: above 1 it is too little."""
        return self.needs / self.has


@dataclass(frozen=True)
class Estimate:
    """Of one stage.

    Attributes:
        gpu_samples_per_s: of one GPU that waits for nothing. samples_per_s: of all, at the pace of the scarcest.
        resources: by name. bottlenecks: those names, the scarcest first. hours: checkpoints included.
        cores_per_gpu: that load samples as fast as a GPU takes them. allreduce_bytes: through each node, a step.
        spill_gb: of a GPU node, and of the driver's. checkpoint_gb: of all that are kept.
    """

    work: Work
    gpu_samples_per_s: float
    samples_per_s: float
    hours: float
    resources: dict[str, Resource]
    bottlenecks: list[str]
    cores_per_gpu: float
    allreduce_bytes: float
    spill_gb: float
    head_spill_gb: float
    checkpoint_gb: float


def work_of(stage: str, config: Config, samples: int, gpus: int) -> Work:
    """The work on a train split of ``samples``. A GPU's share of a batch stays the config's: batches grow with GPUs."""
    boxed = max(1, round(config.label.ratio * samples))
    if stage == "pseudo_labels":
        records = max(1, samples - boxed if config.label.pseudo_for == "point" else samples)
        return Work(records, records, PREDICT_BATCH, -(-records // (PREDICT_BATCH * gpus)), 0, 0)
    optim, records = (config.teacher.optim, boxed) if stage == "teacher" else (config.optim, samples)
    local = optim.batch_size // config.scaling.most_workers
    steps = total_steps(optim.epochs, records, local * gpus)
    kept = set(milestones(optim, steps))
    between = set(range(optim.save_every, steps, optim.save_every)) if optim.save_every else set()
    return Work(records, steps * local * gpus, local, steps, len(kept), len(kept | between))


def gpu_pace(cost: StageCost, cluster: Cluster) -> float:
    """Samples/s of a GPU: tflops * 1e12 * mfu / FLOPs of a sample."""
    return cluster.tflops * 1e12 * cluster.mfu / cost.flops


def allreduce_bytes(gpus: int, gradient_bytes: float) -> float:
    """What a ring all-reduce sends from (and to) each of its members: 2 (n - 1) / n times the payload.

    A ring that visits the GPUs of a node one after the other passes through the node's link once.
    """
    return 2 * (gpus - 1) / gpus * gradient_bytes


def network_bytes(cost: StageCost, work: Work, cluster: Cluster) -> float:
    """Bytes that come in through one node's link for each sample that the whole cluster trains on.

    With n nodes: 1/n of its files; 1/n of its batch, (n - 1)/n of the time from another node; and the step's
    all-reduce, of which a sample is one in gpus * local_batch. Within one node gradients take other ways.
    """
    n = cluster.nodes
    samples = (cost.disk_bytes + cost.batch_bytes * (n - 1) / n) / n
    gradients = allreduce_bytes(cluster.gpus, cost.gradient_bytes) if n > 1 else 0.0
    return samples + gradients / (cluster.gpus * work.local_batch)


def loading_cores(config: Config, cluster: Cluster) -> float:
    """Cores of all GPU nodes that training workers leave (``scaling.cpus_per_worker`` each).

    Raises:
        DataError: when they leave none.
    """
    left = cluster.nodes * cluster.cores_per_node - cluster.gpus * config.scaling.cpus_per_worker
    if left <= 0:
        raise DataError(
            f"--cores-per-node {cluster.cores_per_node:g}: {cluster.gpus} workers of scaling.cpus_per_worker "
            f"{config.scaling.cpus_per_worker:g} leave none of {cluster.nodes} nodes' cores to load samples; name "
            "nodes with more, or lower scaling.cpus_per_worker"
        )
    return left


def stream_tasks(gpus: int, batch_bytes: float) -> float:
    """Loading tasks that a training stage's stream lets work at once: ``stream_bytes`` / (TASK_BATCHES * a batch's)."""
    return max(1.0, stream_bytes(gpus, batch_bytes) / (TASK_BATCHES * batch_bytes))


def estimate(
    stage: str, cost: StageCost, config: Config, cluster: Cluster, samples: int, gpu_samples_per_s: float | None = None
) -> Estimate:
    """The stage on the cluster. ``gpu_samples_per_s``: as measured; None: ``gpu_pace``."""
    work, cpu_s = work_of(stage, config, samples, cluster.gpus), sum(cost.cpu_s.values())
    pace = gpu_samples_per_s or gpu_pace(cost, cluster)
    whole = pace * cluster.gpus
    cores = loading_cores(config, cluster)
    batch = work.local_batch * cost.batch_bytes
    on_node = min(cluster.gpus, cluster.gpus_per_node)
    block = batch * steps_per_task(int(batch), cluster.gpus, cores / config.scaling.data_cpus)
    ahead = on_node * (PREFETCH + 1) * block  # one that is trained on, the others wait
    compute_s = work.delivered / whole
    write_s = work.saves * (cost.checkpoint_s + cost.checkpoint_bytes / (cluster.storage_gb_s * GIGA))
    resources = {
        GPU: Resource(whole, whole, "samples/s"),
        CPU: Resource(whole * cpu_s, cores, "cores"),
        STORAGE: Resource(whole * cost.disk_bytes / GIGA, cluster.storage_gb_s, "GB/s"),
        NETWORK: Resource(
            whole * network_bytes(cost, work, cluster) * 8 / GIGA, cluster.network_gbit_s, "Gbit/s a node"
        ),
        STREAM: Resource(whole * cpu_s, stream_tasks(cluster.gpus, batch), "tasks at once"),
        STORE: Resource((ahead + stream_bytes(on_node, batch)) / GIGA, cluster.object_store_gb, "GB a node"),
        HEAD: Resource(work.records * cost.record_bytes / GIGA, cluster.head_object_store_gb, "GB"),
        CHECKPOINTS: Resource(write_s / 3600, compute_s / 3600, "h"),
    }
    if stage == "pseudo_labels":
        del resources[STREAM], resources[CHECKPOINTS]  # no limit is set there, nothing is written
    slowest = max(resources[name].load for name in PACES if name in resources)
    store, head = resources[STORE], resources[HEAD]
    return Estimate(
        work=work,
        gpu_samples_per_s=pace,
        samples_per_s=whole / slowest,
        hours=(compute_s * slowest + write_s) / 3600,
        resources=resources,
        bottlenecks=sorted(resources, key=lambda name: -resources[name].load),
        cores_per_gpu=pace * cpu_s,
        allreduce_bytes=allreduce_bytes(cluster.gpus, cost.gradient_bytes),
        spill_gb=max(0.0, store.needs - store.has),
        head_spill_gb=max(0.0, head.needs - head.has),
        checkpoint_gb=work.checkpoints * cost.checkpoint_bytes / GIGA,
    )


def plan(
    measured: Measurement, config: Config, cluster: Cluster, samples: int, rates: dict[str, float]
) -> dict[str, Estimate]:
    """Every stage's ``estimate``. ``rates``: measured samples/s of a GPU by stage; that of pseudo_labels follows from
    the teacher's by their FLOPs."""
    costs, rates = measured.stages, dict(rates)
    if "teacher" in rates:
        rates["pseudo_labels"] = rates["teacher"] * costs["teacher"].flops / costs["pseudo_labels"].flops
    return {stage: estimate(stage, cost, config, cluster, samples, rates.get(stage)) for stage, cost in costs.items()}


def sweep(
    measured: Measurement, config: Config, cluster: Cluster, samples: int, rates: dict[str, float]
) -> dict[int, dict[int, dict[str, Estimate]]]:
    """GPUs (doubled up to MOST_GPUS) -> samples (as given, and larger ones of SAMPLES) -> ``plan``."""
    gpus = [cluster.gpus]
    while 2 * gpus[-1] <= MOST_GPUS:
        gpus.append(2 * gpus[-1])
    sizes = [samples, *(more for more in SAMPLES if more > samples)]
    larger = {count: cluster.model_copy(update={"gpus": count}) for count in gpus}
    return {count: {size: plan(measured, config, larger[count], size, rates) for size in sizes} for count in gpus}
