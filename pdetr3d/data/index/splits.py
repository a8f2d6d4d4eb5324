"""The scenes of each split: the devkit's splits, and those of ``splits.json`` beside the tables."""

from __future__ import annotations

import logging
from pathlib import Path

from nuscenes.utils.splits import create_splits_scenes

from pdetr3d.json_files import read_json
from pdetr3d.schema import DataError
from pdetr3d.tables.loaded import Tables

log = logging.getLogger(__name__)

FORM = '{"split name": ["scene name", ...], ...}'


def scene_splits(nusc: Tables) -> dict[str, list[str]]:
    """Split name -> scene names: the devkit's splits, and those of ``splits.json`` beside the tables, if it exists.

    Raises:
        DataError: when splits.json is not an object of lists of strings, names a scene twice in a split, or gives other
            scenes to a devkit's split.
    """
    splits: dict[str, list[str]] = dict(create_splits_scenes())
    path = Path(nusc.table_root) / "splits.json"
    if path.is_file():
        custom = read_json(path, f"it holds {FORM}; correct or remove it")
        valid = isinstance(custom, dict) and all(
            isinstance(scenes, list) and all(isinstance(scene, str) for scene in scenes) for scenes in custom.values()
        )
        if not valid:
            raise DataError(f"{path}: must be {FORM}; correct or remove it")
        here = {scene["name"] for scene in nusc.scene}
        for name in splits.keys() & custom.keys():  # the devkit's split wins, so splits.json must not contradict it
            if set(custom[name]) & here != set(splits[name]) & here:
                raise DataError(
                    f"{path}: split {name!r} is also a split of the devkit, with other scenes of this dataset; rename "
                    f"it (my_{name}, say) there and in data.*_split"
                )
        for name, scenes in custom.items():
            if len(set(scenes)) < len(scenes):
                twice = next(scene for scene in scenes if scenes.count(scene) > 1)
                raise DataError(f"{path}: scene {twice!r} stands twice in split {name!r}; keep one of each")
            if strangers := sorted(set(scenes) - here):
                log.warning(
                    "%s: %d of %d scenes of split %r are in no row of scene.json, e.g. %r; they are left out",
                    path,
                    len(strangers),
                    len(set(scenes)),
                    name,
                    strangers[0],
                )
        splits = custom | splits
    return splits
