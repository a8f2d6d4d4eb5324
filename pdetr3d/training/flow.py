"""Limits for the data that a stage's stream keeps in memory; ``ray_jobs`` sets them, the capacity plan assumes them."""

from pdetr3d.config import DataConfig
from pdetr3d.schema import CAMERAS

# Each training worker fetches this number of blocks ahead. A loading task makes a block of ``steps_per_task`` batches.
PREFETCH = 2
# For each training worker the stream may hold STREAM_BATCHES batches in the object store, but at least STREAM_BYTES and
# at most MAX_STREAM_BYTES. (Ray Data never uses more than half of the store.) Ray Data notices the end of a task at its
# next scheduling step, up to 0.2 s later: enough other tasks must be running by then to keep the workers busy.
STREAM_BATCHES, STREAM_BYTES, MAX_STREAM_BYTES = 64, 256 * 1024**2, 2 * 1024**3
# Ray Data 2.60 reserves the size of about this many batches for every running task when the stream's limit is eight
# batches, and less when the limit is higher (benchmarks/bench_stream.py measures it). It always runs one task.
TASK_BATCHES = 3.0
PREDICT_BATCH = 4  # samples per batch in inference
PREDICT_STEPS = 4  # batches per loading task in inference

MAX_STEPS_PER_TASK = 8  # with more steps, the cost of starting a task hardly falls: benchmarks/bench_loaders.py
SWEEP_POINTS = 34_720  # points of one nuScenes LiDAR sweep: 32 beams, 1085 directions
POINT_BYTES = 20  # five float32


def batch_bytes(data: DataConfig, samples: int, cameras: bool, clouds: int = 1) -> int:
    """Estimate the size of a local batch in the object store, in bytes, from the settings alone.

    Args:
        data: gives ``num_sweeps`` and ``image_size_px``.
        samples: number of samples in the batch.
        cameras: whether the images are loaded (3 bytes per pixel, all cameras).
        clouds: number of point clouds per sample (2: with the weak view), each of whole sweeps.
    """
    width, height = data.image_size_px
    images = len(CAMERAS) * width * height * 3 if cameras else 0
    return samples * (images + clouds * data.num_sweeps * SWEEP_POINTS * POINT_BYTES)


def steps_per_task(local_batch_bytes: int, workers: int, data_tasks: float) -> int:
    """The number of steps whose batches one loading task reads for a worker.

    Starting a task costs about as much as reading one quickstart batch, so a task reads several. The number is limited
    so that ``data_tasks`` tasks can run at once within the stream's limit.

    Args:
        local_batch_bytes: size of one worker's batch.
        workers: number of training workers.
        data_tasks: number of loading tasks that should run at once.
    """
    bytes_per_task = stream_bytes(workers, local_batch_bytes) / (TASK_BATCHES * max(1.0, data_tasks))
    return int(min(MAX_STEPS_PER_TASK, max(1, bytes_per_task // local_batch_bytes)))


def stream_bytes(workers: int, local_batch_bytes: float) -> int:
    """The stream's limit in the object store, in bytes: proportional to the workers, which consume batches in parallel.

    Args:
        workers: number of training workers. local_batch_bytes: size of one worker's batch.
    """
    return workers * round(min(MAX_STREAM_BYTES, max(STREAM_BYTES, STREAM_BATCHES * local_batch_bytes)))
