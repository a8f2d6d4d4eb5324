"""Writes report pages: single HTML files that contain their pictures and need neither scripts nor the network."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pdetr3d.data.storage.files import atomic_path

# "0.12", "-3", "1.0e-05", "0.123 ± 0.004", "50%", and the dash of an unknown value.
_NUMBER = re.compile(r"-|(< )?[-+]?\d[\d.,]*(e[-+]?\d+)?%?( ± [\d.]+)?")


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind: ClassVar[str] = "text"
    text: str


@dataclass(frozen=True)
class Table:
    """A table; the first column names the row.

    Attributes:
        headings: of the columns. rows: cells, as many per row as headings. title: text above the table. folded: the
            table opens on a click. marked: number of a row that is highlighted, or None.
    """

    kind: ClassVar[str] = "table"
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    folded: bool = False
    marked: int | None = None

    def numeric(self, column: int) -> bool:
        """Whether a column contains only numbers and is aligned to the right."""
        return column > 0 and all(_NUMBER.fullmatch(row[column]) for row in self.rows)


@dataclass(frozen=True)
class Chart:
    """A picture inside the page. ``uri``: its ``data:`` URI. ``alt``: its description."""

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
    """Shell lines to copy. ``title``: their purpose."""

    kind: ClassVar[str] = "command"
    title: str
    line: str


Block = Text | Table | Chart | Gallery | Command


@dataclass(frozen=True)
class Section:
    """A heading and the blocks below it."""

    title: str
    blocks: Sequence[Block] = field(default_factory=list)


def write_page(file: Path, title: str, lead: Sequence[str], sections: Sequence[Section]) -> Path:
    """Write a page atomically and replace an older one. All text is escaped.

    Args:
        file: of the page. title: its heading. lead: paragraphs below the title. sections: in order.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    text = environment.get_template("template.html").render(title=title, lead=lead, sections=sections)
    with atomic_path(file) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return file
