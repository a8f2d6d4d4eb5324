"""Labels of a run as a nuScenes results file: what detectors submit, and the devkit's evaluation reads."""

from __future__ import annotations

from pathlib import Path

from pdetr3d.data.storage.files import refuse_existing
from pdetr3d.evaluation.results_format import nuscenes_boxes, write_results
from pdetr3d.finished.labels.run_labels import RunLabels


def export_results(labels: RunLabels, out: Path) -> dict[str, object]:
    """Write every sample of the train split to the JSON file ``out``; returns what to tell people.

    Human boxes (score 1) where the sample is box-labeled, accepted pseudo labels (their scores) elsewhere; global
    frame; the best 500 of a sample. The format knows no "unknown": such a velocity is written as 0, and the attribute
    follows class and speed (``evaluation/attributes.py``), of human boxes, too.

    Raises:
        DataError: when ``out`` exists.
    """
    refuse_existing(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    results = {
        record.sample_token: nuscenes_boxes(
            record.sample_token, record.boxes, (record.lidar2ego, record.ego2global), labels.index.classes
        )
        for record in labels.records
    }
    write_results(out, results, use_camera=labels.teacher_cameras, use_external=True)  # the clicks
    boxes = sum(map(len, results.values()))
    return {"results": out, "samples": len(results), "boxes": boxes}
