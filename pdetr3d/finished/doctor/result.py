"""What a check says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pdetr3d.finished.doctor.run import Run


@dataclass(frozen=True)
class Result:
    """``verdict`` of a check; ``text`` says in one line what is wrong, what was seen, or why nothing can be said.

    ``evidence`` and ``advice`` (the likeliest first, config keys in backticks) come with a problem alone.
    """

    verdict: Literal["problem", "ok", "unknown"]
    text: str
    evidence: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()


def setting(run: Run, key: str, value: str) -> str:
    """ "`key=value` (now ...)"."""
    now = str(run.config[key])
    return f"`{key}={value}` ({'as it is' if now.lower() == value else f'now {now}'})"


def change(run: Run, verb: str, key: str) -> str:
    """ "raise `key` (now ...)"; of the ratio that people's labels have, who can change it."""
    if key == "label.ratio" and run.config.get("label.source") == "manifest":
        return f"draw boxes in more scenes, and run `pdetr3d label` again (now {run.config[key]:.2%} of the samples)"
    return f"{verb} `{key}` (now {run.config[key]})"
