"""From a run directory to ``Evidence``: reads and never writes; another version of the code may have made the run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pdetr3d.data.index import Index
from pdetr3d.data.manifest import LabelManifest
from pdetr3d.data.pseudo_table import read_pseudo_labels
from pdetr3d.data.records import training_records
from pdetr3d.data.skipped import FILE as SKIPPED
from pdetr3d.doctor.clicks import click_facts
from pdetr3d.doctor.evidence import ClickFacts, Evidence, LabelGroup, Other, Quality
from pdetr3d.evaluation.pseudo_label_quality import BINS_M
from pdetr3d.pseudo_labels import FLOORS
from pdetr3d.schema import CLASSES, DataError
from pdetr3d.tracking.history import read_histories

METRICS = ("loss", "grad_norm", "skipped", "feature_std", "lr", "stall_share", "data_s", "step_s")
STREAM = "stream_stats.txt"  # of a stage, ray_jobs.context.STATS
LABELS, STUDY = "pseudo_labels/done.json", "study/done.json"  # a pipeline's quality report, a teacher study's


def read(run_dir: Path, against: Path | None = None) -> Evidence:
    """Read what there is of a run: finished stages, labels, clicks, MLflow curves.

    Args:
        against: a run on the same clicks whose teacher looks at LiDAR alone.

    Raises:
        DataError: when ``run_dir`` is no run directory, a JSON file is broken, or ``against`` cannot be compared.
    """
    config, unknown = read_config(run_dir), {}
    histories, problems = read_histories(run_dir, METRICS)
    if problems:
        unknown["histories"] = "; ".join(dict.fromkeys(problems.values()))

    def attempt(name: str, look: Callable[[Path, dict[str, Any]], Any]) -> Any:
        try:
            return look(run_dir, config)
        except DataError as error:
            unknown[name] = str(error)
            return None

    return Evidence(
        run_dir,
        config,
        quality=attempt("quality", lambda path, _: read_quality(path)),
        other=None if against is None else read_other(against, run_dir),
        labels=attempt("labels", read_labels),
        clicks=attempt("clicks", read_clicks),
        skipped=attempt("skipped", read_skipped),
        stages={n: d for n, d in _finished(run_dir).items() if n == "teacher" or n.startswith("student_")},
        histories=histories,
        scores={n[len("evaluate_") :]: d for n, d in _finished(run_dir).items() if n.startswith("evaluate_")},
        streams=read_streams(run_dir),
        unknown=unknown,
    )


def read_config(run_dir: Path) -> dict[str, Any]:
    """The flat config that the run wrote down."""
    file = run_dir / "run.json"
    if file.is_file():
        return _json(file)
    if not run_dir.is_dir():
        raise DataError(f"{run_dir}: no such folder; name the run directory of a job (its --run-dir)")
    inner = sorted(str(f.parent.relative_to(run_dir)) for depth in ("*", "*/*") for f in run_dir.glob(f"{depth}/run.json"))
    hint = f"it holds the runs {', '.join(inner)}: name one of them" if inner else "name the --run-dir of a job"
    raise DataError(f"{run_dir}: not a run directory (run.json is missing); {hint}")


def read_quality(run_dir: Path) -> Quality:
    """The quality report of a run's pseudo labels, or what a teacher study measured."""
    for name in (LABELS, STUDY):
        if (run_dir / name).is_file():
            found = _json(run_dir / name)
            teacher = found["teacher"] if name == LABELS else found["final"]
            if not teacher["n"]:
                raise DataError(f"{name}: no click's true box is known there, so that quality cannot be measured")
            return Quality(name, teacher, {floor: found[floor] for floor in FLOORS if floor in found})
    raise DataError(
        f"{LABELS} is missing: the pseudo labels are not finished (python -m ray_jobs.pseudo_label with this --run-dir)"
    )


