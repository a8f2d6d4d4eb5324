"""The label manifest: which train samples are box-labeled, and one stored click per kept object of every train sample.

A folder of samples.arrow, clicks.arrow and manifest.json (written last: without it the folder is no manifest).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pdetr3d.config import LabelConfig
from pdetr3d.data.augment import keyed_rng
from pdetr3d.data.clicks import place_clicks
from pdetr3d.data.files import atomic_path, open_arrow, table_digest, write_arrow
from pdetr3d.data.index import Index
from pdetr3d.data.row_table import places
from pdetr3d.schema import CLASSES, DataError

# clicks: how many; those of a sample are neighbors in the table of clicks, in the order of the samples.
SAMPLES_SCHEMA = pa.schema(
    [
        ("sample_token", pa.string()),
        ("scene_token", pa.string()),
        ("split", pa.string()),
        ("role", pa.string()),
        ("clicks", pa.int64()),
    ]
)
# x, y, z: LIDAR_TOP [m]. source: sim | human. annotation_token: of simulated clicks only. track_id: of people's clicks,
# where they gave one.
CLICKS_SCHEMA = pa.schema(
    [
        ("click_id", pa.string()),
        ("sample_token", pa.string()),
        ("class", pa.string()),
        ("x", pa.float64()),
        ("y", pa.float64()),
        ("z", pa.float64()),
        ("source", pa.string()),
        ("annotation_token", pa.string()),
        ("track_id", pa.string()),
    ]
)


VERIFIED_CLICKS = 5_000_000  # the tables of up to so many are read whole when opened; of more, only counted


class LabelManifest:
    """Read-only view of a manifest folder.

    Attributes:
        path: the folder. config: what it was made with. split: the train split. index_digest: of the index used.
        samples, clicks: pyarrow tables (SAMPLES_SCHEMA, CLICKS_SCHEMA). digest: of both tables, 16 hex digits.
    """

    def __init__(self, path: Path, samples: pa.Table, clicks: pa.Table, info: dict) -> None:
        self.path = path
        self.samples = samples
        self.clicks = clicks
        self.config = LabelConfig.model_validate_json(json.dumps(info["config"]))  # tuples are lists there
        self.split: str = info["split"]
        self.index_digest: str = info["index_digest"]
        self.digest: str = info["digest"]

    @staticmethod
    def open(path: Path) -> LabelManifest:
        """Open what ``build_manifest`` or ``import_clicks`` wrote.

        Raises:
            DataError: when a file is missing, or the tables are not those that manifest.json was written for.
        """
        path = Path(path)
        again = "run pdetr3d label again"
        try:
            info = json.loads((path / "manifest.json").read_text())
        except (OSError, ValueError) as error:
            raise DataError(f"{path / 'manifest.json'}: no label manifest here ({error}); {again}") from error
        samples = open_arrow(path / "samples.arrow", SAMPLES_SCHEMA)
        clicks = open_arrow(path / "clicks.arrow", CLICKS_SCHEMA)
        counted = (samples.num_rows, clicks.num_rows, pc.sum(samples["clicks"], min_count=0).as_py())
        same = counted == (info.get("samples"), info.get("clicks"), info.get("clicks"))
        if same and clicks.num_rows <= VERIFIED_CLICKS:
            same = table_digest(samples, clicks) == info["digest"]
        if not same:
            raise DataError(
                f"{path}: samples.arrow and clicks.arrow differ from manifest.json (interrupted or edited); {again}"
            )
        return LabelManifest(path, samples, clicks, info)

    @cached_property
    def roles(self) -> dict[str, str]:
        """sample_token -> "box" | "point", every train sample, in manifest order: an object for each."""
        return dict(
            zip(self.samples.column("sample_token").to_pylist(), self.samples.column("role").to_pylist(), strict=True)
        )

    @property
    def achieved_ratio(self) -> float:
        """Share of the train samples that are box-labeled."""
        return float(self.boxed.mean())

    @cached_property
    def boxed(self) -> NDArray[np.bool_]:
        """(N,): which train samples are box-labeled, in manifest order."""
        return pc.equal(self.samples["role"], "box").to_numpy()

    @cached_property
    def click_range(self) -> NDArray[np.int64]:
        """(N, 2): each train sample's clicks are rows ``begin .. end - 1`` of ``clicks``."""
        end = np.cumsum(self.samples["clicks"].to_numpy())
        return np.stack([end - self.samples["clicks"].to_numpy(), end], 1)

    @cached_property
    def track_of(self) -> dict[str, str]:
        """click_id -> track_id of the clicks that carry one (people's, where they gave it): one object of a scene."""
        names, tracks = (self.clicks.column(name).to_pylist() for name in ("click_id", "track_id"))
        return {name: track for name, track in zip(names, tracks, strict=True) if track is not None}


