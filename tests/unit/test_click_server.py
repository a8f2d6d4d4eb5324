"""Tests of access to the click page, and of the models' boxes on it. The page itself: test_click_browser.py."""

from __future__ import annotations

import asyncio
import getpass
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pdetr3d.cli import main
from pdetr3d.click import server
from pdetr3d.click.click_file import Click, only_annotator
from pdetr3d.click.desk import open_suggestions
from pdetr3d.click.server import Pages, check_address
from pdetr3d.schema import Boxes3D, DataError

TOKEN = "twelve chars"


def test_addresses_that_others_reach_need_a_token() -> None:
    for host in ("127.0.0.1", "127.0.0.5", "::1", "localhost"):
        check_address(host, "")
    for host in ("0.0.0.0", "::", "192.168.1.7"):
        with pytest.raises(DataError, match=f"--host {host}: others can reach .*--token"):
            check_address(host, "")
    check_address("0.0.0.0", TOKEN)
    with pytest.raises(DataError, match="--token has 5 characters, must have at least 12"):
        check_address("127.0.0.1", "short")
    with pytest.raises(DataError, match="--host 'example.org': must be an IP address"):
        check_address("example.org", TOKEN)


def test_what_cannot_be_served_is_said_and_nothing_is_written(
    capsys: pytest.CaptureFixture[str], sim_world: Path, tmp_path: Path
) -> None:
    assert (
        main(["index", "--dataroot", str(sim_world), "--version", "v1.0-sim", "--out", str(tmp_path / "i.arrow")]) == 0
    )
    command = ["click", "--index", str(tmp_path / "i.arrow"), "--split", "sim_train", "--out", str(tmp_path / "c.csv")]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main([*command, "--port", str(port)]) == 2
        assert f"--port {port}: Address already in use; choose another" in capsys.readouterr().err
        with only_annotator(tmp_path / "theirs" / "c.csv"):  # on that port
            assert main([*command[:-1], str(tmp_path / "theirs" / "c.csv"), "--port", str(port)]) == 2
        said = capsys.readouterr().err
        assert f"c.csv: is being clicked by {getpass.getuser()} on {socket.gethostname()}, process" in said
        assert "Address" not in said
    shutil.rmtree(tmp_path / "theirs")
    assert main([*command, "--host", "0.0.0.0"]) == 2
    assert "--token" in capsys.readouterr().err
    for option in ("--teacher", "--propose"):
        assert main([*command, option, str(tmp_path / "no_run")]) == 2
        assert "no_run: no such file or folder" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["files.arrow", "i.arrow"]


class Widget:
    """Stand-in for viser's fields and buttons, with only the parts that the token needs."""

    def __init__(self) -> None:
        self.value, self.removed = "", False
        self.press: Callable[[object], Any] = print

    def on_click(self, act: Callable[[object], Any]) -> None:
        self.press = act

    def remove(self) -> None:
        self.removed = True


class Client:
    """Stand-in for a browser tab with only a panel."""

    client_id = 7

    def __init__(self) -> None:
        self.gui, self.field, self.button, self.told = self, Widget(), Widget(), []

    def add_text(self, *_: object) -> Widget:
        return self.field

    def add_button(self, *_: object) -> Widget:
        return self.button

    def add_notification(self, title: str, *_: object, **__: object) -> None:
        self.told.append(title)


class Callbacks:
    """Stand-in for viser's server that only stores the callbacks."""

    def on_client_connect(self, act: Callable[..., Any]) -> None:
        self.connect = act

    def on_client_disconnect(self, act: Callable[..., Any]) -> None:
        self.disconnect = act


def test_a_tab_gets_its_page_when_it_gave_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    monkeypatch.setattr(server, "Page", lambda client, *_: opened.append(client) or client)
    callbacks, client = Callbacks(), Client()
    pages = Pages(callbacks, None, TOKEN)  # type: ignore[arg-type]
    asyncio.run(callbacks.connect(client))
    for wrong in ("", "twelve char", TOKEN + " ", "zwölf Zeichen"):
        client.field.value = wrong
        asyncio.run(client.button.press(None))
        assert not opened and client.told.pop() == "Wrong token" and not client.field.removed
    client.field.value = TOKEN
    asyncio.run(client.button.press(None))
    assert opened == [client] and pages.pages == {7: client} and client.field.removed and client.button.removed
    asyncio.run(callbacks.disconnect(client))
    assert pages.pages == {}


def test_suggestions_are_what_nobody_clicked_by_falling_score() -> None:
    centers = np.array([[0, 0, 0], [10, 0, 0], [20, 0, 0], [30, 0, 0]])
    boxes = Boxes3D.build(centers, np.ones((4, 3)), np.zeros(4), np.zeros(4), score=np.array([0.4, 0.9, 0.5, 0.8]))
    assert open_suggestions(boxes, [], []) == [1, 3, 2, 0]
    assert open_suggestions(boxes, [], {3}) == [1, 2, 0]
    clicks = [Click("t", (10, 1.9, 5), "bus"), Click("t", (20, 2.1, 0), "car")]  # heights do not count
    assert open_suggestions(boxes, clicks, {3}) == [2, 0]
    assert open_suggestions(Boxes3D.empty(), clicks, []) == []
