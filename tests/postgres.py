"""Starts a PostgreSQL server for a test (Debian's package) with a new folder, one database and a password."""

from __future__ import annotations

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.ports import free_ports


def programs() -> Path | None:
    """The folder of initdb and postgres of the newest version; None if the server is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return found[-1].parent if found else None


def missing() -> str:
    """The missing programs for running MLflow on PostgreSQL; empty if there are none."""
    absent = [name for name in ("psycopg2", "flask_wtf") if importlib.util.find_spec(name) is None]
    lacks = [] if programs() else ["no PostgreSQL server (apt-get install postgresql)"]
    return "; ".join(lacks + [f"no {name} (the extra 'server')" for name in absent])


def _user() -> dict[str, Any]:
    """The user of the server, since PostgreSQL refuses root."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


@contextmanager
def running(database: str) -> Iterator[dict[str, str]]:
    """Run it with one empty database; yields libpq's PGHOST, PGPORT, PGUSER and PGPASSWORD."""
    folder, (port,) = Path(tempfile.mkdtemp(prefix="pg")), free_ports(1)
    where, password = programs(), secrets.token_hex(16)
    assert where is not None
    (folder / "password").write_text(password)
    as_user = _user()
    for path in (folder, folder / "password"):
        os.chown(path, as_user.get("user", -1), as_user.get("group", -1))
    common = {"cwd": folder, "stdin": subprocess.DEVNULL, "stderr": subprocess.STDOUT, **as_user}
    variables = {"PGHOST": "127.0.0.1", "PGPORT": str(port), "PGUSER": database, "PGPASSWORD": password}
    try:
        initdb = [where / "initdb", "-D", folder / "data", "-U", database, "--pwfile", folder / "password"]
        subprocess.run([*initdb, "--auth=scram-sha-256", "--no-sync"], stdout=subprocess.DEVNULL, check=True, **common)
        command = [where / "postgres", "-D", folder / "data", "-p", str(port), "-k", folder]
        with (folder / "log").open("w") as log:
            server = subprocess.Popen([*command, "-c", "listen_addresses=127.0.0.1"], stdout=log, **common)
        try:
            _create(where / "createdb", database, variables, server, folder / "log")
            yield variables
        finally:
            server.send_signal(signal.SIGINT)  # a fast shutdown; SIGTERM would wait for clients to leave
            server.wait(30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _create(createdb: Path, database: str, variables: dict[str, str], server: Any, log: Path) -> None:
    end = time.monotonic() + 60
    while subprocess.run([createdb, database], env=variables, stderr=subprocess.DEVNULL).returncode != 0:
        assert server.poll() is None and time.monotonic() < end, log.read_text()
        time.sleep(0.2)
