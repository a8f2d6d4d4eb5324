"""``data.on_error=skip``: finds the samples that read a broken file before the run is planned, and leaves them out.

This is decided once per run directory: if the plan changed with every file that breaks or is repaired, a run could not
be resumed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np

from pdetr3d.config import DataConfig
from pdetr3d.data.index.index import Index
from pdetr3d.data.loading.check import broken_files, files_of, listed, say_points_left_out
from pdetr3d.data.loading.record_list import Records
from pdetr3d.data.storage.files import atomic_path
from pdetr3d.json_files import read_json
from pdetr3d.schema import DataError

FILE = "skipped.json"  # beside the index


@dataclass(frozen=True)
class Skipped:
    """A sample that is left out.

    Attributes:
        split, sample_token: of the sample. file: the first broken file that it reads. reason: the file's problem.
        image: only image files are broken, so that a model without cameras can still predict the sample.
    """

    split: str
    sample_token: str
    file: str
    reason: str
    image: bool


def find_skipped(index: Index, splits: list[str], data: DataConfig) -> list[Skipped]:
    """The samples of ``splits`` that read a broken file. The first call stores them beside the index for later calls.

    Every file is read whole (``broken_files``), so that all other samples can be loaded later.

    Raises:
        DataError: when more than the share ``data.skip_limit`` of a split would be left out.
    """
    file = index.path.with_name(FILE)
    if not file.exists():
        checked = broken_files(index, splits, data.num_sweeps, cameras=True, whole=True)
        broken = checked.problems
        found = [s for split in dict.fromkeys(splits) for s in _of_split(index, split, data.num_sweeps, broken)]
        _check_limit(index, found, data.skip_limit)
        with atomic_path(file) as temporary:
            temporary.write_text(json.dumps([asdict(skipped) for skipped in found], indent=1))
        say_points_left_out(checked)
        if found:
            print(f"{len(found)} samples read a broken file and are left out (all of them in {file}):{_lines(found)}")
    fix = "it lists the samples that this run leaves out, so begin another one: choose another --run-dir (--fresh)"
    try:
        return [Skipped(**entry) for entry in read_json(file, fix)]
    except TypeError as error:
        raise DataError(f"{file}: not what a run writes ({error}); {fix}") from error


def without(records: Records, skipped: Iterable[Skipped]) -> Records:
    """The records that are not left out, in order."""
    tokens = {s.sample_token for s in skipped}
    return records.select(np.array([token not in tokens for token in records.tokens], bool)) if tokens else records


def _of_split(index: Index, split: str, num_sweeps: int, broken: dict[str, str]) -> list[Skipped]:
    found = []
    for token in index.tokens(split):
        record = index.record(token)
        bad = [path for path in files_of(record, num_sweeps, cameras=True) if path in broken]  # LiDAR first
        if bad:
            image = bad[0] not in files_of(record, num_sweeps, cameras=False)
            found.append(Skipped(split, token, bad[0], broken[bad[0]], image))
    return found


def _check_limit(index: Index, found: list[Skipped], limit: float) -> None:
    for split in {skipped.split: None for skipped in found}:
        mine, size = [skipped for skipped in found if skipped.split == split], len(index.tokens(split))
        if len(mine) > limit * size:
            raise DataError(
                f"{len(mine)} of {size} samples of split {split!r} under {index.dataroot} read a broken file, more "
                f"than data.skip_limit={limit} of them:{_lines(mine)}\nCopy or unpack these files again and rerun the "
                "same command, or raise data.skip_limit (0 to 1)"
            )


def _lines(found: list[Skipped]) -> str:
    return listed([f"{skipped.sample_token}: {skipped.reason}" for skipped in found])
