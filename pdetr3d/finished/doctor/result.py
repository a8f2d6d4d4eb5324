"""The result of a check, and the phrases in which checks advise to change config keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pdetr3d.finished.doctor.run import Run


@dataclass(frozen=True)
class Result:
    """The result of a check.

    Attributes:
        verdict: whether there is a problem. "unknown": the check's facts are missing.
        text: one line: the problem, the facts that were found, or the reason why the verdict is unknown.
        evidence: the facts behind a problem; empty for other verdicts.
        advice: what to try against a problem, the likeliest first, with config keys in backticks.
    """

    verdict: Literal["problem", "ok", "unknown"]
    text: str
    evidence: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()


def setting(run: Run, key: str, value: str) -> str:
    """The phrase "`key=value` (now ...)"."""
    now = str(run.config[key])
    return f"`{key}={value}` ({'as it is' if now.lower() == value else f'now {now}'})"


def change(run: Run, verb: str, key: str) -> str:
    """The phrase "raise `key` (now ...)". The ratio of people's labels changes only when they draw more boxes."""
    if key == "label.ratio" and run.config.get("label.source") == "manifest":
        return f"draw boxes in more scenes, and run `pdetr3d label` again (now {run.config[key]:.2%} of the samples)"
    return f"{verb} `{key}` (now {run.config[key]})"
