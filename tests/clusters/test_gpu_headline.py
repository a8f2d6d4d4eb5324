"""The headline of the GPU ladder, at toy size on a CPU: a whole pipeline without Ray, stopped and continued."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.gpu_ladder import headline_result
from tests.model_cases import TINY


def test_a_headline_goes_on_in_the_next_piece(tmp_path: Path) -> None:
    """Killed in the first piece; the second one finishes, without Ray, on a CPU. The figures are those of the run."""
    words = [
        "cpu",
        *TINY,
        *("data.image_size_px=[64,32]", "data.num_sweeps=2", "label.ratio=0.6", "teacher.crop_optim.epochs=1"),
        *("sim.scenes=3", "sim.select_scenes=1", "sim.val_scenes=1", "sim.lidar_azimuth_steps=180"),
        *("optim.epochs=0.5", "optim.checkpoints=1", "optim.patience=0", "teacher.optim.epochs=1"),
    ]
    assert headline_result(1, tmp_path, 2.0, words) is None
    found = headline_result(1, tmp_path, 300.0, words)
    assert found is not None and "error" not in found, found
    done = json.loads((tmp_path / "seed-1" / "evaluate_ours" / "done.json").read_text())
    assert found["arms"]["ours"]["SPNDS"] == done["SPNDS"] and list(found["arms"]) == ["boxes_only", "ours", "full"]
    assert found["teacher"]["n"] > 0 and found["steps"]["student_full"] >= 1
    assert found["seconds"] > 2.0  # the first piece counts, too
