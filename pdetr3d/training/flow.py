"""How much a stage's stream keeps in flight: what the jobs (``ray_jobs``) set, and the capacity plan counts with."""

PREFETCH = 2  # batches that each training worker works ahead
# What a training stage's stream may hold in the object store for each of its workers (Ray Data takes half of the store
# at most, whatever it is told): batches are small and the workers are slower than the decoders.
STREAM_BYTES = 256 * 1024**2
# Room there that a loading task at work counts for, in batches, where the stream may hold eight of them (Ray 2.60:
# tests/benchmarks/bench_stream.py; fewer where it may hold more). One task always works.
TASK_BATCHES = 3.0
PREDICT_BATCH = 4  # samples of a batch of inference


def stream_bytes(workers: int) -> int:
    """What a stage of so many workers may hold: more workers ask for more batches in the same time."""
    return STREAM_BYTES * workers
