"""Tests of atomic output: an error names the final file, and the first failure is reported."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from pdetr3d.data.storage.files import atomic_path, file_digest, new_folder, temporary_name, text_digest


def test_an_error_without_a_name_gets_one(tmp_path: Path) -> None:
    """Arrow's errors of a full disk name none."""
    with pytest.raises(OSError) as caught, atomic_path(tmp_path / "index.arrow"):
        raise OSError(errno.ENOSPC, "Error writing bytes to file")
    assert caught.value.filename == str(tmp_path / "index.arrow") and caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def test_what_failed_first_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a read-only file system the removal of the temporary file fails, too; the first error is reported."""

    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(OSError) as caught, atomic_path(tmp_path / "index.arrow") as temporary:
        raise OSError(errno.EROFS, "first", str(temporary))
    assert caught.value.strerror == "first"


def test_a_folder_that_a_killed_command_began_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    begun = temporary_name(tmp_path / "out[1]")  # a name with a pattern's characters
    begun.mkdir()
    (tmp_path / ".other.0123.tmp").mkdir()
    with new_folder(tmp_path / "out[1]") as temporary:
        (temporary / "file").touch()
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [str(begun)]
    assert begun.is_dir() and (tmp_path / "out[1]" / "file").is_file()


def test_digests_of_texts_and_files_are_the_first_digits_of_sha_256(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert text_digest("abc") == file_digest(tmp_path / "file") == "ba7816bf8f01cfea"  # FIPS 180-2, B.1
