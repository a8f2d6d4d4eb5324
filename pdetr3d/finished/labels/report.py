"""Writes the report of a run's pseudo labels: a folder with index.html, report.json and pictures."""

from __future__ import annotations

import dataclasses
import html
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from pdetr3d.config import DataConfig
from pdetr3d.data.loading.load import load_sample
from pdetr3d.data.storage.files import new_folder
from pdetr3d.evaluation.figures import QUALITY_NAMES
from pdetr3d.finished.labels.measure import MeasuredLabels
from pdetr3d.finished.labels.pictures import picture
from pdetr3d.finished.labels.run_labels import RunLabels
from pdetr3d.schema import SampleRecord
from pdetr3d.words import number

# Key of a row in the report -> number of decimal places in its column.
COLUMNS = {
    "clicks": 0,
    "accepted": 0,
    "score": 3,
    "bev_iou": 3,
    "iou_3d": 3,
    "center_error_m": 2,
    "size_error": 3,
    "yaw_error_rad": 2,
    "reversed": 3,
}
TABLES = {
    "by_class": ("By class", "of accepted labels"),
    "by_distance": ("By distance of the click [m]", "of accepted labels"),
    "by_score": ("By score (predicted BEV IoU)", "of accepted labels"),
    "by_direction": (
        "By rank of the direction's probability [%]",
        "of accepted labels of classes with a direction; student.direction_share takes those of the highest ranks",
    ),
    "by_reason": ("By reason", "of all labels of the reason, rejected ones, too"),
}
STYLE = """body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:84rem;padding:0 1rem;color:#1c2430}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin:2rem 0 .2rem}p{margin:.3rem 0;color:#48566a}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}th,td{padding:.25rem .8rem;text-align:right}
th:first-child,td:first-child{text-align:left}thead th{border-bottom:2px solid #b8c2cf;font-weight:600}
tbody tr:nth-child(odd){background:#f3f5f8}tbody tr:first-child.all{font-weight:600}
figure{margin:1rem 0}img{width:100%;border-radius:6px}"""


def write_report(labels: RunLabels, out: Path, worst: int) -> dict[str, object]:
    """Write the new folder ``out``. A browser opens its index.html without a server.

    Args:
        worst: number of pictures of the worst accepted labels.

    Returns:
        The rows of the command's final message.

    Raises:
        DataError: when ``out`` exists, or a file of a pictured sample is missing or broken.
    """
    measured = MeasuredLabels(labels)
    report = {"run": str(labels.path.resolve()), "manifest": labels.manifest.digest, **measured.report()}
    with new_folder(out) as folder:
        pictures = [
            draw_label(labels, measured, row, i, folder) for i, row in enumerate(measured.worst(worst), start=1)
        ]
        (folder / "report.json").write_text(json.dumps(report, indent=1, allow_nan=False))
        (folder / "index.html").write_text(_page(report, pictures), encoding="utf-8")
    whole = report["all"]
    quality = "unknown" if whole["bev_iou"] is None else f"{whole['bev_iou']:.3f}"
    accepted = f"{whole['accepted']} of {whole['clicks']}"
    return {"report": out / "index.html", "accepted": accepted, "BEV IoU": quality, "pictures": len(pictures)}


