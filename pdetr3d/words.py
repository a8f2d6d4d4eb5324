"""Words of messages and tables: similar names, the first of many lines, numbers. The module imports nothing heavy."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

LISTED = 20  # lines of a message
NAMED = 5  # names in a line
NONE = "-"  # a number that is not known
# Numbers that YAML reads otherwise than people do: 010 is 8, 0x10 is 16, 1:30 is 90, 1_0 is 10.
_MISREAD = re.compile(
    r"[-+]?(0x[\da-f_]+|0b[01_]+|0[\d_]+|\d[\d_]*(:[0-5]?\d)+(\.\d*)?|[\d.]*\d_[\d_.]*(e[-+]?\d+)?)", re.IGNORECASE
)


def close_to(name: object, allowed: Iterable[str], cutoff: float = 0.6) -> str:
    """The most similar allowed name, as words that follow the wrong one; "" if none is similar.

    Args:
        cutoff: the least similarity, in [0, 1] (``difflib.get_close_matches``).
    """
    found = difflib.get_close_matches(str(name), list(allowed), n=1, cutoff=cutoff)
    return f" (did you mean {found[0]!r}?)" if found else ""


def misread(values: Iterable[str]) -> str:
    """A complaint about the first of the texts that is a number which YAML reads otherwise than people do; else ""."""
    found = next((value for value in values if _MISREAD.fullmatch(value)), None)
    return f"{found} is not read as people read it; write a number in decimal digits, such as 10" if found else ""


def first(lines: Sequence[str], most: int) -> list[str]:
    """The first ``most`` lines, then one with the number of the others, if there are any."""
    return [*lines[:most], *([f"... and {len(lines) - most} more"] if len(lines) > most else [])]


def listed(lines: Sequence[str]) -> str:
    """The first LISTED lines and the number of the others, each on an indented line of its own: "\\n  a\\n  b"."""
    return "".join(f"\n  {line}" for line in first(lines, LISTED))


def some(names: Sequence[str]) -> str:
    """The first NAMED names and the number of the others, in one line; "none" without names."""
    return ", ".join(first(names, NAMED)) or "none"


def number(value: float | int | None, digits: int = 3) -> str:
    """A number for a table: an int as it is, a float with ``digits`` decimal places; NONE for None."""
    if value is None:
        return NONE
    return str(value) if isinstance(value, int) else f"{value:.{digits}f}"
