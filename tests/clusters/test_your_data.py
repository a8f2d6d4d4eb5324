"""docs/your-data.md: its commands as they are written, on a world whose un-boxed annotations were deleted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.tutorial import follow

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(2400)]


def test_from_boxes_and_clicks_to_a_detector(
    sim_world: Path, tmp_path: Path, ray_local: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    printed = follow(sim_world, tmp_path, monkeypatch, capfd)
    report = json.loads(Path("runs/mine/report.json").read_text())
    assert set(report["arms"]) == {"boxes_only", "ours"}  # not all boxes are known
    assert "devkit scores on the val split" in printed["-m"]
