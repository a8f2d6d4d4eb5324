"""Records which data a run read, as MLflow dataset inputs; the UI lists them under "Datasets", with their digests."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pdetr3d.tracking.client import as_tags
from pdetr3d.tracking.runs import Tracker

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

ATTEMPTS = 5  # to record the inputs, when several runs record a new dataset at once


@dataclass(frozen=True)
class DataInput:
    """One input of a run.

    Attributes:
        name: e.g. "v1.0-trainval train". digest: of its content; MLflow keeps 36 characters. source: path or URI.
        context: its use: "train", "select" or "val". samples: their number. tags: e.g. the label ratio.
    """

    name: str
    digest: str
    source: str
    context: str
    samples: int
    tags: Mapping[str, Any] = field(default_factory=dict)


def data_digest(dataset_digest: str, manifest_digest: str) -> str:
    """Digest of a dataset with its labels and clicks (33 characters)."""
    return f"{dataset_digest}-{manifest_digest}"


def log_inputs(tracker: Tracker, inputs: Sequence[DataInput]) -> None:
    """Record the inputs of a run in one request; never raises (``Tracker.quietly``)."""

    def act(client: MlflowClient) -> None:
        from mlflow.exceptions import MlflowException

        rows = [_entity(item) for item in inputs]
        for attempt in range(ATTEMPTS):
            try:
                return client.log_inputs(tracker.run_id, rows)
            except MlflowException:  # of two runs that record the same new dataset at once, one must try again
                if attempt == ATTEMPTS - 1:
                    raise
                time.sleep(0.1 * 2**attempt)

    tracker.quietly(act)


def _entity(item: DataInput) -> Any:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(
        name=item.name[:500],
        digest=item.digest[:36],
        source_type="uri" if "://" in item.source else "local",
        source=json.dumps({"uri": item.source}),
        profile=json.dumps({"num_rows": item.samples}),
    )
    tags = {"mlflow.data.context": item.context, **as_tags(item.tags)}
    return DatasetInput(dataset, [InputTag(key, value[:500]) for key, value in tags.items()])
