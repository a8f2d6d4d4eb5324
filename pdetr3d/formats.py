"""Recognizes file formats by their first bytes, for messages about files of the wrong format."""

from __future__ import annotations

import json
from typing import Any

# First bytes of a file, and the name of the format that they mean.
BEGINNINGS = (
    (b"version https://git-lfs", "a pointer of Git LFS (git lfs pull brings the file)"),
    (b"# .PCD", "a .pcd of the Point Cloud Library"),
    (b"VERSION ", "a .pcd of the Point Cloud Library"),
    (b"ply\n", "a .ply"),
    (b"ply\r\n", "a .ply"),
    (b"LASF", "a .las or .laz"),
    (b"\x93NUMPY", "a .npy of NumPy"),
    (b"PK\x03\x04", "a zip archive (.npz, .zip)"),
    (b"\x1f\x8b\x08\x00", "compressed by gzip"),
    (b"\x1f\x8b\x08\x08", "compressed by gzip"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd"),
    (b"\xff\xd8\xff", "a JPEG"),
    (b"\x89PNG\r\n\x1a\n", "a PNG"),
    (b"GIF8", "a GIF"),
    (b"BM", "a BMP"),
    (b"II*\x00", "a TIFF"),
    (b"MM\x00*", "a TIFF"),
    (b"\x00\x00\x00\x0cjP  ", "a JPEG 2000"),
    (b"\xff\x0a", "a JPEG XL"),
    (b"P5\n", "a PGM"),
    (b"P6\n", "a PPM"),
)
TEXT = bytes(range(32, 127)) + b"\t\r\n"
LOOKED_AT = 512  # bytes of a file that are tested for being text
SHORT = 4  # plain numbers may by chance begin with fewer bytes than this of another format


def format_of(raw: bytes, numbers: bool = False) -> str:
    """The format of a file in words ("a WEBP"); "" for an unknown format.

    Args:
        raw: the file's content, or its first bytes. numbers: the file may hold plain numbers, so beginnings shorter
            than SHORT bytes are ignored.
    """
    for beginning, name in BEGINNINGS:
        if raw.startswith(beginning) and (not numbers or len(beginning) >= SHORT):
            return name
    if raw[:4] == b"RIFF" and raw[8:12] == b"WEBP":
        return "a WEBP"
    if raw[4:8] == b"ftyp":
        return "a HEIC or AVIF"
    head = raw[:LOOKED_AT]
    if len(head) >= SHORT and not head.translate(None, TEXT):
        return f"a text, {head[:24].decode()!r} ..."
    return ""


def no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of JSON (``object_pairs_hook``); ValueError when a key stands in it twice."""
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted(name for name in made if names.count(name) > 1)
        raise ValueError(f"these keys stand there twice: {', '.join(twice)}; keep one of each")
    return made


def why_no_json(raw: bytes, error: Exception) -> str:
    """The reason in words for which a file's content ``raw`` is not JSON. Args: error: of ``json.loads``."""
    other = format_of(raw)
    if not raw.strip():
        return "it is empty"
    if other and not other.startswith("a text"):
        return f"it is {other}"
    if isinstance(error, json.JSONDecodeError) and error.msg == "Extra data":
        return f"several values follow each other, as in JSON lines; write one value, e.g. a list of them: {error}"
    return str(error)
