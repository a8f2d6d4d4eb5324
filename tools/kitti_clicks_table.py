"""The section of docs/results.md about teachers on KITTI's drives, and how far those of the simulated world help."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from pdetr3d.evaluation.pseudo_label_quality import BINS_M
from pdetr3d.finished.report import charts
from pdetr3d.finished.report.markdown import search_text
from pdetr3d.finished.report.search import Search
from pdetr3d.finished.report.spread import Spread, difference

PRETRAINED = "-pretrained"  # end of the names of ``searches.pretrained``
SIMULATED = "runs/kitti-clicks-sim"  # the folder that docs/datasets.md names
BINS = tuple(f"{low:g}-{high:g}" for low, high in BINS_M)
FIGURES = ("bev_iou", "center_error_m", "size_error", "yaw_error_rad")
TEACHERS = {
    "crop": "crop baseline (LiDAR points around the click alone)",
    "none": "teacher on LiDAR alone",
    "d_roi": "teacher with images (D-RoI)",
}


def kitti_clicks(found: dict[str, Any]) -> str:
    """The table, and a line for each teacher that was also trained from the simulated world."""
    search = Search(Path(), found)
    about = TEACHERS | {
        f"{name}{PRETRAINED}": f"{words}, first on the simulated world" for name, words in TEACHERS.items()
    }
    rows = {row.name: row for row in search.rows}
    lines = []
    for name in search.variants:
        if not name.endswith(PRETRAINED):
            continue
        own = name.removesuffix(PRETRAINED)
        mean, p, _ = difference(search.figures(rows[name]), search.figures(rows[own])).cells()
        before = Spread.of([trial["curve"][0][search.metric] for trial in rows[name].finished])
        lines.append(
            f"- {TEACHERS.get(own, own)}: training on the simulated world first changes the BEV IoU by {mean} "
            f"(p = {p}). Before it sees a real frame, such a teacher has {before}."
        )
    return "\n".join([search_text(search, about), *(["", *lines] if lines else [])])


def picture(found: dict[str, Any]) -> bytes:
    """The errors of all teachers by distance, as SVG."""
    search = Search(Path(), found)
    return base64.b64decode(charts.distance_panels(search, FIGURES, search.rows, BINS).uri.partition(",")[2])


def without_paths(found: dict[str, Any]) -> dict[str, Any]:
    """The document with SIMULATED in place of the folder in which the teachers of the simulated world were trained."""
    text = json.dumps(found)
    for variant in found["space"]["variants"].values():
        for word in variant["overrides"]:
            key, _, value = word.partition("=")
            if key == "teacher.start_from":
                text = text.replace(str(Path(json.loads(value)).parents[3]), SIMULATED)
    return json.loads(text)
