"""The summary table of a dataset that index, label and every job print: counts of used and of left-out data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from pdetr3d.config import EmptyName
from pdetr3d.data.index.annotations import flat, kept, row_of
from pdetr3d.data.index.index import Index
from pdetr3d.data.labels.manifest import LabelManifest
from pdetr3d.geometry.boxes import in_range
from pdetr3d.schema import CAMERAS, LATER
from pdetr3d.words import NAMED, first, some


@dataclass(frozen=True)
class Summary:
    """Counts over the keyframes of some splits of an index.

    Attributes:
        keyframes: number of different keyframes. twice: keyframes that more than one of the splits names, a split that
            is named twice included. frames: split -> role -> keyframes. objects: (C,) kept objects by class. unknown:
            category without a class -> annotations, of the whole dataset. no_points: objects without LiDAR and radar
            points. counted: objects of the whole dataset whose points the index counted. regions: annotations of the
            whole dataset outside valid regions or in regions to ignore. outside: kept objects outside
            ``model.range_m``; None if no range was given.
        clicks: (C,) clicks by class; None without a manifest. far: people's clicks outside ``model.range_m``. boxes:
            objects of box-labeled samples. images: (6,) by camera. sweeps: earlier sweeps found. bare: keyframes
            without one. missing: missing sweep files. links: files that link to a place outside the dataroot. short:
            LiDAR files with far fewer points than the median.
        stray: scenes in no split, without those that the simulator adds for velocities. stray_frames: their keyframes.
        classes: the C names.
    """

    keyframes: int
    twice: int
    frames: dict[str, dict[str, int]]
    objects: NDArray[np.int64]
    unknown: dict[str, int]
    no_points: int
    counted: int
    regions: int
    outside: int | None
    clicks: NDArray[np.int64] | None
    far: int
    boxes: int
    images: NDArray[np.int64]
    sweeps: int
    bare: int
    missing: int
    links: int
    short: int
    stray: list[str]
    stray_frames: int
    classes: tuple[str, ...]

    def rows(self) -> list[tuple[str, str]]:
        """Rows of the table: (title, text)."""
        frames = self.keyframes
        rows = [(f"frames, {split}", _counts(roles)) for split, roles in self.frames.items()]
        if self.outside is not None and self.twice:  # only for a run's splits: the splits of nuScenes itself overlap
            rows.append(("in two splits", f"{self.twice} frames: a score on frames that were trained on says little"))
        if self.stray:
            text = f"{len(self.stray)} ({self.stray_frames} frames): {some(self.stray)}"
            rows.append(("scenes in no split", f"{text}; splits.json beside the tables names more"))
        rows.append(("objects kept", _by_class(self.objects, self.classes)))
        if without := [name for name, n in zip(self.classes, self.objects, strict=True) if not n]:
            rows.append(("no object of", ", ".join(without)))
        unknown = ": " + _counts(self.unknown) if self.unknown else ""
        rows.append(("left out, category", f"{sum(self.unknown.values())}{unknown}"))
        rows.append(("left out, no points", str(self.no_points)))
        if self.regions:
            rows.append(("left out, regions", f"{self.regions} outside the valid region or in one to ignore"))
        if self.outside is not None:
            rows.append(("outside range", f"{self.outside} of the kept (model.range_m)"))
        if self.far:
            rows.append(("clicks outside range", f"{self.far} of people's clicks (model.range_m)"))
        if self.counted:
            rows.append(("points counted", f"of {self.counted} objects by the index: the tables do not count them"))
        if self.clicks is not None:
            rows += [("clicks by class", _by_class(self.clicks, self.classes)), ("boxes to learn", str(self.boxes))]
        found = [f"{name} {n}" for name, n in zip(CAMERAS, self.images, strict=True) if n]
        rows.append(("cameras found", f"{len(found)} of 6" + (f": {', '.join(found)}" if found else "")))
        absent = [name for name, n in zip(CAMERAS, self.images, strict=True) if n < frames]
        if absent and found:
            rows.append(("cameras incomplete", ", ".join(absent)))
        missing = f", {self.missing} files missing" if self.missing else ""
        rows.append(("sweeps found", f"{self.sweeps}, {self.bare} frames without{missing}"))
        if self.short:
            rows.append(("short LiDAR files", f"{self.short} have less than a third of the usual number of points"))
        if self.links:
            rows.append(("links followed", f"{self.links} files leave the dataroot (data.follow_links=true)"))
        return rows

    def left_out(self) -> list[str]:
        """Lines about data that was found but left out, for messages about missing objects."""
        lines = first([f"{n} annotations of category {name!r}" for name, n in self.unknown.items()], NAMED)
        lines += [f"{self.no_points} objects without LiDAR and radar points"] if self.no_points else []
        far = (
            f"{self.outside} objects outside model.range_m (the tables hold boxes and poses in the global frame, in m)"
        )
        return lines + ([far] if self.outside else [])

    def show(self) -> None:
        """Print the table. Outside a terminal each row is one line."""
        console, rows = Console(highlight=False), self.rows()
        if not console.is_terminal:
            width = max(len(title) for title, _ in rows)
            print("\n".join(f"{title:>{width}}  {text}" for title, text in rows), flush=True)
            return
        table = Table(show_header=False, box=None, padding=(0, 1))
        table.add_column(justify="right", style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for row in rows:
            table.add_row(*row)
        console.print(table)


def summarize(
    index: Index,
    splits: Sequence[str] | None = None,
    manifest: LabelManifest | None = None,
    range_m: Sequence[float] | None = None,
) -> Summary:
    """Count the data of an index.

    Args:
        splits: the splits whose keyframes are counted; None: all keyframes. manifest: gives the roles and clicks of the
            train split. range_m: ``model.range_m``, (6,).
    """
    table, every = index.table, np.arange(len(index))
    known = splits if splits is not None else index.splits
    rows = every if splits is None else np.unique(np.concatenate([index.rows(split) for split in splits]))
    of_row = row_of(table)
    counted = np.isin(of_row, rows)
    used = counted & kept(table)
    outside = None if range_m is None else int((used & ~in_range(flat(table, "ann_box"), range_m)).sum())
    paths = pc.list_flatten(table["camera_path"])
    images = pc.is_valid(paths).to_numpy(zero_copy_only=False).reshape(-1, len(CAMERAS))[rows]
    sweeps = pc.list_value_length(table["sweep_path"]).to_numpy()[rows]
    alone = in_no_split(table)
    boxed = np.zeros(len(index), bool)
    if manifest is not None:
        found = index.rows_of(manifest.samples["sample_token"].filter(pa.array(manifest.boxed)))
        boxed[found[found >= 0]] = True
    return Summary(
        keyframes=len(rows),
        twice=sum(len(index.rows(split)) for split in known) - len(rows),
        frames={split: _roles(index, split, manifest) for split in dict.fromkeys(known)},
        objects=np.bincount(flat(table, "ann_label")[used], minlength=len(index.classes)),
        unknown=dict(index.facts.unknown_categories),
        no_points=int((counted & ~used).sum()),
        counted=index.facts.counted,
        regions=index.facts.outside,
        outside=outside,
        clicks=None if manifest is None else _clicks(manifest, index.classes.names),
        far=0 if manifest is None or range_m is None else _far(manifest, range_m),
        boxes=int((used & boxed[of_row]).sum()),
        images=images.sum(0),
        sweeps=int(sweeps.sum()),
        bare=int((sweeps == 0).sum()),
        missing=index.facts.missing_sweeps,
        links=index.facts.links,
        short=index.facts.short,
        stray=pc.unique(table["scene_name"].filter(pa.array(alone))).to_pylist(),
        stray_frames=int(alone.sum()),
        classes=index.classes.names,
    )


def in_no_split(table: pa.Table) -> NDArray[np.bool_]:
    """Find the rows of an index whose scene is in no split, without scenes that the simulator adds for velocities.

    Args:
        table: N rows of an index with the columns ``scene_name`` and ``splits``.

    Returns:
        (N,) bool.
    """
    names = table["scene_name"]
    base = pc.replace_substring_regex(names, f"{LATER}$", "")
    added = pc.and_(pc.ends_with(names, LATER), pc.is_in(base, value_set=pc.unique(names)))
    empty = pc.equal(pc.list_value_length(table["splits"]), 0)
    return pc.and_not(empty, added).to_numpy(zero_copy_only=False)


def empty_counts(summary: Summary, index: Index, val_split: str, cameras: bool) -> dict[EmptyName, int]:
    """The counts that ``refuse_empty`` checks for a job. ``cameras``: whether its teacher uses cameras."""
    val = int(summarize(index, [val_split]).objects.sum())
    clicks = 0 if summary.clicks is None else int(summary.clicks.sum())
    counts: dict[EmptyName, int] = {
        "objects": int(summary.objects.sum()) - (summary.outside or 0),
        "clicks": clicks,
        "boxes": summary.boxes,
        "val_objects": val,
    }
    return counts | ({"cameras": int(summary.images.sum())} if cameras else {})


def _roles(index: Index, split: str, manifest: LabelManifest | None) -> dict[str, int]:
    if manifest is None or split != manifest.split:
        return {"frames": len(index.rows(split))}
    return {role: count for role, count in manifest.role_counts().items() if count}


def _clicks(manifest: LabelManifest, classes: tuple[str, ...]) -> NDArray[np.int64]:
    counts = {entry["values"]: entry["counts"] for entry in pc.value_counts(manifest.clicks["class"]).to_pylist()}
    return np.array([counts.get(name, 0) for name in classes], np.int64)


def _far(manifest: LabelManifest, range_m: Sequence[float]) -> int:
    """The number of people's clicks outside a range; simulated ones lie in boxes, which are counted."""
    human = manifest.clicks.filter(pc.equal(manifest.clicks["source"], "human"))
    return int((~in_range(np.stack([human[axis].to_numpy() for axis in "xyz"], axis=1), range_m)).sum())


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in counts.items()) or "none"


def _by_class(counts: NDArray[np.int64], classes: tuple[str, ...]) -> str:
    found = {name: int(n) for name, n in zip(classes, counts, strict=True) if n}
    return f"{sum(found.values())}: {_counts(found)}" if found else "none"
