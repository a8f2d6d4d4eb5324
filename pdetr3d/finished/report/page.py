"""A report page: one HTML file with everything in it, opened from disk; no scripts, nothing from the network."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pdetr3d.data.storage.files import atomic_path

# "0.12", "-3", "1.0e-05", "0.123 ± 0.004", "50%", and the dash of what is not known.
_NUMBER = re.compile(r"–|(< )?[-+]?\d[\d.,]*(e[-+]?\d+)?%?( ± [\d.]+)?")


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind: ClassVar[str] = "text"
    text: str


@dataclass(frozen=True)
class Table:
    """Headings, rows of as many cells; the first column names the row.

    Attributes:
        title: above it. folded: shown on a click. marked: number of a row to stand out.
    """

    kind: ClassVar[str] = "table"
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    folded: bool = False
    marked: int | None = None

    def numeric(self, column: int) -> bool:
        """Whether a column holds numbers alone: these stand on the right."""
        return column > 0 and all(_NUMBER.fullmatch(row[column]) for row in self.rows)


@dataclass(frozen=True)
class Chart:
    """A picture that is part of the page. ``uri``: ``data:...``. ``alt``: what it shows."""

    kind: ClassVar[str] = "chart"
    uri: str
    alt: str


@dataclass(frozen=True)
class Gallery:
    """Pictures side by side: ``pictures`` of (caption, ``data:`` URI)."""

    kind: ClassVar[str] = "gallery"
    title: str
    pictures: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Command:
    """Shell lines to copy. ``title``: what they are for."""

    kind: ClassVar[str] = "command"
    title: str
    line: str


Block = Text | Table | Chart | Gallery | Command


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    title: str
    blocks: Sequence[Block] = field(default_factory=list)


def write_page(file: Path, title: str, lead: Sequence[str], sections: Sequence[Section]) -> Path:
    """Write a page atomically, over an older one. All text is escaped. ``lead``: paragraphs below the title."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    text = environment.get_template("template.html").render(title=title, lead=lead, sections=sections)
    with atomic_path(file) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return file
