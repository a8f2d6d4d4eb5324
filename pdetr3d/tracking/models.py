"""Records checkpoints as MLflow LoggedModels, and registers the chosen ones, of which the best is the champion.

The files stay where training wrote them; MLflow stores their URI, digest, config and scores.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pdetr3d.tracking.client import METRICS_PER_BATCH, as_params, as_tags, chunks, metric_rows
from pdetr3d.tracking.runs import Tracker

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

REGISTERED = {"teacher": "pdetr3d-teacher", "student": "pdetr3d-student"}
CHAMPION = "champion"
ROUNDS = 50  # checks after moving the alias; each needs another one only if another run moved it meanwhile
NO_CHAMPION = "no_champion"  # tag of a version that cannot become champion: the reason
_SAME = ("metric", "data_digest", "measured_on")  # version tags that must agree for two scores to be comparable


@dataclass(frozen=True)
class Score:
    """The score by which the champion is chosen.

    Attributes:
        metric: e.g. "SPNDS"; higher is better.
        value: None where it is undefined, e.g. on a split without objects. A version without a score above 0 cannot
            become champion.
        data_digest: of index and manifest (``datasets.data_digest``).
        measured_on: e.g. the split's name.
        unfit: the reason why a version with this score cannot become champion all the same; "" if it can.
    """

    metric: str
    value: float | None
    data_digest: str
    measured_on: str
    unfit: str = ""

    def tags(self) -> dict[str, str]:
        """The tags of a version that has this score."""
        known = self.value is not None and math.isfinite(self.value) and self.value > 0
        made = {name: getattr(self, name) for name in _SAME}
        return made | ({"score": repr(self.value)} if known else {}) | ({NO_CHAMPION: self.unfit} if self.unfit else {})


def log_checkpoint(
    tracker: Tracker,
    kind: str,
    name: str,
    step: int,
    config_flat: Mapping[str, Any],
    tags: Mapping[str, Any],
) -> str:
    """Record a checkpoint as a READY LoggedModel and an output of the run.

    Args:
        kind: "teacher" or "student". name: of the model, e.g. "student_ours_step_0000300".
        step: number of optimizer steps.
        config_flat: the model's params (``Config.flat()``).
        tags: ``checkpoint_uri`` (the file's place), digest, lineage.

    Returns:
        The model's id; "" when the store failed.
    """
    made: list[str] = []

    def act(client: MlflowClient) -> None:
        from mlflow.entities import LoggedModelOutput

        experiment = client.get_run(tracker.run_id).info.experiment_id
        before = client.search_logged_models([experiment], f"name='{name}' AND source_run_id='{tracker.run_id}'")
        if before:  # an earlier process of this job recorded it and was killed later
            made.append(before[0].model_id)
            return
        model = client.create_logged_model(
            experiment,
            name,
            tracker.run_id,
            as_tags(tags),
            as_params(config_flat),
            model_type=REGISTERED[kind],
        )
        client.finalize_logged_model(model.model_id, "READY")
        client.log_outputs(tracker.run_id, [LoggedModelOutput(model.model_id, step)])
        made.append(model.model_id)

    tracker.quietly(act)
    return made[0] if made else ""


def log_model_metrics(tracker: Tracker, model_id: str, metrics: Mapping[str, float], step: int) -> None:
    """Write flat metrics (``scores.score_metrics``) of the run that also belong to one of its models.

    Args:
        model_id: from ``log_checkpoint``; "": the metrics belong to the run alone.
    """

    def act(client: MlflowClient) -> None:
        from mlflow.entities import Metric

        owner = model_id or None
        rows = [Metric(key, value, now_ms, at, owner) for key, value, now_ms, at in metric_rows(metrics, step)]
        for part in chunks(rows, METRICS_PER_BATCH):
            client.log_batch(tracker.run_id, metrics=part)

    tracker.quietly(act)


def register(tracker: Tracker, kind: str, model_id: str, score: Score, tags: Mapping[str, Any]) -> str:
    """Make the run's model a version of ``pdetr3d-teacher`` or ``pdetr3d-student``, once per run.

    The best version becomes the champion. Only versions that were measured by the same metric on the same data as the
    present champion compete: the alias ``champion`` never moves to another data digest.

    Args:
        kind: "teacher" or "student". model_id: from ``log_checkpoint``. score: of the model. tags: of the version.

    Returns:
        A sentence that says whether the version is the champion; it is also the run's tag ``registry``. "" without
        tracking.
    """
    outcome: list[str] = []

    def act(client: MlflowClient) -> None:
        name = REGISTERED[kind]
        own = _version(client, name, tracker.run_id) or _add(client, name, tracker.run_id, model_id, score, tags)
        _choose_champion(client, name, own)
        outcome.append(f"{name} version {own.version}: {_verdict(client, name, str(own.version))}")

    tracker.quietly(act)
    if outcome:
        tracker.set_tags({"registry": outcome[0]})
    return "".join(outcome)


def _add(
    client: MlflowClient, name: str, run_id: str, model_id: str, score: Score, tags: Mapping[str, Any]
) -> ModelVersion:
    """Create a version of the run's model; its tags hold its score from the beginning."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    # The source is the model's own folder: servers refuse other local paths, and MLflow would look up ``models:/ID`` in
    # the global store.
    source = client.get_logged_model(model_id).artifact_location
    return client.create_model_version(
        name,
        source,
        run_id,
        as_tags({**tags, "model_id": model_id, **score.tags()}),
        await_creation_for=0,
        model_id=model_id,
    )


def _versions(client: MlflowClient, name: str) -> dict[str, ModelVersion]:
    """All versions of a registered model by their numbers."""
    return {str(found.version): found for found in client.search_model_versions(f"name='{name}'")}


def _version(client: MlflowClient, name: str, run_id: str) -> ModelVersion | None:
    """The version that a run made, if any."""
    mine = [version for version in _versions(client, name).values() if version.run_id == run_id]
    return mine[0] if mine else None


def _champion(client: MlflowClient, name: str) -> str | None:
    """The number of the version that the alias names, if any."""
    found = client.get_registered_model(name).aliases.get(CHAMPION)
    return None if found is None else str(found)


def _choose_champion(client: MlflowClient, name: str, own: ModelVersion) -> None:
    """Set the alias to the best version on the champion's data (on the data of ``own`` if there is no champion).

    Several runs may finish at once. Each adds its version first and checks again after it moved the alias. The last run
    to move it has thus seen all earlier versions, and the runs of later versions check for themselves.
    """
    from mlflow.exceptions import MlflowException

    for _ in range(ROUNDS):
        versions, holder = _versions(client, name), _champion(client, name)
        data = _data(versions.get(holder or "", own))
        rivals = [v for v in versions.values() if _data(v) == data and "score" in v.tags and NO_CHAMPION not in v.tags]
        if not rivals:
            return
        best = max(rivals, key=lambda v: (float(v.tags["score"]), -int(v.version)))  # of equal scores the earlier
        if str(best.version) == holder:
            return
        try:
            client.set_registered_model_alias(name, CHAMPION, str(best.version))
        except MlflowException as error:
            # Two runs created the alias at once: MLflow refused one of them, which checks again.
            if holder is not None or _champion(client, name) is None:
                raise
            logging.getLogger("pdetr3d.tracking").debug("%s: %s", name, error)
    logging.getLogger("pdetr3d.tracking").warning("%s: other runs keep moving the alias %s", name, CHAMPION)


def _data(version: ModelVersion) -> tuple[str | None, ...]:
    """The tags _SAME of a version."""
    return tuple(version.tags.get(key) for key in _SAME)


def _verdict(client: MlflowClient, name: str, own: str) -> str:
    """Whether version ``own`` is the champion, and if not why, in words."""
    versions, holder = _versions(client, name), _champion(client, name)
    if holder == own:
        return f"{CHAMPION} ({_figure(versions[own])})"
    tags = versions[own].tags
    why = tags.get(NO_CHAMPION) if "score" in tags else "its score is unknown or 0"
    if holder is None:
        return f"no {CHAMPION}: {why}"
    stays = f"{CHAMPION} stays version {holder}"
    if why is not None:
        return f"{stays}; of this one: {why}"
    if _data(versions[own]) != _data(versions[holder]):
        figures = f"{_figure(versions[holder])}, here {_figure(versions[own])}"
        return f"{stays}: that was measured on other data or labels ({figures})"
    return f"{stays}: {_figure(versions[holder])}, here {float(versions[own].tags['score']):.4g}"


def _figure(version: ModelVersion) -> str:
    metric, digest, measured_on = _data(version)
    score = version.tags.get("score")
    data = "-".join(part[:8] for part in str(digest).split("-"))  # of the index, of the labels
    return f"{metric} {score if score is None else f'{float(score):.4g}'} on {measured_on}, data {data}"
