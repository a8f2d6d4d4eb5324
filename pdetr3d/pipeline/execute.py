"""``execute``: runs stages and the stages that these need, each once per run directory."""

from __future__ import annotations

import shutil
import time
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from threading import Condition

from pdetr3d.config import Config
from pdetr3d.config_sections import BOXES_ONLY, PSEUDO_LABELS
from pdetr3d.pipeline.arms import ARMS
from pdetr3d.pipeline.graph import GRAPH
from pdetr3d.pipeline.run import Run
from pdetr3d.pipeline.store import Store

# Stages that the trials of a search share. Every run makes the other stages itself.
SHARED = (BOXES_ONLY, "teacher", PSEUDO_LABELS)


def execute(
    goals: Sequence[str],
    run: Run,
    *,
    lanes: int = 1,
    given: Collection[str] = (),
    store: Store | None = None,
    shared: Collection[str] = (),
) -> None:
    """Finish the stages ``goals`` and what they need, ``lanes`` of them at once; finished ones are left as they are.

    Args:
        goals: names in ``GRAPH``, the most urgent first. run: the run that the stages are of. lanes: number of stages
            that are made at once. given: stages that this call does not make, even if one is needed.
        store: of the ``shared`` stages. They are made in it, and copied from it to this run.

    Raises:
        DataError: as the stages; and when a given stage that is needed is not finished.
    """
    walk = Walk(goals, run, given, store, shared)
    run.runner.lanes([walk.work] * lanes, lanes)


def teacher_goals(config: Config) -> tuple[str, ...]:
    """The stage "teacher"; before it "holdout", which measures a first teacher, if ``label.holdout`` is set."""
    return ("holdout", "teacher") if config.label.holdout else ("teacher",)


def pipeline_goals(run: Run, arms: Collection[str]) -> list[str]:
    """The stages of a whole run with these students, in the order in which lanes start them."""
    taken_over = run.result("pseudo_labels") is not None and run.result("teacher") is None  # labels without a teacher
    teacher = teacher_goals(run.config) if run.to_label and not taken_over else ()
    ours = ["student_ours"] if "ours" in arms else []
    return [*teacher, "pseudo_labels", *ours, *(f"student_{arm}" for arm in ARMS[:-1] if arm in arms)]


class Walk:
    """The stages of one call of ``execute``. Each lane, a thread, takes the first stage whose needs are finished."""

    def __init__(
        self, goals: Sequence[str], run: Run, given: Collection[str], store: Store | None, shared: Collection[str]
    ) -> None:
        self.run, self.given, self.store, self.shared = run, given, store, shared
        self.todo: dict[str, tuple[str, ...]] = {}  # stage to make -> stages that it waits for; in the order of goals
        self.changed, self.failed = Condition(), False
        for goal in goals:
            self._plan(goal)

    def _plan(self, name: str) -> None:
        """Add a stage to ``todo``, after the stages that it needs."""
        run = self.run
        if name in self.todo:
            return
        done = run.result(name)
        if done is not None:
            for need in self._needs(name):
                if run.result(need) is not None:
                    self._plan(need)
            shutil.rmtree(run.path / name / "batches", ignore_errors=True)  # of a job that was killed just then
            if "checkpoints" in done and name not in run.timing:
                print(f"{name}: finished before, nothing to do", flush=True)
                run.timing[name] = 0.0
            return
        needs = tuple(need for need in self._needs(name) if need not in self.given)
        for need in needs:
            self._plan(need)
        self.todo[name] = needs

    def _needs(self, name: str) -> Iterator[str]:
        """The stages of the graph that a stage reads. Pseudo labels read none if there is no click to label."""
        taken = self.store is not None and name in self.shared
        if not taken and (name != "pseudo_labels" or self.run.to_label):
            yield from (need for need in GRAPH[name].needs(self.run.config) if need in GRAPH)

    def work(self) -> None:
        """Make stages until none is left for this lane."""
        while (name := self._next()) is not None:
            try:
                self._make(name)
            except BaseException:
                with self.changed:
                    self.failed = True
                    self.changed.notify_all()
                raise

    def _next(self) -> str | None:
        """Wait for a stage whose needs are finished, take it out of ``todo``, and return it.

        None: there is no stage left, or another lane failed.
        """
        with self.changed:
            while self.todo and not self.failed:
                for name, needs in self.todo.items():
                    if all(self.run.result(need) is not None for need in needs):
                        del self.todo[name]
                        return name
                self.changed.wait()
            return None

    def _make(self, name: str) -> None:
        run, began = self.run, time.monotonic()
        if self.store is not None and name in self.shared:
            self.store.take(name, run, partial(self._share, name))
        else:
            run.dir.finish(name, GRAPH[name].make(run))
        run.timing[name] = time.monotonic() - began
        shutil.rmtree(run.path / name / "batches", ignore_errors=True)  # the finished stage needs them no more
        with self.changed:
            self.changed.notify_all()

    def _share(self, name: str, other: Run) -> None:
        """Make a shared stage in its own run ``other``; other shared stages that it needs come from the store."""
        execute([name], other, store=self.store, shared=[stage for stage in SHARED if stage != name])