def build_manifest(index: Index, split: str, config: LabelConfig, out_dir: Path) -> LabelManifest:
    """Choose the box-labeled samples of ``split`` and draw one click per kept object (ten classes, >= 1 sensor point).

    A click depends on (label.seed, annotation token) and its box alone: it is the same whatever the ratio or the split.
    Writes the folder ``out_dir`` and returns the manifest.

    Raises:
        DataError: when the split has no samples.
    """
    tokens = index.tokens(split)
    parts = []
    for token in tokens:
        annotations = index.annotations(token)
        kept = annotations.kept
        known = annotations.token[kept]
        uniform = np.array([keyed_rng(config.seed, 0, name, "click").random(3) for name in known]).reshape(-1, 3)
        box = annotations.box[kept]
        xyz = place_clicks(box[:, :3], box[:, 3:6], box[:, 6], uniform)
        parts.append((token, known, annotations.label[kept], xyz))
    xyz = np.concatenate([part[3] for part in parts])
    names = [str(name) for part in parts for name in part[1]]
    clicks = pa.table(
        {
            "click_id": [click_id("sim", config.seed, name) for name in names],
            "sample_token": [part[0] for part in parts for _ in part[1]],
            "class": [CLASSES[label] for part in parts for label in part[2]],
            "x": xyz[:, 0],
            "y": xyz[:, 1],
            "z": xyz[:, 2],
            "source": ["sim"] * len(names),
            "annotation_token": names,
            "track_id": [None] * len(names),
        },
        schema=CLICKS_SCHEMA,
    )
    return write_manifest(index, split, config, clicks, out_dir)


def click_id(source: str, *key: str | int | float) -> str:
    """Join key of a click: ``source`` and 16 hex digits that depend on ``key`` alone and tell nothing of the object."""
    return f"{source}-{hashlib.sha256(chr(31).join(str(part) for part in key).encode()).hexdigest()[:16]}"


def write_manifest(index: Index, split: str, config: LabelConfig, clicks: pa.Table, out_dir: Path) -> LabelManifest:
    """Assign roles and write the three files, manifest.json last; each is renamed into place."""
    out_dir = Path(out_dir)
    tokens = index.tokens(split)
    scenes = index.column("scene_token", tokens)
    counts = _class_counts(index, tokens) if config.balance or config.no_boxes_of else None
    boxed = box_labeled(tokens, scenes, index.column("timestamp_us", tokens), config, counts)
    roles = ["box" if token in boxed else "point" for token in tokens]
    clicks = _leave_out(clicks, boxed, config)
    sample = places(clicks["sample_token"], pa.chunked_array([tokens], pa.string()))
    if (np.diff(sample) < 0).any():
        clicks = clicks.take(pa.array(np.argsort(sample, kind="stable")))
    counts_of = np.bincount(sample, minlength=len(tokens))
    samples = pa.table(
        {
            "sample_token": tokens,
            "scene_token": scenes,
            "split": [split] * len(tokens),
            "role": roles,
            "clicks": counts_of,
        },
        schema=SAMPLES_SCHEMA,
    )
    info = {
        "config": config.model_dump(mode="json"),
        "split": split,
        "samples": len(tokens),
        "box_labeled_samples": len(boxed),
        "achieved_ratio": len(boxed) / len(tokens),
        "clicks": clicks.num_rows,
        "index_digest": index.digest,
        "digest": table_digest(samples, clicks),
    }
    (out_dir / "manifest.json").unlink(missing_ok=True)
    write_arrow(out_dir / "samples.arrow", samples)
    write_arrow(out_dir / "clicks.arrow", clicks)
    with atomic_path(out_dir / "manifest.json") as temporary:
        temporary.write_text(json.dumps(info, indent=1) + "\n")
    return LabelManifest.open(out_dir)


