"""The role of each sample (box, point, empty, unlabeled): drawn by ``label.ratio``, or from people's labels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from pdetr3d.class_list import ClassList
from pdetr3d.config import LabelConfig
from pdetr3d.data.draws import keyed_rng
from pdetr3d.data.index.index import Index
from pdetr3d.schema import DataError
from pdetr3d.words import listed


def annotated(index: Index, split: str) -> NDArray[np.bool_]:
    """(N,) bool: the samples of a split whose tables have an annotation of one of the classes, in index order."""
    counts = pc.list_value_length(index.table["ann_label"]).to_numpy()
    return counts[index.rows(split)] > 0


def drawn_roles(index: Index, split: str, config: LabelConfig, known: NDArray[np.bool_] | None = None) -> list[str]:
    """Draw the roles of a split's samples by ``label.*``, in index order: "box", "point", or "unlabeled".

    Samples of a scene without any annotation are "unlabeled", since nobody annotated it (test sets are like that).
    ``label.ratio`` refers to the other samples.

    Args:
        known: (N,) bool, the samples that may be box-labeled; default: those of scenes with annotations.

    Raises:
        DataError: when no sample may be box-labeled, or too few of them (see ``box_labeled``).
    """
    tokens = index.tokens(split)
    scenes = index.column("scene_token", tokens)
    if known is None:
        seen = {scene for scene, has in zip(scenes, annotated(index, split), strict=True) if has}
        known = np.array([scene in seen for scene in scenes], bool)
    if not known.any():
        raise DataError(
            f"{index.path}: no sample of split {split!r} has an annotation of one of the classes, so that none can be "
            "box-labeled; name a split (data.train_split) whose tables hold boxes of some samples"
        )
    mine = np.flatnonzero(known)
    counts = _class_counts(index, [tokens[i] for i in mine]) if config.balance or config.no_boxes_of else None
    times = index.column("timestamp_us", tokens)
    chosen = box_labeled(
        [tokens[i] for i in mine],
        [scenes[i] for i in mine],
        [times[i] for i in mine],
        config,
        counts,
        classes=index.classes,
    )
    return [
        "box" if token in chosen else "point" if may else "unlabeled" for token, may in zip(tokens, known, strict=True)
    ]


@dataclass(frozen=True)
class People:
    """People's statements about their labels.

    Attributes:
        boxes_of: tokens of the samples whose boxes are all in the tables; None: every sample that has annotations.
        empty: token -> source (e.g. a file's name), of the samples that somebody looked at and found empty.
        unclicked: token -> source, of the samples that are listed as completely clicked but have no click.
    """

    boxes_of: frozenset[str] | None = None
    empty: Mapping[str, str] = field(default_factory=dict)
    unclicked: Mapping[str, str] = field(default_factory=dict)


def peoples_roles(index: Index, split: str, clicked: set[str], people: People) -> list[str]:
    """Roles of a split's samples from people's labels, in index order.

    "box": a sample of ``people.boxes_of`` that has annotations. "point": another sample with clicks. "empty": a sample
    of ``people.empty``, or one of ``people.boxes_of`` without annotations and clicks. "unlabeled": all others.

    Args:
        clicked: tokens of the samples with clicks.

    Raises:
        DataError: when a sample of ``people.empty`` has clicks or boxes, one of ``people.unclicked`` has no boxes, or
            no sample is box-labeled.
    """
    tokens, has = index.tokens(split), annotated(index, split)
    boxed = {token for token, some in zip(tokens, has, strict=True) if some}
    told = boxed if people.boxes_of is None else set(people.boxes_of)
    _refuse_contradictions(tokens, clicked, told & boxed, people)

    def role(token: str) -> str:
        if token in told:
            return "box" if token in boxed else "point" if token in clicked else "empty"
        return "point" if token in clicked else "empty" if token in people.empty else "unlabeled"

    roles = [role(token) for token in tokens]
    if "box" not in roles:
        counts = ", ".join(f"{roles.count(name)} {name}" for name in ("point", "empty", "unlabeled"))
        raise DataError(
            f"{index.path}: no sample of split {split!r} is box-labeled ({counts}), but the teacher learns from boxes: "
            "the tables must hold the boxes of at least one scene; name it by --boxes-of, and the split by --split"
        )
    return roles


def _refuse_contradictions(tokens: Sequence[str], clicked: set[str], boxed: set[str], people: People) -> None:
    """Raise DataError when statements about a sample contradict its labels; the message names both."""
    problems = []
    for token in tokens:
        if (where := people.empty.get(token)) is not None:
            problems += [f"sample {token}: {where} says that it holds no object, but it has clicks"] * (
                token in clicked
            )
            problems += [f"sample {token}: {where} says that it holds no object, but it has boxes"] * (token in boxed)
        if (where := people.unclicked.get(token)) is not None and token not in boxed:
            problems.append(f"sample {token}: {where} says that all its objects are clicked, but it has no click")
    if problems:
        raise DataError(
            "these statements contradict each other, and nothing was written. Remove each sample from the file that is "
            "wrong (on the page of pdetr3d click: mark the frame as not done), or correct its labels:"
            + listed(problems)
        )


def read_samples(index: Index, split: str, source: str, option: str) -> frozenset[str]:
    """Sample tokens of ``split`` that a file names, or that another split also contains.

    Args:
        source: a text file with one sample token, scene token or scene name per line ("#" starts a comment), or the
            name of a split of the index. option: the command-line option that messages name.

    Raises:
        DataError: when ``source`` is neither, or lines name nothing of the split (all are listed), or no sample is
            named.
    """
    tokens = index.tokens(split)
    file = Path(source)
    if not file.is_file():
        if source not in index.splits:
            raise DataError(
                f"{option} {source}: neither a file nor a split of {index.path}; splits: {', '.join(index.splits)}; a "
                "file has a sample token, scene token or scene name a line"
            )
        found = frozenset(tokens) & frozenset(index.tokens(source))
        if not found:
            raise DataError(
                f"{option} {source}: that split shares no sample with {split!r}, which is labeled; name a split that "
                f"does, or a file of sample tokens, scene tokens or scene names of {split!r}"
            )
        return found
    groups: dict[str, list[str]] = {token: [token] for token in tokens}
    for name in ("scene_token", "scene_name"):
        for token, scene in zip(tokens, index.column(name, tokens), strict=True):
            groups.setdefault(scene, []).append(token)
    try:
        lines = [line.partition("#")[0].strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{option} {file}: not readable as text ({error})") from error
    unknown = [f"line {i}: {line!r}" for i, line in enumerate(lines, start=1) if line and line not in groups]
    if unknown:
        raise DataError(
            f"{option} {file}: {len(unknown)} lines name no sample token, scene token or scene name of split "
            f"{split!r}; nothing was written:{listed(unknown)}"
        )
    if not any(lines):
        raise DataError(f"{option} {file}: names no sample; write a sample token or a scene name a line")
    return frozenset(token for line in lines if line for token in groups[line])


def box_labeled(
    tokens: Sequence[str],
    scenes: Sequence[str],
    timestamps_us: Sequence[int],
    config: LabelConfig,
    counts: NDArray[np.int64] | None = None,
    *,
    classes: ClassList,
) -> set[str]:
    """Choose the box-labeled samples among N samples.

    With one seed, a smaller ratio's samples are a subset of a larger one's, and the order of the input does not matter.
    ``label.split_by`` is one of: "scene": the smallest prefix of a seeded permutation of scenes that reaches
    ratio * N samples (at least one scene); "keyframe": the same over samples; "prefix": the first int(ratio * N)
    samples by time, as in the released code.

    Args:
        tokens, scenes, timestamps_us: (N,) of the samples. counts: (N, C) objects of each class in each sample; needed
            with ``label.balance`` or ``label.no_boxes_of``.

    Raises:
        DataError: when too few scenes (or samples) are without the classes ``label.no_boxes_of``, or there are fewer
            scenes than ``label.folds``.
    """
    if config.folds:
        return _outside_fold(tokens, scenes, config)
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
        barred = [classes.label_of[name] for name in config.no_boxes_of]
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


def _outside_fold(tokens: Sequence[str], scenes: Sequence[str], config: LabelConfig) -> set[str]:
    """All samples except those of the fold ``label.seed`` % ``label.folds``.

    Scenes are put into folds in the order of falling size (then name), each into the fold with the fewest samples.
    """
    members: dict[str, list[str]] = {}
    for token, scene in zip(tokens, scenes, strict=True):
        members.setdefault(scene, []).append(token)
    if len(members) < config.folds:
        raise DataError(
            f"label.folds {config.folds}: there are {len(members)} scenes with annotations to put into them; set "
            f"label.folds to at most {len(members)}, or import more scenes"
        )
    folds: list[list[str]] = [[] for _ in range(config.folds)]
    for scene in sorted(members, key=lambda scene: (-len(members[scene]), scene)):
        min(folds, key=len).extend(members[scene])
    return set(tokens) - set(folds[config.seed % config.folds])


def _balanced(order: list[str], totals: dict[str, NDArray[np.int64]]) -> Iterator[str]:
    """Yield the groups of ``order`` greedily so that rare classes are covered early.

    The next group is the one that most increases the sum over classes of log(1 + boxes); among equals the first.
    """
    counts = np.array([totals[name] for name in order], np.int64)
    have, chosen = np.zeros(counts.shape[-1], np.int64), np.zeros(len(order), bool)
    for _ in order:
        best = int(np.argmax(np.where(chosen, -1.0, np.log1p(have + counts).sum(1))))
        have, chosen[best] = have + counts[best], True
        yield order[best]


def _class_counts(index: Index, tokens: Sequence[str]) -> NDArray[np.int64]:
    """(N, C) int64: the number of kept objects of each class in each sample."""
    found = (index.annotations(token) for token in tokens)
    return np.stack([np.bincount(each.label[each.kept], minlength=len(index.classes)) for each in found])
