"""Estimates the duration and bottleneck of each stage on a cluster, from measured costs.

For every resource the demand of GPUs that never wait is compared with the supply; the scarcest resource sets the pace.
Everything overlaps, except the writing of checkpoints, for which training waits. Samples are read from the shared
storage in every pass. They are loaded on any GPU node, so that with n nodes (n - 1) / n of them come from another node
than their worker's.
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
PACES = (GPU, CPU, STORAGE, NETWORK, STREAM)  # the resources that limit the pace; the others spill or add time
MOST_GPUS, SAMPLES = 512, (1_000_000, 10_000_000, 100_000_000)  # of the plans for larger clusters and datasets


@dataclass(frozen=True)
class Work:
    """The work of a stage.

    Attributes:
        records: number of different samples. delivered: number of samples over all passes.
        local_batch: samples per step and GPU. steps: number of steps.
        checkpoints: number of checkpoints that are kept.
        saves: number of checkpoints that are written, to be kept or to continue from.
    """

    records: int
    delivered: int
    local_batch: int
    steps: int
    checkpoints: int
    saves: int


@dataclass(frozen=True)
class Resource:
    """A resource's demand of GPUs that never wait (``needs``) and its supply (``has``), both in ``unit``."""

    needs: float
    has: float
    unit: str

    @property
    def load(self) -> float:
        """needs / has: above 1 the supply does not suffice."""
        return self.needs / self.has


@dataclass(frozen=True)
class Estimate:
    """The estimate of one stage.

    Attributes:
        work: of the stage.
        gpu_samples_per_s: of one GPU that never waits. samples_per_s: of all GPUs, limited by the scarcest resource.
        hours: duration, with the writing of checkpoints.
        resources: by name. bottlenecks: the names of all resources, the scarcest first.
        cores_per_gpu: number of cores that load samples as fast as one GPU consumes them.
        allreduce_bytes: through each node's link in a step.
        spill_gb: data that do not fit in a GPU node's object store. head_spill_gb: the same of the driver's node.
        checkpoint_gb: size of all kept checkpoints.
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
    """The work of a stage on a train split of ``samples``. A GPU's share of a batch is kept: batches grow with GPUs."""
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
    """The samples/s of a GPU that never waits: tflops * 1e12 * mfu / FLOPs of a sample."""
    return cluster.tflops * 1e12 * cluster.mfu / cost.flops


def allreduce_bytes(gpus: int, gradient_bytes: float) -> float:
    """The bytes that each of n members of a ring all-reduce sends and receives: 2 (n - 1) / n times the payload.

    The ring visits the GPUs of a node one after another, so that it passes through each node's link once.
    """
    return 2 * (gpus - 1) / gpus * gradient_bytes


def network_bytes(cost: StageCost, work: Work, cluster: Cluster) -> float:
    """The bytes that one node's link receives for each sample that the whole cluster trains on.

    With n nodes these are 1/n of the sample's files, 1/n of its batch in (n - 1)/n of the cases (when it was loaded on
    another node), and the sample's share 1 / (gpus * local_batch) of the step's all-reduce. A single node needs no link
    for gradients.
    """
    n = cluster.nodes
    samples = (cost.disk_bytes + cost.batch_bytes * (n - 1) / n) / n
    gradients = allreduce_bytes(cluster.gpus, cost.gradient_bytes) if n > 1 else 0.0
    return samples + gradients / (cluster.gpus * work.local_batch)


def loading_cores(config: Config, cluster: Cluster) -> float:
    """The cores of all GPU nodes that remain for loading besides ``scaling.cpus_per_worker`` for each worker.

    Raises:
        DataError: when none remain.
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
    """The number of loading tasks that a stream runs at once: ``stream_bytes`` / (TASK_BATCHES * bytes of a batch)."""
    return max(1.0, stream_bytes(gpus, batch_bytes) / (TASK_BATCHES * batch_bytes))


def estimate(
    stage: str, cost: StageCost, config: Config, cluster: Cluster, samples: int, gpu_samples_per_s: float | None = None
) -> Estimate:
    """Estimate a stage on a cluster.

    Args:
        stage: "teacher", "pseudo_labels" or "student". cost: measured. samples: of the train split.
        gpu_samples_per_s: measured pace of one GPU; None: ``gpu_pace``.

    Raises:
        DataError: as ``loading_cores``.
    """
    work, cpu_s = work_of(stage, config, samples, cluster.gpus), sum(cost.cpu_s.values())
    pace = gpu_samples_per_s or gpu_pace(cost, cluster)
    whole = pace * cluster.gpus
    cores = loading_cores(config, cluster)
    batch = work.local_batch * cost.batch_bytes
    on_node = min(cluster.gpus, cluster.gpus_per_node)
    block = batch * steps_per_task(int(batch), cluster.gpus, cores / config.scaling.data_cpus)
    ahead = on_node * (PREFETCH + 1) * block  # each worker trains on one block, and the others wait
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
        del resources[STREAM], resources[CHECKPOINTS]  # inference sets no limit and writes no checkpoints
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
    """Estimate every stage.

    Args:
        rates: measured samples/s of a GPU by stage, where known. The rate of pseudo_labels follows from the teacher's
            by the ratio of their FLOPs.
    """
    costs, rates = measured.stages, dict(rates)
    if "teacher" in rates:
        rates["pseudo_labels"] = rates["teacher"] * costs["teacher"].flops / costs["pseudo_labels"].flops
    return {stage: estimate(stage, cost, config, cluster, samples, rates.get(stage)) for stage, cost in costs.items()}


def plans(
    measured: Measurement, config: Config, cluster: Cluster, samples: int, rates: dict[str, float]
) -> dict[int, dict[int, dict[str, Estimate]]]:
    """Plans for larger clusters and datasets.

    Returns:
        Number of GPUs (the cluster's, doubled up to MOST_GPUS) -> number of samples (the given one, and larger ones of
        SAMPLES) -> ``plan``.
    """
    gpus = [cluster.gpus]
    while 2 * gpus[-1] <= MOST_GPUS:
        gpus.append(2 * gpus[-1])
    sizes = [samples, *(more for more in SAMPLES if more > samples)]
    larger = {count: cluster.model_copy(update={"gpus": count}) for count in gpus}
    return {count: {size: plan(measured, config, larger[count], size, rates) for size in sizes} for count in gpus}
