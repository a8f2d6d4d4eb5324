"""Format versions of the stages: what a run's identity knows of the code.

Add 1 to a stage's version when the same input gives other numbers or other files than before: changed arithmetic, a
changed default inside the code, another order of random draws, another column. Do not touch it for comments, messages,
speed, reports, refactoring, or a new choice that is off unless a config key asks for it.

tests/unit/test_golden.py fails when the numbers of a stage change and its version does not, and says what to do:
set the version here, then ``make golden`` writes the new numbers (tests/golden/STAGE.json). Runs that were begun with
another version end with exit code 2 and name it; a change of the code that moves no version ends no run.
"""

from __future__ import annotations

STAGE_VERSIONS: dict[str, int] = {
    "simulate": 2,  # the simulated world's files
    "index": 1,  # rows of index.arrow
    "label": 2,  # label manifest: roles, clicks
    "load": 2,  # what is read of a sample, and how it is augmented and collated
    "teacher": 5,  # its weights, losses, boxes
    "pseudo_labels": 2,  # pseudo_labels.parquet, given the teacher's boxes
    "student": 6,  # its weights, losses, boxes
    "evaluate": 2,  # scores, given boxes
}


def code_version() -> str:
    """All versions as one text: an entry of ``run.json``."""
    return ", ".join(f"{stage} {version}" for stage, version in sorted(STAGE_VERSIONS.items()))
