"""Turns the end of every command into an exit code (design section 8): 0 done, 2 wrong input, 1 anything else.

An error that the user can mend is one message: the attempted operation, the path, the remedy. Any other error is a
defect of the program and shows its traceback. SIGTERM and Ctrl-C end a command within seconds, whatever it is doing.
"""

from __future__ import annotations

import atexit
import errno
import locale
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from pdetr3d.errors import DataError

if TYPE_CHECKING:
    import psutil
    from pydantic import ValidationError

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130  # 130 = 128 + SIGINT, as shells report it

INTERRUPTED_TEXT = "interrupted: nothing half-written is left; run the same command again to continue"
GRACE_S = 2.0  # time for a command to end by itself after SIGTERM: Ray kills a stopped job after three seconds
CTRL_C_S = 30.0  # the same time after Ctrl-C, when the machine is not taken away
LAST_S = 1.0  # time for all functions in ``last_acts`` after that
last_acts: list[Callable[[], object]] = []  # called when a command does not end by itself in time
_overdue: list[threading.Timer] = []  # the timers that were started by signals
_last_line = threading.Lock()  # held once INTERRUPTED_TEXT is printed, by the command itself or by the timer

# Number of an operating system's error -> remedy for the user. Other errors (a broken pipe, a bad file descriptor) are
# not caused by the user's input.
ADVICE = {
    errno.EACCES: "this user may not; change its permissions, or name another place",
    errno.EPERM: "this user may not; change its permissions, or name another place",
    errno.EROFS: "the file system is mounted read-only; name another place",
    errno.ENOSPC: "the disk is full; free some of it, or name another place (finished work is kept), and run it again",
    errno.EDQUOT: "the disk quota is used up; free some of it, or name another place, and run it again",
    errno.ENOENT: "check the name, and that its disk is mounted on this machine",
    errno.ENOTDIR: "a part of the path is a file, not a folder; name another place",
    errno.EISDIR: "it is a folder, not a file; name a file",
    errno.EEXIST: "something of another kind is there already; name another place, or remove it",
    errno.ENOTEMPTY: "the folder is not empty; name another place, or empty it",
    errno.ENAMETOOLONG: "the name is too long for the file system; name a shorter one",
    errno.ELOOP: "its links lead in a circle; mend them",
    errno.EMFILE: "too many files are open; raise the limit (ulimit -n 65536) and run it again",
    errno.ENFILE: "too many files are open on this machine; close other programs and run it again",
    errno.EIO: "the disk or the network share failed; check it (dmesg, mount) and run it again",
    errno.ESTALE: "the network share has lost the file; mount it again and run it again",
    errno.ETIMEDOUT: "the disk or the server did not answer in time; check it and run it again",
}
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
# The function of the standard library that failed -> the attempted operation.
TRIED = {
    **{name: "make this folder" for name in ("mkdir", "makedirs", "mkdtemp")},
    **{name: "read this file" for name in ("read_text", "read_bytes")},
    **{name: "write this file" for name in ("write_text", "write_bytes", "touch", "copyfile")},
    **{name: "list this folder" for name in ("iterdir", "scandir", "walk")},
    **{name: "remove this" for name in ("unlink", "rmtree", "rmdir")},
    **{name: "rename this" for name in ("rename", "replace")},
}
_TEMPORARY = re.compile(r"(^|/)\.([^/]+)\.[0-9a-f]+\.tmp$")  # of data/storage/files.py: messages name the final file


def guarded(main: Callable[[], object]) -> int:
    """Run ``main`` and return its exit code; use it as ``sys.exit(guarded(main))``.

    An error that ``explain`` can explain, even if a remote task raised it and a framework wrapped it, becomes one
    message on stderr and code 2. Ctrl-C gives 130; a SystemExit keeps its code; any other error prints its traceback
    and gives 1. SIGTERM is handled as Ctrl-C (``ending_in_time``).
    """
    if _last_line.locked():  # by a previous command of this process
        _last_line.release()
    with ending_in_time():
        try:
            main()
            return DONE
        except (KeyboardInterrupt, SystemExit, Exception) as error:
            code = _report(error)
            if _overdue:
                _leave()
            return code
        finally:
            last_acts.clear()


def _report(error: BaseException) -> int:
    """Print the error that ended a command; returns its exit code."""
    if isinstance(error, KeyboardInterrupt) or (isinstance(error, SystemExit) and _overdue):
        _say_interrupted()
        return INTERRUPTED
    if isinstance(error, SystemExit):
        return _code(error)
    message = explain(error)
    if message is None:
        traceback.print_exception(error)
        print(f"error: {root_error(error)}", file=sys.stderr)  # the cause, as the last line after all tracebacks
        return FAILED
    print(f"error: {message}", file=sys.stderr)
    return BAD_INPUT


