"""Exports a run's labels as a nuScenes results file, the format that detectors submit and the devkit evaluates."""

from __future__ import annotations

from pathlib import Path

from pdetr3d.data.storage.files import refuse_existing
from pdetr3d.evaluation.results_format import nuscenes_boxes, write_results
from pdetr3d.finished.labels.run_labels import RunLabels


def export_results(labels: RunLabels, out: Path) -> dict[str, object]:
    """Write every sample of the train split to the JSON file ``out``.

    A box-labeled sample has its human boxes (score 1), another one its accepted pseudo labels (with their scores), in
    the global frame, and at most the best 500. An unknown velocity is written as 0, since the format has no value for
    it. All attributes follow class and speed (``evaluation/attributes.py``), those of human boxes, too.

    Returns:
        The rows of the command's final message.

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
    write_results(out, results, use_camera=labels.teacher_cameras, use_external=True)  # the clicks are external data
    boxes = sum(map(len, results.values()))
    return {"results": out, "samples": len(results), "boxes": boxes}
