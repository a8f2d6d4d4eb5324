"""A hook of mkdocs: the site's pages are the repository's documents, each at its own path, so links hold in both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PATTERNS = (
    "*.md",
    "docs/**/*.md",
    "docs/*.svg",
    "docs/*.png",
    "docs/*.ipynb",
    "cluster/README.md",
    "tune_spaces/README.md",
)


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Put the documents in the place of what mkdocs found under ``docs/``; the theme's own files stay."""
    found = [file for file in files if not str(file.abs_src_path or "").startswith(str(ROOT / "docs"))]
    paths = sorted(path for pattern in (*PATTERNS, "results/*.png") for path in ROOT.glob(pattern))
    return Files(found + [_file(path, config) for path in paths])


def _file(path: Path, config: Any) -> File:
    return File(
        str(path.relative_to(ROOT)), str(ROOT), config["site_dir"], use_directory_urls=config["use_directory_urls"]
    )