@contextmanager
def ending_in_time() -> Iterator[None]:
    """In the body, SIGTERM (``ray job stop``, a lost machine) and Ctrl-C raise KeyboardInterrupt and start a timer.

    The exception ends MLflow's runs as KILLED. It may get lost: Python drops exceptions that are raised in a hook or a
    destructor, libraries may swallow them, and locks may then stay locked. The body may also take long to clean up.
    After GRACE_S (SIGTERM) or CTRL_C_S (Ctrl-C) the timer therefore kills this process and its children. No file is
    half-written then either, because every file gets its name when it is complete.
    """
    if threading.current_thread() is not threading.main_thread():  # Python lets only the main thread set handlers
        yield
        return
    with keeping(signal.SIGTERM), keeping(signal.SIGINT):
        signal.signal(signal.SIGTERM, partial(_interrupt, GRACE_S))
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # shells let background jobs ignore SIGINT
            signal.signal(signal.SIGINT, partial(_interrupt, CTRL_C_S))
        try:
            yield
        finally:
            while _overdue:
                _overdue.pop().cancel()


@contextmanager
def keeping(number: int) -> Iterator[None]:
    """Restore a signal's handler after the body, since libraries replace it and do not restore it."""
    before = signal.getsignal(number)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(number, before)


def _interrupt(grace_s: float, signum: int, frame: FrameType | None) -> None:
    """The signal handler: start the timer, and interrupt the command."""
    timer = threading.Timer(grace_s, _end_now)
    timer.daemon = True
    timer.start()
    _overdue.append(timer)
    raise KeyboardInterrupt


def _leave() -> None:
    """End an interrupted process and its children as Python does, but while the timer can still cut it short.

    When the interpreter shuts down, no thread runs any more, and the shutdown may take long.
    """
    atexit._run_exitfuncs()
    _kill(descendants())
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(INTERRUPTED)


def _end_now() -> None:
    """The timer's function: call ``last_acts``, kill the children, and end this process whatever fails before."""
    try:
        acts = threading.Thread(target=lambda: [act() for act in last_acts], daemon=True)
        acts.start()
        until = time.monotonic() + LAST_S
        children = descendants()  # finding them takes a while on a busy machine
        acts.join(max(0.0, until - time.monotonic()))
        _kill(children)
        _say_interrupted()
    finally:
        os._exit(INTERRUPTED)


def _say_interrupted() -> None:
    if _last_line.acquire(blocking=False):
        print(INTERRUPTED_TEXT, file=sys.stderr, flush=True)


def descendants() -> list[psutil.Process]:
    """The processes that this process started, and those that they started.

    ``psutil.Process.children`` compares times of creation by the system's clock and leaves out children when the clock
    is set back meanwhile, as on virtual machines.
    """
    import psutil

    children: dict[int, list[psutil.Process]] = {}
    for process in psutil.process_iter(["ppid"]):
        children.setdefault(process.info["ppid"], []).append(process)
    found, parents = [], [os.getpid()]
    while parents:
        started = children.pop(parents.pop(), [])
        found += started
        parents += [process.pid for process in started]
    return found


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(Exception):  # the process may have ended by itself
            process.kill()


def explain(error: BaseException) -> str | None:
    """The message about an error that the user can mend; None for a defect of the program.

    A DataError brings its own message. An error of the operating system (``ADVICE``) gets its path and a remedy; one of
    pydantic lists all wrong fields. A failed assertion or a missing key in the nuScenes devkit means that the dataset's
    tables are wrong.
    """
    from pydantic import ValidationError  # imported here, because a command without errors may not need it

    wrong_input = find_data_error(error)
    if wrong_input is not None:
        return str(wrong_input)
    for seen in reversed(list(_chain(error))):  # the innermost error is closest to the cause
        if isinstance(seen, OSError) and (message := _of_system(seen)):
            return message
        if isinstance(seen, UnicodeError) and (message := _of_encoding(seen)):
            return message
        if isinstance(seen, ValidationError):
            return _of_pydantic(seen)
        if isinstance(seen, (AssertionError, LookupError)) and (message := _of_devkit(seen)):
            return message
    return None


def find_data_error(error: BaseException) -> DataError | None:
    """The original DataError behind ``error``, or None.

    It follows ``__cause__`` and, without importing Ray, the attributes in which Ray stores a remote error: ``cause``
    (RayTaskError, whose own text is the remote traceback) and ``worker_failures`` (Ray Train). Ray Data drops the
    original error of a map function unless ``DataContext.raise_original_map_exception`` is set, as the jobs do.
    """
    found = None
    for seen in _chain(error):
        if isinstance(seen, DataError):
            found = seen  # the search goes on, since the innermost one has the original message
    return found


