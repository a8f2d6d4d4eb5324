"""Tests of early stopping: the rule by hand, the end of the loop, and a watcher that no timing affects."""

from __future__ import annotations

from pathlib import Path
from time import sleep

import pytest
import torch

from pdetr3d.training.context import LocalContext
from pdetr3d.training.early_stop import stop_after
from ray_jobs.plug import early_stop, lanes
from ray_jobs.plug.context import RayContext, stop_asked
from ray_jobs.plug.early_stop import Watcher
from ray_jobs.plug.resume import read_progress, write_progress
from tests.training_cases import open_world, run_locally

SCORES = {10: 0.2, 20: 0.3, 30: 0.3, 40: 0.1, 50: 0.9}


def test_the_rule_by_hand() -> None:
    """The second score, 0.3, stays the best one: a later equal score does not replace it."""
    scores = list(SCORES.values())
    assert stop_after(scores, 1) == 3 and stop_after(scores, 2) == 4 and stop_after(scores, 3) is None
    assert stop_after(scores[:3], 2) is None and stop_after([], 1) is None and stop_after([0.0], 1) is None
    assert stop_after([0.0, 0.0], 1) == 2


class Stops(LocalContext):
    """A context that asks the loop to stop at the second kept checkpoint."""

    asked = 0

    def stop(self) -> bool:
        self.asked += 1
        return self.asked == 2


@pytest.mark.parametrize(("patience", "last"), [(1, 4), (0, 6)])
def test_the_loop_ends_where_it_is_told_to(patience: int, last: int, sim_world: Path, tmp_path: Path) -> None:
    """Six steps with checkpoints at 3, 4, 5 and 6; without patience the loop never asks whether to stop."""
    overrides = ["optim.batch_size=2", "optim.checkpoints=4", "optim.log_every=1", f"optim.patience={patience}"]
    world = open_world(sim_world, tmp_path / "world", *overrides)
    (context := run_locally("student", world.run.config, world.records, tmp_path / "run", 6, Stops))
    assert [step for step, _ in context.history] == list(range(1, last + 1))
    assert sorted(f.name for f in (tmp_path / "run").glob("step_*"))[-1] == f"step_000000{last}"
    assert isinstance(context, Stops) and context.asked == (2 if patience else 0)


def training(folder: str, delay_s: float) -> int:
    """Stand-in for the workers: reports a checkpoint at each step, ends when asked to, and returns the last step."""
    for step in SCORES:
        sleep(delay_s)
        write_progress(folder, step)
        if stop_asked(folder):
            break
    return step


def watched(tmp_path: Path, patience: int, training_s: float, scoring_s: float) -> tuple[Watcher, int]:
    folder = f"file://{tmp_path}/stage"

    def score(file: Path) -> float:
        sleep(scoring_s)
        return SCORES[int(file.stem)]

    watcher = Watcher(folder, list(SCORES), lambda step: tmp_path / "student" / f"{step}.pt", score, patience)
    last: list[int] = []
    watcher.run_beside(lambda: last.append(training(folder, training_s)))
    return watcher, last[0]


@pytest.fixture(autouse=True)
def _fast_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(early_stop, "POLL_S", 0.01)


@pytest.mark.parametrize(("training_s", "scoring_s", "last"), [(0.5, 0.0, {40, 50}), (0.0, 0.2, {50})])
def test_the_result_does_not_depend_on_who_is_faster(
    training_s: float, scoring_s: float, last: set[int], tmp_path: Path
) -> None:
    """With patience 2 the stop is after step 40.

    A slow training stops at 40 or 50. A fast one trains to 50, whose score of 0.9 must not be used.
    """
    watcher, reached = watched(tmp_path, 2, training_s, scoring_s)
    assert [int(f.stem) for f in watcher.files] == [10, 20, 30, 40] and watcher.scores == [0.2, 0.3, 0.3, 0.1]
    assert reached in last


def test_without_a_stop_every_checkpoint_is_there(tmp_path: Path) -> None:
    watcher, reached = watched(tmp_path, 3, 0.0, 0.0)
    assert [int(f.stem) for f in watcher.files] == list(SCORES) and reached == 50
    assert not stop_asked(watcher.folder)


def test_a_training_that_ends_before_its_checkpoints_are_there_ends_the_watch(tmp_path: Path) -> None:
    """As after an early stop in an earlier attempt, checkpoint 50 never appears."""
    folder = f"file://{tmp_path}/stage"
    watcher = Watcher(folder, list(SCORES), lambda step: Path(f"{step}.pt"), lambda file: SCORES[int(file.stem)], 3)
    watcher.run_beside(lambda: write_progress(folder, 40))
    assert [int(f.stem) for f in watcher.files] == [10, 20, 30, 40]


def test_an_error_of_either_side_is_raised(tmp_path: Path) -> None:
    def broken(*_: object) -> float:
        raise RuntimeError("no")

    folder = f"file://{tmp_path}/stage"
    for watcher, train in (
        (Watcher(folder, [10], Path, broken, 1), lambda: (write_progress(folder, 10), sleep(0.5))),  # type: ignore[arg-type]
        (Watcher(folder, [20], Path, lambda file: 0.0, 1), broken),  # type: ignore[arg-type]
    ):
        watcher.collect = lambda step: Path(f"{step}.pt")
        lanes.ray_is_down.clear()  # as ``init_ray``: the first watcher may fail while its training still ends
        with pytest.raises(RuntimeError, match="no"):
            watcher.run_beside(train)
    lanes.ray_is_down.clear()


@pytest.mark.parametrize(("rank", "mean", "expected"), [(0, 0.5, True), (1, 0.5, True), (1, 0.0, False)])
def test_all_ranks_are_told_the_same(rank: int, mean: float, expected: bool, tmp_path: Path) -> None:
    """Only rank 0 decides, and all ranks get its decision as the mean over two ranks."""
    context = object.__new__(RayContext)
    context.rank, context.folder, context.device = rank, f"file://{tmp_path}", torch.device("cpu")
    own: list[float] = []
    context.rank_mean = lambda value: own.append(value.item()) or torch.tensor(mean)  # type: ignore[method-assign]
    early_stop.write_stop(context.folder)
    assert context.stop() is expected and own == [1.0 if rank == 0 else 0.0]
    assert read_progress(context.folder) == 0