def _class_counts(index: Index, tokens: Sequence[str]) -> NDArray[np.int64]:
    """(N, 10): kept objects of each class in each sample."""
    found = (index.annotations(token) for token in tokens)
    return np.stack([np.bincount(each.label[each.kept], minlength=len(CLASSES)) for each in found])


def _leave_out(clicks: pa.Table, boxed: set[str], config: LabelConfig) -> pa.Table:
    """Without simulated clicks of point-labeled samples that ``label.click_share`` leaves out: drawn by (label.seed,
    annotation token), so that those of a smaller share are among those of a larger one."""
    if config.click_share == 1:
        return clicks
    names = zip(
        *(clicks.column(name).to_pylist() for name in ("sample_token", "source", "annotation_token")), strict=True
    )
    kept = [
        token in boxed or source != "sim" or keyed_rng(config.seed, 0, name, "clicked").random() < config.click_share
        for token, source, name in names
    ]
    return clicks.filter(pa.array(kept))


def _balanced(order: list[str], totals: dict[str, NDArray[np.int64]]) -> Iterator[str]:
    """Next is always the group that adds most to the sum over classes of log(1 + boxes): rare classes count the most.
    Among equals the first in ``order``."""
    counts = np.array([totals[name] for name in order], np.int64).reshape(-1, len(CLASSES))
    have, chosen = np.zeros(len(CLASSES), np.int64), np.zeros(len(order), bool)
    for _ in order:
        best = int(np.argmax(np.where(chosen, -1.0, np.log1p(have + counts).sum(1))))
        have, chosen[best] = have + counts[best], True
        yield order[best]


def box_labeled(
    tokens: Sequence[str],
    scenes: Sequence[str],
    timestamps_us: Sequence[int],
    config: LabelConfig,
    counts: NDArray[np.int64] | None = None,
) -> set[str]:
    """The box-labeled samples among N: sets of one seed are nested in the ratio, and do not depend on the order given.

    ``scene``: smallest prefix of a seeded permutation of scenes that reaches ratio * N samples (at least one scene).
    ``keyframe``: the same over samples. ``prefix``: the first int(ratio * N) by time, as the released code.

    Args:
        counts: (N, 10) objects of each class in each sample, with ``label.balance`` or ``label.no_boxes_of``.

    Raises:
        DataError: when too few scenes (samples) show none of ``label.no_boxes_of``.
    """
    goal = config.ratio * len(tokens)
    if config.split_by == "prefix":
        ordered = [token for _, token in sorted(zip(timestamps_us, tokens, strict=True))]
        return set(ordered[: max(1, int(goal + 1e-9))])
    groups = scenes if config.split_by == "scene" else tokens
    members: dict[str, list[int]] = {}
    for place, group in enumerate(groups):
        members.setdefault(group, []).append(place)
    names = sorted(members)
    order = [names[i] for i in keyed_rng(config.seed, 0, config.split_by, "split").permutation(len(names))]
    totals: dict[str, NDArray[np.int64]] = {}
    if counts is not None:
        totals = {name: counts[places].sum(0) for name, places in members.items()}
        barred = [CLASSES.index(name) for name in config.no_boxes_of]
        order = [name for name in order if not totals[name][barred].any()]
    chosen: set[str] = set()
    for name in _balanced(order, totals) if config.balance else order:
        chosen.update(tokens[place] for place in members[name])
        if len(chosen) >= math.ceil(goal - 1e-9):
            return chosen
    raise DataError(
        f"label.ratio {config.ratio:g} with label.no_boxes_of {list(config.no_boxes_of)}: only {len(chosen)} of "
        f"{len(tokens)} samples are in a {config.split_by} that shows none of these classes; lower label.ratio to at "
        f"most {len(chosen) / len(tokens):g}, name other classes, or set label.split_by=keyframe"
    )