def _of_system(error: OSError) -> str | None:
    """The message about an OSError; None if it names no path, or if the user cannot mend it."""
    advice, reason = ADVICE.get(error.errno or 0), str(error.strerror or "")
    if advice is None:
        return None
    if error.errno == errno.ENOENT and error.filename is None and _nowhere():
        return "the current folder was removed; go to another one (cd) and run it again"
    names = [str(name) for name in (error.filename, error.filename2) if isinstance(name, (str, bytes, os.PathLike))]
    if not names:  # an error of Arrow, which has the path in its text
        return f"{reason}; {advice}" if "/" in reason or error.errno in DISK_FULL else None
    steps = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    tried = next((TRIED[name] for name in reversed(steps) if name in TRIED), "open this file")
    where = " -> ".join(dict.fromkeys(_TEMPORARY.sub(r"\1\2", name) for name in names))
    return f"{where}: cannot {tried} ({reason}); {advice}"


def _nowhere() -> bool:
    """Whether the current folder was removed."""
    with suppress(FileNotFoundError):
        return not os.getcwd()
    return True


def _of_encoding(error: UnicodeError) -> str | None:
    """The message about text that the system's encoding cannot hold; None where that is UTF-8, or a file is broken."""
    if not (used := odd_encoding()) or (isinstance(error, UnicodeDecodeError) and error.encoding == "utf-8"):
        return None
    return (
        f"this system's encoding, {used}, cannot hold a name or text ({error}); set PYTHONUTF8=1 (or LC_ALL=C.UTF-8) "
        "and run it again"
    )


def odd_encoding() -> str:
    """The encoding of file names and texts, if it is not UTF-8; else empty."""
    used = "UTF-8" if sys.flags.utf8_mode else locale.getencoding()
    return "" if used.upper() == "UTF-8" else used


def _of_pydantic(error: ValidationError) -> str:
    lines = [f"  {'.'.join(map(str, one['loc'])) or 'the whole'}: {one['msg']}" for one in error.errors()]
    return f"{error.title} is not what it must be; correct these and run it again\n" + "\n".join(lines)


def _of_devkit(error: AssertionError | LookupError) -> str | None:
    frames = traceback.extract_tb(error.__traceback__)
    if not frames or "nuscenes" not in Path(frames[-1].filename).parts:
        return None
    reason = f"no entry {error}" if isinstance(error, LookupError) else str(error) or frames[-1].line or "an assertion"
    where = f"{Path(frames[-1].filename).name}, {frames[-1].name}"
    return (
        f"the nuScenes devkit refuses the dataset's tables ({reason}; {where}): "
        "the entry, or a reference to it, is missing or wrong in VERSION/*.json; correct it, then index the "
        "dataset again"
    )


# Texts in the errors of workers that failed because another worker had failed.
COLLATERAL = ("Connection closed by peer", "Connection reset by peer", "ProcessGroup", "NCCL communicator was aborted")


def root_error(error: BaseException) -> str:
    """The cause of an error in one paragraph. Of several training workers it is the one that failed first."""
    failures = getattr(error, "worker_failures", None)
    if not isinstance(failures, dict) or not failures:
        return _described(list(_chain(error))[-1])
    texts = {rank: _described(list(_chain(failure))[-1]) for rank, failure in sorted(failures.items())}
    own = [rank for rank, text in texts.items() if not any(mark in text for mark in COLLATERAL)]
    rank = (own or list(texts))[0]
    others = f" ({len(texts) - 1} more failed with it)" if len(texts) > 1 else ""
    return f"worker of rank {rank}: {texts[rank]}{others}"


def _described(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".strip()


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and all errors behind it, each once; the innermost comes last."""
    waiting, done = [error], set()
    while waiting:
        current = waiting.pop()
        if id(current) in done:
            continue
        done.add(id(current))
        yield current
        failures = getattr(current, "worker_failures", None)
        inner = [current.__cause__, getattr(current, "cause", None), getattr(current, "_base_exc", None)]
        inner += list(failures.values()) if isinstance(failures, dict) else []
        waiting += [item for item in inner if isinstance(item, BaseException)]


def _code(stop: SystemExit) -> int:
    """The exit code of a SystemExit; a text, which Python would print, is printed and gives FAILED."""
    if stop.code is None or isinstance(stop.code, int):
        return stop.code or DONE
    print(stop.code, file=sys.stderr)
    return FAILED
