"""Lets one process at a time write into a run directory, by a lease file (``run.lock``) in the directory.

The lease is a file, not a lock of the operating system (``flock``, which ``filelock`` uses), because shared storage
often grants such locks without passing them on to other hosts. One mechanism thus serves local disks and shared
storage. The file is created exclusively and names its owner, which renews the file's time of change every PERIOD_S s.

To find out whether an owner is alive, a process on the same machine looks up the owner's process. A process on another
machine watches the lease for up to EXPIRES_S seconds: an owner that renews it is alive. No two clocks are compared.
"""

from __future__ import annotations

import atexit
import contextlib
import getpass
import json
import os
import signal
import socket
import sys
import threading
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from pdetr3d.schema import DataError

FILE = "run.lock"
PERIOD_S = 10.0  # between renewals
EXPIRES_S = 60.0  # a lease of another host that was not renewed for this time has expired
POLL_S = 1.0  # between two readings of another process's lease

_held: dict[Path, str] = {}  # folder -> token of this process's lease on it
_guard = threading.RLock()
_renewing: list[threading.Thread] = []


def hold(folder: Path, wait_s: float = 0.0, option: str = "--run-dir") -> None:
    """Hold ``folder`` (which exists) until ``release`` or the end of this process; holding it again changes nothing.

    Args:
        wait_s: seconds to wait for a living owner to release the folder.
        option: the command-line option that names the folder, for the message.

    Raises:
        DataError: when another process holds it (names user, process, host, time, command).
    """
    folder = folder.resolve()
    deadline = time.monotonic() + wait_s
    while not _try_to_hold(folder):  # this process's other leases are renewed while it waits
        owner = _read(folder)
        if owner is not None and _alive(folder, owner):
            if time.monotonic() < deadline:
                time.sleep(POLL_S)
                continue
            raise DataError(
                f"{folder} is in use by {_described(owner)}: two runs would write over each other. Wait until it "
                f"ends, end it, or name another directory with {option}"
            )
        if owner is not None and remove(folder, owner):
            print(f"{folder}: its owner is gone ({_described(owner)}); its lock is taken over", flush=True)


def _try_to_hold(folder: Path) -> bool:
    """Whether this process holds ``folder`` now."""
    with _guard:
        if folder in _held:
            return True
        token = _create(folder)
        if token is None:
            return False
        _held[folder] = token
        if not _renewing:
            _renewing.append(threading.Thread(target=_renew_forever, name="lease", daemon=True))
            _renewing[0].start()
        return True


def release(folder: Path) -> None:
    """Release ``folder``; does nothing if this process does not hold it."""
    folder = folder.resolve()
    with _guard:
        token = _held.pop(folder, None)
        owner = _read(folder) if token else None
        if owner is not None and owner.get("token") == token and owner.get("pid") == os.getpid():
            (folder / FILE).unlink(missing_ok=True)


def wait(folder: Path, wait_s: float) -> None:
    """Wait until no other living process holds ``folder``, at most about ``wait_s`` seconds; this one holds nothing."""
    deadline = time.monotonic() + wait_s
    folder = folder.resolve()
    while (owner := _read(folder)) is not None and time.monotonic() < deadline:
        if owner.get("token") == _held.get(folder) or not _alive(folder, owner):
            return
        time.sleep(POLL_S)


def of_another(folder: Path) -> bool:
    """Whether a lease on ``folder`` exists that this process does not hold. Its owner may be dead."""
    owner = _read(folder)
    return owner is not None and owner.get("token") != _held.get(folder.resolve())


