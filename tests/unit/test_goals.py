"""Checks the verdicts of the benchmarks' goals."""

from __future__ import annotations

import pytest

from benchmarks.goals import Goal, hold

GOALS = [
    (Goal("samples", 4.0, 4.0), "samples: 4 (goal: at least 4): met", True),
    (Goal("samples", 3.7, 4.0), "samples: 3.7 (goal: at least 4): missed by 7%", True),
    (Goal("samples", 3.5, 4.0), "samples: 3.5 (goal: at least 4): missed by 12%", False),
    (Goal("wait", 2.0, 3.0, least=False), "wait: 2 (goal: at most 3): met", True),
    (Goal("wait", 3.2, 3.0, least=False), "wait: 3.2 (goal: at most 3): missed by 7%", True),
    (Goal("wait", 7.5, 3.0, least=False), "wait: 7.5 (goal: at most 3): missed by 150%", False),
]


@pytest.mark.parametrize(("goal", "line", "holds"), GOALS)
def test_a_goal_fails_where_it_is_missed_by_more_than_a_tenth(
    goal: Goal, line: str, holds: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    if holds:
        hold(goal)
    else:
        with pytest.raises(AssertionError, match="missed by"):
            hold(goal)
    assert capsys.readouterr().out == f"{line}\n"


def test_all_goals_are_printed_and_all_missed_ones_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(AssertionError) as failed:
        hold(*(goal for goal, _, _ in GOALS))
    assert len(capsys.readouterr().out.splitlines()) == len(GOALS)
    assert str(failed.value).splitlines() == [line for _, line, holds in GOALS if not holds]
