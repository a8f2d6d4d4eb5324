"""Format versions of the stages: the only part of the code that belongs to a run's identity.

Add 1 to a stage's version when the same input gives other numbers or other files than before: changed arithmetic, a
changed default inside the code, another order of random draws, another column. Do not change it for comments, messages,
speed, reports, refactoring, or a new feature that is off by default.

tests/unit/test_golden.py fails when the numbers of a stage change and its version does not. Then set the version here;
``make golden`` writes the new numbers (tests/golden/STAGE.json). A run that was begun with another version is refused
with exit code 2 and a message with both versions. Other changes of the code do not affect runs.
"""

from __future__ import annotations

STAGE_VERSIONS: dict[str, int] = {
    "simulate": 2,  # the simulated world's files
    "index": 1,  # rows of index.arrow
    "label": 2,  # label manifest: roles, clicks
    "load": 3,  # reading, augmentation and collation of samples
    "teacher": 6,  # its weights, losses, boxes
    "pseudo_labels": 3,  # pseudo_labels.parquet, given the teacher's boxes
    "student": 6,  # its weights, losses, boxes
    "evaluate": 2,  # scores, given boxes
}


def code_version() -> str:
    """All versions as one text: an entry of ``run.json``."""
    return ", ".join(f"{stage} {version}" for stage, version in sorted(STAGE_VERSIONS.items()))
