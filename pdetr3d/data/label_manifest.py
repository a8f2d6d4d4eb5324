"""Public names of the label code in one module: the manifest, clicks, pseudo labels, and records."""

from pdetr3d.data.labels.clicks import draw_click, redraw_clicks
from pdetr3d.data.labels.manifest import LabelManifest, build_manifest
from pdetr3d.data.labels.pseudo_table import read_pseudo_labels, write_pseudo_labels
from pdetr3d.data.loading.records import (
    eval_records,
    inspection_record,
    inspection_records,
    prior_size_m,
    training_records,
)

__all__ = [
    "LabelManifest",
    "build_manifest",
    "draw_click",
    "eval_records",
    "inspection_record",
    "inspection_records",
    "prior_size_m",
    "read_pseudo_labels",
    "redraw_clicks",
    "training_records",
    "write_pseudo_labels",
]
