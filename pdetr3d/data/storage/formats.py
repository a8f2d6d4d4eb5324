"""Formats of other files than those that are read: by their first bytes, for messages."""

from __future__ import annotations

# First bytes, where a format begins so; what it is.
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
LOOKED_AT = 512  # first bytes of a file that may be a text
SHORT = 4  # bytes of a beginning; a shorter one may come in numbers, too, and is not believed of them


def format_of(raw: bytes, numbers: bool = False) -> str:
    """What a file is, in words ("a WEBP"); empty: none that is known.

    Args:
        raw: its content, or the first bytes. numbers: it may be plain numbers: short beginnings are not looked for.
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
