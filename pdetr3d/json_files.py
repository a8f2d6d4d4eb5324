"""Reads JSON files; an error names the file, the problem and the fix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pdetr3d.errors import DataError
from pdetr3d.formats import no_key_twice, why_no_json


def read_json(file: Path, fix: str) -> Any:
    """Read a JSON file and return its value.

    Args:
        fix: advice for a file that cannot be read; it ends the error message.

    Raises:
        DataError: when the file is missing, is not JSON, is nested too deeply, or holds an object with a key twice.
    """
    raw = b""
    try:
        raw = file.read_bytes()
        return json.loads(raw, object_pairs_hook=no_key_twice)
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or why_no_json(raw, error)
        raise DataError(f"{file}: cannot be read as JSON ({reason}); {fix}") from error
