"""Measures a teacher of the simulated world at the clicks of real nuScenes keyframes, on which it was not trained.

``python -m benchmarks.transfer RUN OUT.json`` needs RUN, a run directory with a trained teacher of nuScenes' classes,
and PDETR3D_REAL_DATA, a folder with nuScenes v1.0-mini. It writes the quality of the teacher's boxes, and that of boxes
that need no training: the class means of nuScenes at the clicks.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pdetr3d
from pdetr3d.config import LabelConfig
from pdetr3d.data.index.index import Index
from pdetr3d.data.index.nuscenes import build_index
from pdetr3d.data.label_manifest import build_manifest, training_records
from pdetr3d.pipeline.quality import KnownClicks, floors
from pdetr3d.pipeline.runner import LocalRunner
from pdetr3d.schema import FALLBACK_SIZE_M, Boxes3D, SampleRecord
from pdetr3d.tracking.provenance import git_state

SPLIT = "mini_train"


def transfer(run: Path) -> dict[str, Any]:
    """The quality of the boxes at clicks: of the teacher in ``run``, and of the floors."""
    teacher = pdetr3d.load_teacher(run)

    def boxes(records: Sequence[SampleRecord]) -> Mapping[str, Boxes3D]:
        return {r.sample_token: teacher.boxes(r, r.clicks.xyz_m, r.clicks.label) for r in records}

    with tempfile.TemporaryDirectory() as folder:
        file = build_index(Path(os.environ["PDETR3D_REAL_DATA"]), "v1.0-mini", Path(folder) / "index.arrow")
        index = Index.open(file)
        manifest = build_manifest(index, SPLIT, LabelConfig(ratio=1.0), Path(folder) / "manifest")
        clicks = KnownClicks(training_records(index, manifest), classes=teacher.config.classes)
        found = floors(clicks, teacher.config, FALLBACK_SIZE_M, LocalRunner())
        return {"teacher": clicks.qualities({"": boxes})[""], **found}


def run(trained: Path, out: Path) -> None:
    """Measure, and write the JSON file ``out``."""
    began = time.monotonic()
    found = {"commit": git_state()["git.commit"], "labels": transfer(trained)}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(found | {"seconds": {"transfer": time.monotonic() - began}}, indent=1) + "\n")


if __name__ == "__main__":
    run(Path(sys.argv[1]), Path(sys.argv[2]))
