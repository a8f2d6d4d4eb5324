"""Assigns frames to scenes and scenes to splits, by scenes.csv, by ImageSets, or by default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pdetr3d.data.draws import keyed_rng
from pdetr3d.data.storage.csv_rows import read_csv
from pdetr3d.schema import DataError

COLUMNS = ("sample", "scene", "timestamp_us")  # the column split is optional
VAL_SHARE = 0.3  # share of the frames in the default val split


@dataclass(frozen=True)
class SceneRow:
    """A frame's line in scenes.csv: its scene, its time, and its split ("": not given)."""

    scene: str
    timestamp_us: int
    split: str = ""


def read_scenes(file: Path, names: Sequence[str]) -> dict[str, SceneRow]:
    """Read scenes.csv: name of a frame -> its line.

    Args:
        file: CSV with the columns sample, scene, timestamp_us and, optionally, split. names: of all frames.

    Raises:
        DataError: one message names file, line and value of all faults.
    """
    rows, _ = read_csv(file, f"--scenes {file}", COLUMNS)
    known, found, line_of = set(names), dict[str, SceneRow](), dict[str, int]()
    times: dict[tuple[str, str], int] = {}
    split_of: dict[str, tuple[int, str]] = {}
    problems: list[str] = []
    for line, row in enumerate(rows, start=2):
        name, scene, time, split = (str(row.get(key) or "").strip() for key in (*COLUMNS, "split"))
        first, other = split_of.setdefault(scene, (line, split))
        wrong = []
        if name not in known:
            wrong.append(f"sample {name!r} is no frame of the dataset")
        if name in line_of:
            wrong.append(f"sample {name!r} is in line {line_of[name]}, too")
        if not scene or "/" in scene:
            wrong.append(f"scene {scene!r} must be a name")
        if not time.isdecimal():
            wrong.append(f"timestamp_us {time!r} is not a whole number of microseconds, 0 or more")
        elif (scene, time) in times:
            wrong.append(f"scene {scene!r} has timestamp_us {time} in line {times[scene, time]}, too")
        if other != split:
            wrong.append(f"split {split!r} of scene {scene!r} is {other!r} in line {first}: a scene is in one split")
        problems += [f"  {file}:{line}: {reason}" for reason in wrong]
        line_of.setdefault(name, line)
        times.setdefault((scene, time), line)
        if not wrong:
            found[name] = SceneRow(scene, int(time), split)
    if problems:
        raise DataError("\n".join([f"--scenes {file}: {len(problems)} problems, nothing was written:", *problems[:20]]))
    return found


def splits_of(prefix: str, scenes: Mapping[str, SceneRow], sets: Mapping[str, set[str]]) -> dict[str, list[str]]:
    """The splits and their scenes.

    ``PREFIX_all`` has all scenes. The other splits come from the column ``split``, else from ``sets``. Without both
    there are PREFIX_train and PREFIX_val: scenes are put into the latter, in an order that their names determine, until
    it has VAL_SHARE of the frames.

    Args:
        prefix: of the splits' names, which must differ from the devkit's (train, val, ...).
        scenes: frame -> its scene. sets: split -> frames.

    Raises:
        DataError: when one of the ``sets`` has only a part of a scene's frames.
    """
    members: dict[str, set[str]] = {}
    for name, row in scenes.items():
        members.setdefault(row.scene, set()).add(name)
    splits = {f"{prefix}_all": sorted(members)}
    if any(row.split for row in scenes.values()):
        for row in scenes.values():
            if row.split:
                splits.setdefault(f"{prefix}_{row.split}", []).append(row.scene)
        return {name: sorted(set(mine)) for name, mine in splits.items()}
    for name, frames in sets.items():
        chosen = [scene for scene, mine in members.items() if mine & frames]
        torn = [scene for scene in chosen if members[scene] - frames]
        if torn:
            raise DataError(
                f"ImageSets/{name}.txt has a part of the frames of scene {torn[0]!r} only ({len(torn)} scenes alike); "
                "splits are by scene: give scenes a column split in scenes.csv, or import without --scenes"
            )
        if chosen:
            splits[f"{prefix}_{name}"] = sorted(chosen)
    if sets or len(members) < 2:
        return splits
    order = sorted(members)
    order = [order[place] for place in keyed_rng(0, 0, prefix, "split").permutation(len(order))]
    val: list[str] = []
    for scene in order[:-1]:
        if sum(len(members[name]) for name in val) < VAL_SHARE * len(scenes):
            val.append(scene)
    splits |= {f"{prefix}_train": sorted(set(members) - set(val)), f"{prefix}_val": sorted(val)}
    return splits