def _create(folder: Path) -> str | None:
    """Create the lease file and return its token, or None if a lease exists already."""
    me, token = psutil.Process(), uuid.uuid4().hex
    owner = {
        "user": _user(),
        "host": socket.gethostname(),
        "machine": _machine(),
        "pid": me.pid,
        "process_start": me.create_time(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(sys.argv)[:300],
        "folder": str(folder),
        "token": token,
    }
    try:
        descriptor = os.open(folder / FILE, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return None
    try:
        with os.fdopen(descriptor, "w") as stream:
            stream.write(json.dumps(owner, indent=1))
            stream.flush()
            os.fsync(stream.fileno())
    except OSError:  # the disk is full: an empty lease would block every later process
        (folder / FILE).unlink(missing_ok=True)
        raise
    return token


def _read(folder: Path) -> dict[str, Any] | None:
    """The owner that the lease names; None without a lease, {} when it is truncated or just being written."""
    try:
        owner = json.loads((folder / FILE).read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _alive(folder: Path, owner: dict[str, Any]) -> bool:
    """Whether the lease's owner is alive; takes up to EXPIRES_S for an owner on another machine."""
    if owner.get("machine") == _machine():
        if owner["folder"] != str(folder):  # the directory was copied, or moved, with the lease in it
            return False
        try:
            process = psutil.Process(owner["pid"])
            same = abs(process.create_time() - owner["process_start"]) < 2.0  # the system reuses process ids
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False
    print(
        f"{folder}: held by {_described(owner)}; watching whether it still lives, {EXPIRES_S:g} s at most", flush=True
    )
    first, end = _version(folder), time.monotonic() + EXPIRES_S
    while time.monotonic() < end:
        if _version(folder) != first:
            return _read(folder) is not None  # the lease was renewed, or else it was released
        time.sleep(POLL_S)
    return False


def _version(folder: Path) -> tuple[int, str] | None:
    """A value that changes with every renewal. The file is opened, because NFS then refreshes the file's time."""
    try:
        with (folder / FILE).open() as stream:
            return os.fstat(stream.fileno()).st_mtime_ns, stream.read()
    except FileNotFoundError:
        return None


def remove(folder: Path, dead: dict[str, Any]) -> bool:
    """Remove a dead owner's lease and return whether this process did. A lease that was made meanwhile is put back.

    The lease is renamed first: of several processes that try, the rename succeeds in one.
    """
    aside = folder / f"{FILE}.{uuid.uuid4().hex}"
    try:
        (folder / FILE).rename(aside)
    except FileNotFoundError:
        return False
    moved = json.loads(aside.read_text() or "{}") if dead else dead
    if moved.get("token") != dead.get("token"):
        with contextlib.suppress(OSError):
            aside.rename(folder / FILE)
        return False
    aside.unlink(missing_ok=True)
    return True


def _renew_forever() -> None:
    while True:
        time.sleep(PERIOD_S)
        renew()


def renew() -> None:
    """Renew this process's leases. A process that lost one, because it was suspended for long, interrupts itself."""
    with _guard:
        for folder, token in list(_held.items()):
            owner = _read(folder)
            if owner is None or not owner:  # the directory was removed, or the storage is temporarily unreachable
                continue
            if owner.get("token") == token:
                with contextlib.suppress(OSError):
                    os.utime(folder / FILE)
                continue
            del _held[folder]
            print(
                f"{folder} was taken over by {_described(owner)}, since this process was suspended for more than "
                f"{EXPIRES_S:g} s: this process stops",
                file=sys.stderr,
                flush=True,
            )
            os.kill(os.getpid(), signal.SIGINT)


def _described(owner: dict[str, Any]) -> str:
    if not owner:
        return f"an unknown process ({FILE} cannot be read)"
    return (
        f"process {owner.get('pid')} of {owner.get('user')} on host {owner.get('host')} since {owner.get('since')} "
        f"({owner.get('command')})"
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # in a container the user may have no name
        return str(os.getuid())


def _machine() -> str:
    """Host, boot and process namespace: equal for two processes that can see each other's process ids."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


@atexit.register
def _release_all() -> None:
    for folder in list(_held):
        with contextlib.suppress(OSError):
            release(folder)


def _after_fork() -> None:
    """Forget the leases in a forked child: they belong to the parent."""
    global _guard
    _guard = threading.RLock()
    _held.clear()
    _renewing.clear()


os.register_at_fork(after_in_child=_after_fork)
