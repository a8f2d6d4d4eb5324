"""Tests of the arms' ratios in report.json."""

from __future__ import annotations

import pytest

from ray_jobs.stages.report import ratios


def test_ratios_by_hand() -> None:
    arms = {
        "ours": {"mAP": 0.3, "SPNDS": 0.25},
        "full": {"mAP": 0.4, "SPNDS": 0.5},
        "boxes_only": {"mAP": 0, "SPNDS": 0.125},
    }
    assert ratios(arms) == {
        "ours_to_full": {"mAP": pytest.approx(0.75), "SPNDS": 0.5},
        "ours_to_boxes_only": {"mAP": None, "SPNDS": 2.0},
    }
    assert ratios({"ours": arms["ours"]}) == {}
