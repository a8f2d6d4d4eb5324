"""What a sweep's driver does while trials run: notes how they end, shows the best, ends when the budget is spent."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from ray.tune import Callback, Stopper

from pdetr3d.tracking.runs import end_runs
from pdetr3d.training.run_dir import write_json
from ray_jobs.space import SearchSpace
from ray_jobs.sweep_results import ERROR, RESULT, STATUS, groups, read_trial, trial_names, value_text

EVERY_S = 20.0  # between two lines of progress


class BudgetSpent(Stopper):
    """Ends the whole sweep once its trials have trained on so many samples together."""

    def __init__(self, samples: int) -> None:
        self.samples, self.used = samples, dict[str, int]()

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        self.used[trial_id] = result["samples"]
        return self.stop_all()

    def stop_all(self) -> bool:
        return sum(self.used.values()) >= self.samples


class Progress(Callback):
    """Writes each ended trial's ``status.json``, ends its MLflow runs, and prints the best so far and the time left.

    Args:
        folder: of the sweep. space: of its trials.
    """

    def __init__(self, folder: Path, space: SearchSpace) -> None:
        self.folder, self.space = folder, space
        self.began_s: float | None = None
        self.shown_s = 0.0

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"began_s": None, "shown_s": 0.0}  # clocks of another process say nothing

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if self.began_s is None:
            self.began_s, self.before = time.monotonic(), self._done(trials)
        (self.folder / "trials" / trial.trial_id / STATUS).unlink(missing_ok=True)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if time.monotonic() - self.shown_s > EVERY_S:
            self._show(trials)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        finished = (self.folder / "trials" / trial.trial_id / RESULT / "done.json").exists()
        self._end(trial, "finished" if finished else "stopped", None)
        self._show(trials)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        file = self.folder / "trials" / trial.trial_id / ERROR
        died = "its process died; Ray's logs may say why"  # before it could say anything
        self._end(trial, "failed", json.loads(file.read_text())["error"] if file.exists() else died)
        self._show(trials)

    def _end(self, trial: Any, status: str, error: str | None) -> None:
        place = self.folder / "trials" / trial.trial_id
        write_json(place / STATUS, {"status": status, "error": error})
        end_runs(place, "KILLED" if status == "stopped" else "FAILED")

    def _done(self, trials: list[Any]) -> float:
        """Trainings' worth that are done; an ended trial has none left."""
        share = [1.0 if t.is_finished() else t.last_result.get("progress", 0.0) / 100 for t in trials]
        return sum(share)

    def _show(self, trials: list[Any]) -> None:
        self.shown_s = time.monotonic()
        rows = [read_trial(self.folder, name, self.space) for name in trial_names(self.folder)]
        best = next((g for g in groups([r for r in rows if r["score"] is not None], self.space)), None)
        ends = [row["status"] for row in rows]
        left = self._left_s(trials)
        over = ", ".join(f"{ends.count(s)} {s}" for s in ("finished", "stopped", "failed") if s in ends)
        running = " ".join(f"{r['name']} {r['progress']:.0f}%" for r in rows if r["status"] == "unfinished")
        print(
            f"sweep {self.space.name}: {over or 'none over'} of {self.space.size} trials | running: {running or '-'}",
            flush=True,
        )
        if best is not None:
            chosen = " ".join(f"{key}={value_text(value)}" for key, value in best["parameters"].items())
            print(f"  best {self.space.metric} {best['score']['mean']:.4g}: {chosen} | ETA {left}", flush=True)

    def _left_s(self, trials: list[Any]) -> str:
        if self.began_s is None:
            return "-"
        done, spent = self._done(trials), time.monotonic() - self.began_s
        gained = done - self.before
        return f"{spent / gained * (self.space.size - done):.0f} s" if gained > 0 else "-"
