"""Watches the trials of a search in the driver: writes how they ended, prints the best, ends them at the budget."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from ray.tune import Callback, Stopper
from rich.console import Console
from rich.table import Table

from pdetr3d.data.storage.files import write_json
from pdetr3d.finished.report.search import value_text
from pdetr3d.run_files import DONE, SEED
from pdetr3d.tracking.runs import end_runs
from ray_jobs.searches.results import ERROR, RESULT, STATUS, UNFINISHED, groups, read_trial, trial_names
from ray_jobs.searches.space import SearchSpace
from ray_jobs.searches.trial import PROGRESS, TRAINED

# Least time between two tables of progress, except after the end of a trial: on a terminal, and in a log.
EVERY_S, LOG_EVERY_S = 20.0, 180.0


class BudgetSpent(Stopper):
    """Ends the search when its trials together have trained on a number of samples.

    Then a trial in training ends at its next checkpoint, and a trained one when it is scored on the val split. When all
    trained ones are scored, the whole search ends.

    Args:
        samples: the budget, over all trials. folder: of the search.
    """

    def __init__(self, samples: int, folder: Path) -> None:
        self.samples, self.folder = samples, folder
        self.used, self.trained = dict[str, int](), set[str]()

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        self.used[trial_id] = result["samples"]
        if result[PROGRESS] >= TRAINED:
            self.trained.add(trial_id)
        return self._spent() and trial_id not in self.trained

    def stop_all(self) -> bool:
        return self._spent() and all((self.folder / "trials" / name / STATUS).exists() for name in self.trained)

    def _spent(self) -> bool:
        return sum(self.used.values()) >= self.samples


def note_stopped(folder: Path, space: SearchSpace, budget: int | None) -> bool:
    """Return whether the budget is spent; if it is, write ``status.json`` of the trials that it ended.

    Tune calls no callback for trials that end because of ``Stopper.stop_all``.

    Args:
        folder: of the search. space: of its trials. budget: [samples]; None: unlimited.
    """
    rows = [read_trial(folder, name, space) for name in trial_names(folder)]
    if budget is None or sum(row["samples"] for row in rows) < budget:
        return False
    for row in rows:
        if row["status"] == UNFINISHED:
            place = folder / "trials" / row["name"]
            write_json(place / STATUS, {"status": how_ended(place), "error": None})
    return True


def how_ended(trial: Path) -> str:
    """The end of a trial that did not fail: "finished", or "stopped" before it was finished.

    Args:
        trial: folder of the trial.
    """
    return "finished" if (trial / RESULT / DONE).exists() else "stopped"


class Progress(Callback):
    """Writes each ended trial's ``status.json``, ends its MLflow runs, and prints the best so far and the time left.

    Args:
        folder: of the search. space: of its trials.
    """

    def __init__(self, folder: Path, space: SearchSpace) -> None:
        self.folder, self.space = folder, space
        self.began_s: float | None = None
        self.shown_s = 0.0

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"began_s": None, "shown_s": 0.0}  # another process has another clock

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if self.began_s is None:
            self.began_s, self.before = time.monotonic(), self._done(trials)
        (self.folder / "trials" / trial.trial_id / STATUS).unlink(missing_ok=True)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if time.monotonic() - self.shown_s > (EVERY_S if sys.stdout.isatty() else LOG_EVERY_S):
            self._show(trials)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._end(trial, how_ended(self.folder / "trials" / trial.trial_id), None)
        self._show(trials)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        file = self.folder / "trials" / trial.trial_id / ERROR
        died = "its process died; Ray's logs may show the cause"  # before it could write the error
        self._end(trial, "failed", json.loads(file.read_text())["error"] if file.exists() else died)
        self._show(trials)

    def _end(self, trial: Any, status: str, error: str | None) -> None:
        place = self.folder / "trials" / trial.trial_id
        write_json(place / STATUS, {"status": status, "error": error})
        end_runs(place, "KILLED" if status == "stopped" else "FAILED")

    def _done(self, trials: list[Any]) -> float:
        """The sum of the trials' shares of their trainings (0 to 1 each); an ended trial counts as 1."""
        share = [1.0 if t.is_finished() else t.last_result.get("progress", 0.0) / 100 for t in trials]
        return sum(share)

    def _show(self, trials: list[Any]) -> None:
        """Print how trials ended and the time left; a table of the best parameters and of the trials that run."""
        self.shown_s = time.monotonic()
        rows = [read_trial(self.folder, name, self.space) for name in trial_names(self.folder)]
        ends = [row["status"] for row in rows]
        over = ", ".join(f"{ends.count(s)} {s}" for s in ("finished", "stopped", "failed") if s in ends)
        print(
            f"search {self.space.name}: {over or 'none ended'} of {self.space.size} trials | ETA {self._left_s(trials)}"
        )
        best = next((g for g in groups([r for r in rows if r["score"] is not None], self.space)), None)
        keys = list(self.space.domains)
        table = Table("", *keys, SEED, "trained", self.space.metric)
        if best is not None:
            cells = [value_text(best["parameters"][key]) for key in keys]
            table.add_row("best", *cells, "", "", f"{best['score']['mean']:.4g}")
        for row in rows:
            if row["status"] == UNFINISHED:
                cells = [value_text(row["parameters"][key]) for key in (*keys, SEED)]
                score = "-" if row["score"] is None else f"{row['score']:.4g}"
                table.add_row(row["name"], *cells, f"{row['progress']:.0f}%", score)
        if table.row_count:
            Console(width=180).print(table)
        sys.stdout.flush()

    def _left_s(self, trials: list[Any]) -> str:
        if self.began_s is None:
            return "-"
        done, spent = self._done(trials), time.monotonic() - self.began_s
        gained = done - self.before
        return f"{spent / gained * (self.space.size - done):.0f} s" if gained > 0 else "-"
