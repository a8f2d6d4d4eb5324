"""Composes the text of the page's panel: keys, progress, and the legend of classes."""

from __future__ import annotations

import html
from collections.abc import Sequence

from pdetr3d.click.click_file import Click
from pdetr3d.click.session import Session
from pdetr3d.visualize import color_of

KEYS = (
    "0-9 class of the next click (of the chosen one) · click: new · Shift+click: choose one · M, then click: move it · "
    "X delete · I, then click: not sure · U undo · D done / not done · N next · P previous · "
    "B from above (again: larger) · V 3D · C next camera · Esc: choose nothing"
)
MODES = {"move": "Click where the chosen click should be.", "ignore": "Click what you are not sure of."}


def status_html(
    session: Session, token: str, *, label: int, chosen: Click | None, mode: str, suggestions: int | None, state: str
) -> str:
    """The panel's HTML: frame, progress, clicks, the next click's effect, the classes.

    Args:
        token: of the frame. label: class of the next click. chosen: click. mode: "", "move" or "ignore".
        suggestions: number of open ones; None: without a student. state: HTML attributes that tell tests the view.
    """
    clicks = session.clicks(token)
    place = session.tokens.index(token) + 1
    scene = html.escape(str(session.index.value(token, "scene_name")))
    rows = [
        f"Frame {place} of {len(session.tokens)}, {scene}{' (done)' if session.done(token) else ''}",
        f"{session.done_count()} frames done · {session.per_minute():.1f} clicks per minute",
        f"{_count(clicks, False)} clicks, {_count(clicks, True)} not sure",
        f"{'' if chosen is None else f'Chosen: {chosen.name}. '}{MODES.get(mode, '')}",
    ]
    if suggestions is not None:
        rows.insert(3, f"{suggestions} suggestions without a click (the white one is next)")
    lines = "".join(f"<div>{row or '&nbsp;'}</div>" for row in rows)
    legend = "".join(_legend(number, name, number == label) for number, name in enumerate(session.index.classes.names))
    return f'<div id="pdetr3d-status" {state} style="padding:0 12px;font-size:14px">{lines}{legend}</div>'


def _count(clicks: Sequence[Click], regions: bool) -> int:
    return sum((click.radius_m is not None) == regions for click in clicks)


def _legend(number: int, name: str, is_next: bool) -> str:
    style = f"color:{color_of(number)};padding:0 4px;{'outline:1px solid;' if is_next else ''}"
    return f'<div style="{style}">{number} {html.escape(name)}{" ◀" if is_next else ""}</div>'
