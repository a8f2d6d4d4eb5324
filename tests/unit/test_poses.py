"""Tests of the poses of LiDAR files: which earlier files are sweeps of a file, and units that cannot be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pdetr3d.inference.clouds import CloudReader
from pdetr3d.inference.frames import file_frames
from pdetr3d.schema import DataError


def test_earlier_files_count_to_a_gap_or_another_sequence(tmp_path: Path) -> None:
    """Of five files the third has an earlier sweep, the fourth follows a gap, the fifth is of another sequence."""
    rows = ["file,timestamp_us,x,y,z,qw,qx,qy,qz,sequence"]
    times, sequences = (100, 200, 300, 1301, 1400), "aaaab"
    for number, (time, sequence) in enumerate(zip(times, sequences, strict=True)):
        (tmp_path / f"{number}.bin").write_bytes(b"\0" * 16)
        rows.append(f"{number}.bin,{time * 1000},{number},0,0,1,0,0,0,{sequence}")
    (tmp_path / "poses.csv").write_text("\n".join(rows))
    frames = file_frames([tmp_path], CloudReader.of("x,y,z,intensity", 255), tmp_path / "poses.csv", 2)
    assert [frame.name for frame in frames] == [f"{number}.bin" for number in range(5)]
    assert [[Path(s.path).name for s in f.sweeps] for f in frames] == [[], ["0.bin"], ["1.bin"], [], []]
    sweep = frames[2].sweeps[0]
    assert sweep.dt_s == pytest.approx(0.1)
    # The car drives 1 m along +x between them, so a point at the origin is then a meter behind.
    np.testing.assert_allclose(sweep.sweep2lidar[:3, 3], [-1, 0, 0])
    three = file_frames([tmp_path], frames[0].reader, tmp_path / "poses.csv", 3)
    assert [len(frame.sweeps) for frame in three] == [0, 1, 2, 0, 0]


@pytest.mark.parametrize(
    ("step", "x", "message"),
    [
        (100_000_000, 1, r"1\.bin, are 100 s apart, so that no earlier file would be accumulated: .* nanoseconds"),
        (100, 1, r"0\.bin and 1\.bin are 100 us apart in time, but scans of a LiDAR"),
        (100_000, 1000, r"the LiDAR moves at 10000 m/s \(median\), over 100 m/s: write x, y, z in meters"),
    ],
)
def test_poses_of_other_units(step: int, x: int, message: str, tmp_path: Path) -> None:
    """A car drives 1 m in 100 ms. Written in nanoseconds, milliseconds, millimeters."""
    rows = ["file,timestamp_us,x,y,z,qw,qx,qy,qz"]
    for number in range(3):
        (tmp_path / f"{number}.bin").write_bytes(b"\0" * 16)
        rows.append(f"{number}.bin,{number * step},{number * x},0,0,1,0,0,0")
    (tmp_path / "poses.csv").write_text("\n".join(rows))
    arguments = [tmp_path], CloudReader.of("x,y,z,intensity", 255), tmp_path / "poses.csv"
    with pytest.raises(DataError, match=message):
        file_frames(*arguments, 2)
    assert len(file_frames(*arguments, 1)) == 3  # nothing is accumulated
