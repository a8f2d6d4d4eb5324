"""Serves the click page by viser's web server, and locks the click file for this process."""

from __future__ import annotations

import hmac
import ipaddress
import socket
import threading
from pathlib import Path

import viser

from pdetr3d.click.click_file import only_annotator, refuse_second
from pdetr3d.click.desk import Desk, Student, Teacher
from pdetr3d.click.page import Page
from pdetr3d.click.session import Session
from pdetr3d.data.index.index import Index
from pdetr3d.schema import DataError

MIN_TOKEN = 12  # characters


def check_address(host: str, token: str) -> None:
    """Refuse an address that other machines can reach, unless there is a token.

    Raises:
        DataError: names the address, what is allowed, and the fix.
    """
    try:
        local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError as error:
        raise DataError(f"--host {host!r}: must be an IP address of this machine, or localhost ({error})") from error
    if not local and not token:
        raise DataError(f"--host {host}: others can reach that address; set a --token that people must type, too")
    if token and len(token) < MIN_TOKEN:
        raise DataError(f"--token has {len(token)} characters, must have at least {MIN_TOKEN}")


def check_port(host: str, port: int) -> None:
    """Refuse a port that is taken; 0 takes any free one.

    Raises:
        DataError: names the address and the fix.
    """
    if not port:
        return
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise DataError(f"--host {host} --port {port}: {error.strerror}; choose another (0: any free)") from error


class Pages:
    """The tabs of a server. Each gets its page, after its user has entered the token if there is one."""

    def __init__(self, server: viser.ViserServer, desk: Desk, token: str) -> None:
        self.desk, self.token = desk, token
        self.pages: dict[int, Page] = {}
        server.on_client_connect(self._connect)
        server.on_client_disconnect(self._disconnect)

    async def _connect(self, client: viser.ClientHandle) -> None:
        if not self.token:
            self._open(client)
            return
        # The data are sent to each tab separately, so that none reach this tab before the token is entered.
        field = client.gui.add_text("Token", "")
        button = client.gui.add_button("Open")

        async def check(_: object) -> None:
            if hmac.compare_digest(str(field.value).encode(), self.token.encode()):
                field.remove()
                button.remove()
                self._open(client)
            else:
                client.add_notification("Wrong token", "Ask who started pdetr3d click.", color="red")

        button.on_click(check)

    async def _disconnect(self, client: viser.ClientHandle) -> None:
        self.pages.pop(client.client_id, None)

    def _open(self, client: viser.ClientHandle) -> None:
        def changed() -> None:
            for page in [page for page in self.pages.values() if page.client is not client]:
                page.refresh()

        self.pages[client.client_id] = Page(client, self.desk, changed)


def serve(
    index: Index,
    split: str,
    out: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    token: str = "",
    sweeps: int = 1,
    teacher: Teacher | None = None,
    student: Student | None = None,
    stop: threading.Event | None = None,
) -> None:
    """Serve until ``stop`` is set, or Ctrl-C. Prints the address when the page can be opened.

    Args:
        index: of the dataset. split: to click. out: the CSV file of the clicks.
        host: IP address. port: 0 takes any free one. token: that users must enter; "": none.
        sweeps: number of LiDAR sweeps to show, with the keyframe.
        teacher: makes boxes of clicks. student: suggests objects.

    Raises:
        DataError: for an address that is refused, a file that another annotator holds, or a split without samples.
    """
    check_address(host, token)
    refuse_second(out)  # checked first: the first annotator usually has the second one's port, too
    check_port(host, port)
    with only_annotator(out):
        session = Session(index, split, out)
        desk = Desk(session, sweeps, teacher, student)
        server = viser.ViserServer(host=host, port=port, label="pdetr3d click", verbose=False)
        try:
            server.gui.configure_theme(show_logo=False, show_share_button=False, dark_mode=True)
            server.gui.main_panel.dock_right()
            Pages(server, desk, token)
            shown = f"[{host}]" if ":" in host else host
            print(f"clicks: {out} ({session.done_count()} of {len(session.tokens)} frames done)")
            print(f"open http://{shown}:{server.get_port()} in a browser; Ctrl-C ends", flush=True)
            (stop or threading.Event()).wait()
        except KeyboardInterrupt:
            print(f"ended: {session.done_count()} of {len(session.tokens)} frames done, all clicks are in {out}")
        finally:
            server.stop()
