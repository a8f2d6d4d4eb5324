"""How much a stage's stream keeps in flight: what the jobs (``ray_jobs``) set, and the capacity plan counts with."""

from pdetr3d.config import DataConfig
from pdetr3d.schema import CAMERAS

PREFETCH = 2  # blocks that each training worker fetches ahead: what one loading task made, ``steps_per_task`` batches
# What a training stage's stream may hold in the object store for each of its workers: STREAM_BATCHES batches, within
# these bounds (and Ray Data takes half of the store at most, whatever it is told). The end of a task is noticed at the
# next step of Ray Data's scheduling, up to 0.2 s later: more or longer tasks must be at work meanwhile.
STREAM_BATCHES, STREAM_BYTES, MAX_STREAM_BYTES = 64, 256 * 1024**2, 2 * 1024**3
# Room there that a loading task at work counts for, in batches, where the stream may hold eight of them (Ray 2.60:
# tests/benchmarks/bench_stream.py; fewer where it may hold more). One task always works.
TASK_BATCHES = 3.0
PREDICT_BATCH = 4  # samples of a batch of inference
PREDICT_STEPS = 4  # its batches that a loading task reads

MAX_STEPS_PER_TASK = 8  # by then a task's own cost is shared out: tests/benchmarks/bench_loaders.py
SWEEP_POINTS = 34_720  # of a nuScenes LiDAR: 32 beams, 1085 directions
POINT_BYTES = 20  # five float32


def batch_bytes(data: DataConfig, samples: int, cameras: bool, clouds: int = 1) -> int:
    """About what a local batch of so many samples takes in the object store, from the settings alone: whole sweeps,
    images of ``data.image_size_px`` with ``cameras``, each cloud ``clouds`` times (2: with the weak view)."""
    width, height = data.image_size_px
    images = len(CAMERAS) * width * height * 3 if cameras else 0
    return samples * (images + clouds * data.num_sweeps * SWEEP_POINTS * POINT_BYTES)


def steps_per_task(local_batch_bytes: int, workers: int, data_tasks: float) -> int:
    """Steps that one loading task reads for a worker: the more, the less tasks cost (about as much as reading a
    quickstart's batch, each), but no more than let ``data_tasks`` tasks work at once under the stream's limit."""
    room = stream_bytes(workers, local_batch_bytes) / (TASK_BATCHES * max(1.0, data_tasks))
    return int(min(MAX_STEPS_PER_TASK, max(1, room // local_batch_bytes)))


def stream_bytes(workers: int, local_batch_bytes: float) -> int:
    """What a stage of so many workers may hold: more workers ask for more batches in the same time."""
    return workers * round(min(MAX_STREAM_BYTES, max(STREAM_BYTES, STREAM_BATCHES * local_batch_bytes)))