def read_other(other: Path, run_dir: Path) -> Other:
    """The run of ``--against``: of a LiDAR-only teacher, measured on the same clicks."""
    config = read_config(other)
    if config["teacher.fusion"] != "none":
        raise DataError(
            f"--against {other}: its teacher.fusion is {config['teacher.fusion']}; name a run with teacher.fusion=none, "
            "to see what fusion adds"
        )
    try:
        quality, mine = read_quality(other), read_quality(run_dir)
    except DataError as error:
        raise DataError(f"--against {other}: both runs must have measured pseudo labels; {error}") from error
    digests = [_json(path / "data" / "manifest" / "manifest.json")["digest"] for path in (other, run_dir)]
    counts = [q.teacher["n"] for q in (quality, mine)]
    if digests[0] != digests[1] or counts[0] != counts[1]:
        raise DataError(
            f"--against {other}: its teacher was measured on other clicks ({counts[0]} of label manifest {digests[0]}; "
            f"here {counts[1]} of {digests[1]}); compare runs with the same data.*, label.* and sim.* keys"
        )
    return Other(other, config, quality)


def read_labels(run_dir: Path, config: dict[str, Any]) -> dict[str, LabelGroup]:
    """Accepted and rejected pseudo labels by class and by distance of the click."""
    file = run_dir / "pseudo_labels" / "pseudo_labels.parquet"
    if not file.is_file():
        raise DataError("pseudo_labels/pseudo_labels.parquet is missing: there are no pseudo labels yet")
    clicks = LabelManifest.open(run_dir / "data" / "manifest").clicks.to_pandas().set_index("click_id")[["x", "y", "z"]]
    table = read_pseudo_labels(file).to_pandas()
    strangers = set(table["click_id"]) - set(clicks.index)
    if strangers:
        raise DataError(f"{file}: {len(strangers)} of its clicks are not in data/manifest, e.g. {min(strangers)!r}")
    xyz = clicks.loc[table["click_id"]].to_numpy()
    low, high = np.array(config["model.range_m"]).reshape(2, 3)
    table["distance_m"] = np.hypot(xyz[:, 0], xyz[:, 1])
    table = table[((xyz >= low) & (xyz <= high)).all(1)]  # no teacher answers for the others
    far = (BINS_M[-1][1], np.inf)
    groups = {f"class {name}": table["class"] == name for name in CLASSES} | {
        f"{lo:g}-{hi:g} m": (table["distance_m"] >= lo) & (table["distance_m"] < hi) for lo, hi in (*BINS_M, far)
    }
    return {
        name: LabelGroup(
            int(rows.sum()), table["reason"][rows & ~table["accepted"].astype(bool)].value_counts().to_dict()
        )
        for name, rows in groups.items()
    }


def read_clicks(run_dir: Path, config: dict[str, Any]) -> ClickFacts:
    """Clicks and boxes of the run's box-labeled samples."""
    index = Index.open(run_dir / "data" / "index.parquet")
    return click_facts(training_records(index, LabelManifest.open(run_dir / "data" / "manifest")))


def read_skipped(run_dir: Path, config: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """How many samples of each split were left out (data.on_error=skip); empty where every file had to be whole."""
    file = run_dir / "data" / SKIPPED
    if not file.is_file():
        return {}
    splits = [entry["split"] for entry in _json(file)]
    index = Index.open(run_dir / "data" / "index.parquet")
    return {split: (splits.count(split), len(index.tokens(split))) for split in dict.fromkeys(splits)}


def read_streams(run_dir: Path) -> dict[str, str]:
    """The line on wall time of each stage's loading tasks."""
    lines = {}
    for file in sorted(run_dir.glob(f"*/{STREAM}")):
        found = [line.strip("* \n") for line in file.read_text().splitlines() if "Remote wall time" in line]
        lines |= {file.parent.name: found[0]} if found else {}
    return lines


def _finished(run_dir: Path) -> dict[str, dict[str, Any]]:
    return {file.parent.name: _json(file) for file in sorted(run_dir.glob("*/done.json"))}


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: not readable as JSON ({error}); remove it and run the stage again") from error
