"""Makes a label manifest from people's work: their clicks, the boxes in the tables, the frames they found empty."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pdetr3d.config import LabelConfig
from pdetr3d.data.index.index import Index
from pdetr3d.data.labels.click_matching import match_clicks
from pdetr3d.data.labels.human_clicks import PeoplesClicks, done_file, read_clicks
from pdetr3d.data.labels.manifest import (
    CLICKS_SCHEMA,
    IGNORE_SCHEMA,
    LabelManifest,
    check_folder,
    simulated_clicks,
    write_manifest,
)
from pdetr3d.data.labels.roles import People, annotated, drawn_roles, peoples_roles
from pdetr3d.data.storage.files import atomic_path

STRAYS = "clicks_without_box.csv"  # in the manifest's folder: clicks of box-labeled samples that match no box


def import_clicks(
    index: Index,
    split: str,
    config: LabelConfig,
    file: Path,
    out_dir: Path,
    people: People | None = None,
    *,
    drawn: bool = False,
) -> LabelManifest:
    """Make a manifest of ``split`` with people's clicks (``read_clicks``) and with roles by ``peoples_roles``.

    A box-labeled sample keeps its boxes, and its clicks are matched to them (``match_clicks``). An object that nobody
    clicked gets a simulated click (by ``label.seed``), since the teacher learns from clicks with boxes. Clicks that
    match no box are listed in STRAYS and stay in the manifest: training uses them as clicks without a known box, and
    ``doctor`` counts them.

    Args:
        people: the samples with boxes and the empty ones (``peoples_roles``). drawn: draw the box-labeled samples by
            ``label.ratio`` among those with annotations, as ``build_manifest`` does; the roles of the others follow
            ``people`` and the clicks. This is for studies on tables that hold all boxes.

    Raises:
        DataError: when the file or the roles are wrong; nothing is written then.
    """
    found = read_clicks(index, split, file)
    tokens, people = index.tokens(split), people or People()
    clicked = {click["sample_token"] for click in found.clicks}
    beside = str(done_file(Path(file)))
    people = dataclasses.replace(
        people,
        empty={**dict.fromkeys(found.empty, beside), **people.empty},
        unclicked=dict.fromkeys((found.done or frozenset()) - found.empty - clicked, beside),
    )
    if drawn:
        roles = drawn_roles(index, split, config, annotated(index, split))
        chosen = frozenset(token for token, role in zip(tokens, roles, strict=True) if role == "box")
        empty = {token: where for token, where in people.empty.items() if token not in chosen}
        people = dataclasses.replace(people, boxes_of=chosen, empty=empty)
    roles = peoples_roles(index, split, clicked, people)
    boxed = [token for token, role in zip(tokens, roles, strict=True) if role == "box"]
    matched, strays = _match(index, found, set(boxed))
    drawn_here = simulated_clicks(index, boxed, config.seed, but=frozenset(matched))
    clicks = pa.concat_tables([pa.Table.from_pylist(found.clicks, schema=CLICKS_SCHEMA), drawn_here])
    ignore = pa.Table.from_pylist(found.ignore, schema=IGNORE_SCHEMA)
    config = config.model_copy(
        update={"source": "simulate", "manifest": "", "holdout": 0.0}
        | ({} if drawn else {"ratio": len(boxed) / len(tokens)})
    )
    facts = {
        "clicks_file": str(Path(file).resolve()),
        "human_clicks": len(found.clicks),
        "matched_clicks": len(matched),
        "clicks_without_box": len(strays),
        "simulated_clicks": drawn_here.num_rows,
        "not_done": 0 if found.done is None else len(clicked - found.done - set(boxed)),
        "classes_without_boxes": _without_boxes(index, found, boxed),
    }
    check_folder(Path(out_dir))
    (Path(out_dir) / STRAYS).unlink(missing_ok=True)
    if strays:
        _write_strays(Path(out_dir) / STRAYS, strays)
    return write_manifest(index, split, config, roles, clicks, out_dir, ignore=ignore, facts=facts)


def _match(index: Index, found: PeoplesClicks, boxed: set[str]) -> tuple[set[str], list[dict[str, Any]]]:
    """Match the clicks of box-labeled samples: the tokens of matched annotations, and the clicks without a box."""
    by_sample: dict[str, list[dict[str, Any]]] = {}
    for click in found.clicks:
        if click["sample_token"] in boxed:
            by_sample.setdefault(click["sample_token"], []).append(click)
    matched: set[str] = set()
    strays = []
    for token, clicks in by_sample.items():
        annotations = index.annotations(token)
        boxes, names = annotations.boxes(), annotations.token[annotations.kept]
        xyz = np.array([[click[axis] for axis in "xyz"] for click in clicks])
        label = np.array([index.classes.label_of[click["class"]] for click in clicks])
        for click, own in zip(clicks, match_clicks(xyz, label, boxes), strict=True):
            if own >= 0:
                matched.add(str(names[own]))
                continue
            same = boxes.center_m[boxes.label == index.classes.label_of[click["class"]]]
            place = np.array([click[axis] for axis in "xyz"])
            nearest = float(np.linalg.norm(same - place, axis=1).min()) if len(same) else None
            strays.append({"row": found.row_of[click["click_id"]], **click, "nearest_box_m": nearest})
    return matched, strays


def _without_boxes(index: Index, found: PeoplesClicks, boxed: list[str]) -> list[str]:
    """Classes that have clicks, but no box in any box-labeled sample."""
    seen = {int(label) for token in boxed for label in index.annotations(token).boxes().label}
    clicked = {click["class"] for click in found.clicks}
    return [name for label, name in enumerate(index.classes.names) if name in clicked and label not in seen]


def _write_strays(file: Path, strays: list[dict[str, Any]]) -> None:
    """Write the clicks as CSV, LIDAR_TOP frame [m]. nearest_box_m: distance to the nearest center of their class."""
    names = ("row", "sample_token", "class", "x", "y", "z", "nearest_box_m")
    with atomic_path(file) as temporary, temporary.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(sorted(strays, key=lambda stray: stray["row"]))
