"""The section about KITTI's drives: the differences that training on the simulated world makes, and no paths."""

from __future__ import annotations

import json
from pathlib import Path

from tests.report_cases import plant_trial, space_of, write_search
from tools.kitti_clicks_table import kitti_clicks, without_paths

START = "/home/somebody/sim/trials/ab_00001/teacher/step_0000100.pt"
GAINS = {0: 0.01, 1: 0.02, 2: 0.03}  # of the yaw error by seed


def document(folder: Path) -> dict:
    """A search of one teacher over three seeds, alone and pretrained; the metric of planted teachers is the yaw."""
    variants = {
        "none": {"overrides": []},
        "none-pretrained": {"overrides": [f"teacher.start_from={json.dumps(START)}"]},
    }
    space = space_of(
        {}, trains="teacher", metric="yaw_error_rad", variants=variants, seeds=[0, 1, 2], measured_on="point_labeled"
    )
    for seed, gain in GAINS.items():
        for number, (name, value) in enumerate({"none": 0.5, "none-pretrained": 0.5 + gain}.items()):
            plant_trial(folder, space, f"t_{seed}{number}", {"variant": name, "seed": seed}, value)
    return write_search(folder, space)


def test_each_pretrained_teacher_is_compared_with_its_own_kind(tmp_path: Path) -> None:
    """Mean of the gains: 0.02, deviation 0.01: t = 0.02 / (0.01 / sqrt(3)) = 3.46, 2 degrees of freedom, p = 0.074."""
    text = kitti_clicks(document(tmp_path))
    assert "| teacher on LiDAR alone, first on the simulated world |" in text
    assert text.splitlines()[-1] == (
        "- teacher on LiDAR alone: training on the simulated world first changes the BEV IoU by +0.020 (p = 0.074). "
        "Before it sees a real frame, such a teacher has 0.100 ± 0.000."
    )


def test_no_path_of_the_machine_is_kept(tmp_path: Path) -> None:
    found = document(tmp_path)
    assert "/home/somebody" in json.dumps(found)
    kept = json.dumps(without_paths(found))
    assert "/home/somebody" not in kept and "runs/kitti-clicks-sim/trials/ab_00001/teacher/step_0000100.pt" in kept
