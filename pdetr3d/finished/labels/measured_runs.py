"""Reads finished runs at different label ratios: the number of labels in each, and the scores of its students.

Read from run directories of ``ray_jobs.pipeline`` (or of its single jobs) and from folders of searches. Nothing is
written to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pdetr3d.data.labels.manifest import LabelManifest
from pdetr3d.run_files import RunFiles, read_object
from pdetr3d.schema import DataError

SEARCHES = ("search.json", "sweep.json")  # a search's file in its run directory; the second name is that of older code
ARMS = ("ours", "boxes_only", "full")
# Keys in which runs of one label-efficiency curve may differ. The dataset is compared by its index, not by its place.
FREE = (
    *("label.ratio", "label.seed", "label.source", "labels", "run.seed", "code", "tables"),
    *("data.dataroot", "data.packed"),
)


@dataclass(frozen=True)
class MeasuredRun:
    """A finished run.

    Attributes:
        path: run directory. seed: ``run.seed``. index: digest of the dataset's index. config: flat keys of run.json.
        keyframes: number of labeled keyframes of the train split. boxed: number of these that are box-labeled.
        boxes: number of objects on box-labeled keyframes. clicks: number of clicks on the other labeled keyframes.
        spnds: arm -> SPNDS of its student on the val split, for the trained ones of ``ARMS``.
    """

    path: Path
    seed: int
    index: str
    config: dict[str, Any]
    keyframes: int
    boxed: int
    boxes: int
    clicks: int
    spnds: dict[str, float]

    @property
    def ratio(self) -> float:
        """The actual share of box-labeled keyframes among the labeled ones."""
        return self.boxed / self.keyframes


def read_runs(paths: Sequence[Path]) -> list[MeasuredRun]:
    """The runs of all ``paths`` (run directories, search folders), each once, by ratio and seed.

    Raises:
        DataError: when a path holds no run, a run is not finished, its point-labeled keyframes are clicked in part, or
            runs differ in the dataset or in a key that is no matter of labels.
    """
    folders = dict.fromkeys(folder.resolve() for path in paths for folder in _run_folders(path))
    runs = sorted((_read(folder) for folder in folders), key=lambda run: (run.boxed, run.seed, str(run.path)))
    for run in runs[1:]:
        _check_alike(runs[0], run)
    return runs


def _run_folders(path: Path) -> list[Path]:
    """The path itself, or the run directories of the finished trials when it is a search's folder."""
    file = next((path / name for name in SEARCHES if (path / name).is_file()), None)
    if file is None:
        return [path]
    try:
        trials = read_object(file)["trials"]
        found = [path / str(trial["run_dir"]) for trial in trials if trial["status"] == "finished"]
    except (KeyError, TypeError) as error:
        raise DataError(
            f'{file}: needs "trials", a list of {{"run_dir": ..., "status": ...}} ({error!r}); it is written by '
            "python -m ray_jobs.search"
        ) from error
    if not found:
        raise DataError(f"{file}: none of its {len(trials)} trials is finished; run the search to its end first")
    return found


def _read(path: Path) -> MeasuredRun:
    run = RunFiles.open(path)
    config = run.identity
    share = config.get("label.click_share", 1)
    if share != 1:
        raise DataError(
            f"{path}: label.click_share is {share} there, but plans assume that every object of a keyframe is clicked: "
            "name runs with 1"
        )
    spnds = _scores(run)
    missing = [arm for arm in _trained(path, config) if arm not in spnds]
    if missing or not spnds:
        raise DataError(
            f"{path}: this run is not finished: no SPNDS of {', '.join(missing) or 'any student'} in report.json or "
            f"evaluate_ARM/done.json; run python -m ray_jobs.pipeline with --run-dir {path} to its end, or leave it out"
        )
    manifest = LabelManifest.open(path / "data" / "manifest")
    role = manifest.roles
    labeled = [value for value in role.values() if value != "unlabeled"]
    roles = [role.get(token) for token in manifest.clicks.column("sample_token").to_pylist()]
    return MeasuredRun(
        path,
        int(config.get("run.seed", 0)),
        manifest.index_digest,
        config,
        keyframes=len(labeled),
        boxed=labeled.count("box"),
        boxes=roles.count("box"),
        clicks=roles.count("point"),
        spnds=spnds,
    )


def _trained(path: Path, config: dict[str, Any]) -> list[str]:
    """The arms that the run has begun to train and must therefore have scored. The student from which a teacher's
    weights start need not be scored."""
    first = "boxes_only" if config.get("teacher.lidar_init") == "boxes_only" else ""
    return [arm for arm in ARMS if arm != first and (path / f"student_{arm}").is_dir()]


def _scores(run: RunFiles) -> dict[str, float]:
    """Arm -> SPNDS of its student on the val split."""
    found = {arm: scores for arm in ARMS if (scores := run.scores(arm))}
    try:
        return {arm: float(scores["SPNDS"]) for arm, scores in found.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{run.path}: its scores hold no number SPNDS ({error!r}); evaluate the run again") from error


def _check_alike(first: MeasuredRun, run: MeasuredRun) -> None:
    if (run.index, run.keyframes) != (first.index, first.keyframes):
        raise DataError(
            f"{run.path} is of another dataset than {first.path}: index {run.index} with {run.keyframes} keyframes "
            f"there, {first.index} with {first.keyframes} here; name runs on one dataset"
        )
    shared = sorted(run.config.keys() & first.config.keys())  # runs of older code lack keys
    differ = [key for key in shared if key not in FREE and run.config[key] != first.config[key]]
    if differ:
        lines = "\n".join(f"  {key}: {run.config[key]} there, {first.config[key]} here" for key in differ)
        raise DataError(
            f"{run.path} differs from {first.path} in more than its labels:\n{lines}\n"
            "One curve is of one setting; name runs that differ in label.ratio and seeds alone"
        )
