"""Batch inference on Ray Data: read tasks load batches, actors run models, the driver writes boxes to a mapped file.

A killed job can continue if it has a folder for finished batches: an actor writes each batch's boxes there first, and a
rerun predicts only the batches without a file.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import ray
import torch
from numpy.typing import NDArray
from ray.data import ActorPoolStrategy

from pdetr3d.batch import Batch
from pdetr3d.config import Config, ScalingConfig
from pdetr3d.config_seen import seen_by
from pdetr3d.data.loading.record_list import tokens_of
from pdetr3d.data.storage.box_table import COLUMNS, SCHEMA, BoxTable, BoxTableWriter
from pdetr3d.data.storage.files import atomic_path, read_parquet, sha256, table_digest, write_json, write_parquet
from pdetr3d.data.storage.row_table import TextPlaces
from pdetr3d.inference.detector import Detector
from pdetr3d.schema import Boxes3D, SampleRecord
from pdetr3d.training import checkpoint
from pdetr3d.training.flow import PREDICT_BATCH as BATCH_SIZE
from pdetr3d.training.flow import PREDICT_STEPS
from pdetr3d.training.plan import BatchLoader
from ray_jobs.plug.context import STATS
from ray_jobs.plug.stream import from_table, inference_stream
from ray_jobs.terminal.phases import PHASES

# Batches per Ray Data execution. The driver holds the execution's read tasks with their records: about 80 MB for 8,192
# samples. More executions would cost time, because each starts its actors anew, which takes seconds.
EXECUTION = 2048


class Predictor:
    """An actor that loads all checkpoints once and predicts batches; the rows of its output are in the order of boxes.

    Args:
        kind: "teacher" or "student". config_json, prior_size_m: of the models. states: weights of the checkpoints.
        keep: folder of finished batches, or None. device: "cpu" or "cuda".
    """

    def __init__(
        self,
        kind: str,
        config_json: str,
        prior_size_m: NDArray[np.float32],
        states: list[dict],
        keep: Path | None,
        device: str,
    ) -> None:
        config, self.keep = Config.from_json(config_json), keep
        torch.set_num_threads(config.scaling.threads_per_worker)
        self.detectors = [Detector.of(kind, config, state, torch.device(device), prior_size_m) for state in states]

    def __call__(self, table: pa.Table) -> pa.Table:
        arrays, header = from_table(table)
        batch = Batch.from_arrays(arrays)
        frames = []
        for number, detector in enumerate(self.detectors):
            for token, boxes in zip(batch.token, detector(batch), strict=True):
                frames.append(_to_frame(boxes).assign(sample_token=token.decode(), checkpoint=number))
        boxes_table = pa.Table.from_pandas(pd.concat(frames), schema=SCHEMA, preserve_index=False)
        if self.keep is not None:
            write_parquet(self.keep / f"{header['step']:08d}.parquet", boxes_table)
        return boxes_table


def predict(
    kind: str,
    config: Config,
    prior_size_m: NDArray[np.float32],
    checkpoints: Sequence[Path],
    records: Sequence[SampleRecord],
    keep: Path | None = None,
    beside: bool = False,
) -> list[BoxTable]:
    """Predict all records with all checkpoints.

    Args:
        kind: "teacher" or "student". config, prior_size_m: of the models. checkpoints: their files. records: samples.
        keep: folder of finished batches, one Parquet file each. Batches of the same models and records are not
            predicted again; other files there are removed. The caller removes the folder when the result is stored. Ray
            Data's statistics are written beside it in ``STATS``.
        beside: the same run trains meanwhile. Then one actor runs on CPUs that the run has reserved: otherwise the
            actors of several runs could hold all CPUs while the tasks that feed them wait for one. On GPUs, the actor
            gets the share of ``gpu_beside``.

    Returns:
        Per checkpoint sample_token -> boxes (LIDAR_TOP frame) of every record, also of samples without boxes. A
        teacher's boxes are in the order of ``record.clicks``.

    Raises:
        ValueError: when a sample occurs twice, since its boxes would come twice.
    """
    place = TextPlaces(tokens_of(records))
    if len(repeated := place.repeated()):
        raise ValueError(f"{len(repeated)} samples are to be predicted more than once, the first is {repeated[0]}")
    cameras = kind == "teacher" and config.teacher.cameras
    loader = BatchLoader(config, "predict", cameras=cameras)
    states = [checkpoint.best_weights(checkpoint.load(file)) for file in checkpoints]
    scaling = config.scaling
    actors = 1 if beside else scaling.inference_workers or scaling.most_workers
    gpus = scaling.gpus_per_worker if scaling.use_gpu else 0.0
    if gpus and beside:
        gpus = gpu_beside(scaling, ray.cluster_resources().get("GPU", 0.0))
    finished = {} if keep is None else kept_batches(keep, kind, config, checkpoints, place.texts)
    todo = [number for number in range(-(-len(records) // BATCH_SIZE)) if number not in finished]

    def rows_of(some: Sequence[int]) -> ray.data.Dataset:
        stream = inference_stream(records, BATCH_SIZE, loader, scaling.data_cpus, some, PREDICT_STEPS)
        return stream.map_batches(
            Predictor,
            fn_constructor_args=(kind, config.to_json(), prior_size_m, states, keep, "cuda" if gpus else "cpu"),
            batch_size=1,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(
                min_size=1, max_size=actors, initial_size=actors
            ),  # one actor is enough to begin while another stage holds the CPUs
            num_cpus=0 if beside else scaling.cpus_per_worker,
            num_gpus=gpus or None,
        )

    writer, stats = BoxTableWriter(place, len(checkpoints)), list[str]()
    try:
        with PHASES.of("predict"):
            for file in finished.values():
                writer.add(read_parquet(file, SCHEMA))
            for start in range(0, len(todo), EXECUTION):
                rows = rows_of(todo[start : start + EXECUTION])
                parts: Iterable[pa.Table] = rows.iter_batches(batch_size=None, batch_format="pyarrow")
                for part in parts:
                    writer.add(part.cast(SCHEMA))
                stats.append(rows.stats())
    except BaseException:
        writer.abort()
        raise
    if keep is not None and stats:
        with atomic_path(keep.with_name(STATS)) as temporary:
            temporary.write_text("\n".join(stats))
    return writer.close()


def gpu_beside(scaling: ScalingConfig, gpus: float) -> float:
    """The share of a GPU for a scoring actor while the run's workers hold theirs; 0: it uses the CPU.

    With a GPU that is free only after training, the actor could not stop the training early. The shares of a worker are
    of one GPU: with shares of 0.8, each GPU has one worker and 0.2 left.

    Args:
        scaling: of the run. gpus: number of GPUs of the cluster.
    """
    share, workers = scaling.gpus_per_worker, scaling.most_workers * scaling.concurrent_stages
    per_gpu = int(1 / share + 1e-6)
    if gpus * per_gpu >= workers + 1:
        return share
    left = max(0.0, round(1 - per_gpu * share, 4))  # Ray counts in 1/10000
    if not left:
        print(
            f"scoring a checkpoint on the CPU: {workers} workers of scaling.gpus_per_worker={share:g} hold all "
            f"{gpus:g} GPUs; to score on one, leave a part of each to it (scaling.gpus_per_worker=0.8, e.g.), or train "
            "with fewer workers",
            flush=True,
        )
    return left


def kept_batches(
    keep: Path, kind: str, config: Config, checkpoints: Sequence[Path], tokens: pa.ChunkedArray
) -> dict[int, Path]:
    """Number -> file of the finished batches in ``keep``. Files of other models, configs or samples are removed."""
    weights = [sha256(file) for file in checkpoints]
    samples = table_digest(pa.table({"sample_token": tokens}))
    asked = json.loads(json.dumps([kind, seen_by(config), weights, BATCH_SIZE, samples]))
    file = keep / "batches.json"
    if not file.exists() or json.loads(file.read_text()) != asked:
        shutil.rmtree(keep, ignore_errors=True)
        write_json(file, asked)
    return {int(batch.stem): batch for batch in sorted(keep.glob("*.parquet"))}


def _to_frame(boxes: Boxes3D) -> pd.DataFrame:
    columns = [part[:, None] for part in (boxes.label, boxes.score, boxes.direction)]
    rows = np.concatenate([boxes.rows, boxes.velocity_m_s, *columns], 1)
    return pd.DataFrame(rows.astype(np.float64), columns=COLUMNS).astype({"label": np.int64})
