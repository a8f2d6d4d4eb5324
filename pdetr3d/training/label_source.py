"""Takes a run's labels from the manifest that ``label.manifest`` names, or draws them from the boxes of the tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow.compute as pc
from pydantic import ValidationError

from pdetr3d.class_list import ClassList
from pdetr3d.config import OF_MANIFEST, Config, LabelConfig
from pdetr3d.data.index.index import Index
from pdetr3d.data.labels.manifest import LabelManifest, build_manifest, read_info, write_manifest
from pdetr3d.data.labels.roles import annotated
from pdetr3d.schema import DataError


def labels_digest(config: Config) -> str:
    """Digest of the manifest that a run trains on; empty with simulated labels, which the config determines.

    Raises:
        DataError: when ``label.manifest`` holds no manifest.
    """
    return "" if config.label.source == "simulate" else str(_info(config)["digest"])


def with_manifest(config: Config) -> Config:
    """The config with the manifest's values of the keys in OF_MANIFEST, and with the manifest's absolute path.

    A run with a manifest thus records how its labels were made, not how they would be drawn. With simulated labels
    the config is returned unchanged.

    Raises:
        DataError: when ``label.manifest`` holds no manifest.
    """
    if config.label.source == "simulate":
        return config
    info = _info(config)
    try:
        made_with = LabelConfig.model_validate_json(json.dumps(info["config"]))  # JSON has lists for tuples
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise DataError(
            f"label.manifest {config.label.manifest}: config in manifest.json is not valid ({wrong}): the file was "
            "edited, or another version wrote it; write the folder anew with pdetr3d label"
        ) from error
    fixed = {name: getattr(made_with, name) for name in OF_MANIFEST}
    fixed["manifest"] = str(Path(config.label.manifest).resolve())
    return config.model_copy(update={"label": config.label.model_copy(update=fixed)})


def fixed_by_manifest(config: Config, keys: list[str]) -> None:
    """Refuse to vary config keys that the run's manifest fixes.

    Args:
        keys: dotted config keys that a search or a study varies.

    Raises:
        DataError: names the keys.
    """
    fixed = sorted({f"label.{name}" for name in OF_MANIFEST} & set(keys))
    if config.label.source == "manifest" and fixed:
        raise DataError(
            f"{', '.join(fixed)} cannot be varied with label.source=manifest: what people labeled is the same in every "
            f"run ({config.label.manifest}). Vary other keys, or set label.source=simulate (and label.manifest to "
            "nothing) to draw the labels from the boxes of the tables"
        )


def take_manifest(index: Index, config: Config, target: Path) -> LabelManifest:
    """Open the run's label manifest in its folder ``target``; if it is missing, copy ``label.manifest`` or draw labels.

    Raises:
        DataError: when the manifest belongs to another index or split, or the one in ``target`` to another run.
    """
    if (target / "manifest.json").exists():  # this file is written last
        present = LabelManifest.open(target)
        _check_same_data(present, str(target), index, config.data.train_split)
        _check_own(present, config)
        return present
    if config.label.source == "simulate":
        return build_manifest(index, config.data.train_split, config.label, target)
    given = LabelManifest.open(Path(config.label.manifest))
    split = config.data.train_split
    _check_same_data(given, f"label.manifest {given.path}", index, split)
    return write_manifest(
        index,
        split,
        given.config,
        given.samples["role"].to_pylist(),
        given.clicks,
        target,
        ignore=given.ignore,
        facts=given.facts,
    )


def _check_same_data(given: LabelManifest, name: str, index: Index, split: str) -> None:
    """Raise DataError unless the manifest labels this split of this index."""
    if given.split != split:
        raise DataError(
            f"{name} is of split {given.split!r}, but data.train_split is {split!r}: set "
            f"data.train_split={given.split}, or label that split by pdetr3d label --split {split}"
        )
    missing = [token for token in given.roles if token not in index]
    if missing:
        raise DataError(
            f"{name}: {len(missing)} of its {len(given.roles)} samples are not in the dataset {index.dataroot} "
            f"({index.version}), e.g. {missing[0]!r}; label this dataset by pdetr3d label"
        )
    if given.index_digest != index.digest:
        raise DataError(
            f"{name} was made with index {given.index_digest}, data.dataroot {index.dataroot} has index "
            f"{index.digest}: the tables, or files that they name, have changed since, or pdetr3d index was given "
            "other keys than this job (data.categories, data.cameras, data.classes, data.lidar_...). Run pdetr3d index "
            "with this job's keys and pdetr3d label again, with the same clicks and lists"
        )


def _check_own(present: LabelManifest, config: Config) -> None:
    """Raise DataError unless the manifest in the run directory is the one that the config asks for.

    Somebody may have copied another manifest into the run directory.
    """
    if config.label.source == "manifest":
        asked = labels_digest(config)
        wrong = (
            [] if present.digest == asked else [f"digest {present.digest} there, {asked} in {config.label.manifest}"]
        )
    else:
        pairs = {name: (getattr(present.config, name), getattr(config.label, name)) for name in OF_MANIFEST}
        wrong = [f"label.{name} {was} there, {now} now" for name, (was, now) in pairs.items() if was != now]
        if not pc.all(pc.equal(present.clicks["source"], "sim")).as_py():
            wrong.append("clicks of people there, simulated ones now")
    if wrong:
        raise DataError(
            f"{present.path} holds other labels than this run's: {'; '.join(wrong)}. Remove that folder; to train on "
            "labels in another folder, set label.source=manifest and label.manifest=FOLDER"
        )


def unknown_boxes(index: Index, manifest: LabelManifest, config: Config) -> int:
    """The number of train samples whose boxes are unknown. If there are any, the all-boxes student cannot be trained.

    With simulated labels the tables hold all boxes, except those of unlabeled samples in scenes without annotations.
    With a manifest made by people, a point-labeled or unlabeled sample without annotations is unknown: nobody said that
    it is empty.
    """
    doubtful = ("unlabeled",) if config.label.source == "simulate" else ("unlabeled", "point")
    roles = manifest.samples["role"].to_pylist()
    return sum(role in doubtful and not has for role, has in zip(roles, annotated(index, manifest.split), strict=True))


def typical_sizes(manifest: LabelManifest, absent: Sequence[str], classes: ClassList) -> str:
    """A warning for clicked classes without any box, whose typical sizes are used instead; "" if there are none.

    Args:
        manifest: holds the clicks. absent: names of the classes without boxes. classes: gives the typical sizes.
    """
    clicked = set(pc.unique(manifest.clicks["class"]).to_pylist())
    sizes = {name: classes.fallback_size_m[classes.label_of[name]] for name in absent if name in clicked}
    if not sizes:
        return ""
    listed = ", ".join(f"{name} ({' x '.join(f'{side:g}' for side in size)} m)" for name, size in sizes.items())
    return f"warning: no box shows how large these clicked classes are, a typical size (l, w, h) is taken: {listed}"


def _info(config: Config) -> dict:
    try:
        return read_info(Path(config.label.manifest))
    except DataError as error:
        raise DataError(f"label.manifest {config.label.manifest}: {error}") from error
