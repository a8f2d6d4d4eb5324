"""Checks the files that the tables name: they lie under the dataroot, they exist, LiDAR files hold whole points."""

from __future__ import annotations

from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np

from pdetr3d.config import DataConfig
from pdetr3d.data.storage.points import (
    brightness,
    check_layout,
    check_lidar_size,
    check_points,
    point_bytes,
    read_file,
)
from pdetr3d.schema import DataError

FULL_SCALE = 255.0  # the models divide intensities by this
SHORT = 1 / 3  # a LiDAR file is reported when it has less than this share of the median number of points


class DatasetFiles:
    """Checks file names of the tables, which are relative to the dataroot.

    Args:
        dataroot: an absolute path. data: how LiDAR files are read, and ``follow_links``. whole: False leaves existence
            and content of the files to a later check.

    Attributes:
        links: names of files that are links to a place outside the dataroot.
    """

    def __init__(self, dataroot: Path, data: DataConfig, whole: bool) -> None:
        self.dataroot, self.data, self.whole = dataroot, data, whole
        self.links: set[str] = set()
        self._points: dict[str, int] = {}  # LiDAR file -> number of points
        self._bright: list[float] = []  # of each file that was looked into, the intensity below which 99 % are
        self._inside: set[str] = set()  # names already checked: ten keyframes name the same sweep

    def safe(self, filename: str) -> Path:
        """The file's absolute path.

        Raises:
            DataError: when the name leads out of the dataroot: tables from elsewhere must not make us read other files.
        """
        parts = PurePosixPath(filename).parts + PureWindowsPath(filename).parts
        if PurePosixPath(filename).is_absolute() or PureWindowsPath(filename).drive or ".." in parts or not filename:
            raise DataError(
                f"sample_data.json, filename {filename!r}: path escapes dataroot; "
                "names must be relative to it, without '..'"
            )
        path = self.dataroot / filename
        try:
            impossible = b"\0" in filename.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            impossible = True
        if impossible:
            raise DataError(f"sample_data.json, filename {filename!r}: no file can have this name; mend the converter")
        if filename not in self._inside:
            # A user may link the folder samples/ to another disk. Files in it must not link to places outside it.
            folder = self.dataroot / PurePosixPath(filename).parts[0]
            try:
                place = path.resolve()
            except RuntimeError as error:  # Python raises it for links in a circle
                raise DataError(f"{path}: its links lead in a circle; put the file itself there") from error
            if not place.is_relative_to(folder.resolve()):
                if not self.data.follow_links:
                    raise DataError(
                        f"sample_data.json, filename {filename!r}: a link that escapes dataroot, to {place}; "
                        f"put the file itself there (only whole folders such as {folder.name}/ may be links), or set "
                        "data.follow_links=true where you trust all of the dataset's links"
                    )
                self.links.add(filename)
            self._inside.add(filename)
        return path

    def check_lidar(self, filename: str, look_into: bool = False) -> None:
        """Check that a LiDAR file exists and holds whole points; with ``look_into`` also that its numbers fit.

        Raises:
            DataError: naming the file and the fix.
        """
        path = self.safe(filename)
        if not self.whole:
            return
        if not path.is_file():
            slashes = " (folders are parted by /)" if "\\" in filename else ""
            raise DataError(
                f"{path}: no such LiDAR file, but sample_data.json names it{slashes}; unpack the file blobs of this "
                "split"
            )
        size_bytes = path.stat().st_size
        if size_bytes % point_bytes(self.data):
            check_points(path, self.data)  # its error names the file's layout, if it is a known one
        check_lidar_size(path, size_bytes, self.data)
        if look_into:
            raw = read_file(path, "LiDAR")
            check_layout(path, raw, self.data)
            self._bright += brightness(raw, self.data)
        self._points[filename] = size_bytes // point_bytes(self.data)

    def dim_words(self) -> str:
        """A warning about intensities of another scale than 0 to FULL_SCALE; "" if there is none."""
        usual = float(np.median(self._bright)) if self._bright else FULL_SCALE
        if 1 < usual <= FULL_SCALE:
            return ""
        seen = (
            f"in {len(self._bright)} LiDAR files that were looked into, 99 % of the intensities are up to {usual:.3g}"
        )
        return f"{seen}; the models divide them by {FULL_SCALE:g}: write intensities from 0 to {FULL_SCALE:g}" + (
            "" if usual else " (all 0: was another column written in their place?)"
        )

    def short(self) -> list[str]:
        """LiDAR files with less than SHORT of the median number of points, fewest first."""
        usual = float(np.median(list(self._points.values()) or [0]))
        few = {name: count for name, count in self._points.items() if count < SHORT * usual}
        return sorted(few, key=lambda name: few[name])

    def short_words(self) -> str:
        """A warning about the files of ``short``; "" if there are none."""
        names = self.short()
        if not names:
            return ""
        usual = int(np.median(list(self._points.values())))
        return (
            f"{len(names)} of {len(self._points)} LiDAR files have less than a third of the usual {usual} points, "
            f"the fewest {self.dataroot / names[0]} with {self._points[names[0]]}: a file that was cut at a whole "
            "point looks so, and so does a sensor that saw little"
        )