def draw_label(labels: RunLabels, measured: MeasuredLabels, row: int, number: int, folder: Path) -> tuple[str, str]:
    """Draw row ``row`` of the measured table to a file in ``folder``; returns the file's name and a caption.

    Args:
        number: the picture's number in the report, from 1.
    """
    line, box = measured.table.iloc[row], measured.boxes[row : row + 1]
    record = measured.records[line["sample_token"]]
    place = int(np.nonzero(record.clicks.click_id == line["click_id"])[0][0])
    own = record.clicks.box_index[place]
    truth = record.boxes[np.arange(len(record.boxes)) == own]
    others = dataclasses.replace(record, boxes=record.boxes[np.arange(len(record.boxes)) != own])
    cameras = any(record.cameras)
    sample = load_sample(others, _data(record, labels), cameras=cameras)
    title = f"{number}. {line['class'].replace('_', ' ')} at {line['distance_m']:.0f} m, score {line['score']:.2f}"
    if line["known"]:
        title += f":  BEV IoU {line['bev_iou']:.2f}, center off by {line['center_error_m']:.2f} m"
        title += "" if np.isnan(line["yaw_error_rad"]) else f", yaw by {np.degrees(line['yaw_error_rad']):.0f}°"
    sizes = "   ".join(
        f"{name} {length:.1f} x {w:.1f} x {h:.1f} m"
        for name, one in (("pseudo", box), ("true", truth))
        for length, w, h in one.size_m
    )
    kind = re.sub(r"\W+", "_", line["class"])  # a class may be called "van / bus"
    name = f"{number:02d}_{kind}_{line['click_id']}.png"
    details = f"{sizes}   {line['reason']}   sample {line['sample_token']}   {line['click_id']}"
    picture(sample, box, truth, record.clicks.xyz_m[place], (title, details), folder / name)
    return name, title


def _data(record: SampleRecord, labels: RunLabels) -> DataConfig:
    """The run's settings for reading a sample, but with images in full size."""
    sizes = [(camera.width_px, camera.height_px) for camera in record.cameras if camera]
    read = {
        "num_sweeps": labels.config["data.num_sweeps"],
        "packed": labels.config.get("data.packed", ""),  # a run of older code has no such key
        "image_size_px": sizes[0] if sizes else (1, 1),
    }
    return labels.index.reading.model_copy(update=read)


def _page(report: dict[str, Any], pictures: list[tuple[str, str]]) -> str:
    whole = report["all"]
    share = whole["accepted"] / whole["clicks"] if whole["clicks"] else 0.0
    known = f"{whole['known']} of the accepted have a known true box. " if whole["known"] < whole["accepted"] else ""
    ece, rank = (report["calibration"][name] for name in ("ece", "rank_correlation"))
    parts = [
        f"<h1>Pseudo labels of {html.escape(report['run'])}</h1>",
        f"<p>{whole['clicks']} clicks, {whole['accepted']} accepted ({share:.1%}). {known}"
        f"Does the score tell the BEV IoU? Expected calibration error {number(ece, 3)}, "
        f"rank correlation {number(rank, 2)}.</p>",
    ]
    for key, (title, of) in TABLES.items():
        rows = {"all": whole, **report[key]} if key == "by_class" else report[key]
        parts += [f"<h2>{title}</h2>", f"<p>Means {of}; accepted: how many.</p>", _table(rows)]
    parts += ["<h2>Worst accepted labels</h2>", "<p>The worst of each class, then each one's second ... "
              "Magenta: pseudo label. Green: true box. Tick: heading. White cross: click.</p>"]  # fmt: skip
    parts += [
        f'<figure><img loading="lazy" src="{html.escape(name)}" alt="{html.escape(text)}"></figure>'
        for name, text in pictures
    ]
    head = f'<meta charset="utf-8"><title>Pseudo labels</title><style>{STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>\n' + "\n".join(parts) + "\n</body></html>\n"


def _table(rows: dict[str, dict[str, Any]]) -> str:
    """An HTML table of the rows with clicks; columns without any known number are left out."""
    rows = {name: row for name, row in rows.items() if row["clicks"]}
    shown = {key: value for key, value in COLUMNS.items() if any(row[key] is not None for row in rows.values())}
    lines = [
        "<tr{}><td>{}</td>{}</tr>".format(
            ' class="all"' if name == "all" else "",
            html.escape(name.replace("_", " ").replace("-inf", " and more")),
            "".join(f"<td>{number(row[key], digits)}</td>" for key, digits in shown.items()),
        )
        for name, row in rows.items()
    ]
    headings = "".join(f"<th>{QUALITY_NAMES.get(key, key)}</th>" for key in shown)
    return f"<table><thead><tr><th></th>{headings}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
