"""Makes searches without training: run directories with made-up results of trials, collected by ``collect``."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from pdetr3d.data.storage.files import write_json
from pdetr3d.run_files import SEED
from ray_jobs.searches.results import FILE, RESULT, STATUS, collect
from ray_jobs.searches.space import SearchSpace
from ray_jobs.searches.space_files import trial_config

BINS = ("0-10", "10-20", "20-30", "30-40", "40-52")
CLASSES = ("car", "pedestrian")


def space_of(space: Mapping[str, Any], **more: Any) -> SearchSpace:
    """A search space; by default students of arm "ours" are judged by SPNDS."""
    document = {"name": "planted", "question": "Which is best?", "trains": ["ours"], "metric": "SPNDS", **more}
    return SearchSpace(**document, space=dict(space))


def student_scores(value: float) -> dict[str, Any]:
    """The scores of a student that reports read; SPNDS is ``value``."""
    return {
        **{"mAP": value - 0.05, "NDS": value - 0.01, "SPNDS": value, "mATE": 0.5, "mASE": 0.4, "mAOE": 0.9},
        "by_distance": {
            b: {"mAP": value - i / 20, "ATE": 0.3 + i / 10, "ASE": 0.4, "AOE": 0.8 if i else None}
            for i, b in enumerate(BINS)
        },
        "per_class": {name: {"AP": value + i / 10} for i, name in enumerate(CLASSES)},
    }


def teacher_scores(value: float) -> dict[str, Any]:
    """The quality of a teacher's boxes; the yaw error is ``value``."""
    figures = {"n": 9, "bev_iou": 0.6, "iou_3d": 0.5, "center_error_m": 0.2, "size_error": 0.3, "yaw_error_rad": value}
    return {
        **figures,
        "by_distance": {b: {**figures, "yaw_error_rad": value + i / 10} for i, b in enumerate(BINS)},
        "per_class": {name: figures for name in CLASSES},
    }


def _scores(arm: str, value: float) -> dict[str, Any]:
    return teacher_scores(value) if arm == "teacher" else student_scores(value)


def plant_trial(
    folder: Path,
    space: SearchSpace,
    name: str,
    parameters: Mapping[str, Any],
    value: float | Mapping[str, float],
    *,
    status: str | None = "finished",
    error: str | None = None,
) -> None:
    """Write a trial's files. ``value``: its final figure (or arm -> figure); its select scores are 0.1 and
    ``value`` + 0.02 after half and all of 200 samples. An unfinished trial has only the first score."""
    place, finished = folder / "trials" / name, status == "finished"
    values = value if isinstance(value, Mapping) else dict.fromkeys(space.arms or ("teacher",), value)
    first = next(iter(values.values()))
    curve = [{"step": 50, "progress": 50.0, "samples": 100, space.metric: 0.1}]
    if finished:
        curve.append({"step": 100, "progress": 100.0, "samples": 200, space.metric: first + 0.02})
    write_json(place / FILE, {"parameters": {SEED: 0, **parameters}, "steps": 100, "curve": curve})
    if status is not None:
        write_json(place / STATUS, {"status": status, "error": error})
    if finished:
        stages = {
            arm if arm in ("teacher", "student") else f"student_{arm}": _scores(arm, figure)
            for arm, figure in values.items()
        }
        data = {"box_keyframes": 2, "keyframes": 6, "boxes": 64, "clicks": 111, "achieved_label_ratio": 1 / 3}
        write_json(place / RESULT / "done.json", {"final": stages, "timing_s": {"student_ours": 71.4}, "data": data})


def write_search(folder: Path, space: SearchSpace, overrides: Sequence[str] = (), **more: Any) -> dict[str, Any]:
    """Collect the planted trials into search.json, as ``ray_jobs.search`` does; returns it."""
    base = trial_config(space, "quickstart", list(overrides), {})
    document = {
        "preset": "quickstart",
        "command": "search.py planted",
        "commit": "a" * 40,
        "config": json.loads(base.to_json()),
        "date": "2026-11-26T06:35:55+00:00",
        "budget": None,
        "space": space.model_dump(mode="json") | {"preset": "quickstart", "overrides": list(overrides)},
        **collect(folder, space, base),
        **more,
    }
    write_json(folder / "search.json", document)
    return document


def cells(page: str) -> list[list[str]]:
    """The rows of all tables of a page, unescaped."""
    parser = _Cells()
    parser.feed(page)
    return parser.rows


class _Cells(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.inside = True
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.rows[-1][-1] += data


def svg_of(uri: str) -> str:
    """The SVG in a chart's URI. Its texts are paths, each after a comment with the text."""
    return base64.b64decode(uri.removeprefix("data:image/svg+xml;base64,")).decode()


def svg_uris(page: str) -> list[str]:
    """The charts of a page."""
    return re.findall(r'"(data:image/svg[^"]*)"', page)


def svg_texts(uri: str) -> list[str]:
    """The texts of a chart."""
    return re.findall(r"<!-- (.*?) -->", svg_of(uri))
