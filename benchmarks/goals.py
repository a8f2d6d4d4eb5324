"""Prints what a benchmark measured beside its goal, and fails the benchmark where a goal is clearly missed."""

from __future__ import annotations

from typing import NamedTuple

MISS = 0.1  # share of the goal by which a measurement may miss it: machines differ, and times vary


class Goal(NamedTuple):
    """A measured number and its goal.

    Attributes:
        name: what was measured, with its unit. value: the measurement. goal: its goal. least: True: the value should
            be at least the goal. False: at most.
    """

    name: str
    value: float
    goal: float
    least: bool = True

    @property
    def missed(self) -> float:
        """The share of the goal by which the value misses it; 0 where the goal is met."""
        return max(0.0, (self.goal - self.value if self.least else self.value - self.goal) / self.goal)

    def __str__(self) -> str:
        verdict = f"missed by {self.missed:.0%}" if self.missed else "met"
        return (
            f"{self.name}: {self.value:.3g} (goal: {'at least' if self.least else 'at most'} {self.goal:g}): {verdict}"
        )


def hold(*goals: Goal) -> None:
    """Print the goals.

    Raises:
        AssertionError: names all goals that are missed by more than MISS.
    """
    print(*goals, sep="\n")
    assert not (missed := [str(goal) for goal in goals if goal.missed > MISS]), "\n".join(missed)
