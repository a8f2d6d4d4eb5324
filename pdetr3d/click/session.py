"""Holds an annotator's clicks, regions of "not sure" and finished frames; every action is on the disk when it returns.

There are two files: the clicks (CSV with the columns COLUMNS, which ``pdetr3d label --import`` reads) and, beside it,
CSV.done.json: ``{"done": [tokens of frames whose objects are all clicked], "empty": [tokens of frames without any]}``.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pdetr3d.click.click_file import Click, read_clicks, write_clicks, write_done
from pdetr3d.data.index.index import Index
from pdetr3d.data.labels.human_clicks import MAX_DISTANCE_M, read_done
from pdetr3d.geometry.rigid import apply, chain, inverse
from pdetr3d.schema import DataError

SAME_M = 0.05  # a second click of the same class nearer than this is refused
PAUSE_S = 60.0  # a longer time between two actions counts as this much work
UNDOS = 1000  # number of actions that can be undone


@dataclass(frozen=True)
class _Frame:
    """A frame's state: its clicks in the order in which they were made, and whether it is done."""

    clicks: tuple[Click, ...] = ()
    done: bool = False


class Session:
    """The actions of one annotator on the frames of a split. It continues with the clicks in ``file``, if any.

    Args:
        index: of the dataset. split: to click. file: the clicks' CSV file. clock: [s], for ``per_minute``.

    Attributes:
        tokens: the split's frames, scene by scene, by time. file: the clicks' CSV file.

    Raises:
        DataError: when the split has no samples, or the files hold no clicks of this index.
    """

    def __init__(self, index: Index, split: str, file: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.index, self.file = index, Path(file)
        columns = ("scene_token", "timestamp_us")
        tokens = index.tokens(split)
        scenes, times = (dict(zip(tokens, index.column(name, tokens), strict=True)) for name in columns)
        first: dict[str, int] = {}
        for token in tokens:
            first[scenes[token]] = min(times[token], first.get(scenes[token], times[token]))
        self.tokens = sorted(tokens, key=lambda token: (first[scenes[token]], scenes[token], times[token]))
        self._scene = scenes
        self._frames: dict[str, _Frame] = {}
        for click in read_clicks(self.file, index):
            before = self._frames.get(click.sample_token, _Frame())
            self._frames[click.sample_token] = replace(before, clicks=(*before.clicks, click))
        for token in itertools.chain(*(read_done(self.file, index) or ())):
            self._frames[token] = replace(self._frames.get(token, _Frame()), done=True)
        self._undo: deque[tuple[str, _Frame]] = deque(maxlen=UNDOS)
        self._clock = clock
        self._last: float | None = None  # the time of the last action
        self._work_s, self._made = 0.0, 0

    def clicks(self, token: str) -> tuple[Click, ...]:
        """The frame's clicks and regions, in the order in which they were made."""
        return self._frames.get(token, _Frame()).clicks

    def done(self, token: str) -> bool:
        """Whether the annotator has marked the frame as done, i.e. all its objects are clicked."""
        return self._frames.get(token, _Frame()).done

    def next_open(self) -> str:
        """The first frame that is not done; the last frame if all are done."""
        return next((token for token in self.tokens if not self.done(token)), self.tokens[-1])

    def done_count(self) -> int:
        """The number of the split's frames that are done."""
        return sum(self.done(token) for token in self.tokens)

    def per_minute(self) -> float:
        """The clicks per minute of work since the start, without pauses beyond PAUSE_S; 0 before two actions."""
        return 60 * self._made / self._work_s if self._work_s > 0 else 0.0

    def earlier(self, token: str) -> tuple[list[Click], NDArray[np.float64]]:
        """The clicks of the scene's earlier frames, and their places (K, 3) in this frame's LIDAR_TOP frame.

        The places are moved by the ego motion: objects that stand still are there now.
        """
        record = self.index.record(token)
        lidar2global = chain(record.lidar2ego, record.ego2global)
        found: list[Click] = []
        places = [np.zeros((0, 3))]
        for other in self.tokens[: self.tokens.index(token)]:
            clicks = [click for click in self.clicks(other) if click.radius_m is None]
            if self._scene[other] == self._scene[token] and clicks:
                earlier = self.index.record(other)
                moved = chain(earlier.lidar2ego, earlier.ego2global, inverse(lidar2global))
                places.append(apply(moved, np.array([click.xyz_m for click in clicks])))
                found += clicks
        return found, np.concatenate(places)

    def add(self, token: str, xyz_m: ArrayLike, name: str, radius_m: float | None = None) -> Click:
        """Add a click, or a region to ignore.

        Args:
            token: of the frame. xyz_m: (3,) in the frame's LIDAR_TOP frame [m].
            name: one of the index's classes, or IGNORE for a region. radius_m: of a region [m].

        Raises:
            DataError: for an unknown frame, or a click that the import would refuse.
        """
        x, y, z = (float(value) for value in np.asarray(xyz_m))
        click = Click(token, (x, y, z), name, radius_m)
        self._check(click)
        self._act(token, replace(self._frames.get(token, _Frame()), clicks=(*self.clicks(token), click)))
        self._made += radius_m is None
        return click

    def move(self, click: Click, xyz_m: ArrayLike) -> Click:
        """Move a click to another place (3,) [m] of its frame; raises DataError as ``add``."""
        x, y, z = (float(value) for value in np.asarray(xyz_m))
        return self._change(click, replace(click, xyz_m=(x, y, z)))

    def rename(self, click: Click, name: str) -> Click:
        """Give a click another class; raises DataError as ``add``."""
        return self._change(click, replace(click, name=name, radius_m=None))

    def delete(self, click: Click) -> None:
        """Delete a click."""
        place = self._place(click)
        kept = self.clicks(click.sample_token)
        self._act(
            click.sample_token, replace(self._frames[click.sample_token], clicks=kept[:place] + kept[place + 1 :])
        )

    def set_done(self, token: str, done: bool = True) -> None:
        """Mark a frame as done or not done. Done means that all its objects are clicked, or that it has none."""
        if token not in self._scene:
            raise DataError(f"sample token {token!r} is not in the split that is clicked ({len(self.tokens)} frames)")
        if self.done(token) != done:
            self._act(token, replace(self._frames.get(token, _Frame()), done=done))

    def undo(self) -> str | None:
        """Undo the last action; returns its frame, or None if no action is left."""
        if not self._undo:
            return None
        token, before = self._undo[-1]
        self._save(token, before)
        self._undo.pop()
        return token

    def _change(self, click: Click, changed: Click) -> Click:
        place = self._place(click)
        self._check(changed, place)
        kept = self.clicks(click.sample_token)
        frame = self._frames[click.sample_token]
        self._act(click.sample_token, replace(frame, clicks=(*kept[:place], changed, *kept[place + 1 :])))
        return changed

    def _place(self, click: Click) -> int:
        if click not in self.clicks(click.sample_token):
            raise DataError(f"sample {click.sample_token}: that click is not there any more; choose one that is shown")
        return self.clicks(click.sample_token).index(click)

    def _check(self, click: Click, but: int | None = None) -> None:
        """Refuse a click that the import would refuse; ``but``: position of the click that this one replaces."""
        if click.sample_token not in self._scene:
            raise DataError(f"sample token {click.sample_token!r} is not in the split that is clicked")
        classes = self.index.classes
        if (click.name in classes.names) != (click.radius_m is None):
            raise DataError(f"class {click.name!r}: {classes.allowed}, or ignore with a radius")
        if click.radius_m is not None and not 0 < click.radius_m < MAX_DISTANCE_M:
            raise DataError(f"a region of {click.radius_m} m: must be over 0 and below {MAX_DISTANCE_M:g} m")
        place = np.array(click.xyz_m)
        if not (np.isfinite(place).all() and np.linalg.norm(place) <= MAX_DISTANCE_M):
            raise DataError(f"a click at {click.xyz_m} m: must be within {MAX_DISTANCE_M:g} m of the LiDAR")
        for i, other in enumerate(self.clicks(click.sample_token)):
            same = i != but and other.name == click.name
            if same and np.linalg.norm(np.array(other.xyz_m) - place) < SAME_M:
                raise DataError(f"a {click.name} is already clicked there (within {SAME_M:g} m)")

    def _act(self, token: str, frame: _Frame) -> None:
        before = self._frames.get(token, _Frame())
        self._save(token, frame)
        self._undo.append((token, before))
        now = self._clock()
        if self._last is not None:
            self._work_s += min(PAUSE_S, now - self._last)
        self._last = now

    def _save(self, token: str, frame: _Frame) -> None:
        """Write a frame's new state to the disk, and then keep it."""
        before, after = self._frames, self._frames | {token: frame}
        was = before.get(token, _Frame())
        writes = []
        if was.clicks != frame.clicks or not self.file.exists():
            writes.append(lambda: write_clicks(self.file, [click for each in after.values() for click in each.clicks]))
        if (was.done, _holds(was)) != (frame.done, _holds(frame)):
            done = {token: _holds(each) for token, each in after.items() if each.done}
            listed = [[token for token, holds in done.items() if holds == some] for some in (True, False)]
            writes.append(lambda: write_done(self.file, *listed))
        # The order of the two files matters if the process is killed between them: a frame with clicks must never be
        # listed as empty.
        for write in reversed(writes) if _holds(frame) else writes:
            write()
        self._frames = after


def _holds(frame: _Frame) -> bool:
    """Whether the frame has clicks of objects; regions do not count."""
    return any(click.radius_m is None for click in frame.clicks)
