"""The digest of a dataset's files changes with damage but not with a move, and a run notices changed files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from pdetr3d.data.index import file_ledger
from pdetr3d.data.index.file_ledger import FileLedger
from pdetr3d.data.index.index import Index
from pdetr3d.data.index.nuscenes import build_index
from pdetr3d.presets import load
from pdetr3d.schema import DataError
from pdetr3d.training.run_dir import RunDir, prepare

VERSION = "v1.0-sim"


@pytest.fixture
def world(sim_world: Path, tmp_path: Path) -> Path:
    shutil.copytree(sim_world, tmp_path / "world")
    return tmp_path / "world"


def indexed(world: Path, name: str) -> Index:
    return Index.open(build_index(world, VERSION, world.parent / name / "index.arrow"))


def flip(file: Path, keep_time: bool) -> None:
    """Change one byte in the middle, so that the file's size stays."""
    before, content = file.stat(), bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    if keep_time:
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def an_image(world: Path) -> Path:
    return sorted((world / "samples" / "CAM_BACK").iterdir())[0]


def copied(world: Path, copy: Callable[[str, str], object]) -> Path:
    other = world.parent / "elsewhere" / "moved"
    shutil.copytree(world, other, copy_function=copy)
    return other


def test_a_small_dataset_is_read_whole(world: Path) -> None:
    """The digest covers names and contents: a flipped bit changes it, other file times do not."""
    index = indexed(world, "a")
    ledger = FileLedger.take(index)
    files = [path for folder in ("samples", "sweeps") for path in (world / folder).rglob("*.*")]
    assert ledger.table["path"].to_pylist() == sorted(path.relative_to(world).as_posix() for path in files)
    assert ledger.table["digest"].null_count == 0 and f"the content of {len(files)}" in ledger.words()
    other = copied(world, shutil.copyfile)  # new times
    assert FileLedger.take(indexed(other, "b")).digest == ledger.digest
    again = FileLedger.open(index)
    assert again is not None and again.digest == ledger.digest
    flip(an_image(other), keep_time=True)
    assert FileLedger.take(indexed(other, "c")).digest != ledger.digest
    an_image(world).touch()
    assert ledger.changed(world) == []  # read again: the same content
    other_image = sorted((world / "samples" / "CAM_BACK").iterdir())[1]
    flip(other_image, keep_time=True)
    assert ledger.changed(world) == []  # neither size nor time has changed
    name = other_image.relative_to(world).as_posix()
    assert ledger.changed(world, deep=True) == [f"{name}: another content"]


def test_of_a_large_one_a_sample_is_read_and_times_count(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    total = sum(path.stat().st_size for folder in ("samples", "sweeps") for path in (world / folder).rglob("*.*"))
    monkeypatch.setattr(file_ledger, "CONTENT_BYTES", total // 2)
    index = indexed(world, "a")
    ledger = FileLedger.take(index)
    read = {
        p: s for p, s, d in zip(*(ledger.table[n].to_pylist() for n in ("path", "bytes", "digest")), strict=True) if d
    }
    assert 0.3 * total < sum(read.values()) <= total // 2
    assert FileLedger.take(indexed(copied(world, shutil.copy2), "b")).digest == ledger.digest  # times are kept
    unread = next(p for p in ledger.table["path"].to_pylist() if p not in read)
    os.utime(world / unread, (1, 1))
    assert FileLedger.take(index).digest != ledger.digest
    assert ledger.changed(world) == [f"{unread}: written to since"]
    assert FileLedger.take(index, times=False).digest == FileLedger(ledger.table, times=False).digest
    deep = FileLedger.take(index, deep=True)
    assert deep.table["digest"].null_count == 0
    os.utime(world / unread, (2, 2))
    assert FileLedger.take(index, deep=True).digest == deep.digest and deep.changed(world) == []
    flip(world / unread, keep_time=True)
    assert FileLedger.take(index, deep=True).digest != deep.digest


def test_files_that_are_gone_or_longer(world: Path) -> None:
    index = indexed(world, "a")
    ledger = FileLedger.take(index)
    image = an_image(world)
    size, name = image.stat().st_size, image.relative_to(world).as_posix()
    image.write_bytes(image.read_bytes() + b"!")
    assert ledger.changed(world) == [f"{name}: {size} bytes before, {size + 1} bytes now"]
    image.unlink()
    assert ledger.changed(world) == [f"{name}: {size} bytes before, gone now"]
    gone = FileLedger.take(index)
    assert gone.digest != ledger.digest and "1 missing" in gone.words()


def test_damage_makes_another_dataset_and_a_run_is_not_continued_on_it(world: Path, tmp_path: Path) -> None:
    """Champions are compared only on datasets with equal digests."""
    config = load("quickstart", [f"data.dataroot={world}", "data.num_sweeps=3", "label.ratio=0.5"])
    first = prepare(RunDir(tmp_path / "one", config, reading=True))
    assert prepare(RunDir(tmp_path / "one", config, reading=True)).digest == first.digest
    lidar = Path(first.index.record(first.index.tokens("sim_train")[0]).lidar_path)
    flip(lidar, keep_time=False)
    with pytest.raises(
        DataError, match=rf"1 files under .* have changed since .*one was begun:\n.*{lidar.name}: another"
    ):
        prepare(RunDir(tmp_path / "one", config, reading=True))
    second = prepare(RunDir(tmp_path / "two", config, reading=True))
    assert second.index.digest == first.index.digest and second.digest != first.digest
    shared = prepare(RunDir(tmp_path / "three", config, reading=True), tmp_path / "two" / "data")
    assert shared.digest == second.digest


def test_files_with_the_content_of_another_are_named(world: Path) -> None:
    """One image replaces two others. Files that were not read whole are never reported as duplicates."""
    one, *others = sorted((world / "samples" / "CAM_BACK").iterdir())[:3]
    for file in others:
        shutil.copyfile(one, file)
    ledger = FileLedger.take(indexed(world, "a"))
    names = [file.relative_to(world).as_posix() for file in (one, *others)]
    assert ledger.twins() == [(names[1], names[0]), (names[2], names[0])]
    unread = ledger.table.set_column(3, "digest", pa.nulls(ledger.table.num_rows, pa.string()))
    assert FileLedger(unread, times=True).twins() == []
