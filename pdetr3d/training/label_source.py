"""Where a run's labels come from: drawn from the boxes of the tables, or the manifest that ``label.manifest`` names."""

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
    """Digest of the manifest that a run trains on; empty where its labels are simulated (its config says all).

    Raises:
        DataError: when ``label.manifest`` holds no manifest.
    """
    return "" if config.label.source == "simulate" else str(_info(config)["digest"])


def with_manifest(config: Config) -> Config:
    """The config with the values of what its manifest fixes (OF_MANIFEST): a run writes down what its labels are, not
    what they would be if they were drawn; and with the manifest's absolute path.

    Raises:
        DataError: when ``label.manifest`` holds no manifest.
    """
    if config.label.source == "simulate":
        return config
    info = _info(config)
    try:
        made_with = LabelConfig.model_validate_json(json.dumps(info["config"]))  # tuples are lists there
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise DataError(
            f"label.manifest {config.label.manifest}: config in manifest.json is none ({wrong}): the file was edited, "
            "or is of another version; write the folder anew with pdetr3d label"
        ) from error
    fixed = {name: getattr(made_with, name) for name in OF_MANIFEST}
    fixed["manifest"] = str(Path(config.label.manifest).resolve())
    return config.model_copy(update={"label": config.label.model_copy(update=fixed)})


def fixed_by_manifest(config: Config, keys: list[str]) -> None:
    """Refuse to vary ``keys`` (dotted) where a manifest fixes them.

    Raises:
        DataError: naming the keys.
    """
    fixed = sorted({f"label.{name}" for name in OF_MANIFEST} & set(keys))
    if config.label.source == "manifest" and fixed:
        raise DataError(
            f"{', '.join(fixed)} cannot be varied with label.source=manifest: what people labeled is the same in every "
            f"run ({config.label.manifest}). Vary other keys, or set label.source=simulate (and label.manifest to "
            "nothing) to draw the labels from the boxes of the tables"
        )


def take_manifest(index: Index, config: Config, target: Path) -> LabelManifest:
    """The run's label manifest in its folder ``target``: opened, copied from ``label.manifest``, or drawn.

    Raises:
        DataError: when the manifest is of another index or split, or what lies in ``target`` is not this run's.
    """
    if (target / "manifest.json").exists():  # written last
        there = LabelManifest.open(target)
        _check_same_data(there, str(target), index, config.data.train_split)
        _check_own(there, config)
        return there
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
        given.ignore,
        given.facts,
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
            f"{index.digest}: the tables, or what they name, have changed since. Run pdetr3d index and pdetr3d label "
            "again, with the same clicks and lists"
        )


def _check_own(there: LabelManifest, config: Config) -> None:
    """Raise DataError unless the manifest in the run directory is the one that the config asks for: somebody may have
    copied it there."""
    if config.label.source == "manifest":
        asked = labels_digest(config)
        wrong = [] if there.digest == asked else [f"digest {there.digest} there, {asked} in {config.label.manifest}"]
    else:
        pairs = {name: (getattr(there.config, name), getattr(config.label, name)) for name in OF_MANIFEST}
        wrong = [f"label.{name} {was} there, {now} now" for name, (was, now) in pairs.items() if was != now]
        if not pc.all(pc.equal(there.clicks["source"], "sim")).as_py():
            wrong.append("clicks of people there, simulated ones now")
    if wrong:
        raise DataError(
            f"{there.path} holds other labels than this run's: {'; '.join(wrong)}. Remove that folder; to train on "
            "labels that lie elsewhere, set label.source=manifest and label.manifest=FOLDER"
        )


def unknown_boxes(index: Index, manifest: LabelManifest, config: Config) -> int:
    """How many train samples there are whose boxes nobody knows: no student can be trained on boxes everywhere then.

    In a simulation the tables are the truth, but for scenes without any annotation; with people's labels a sample
    without annotations is only known where people said that it is empty.
    """
    told = ("unlabeled",) if config.label.source == "simulate" else ("unlabeled", "point")
    roles = manifest.samples["role"].to_pylist()
    return sum(role in told and not has for role, has in zip(roles, annotated(index, manifest.split), strict=True))


def typical_sizes(manifest: LabelManifest, absent: Sequence[str], classes: ClassList) -> str:
    """A warning that names the clicked ones of ``absent``, classes whose sizes nothing shows; "" for none."""
    clicked = set(pc.unique(manifest.clicks["class"]).to_pylist())
    sizes = {name: classes.fallback_size_m[classes.label_of[name]] for name in absent if name in clicked}
    if not sizes:
        return ""
    told = ", ".join(f"{name} ({' x '.join(f'{side:g}' for side in size)} m)" for name, size in sizes.items())
    return f"warning: no box shows how large these clicked classes are, a typical size (l, w, h) is taken: {told}"


def _info(config: Config) -> dict:
    try:
        return read_info(Path(config.label.manifest))
    except DataError as error:
        raise DataError(f"label.manifest {config.label.manifest}: {error}") from error
