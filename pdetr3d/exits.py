"""Exit codes of every command (design section 8): 0 done, 2 the user's input is wrong, 1 anything else.

What the user can mend is one message: what was tried, on which path, what to do. Anything else is a defect of the
program, and shows its traceback. SIGTERM and Ctrl-C end a command within seconds, whatever it is at.
"""

from __future__ import annotations

import atexit
import errno
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
GRACE_S = 2.0  # what a terminated command may take to end by itself: Ray ends a stopped job after three seconds
CTRL_C_S = 30.0  # the same of one that got a Ctrl-C: nobody takes the machine away
LAST_S = 1.0  # what the acts in ``last_acts`` may take after that, all together
last_acts: list[Callable[[], object]] = []  # done for a command that does not end by itself
_overdue: list[threading.Timer] = []
_last_line = threading.Lock()  # held once INTERRUPTED_TEXT is printed: by the command itself, or by the timer

# What a person can do about an error of the operating system. Others (a broken pipe, a bad file descriptor) are none
# that the input is to blame for.
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
# The function of the standard library that failed -> what was tried.
TRIED = {
    **{name: "make this folder" for name in ("mkdir", "makedirs", "mkdtemp")},
    **{name: "read this file" for name in ("read_text", "read_bytes")},
    **{name: "write this file" for name in ("write_text", "write_bytes", "touch", "copyfile")},
    **{name: "list this folder" for name in ("iterdir", "scandir", "walk")},
    **{name: "remove this" for name in ("unlink", "rmtree", "rmdir")},
    **{name: "rename this" for name in ("rename", "replace")},
}
_TEMPORARY = re.compile(r"(^|/)\.([^/]+)\.[0-9a-f]+\.tmp$")  # data/storage/files.py: people asked for what it becomes


def guarded(main: Callable[[], object]) -> int:
    """Run ``main`` and turn how it ends into an exit code; use as ``sys.exit(guarded(main))``.

    What ``explain`` finds in an error, also in one that a remote task raised and a framework wrapped, becomes one
    message on stderr and code 2. Ctrl-C gives 130; a SystemExit keeps its code; any other error prints its traceback
    and gives 1. SIGTERM is taken as Ctrl-C (``ending_in_time``).
    """
    if _last_line.locked():  # of a command before this one
        _last_line.release()
    with ending_in_time():
        try:
            main()
            return DONE
        except (KeyboardInterrupt, SystemExit, Exception) as error:
            code = _told(error)
            if _overdue:
                _leave()
            return code
        finally:
            last_acts.clear()


def _told(error: BaseException) -> int:
    """Print what a command ended with; its exit code."""
    if isinstance(error, KeyboardInterrupt) or (isinstance(error, SystemExit) and _overdue):
        _say_interrupted()
        return INTERRUPTED
    if isinstance(error, SystemExit):
        return _code(error)
    message = explain(error)
    if message is None:
        traceback.print_exception(error)
        print(f"error: {root_error(error)}", file=sys.stderr)  # below all tracebacks: what to look at first
        return FAILED
    print(f"error: {message}", file=sys.stderr)
    return BAD_INPUT


@contextmanager
def ending_in_time() -> Iterator[None]:
    """SIGTERM (``ray job stop``, a machine that is taken away) and Ctrl-C raise a KeyboardInterrupt in the body, by
    which MLflow's runs end as KILLED; and a timer is started.

    The body may never see that exception: Python drops what is raised while it runs a hook or a destructor, libraries
    may swallow it, and a lock that was about to be released then stays taken. Or it takes long to end what it began.
    After ``GRACE_S``, or ``CTRL_C_S``, the process and all that it started are ended: every file gets its name when it
    is whole, so nothing is half-written then either.
    """
    if threading.current_thread() is not threading.main_thread():  # Python allows no other to set handlers
        yield
        return
    with keeping(signal.SIGTERM), keeping(signal.SIGINT):
        signal.signal(signal.SIGTERM, partial(_interrupt, GRACE_S))
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell lets background jobs ignore it
            signal.signal(signal.SIGINT, partial(_interrupt, CTRL_C_S))
        try:
            yield
        finally:
            while _overdue:
                _overdue.pop().cancel()


@contextmanager
def keeping(number: int) -> Iterator[None]:
    """A signal's handler, which libraries replace in the body and leave replaced, is back afterwards."""
    before = signal.getsignal(number)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(number, before)


def _interrupt(grace_s: float, signum: int, frame: FrameType | None) -> None:
    timer = threading.Timer(grace_s, _end_now)
    timer.daemon = True
    timer.start()
    _overdue.append(timer)
    raise KeyboardInterrupt


def _leave() -> None:
    """End an interrupted process as Python does, but while the timer can cut it short: once the interpreter takes
    itself down, no thread runs, and that may take long. What it started ends with it."""
    atexit._run_exitfuncs()
    _kill(_descendants())
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(INTERRUPTED)


def _end_now() -> None:
    acts = threading.Thread(target=lambda: [act() for act in last_acts], daemon=True)
    acts.start()
    until = time.monotonic() + LAST_S
    children = _descendants()  # on a busy machine it takes a while to find them
    acts.join(max(0.0, until - time.monotonic()))
    _kill(children)
    _say_interrupted()
    os._exit(INTERRUPTED)


def _say_interrupted() -> None:
    if _last_line.acquire(blocking=False):
        print(INTERRUPTED_TEXT, file=sys.stderr, flush=True)


def _descendants() -> list[psutil.Process]:
    import psutil

    return psutil.Process().children(recursive=True)


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(Exception):  # it has ended by itself
            process.kill()


def explain(error: BaseException) -> str | None:
    """What to tell the user about an error that the user can mend; None for a defect of the program.

    A DataError says so itself. Errors of the operating system (``ADVICE``) get path and advice; pydantic's, every field
    that is wrong; an assertion or a missing key in the nuScenes devkit means that its tables are wrong.
    """
    from pydantic import ValidationError  # only here: a command that goes well may not need it

    wrong_input = find_data_error(error)
    if wrong_input is not None:
        return str(wrong_input)
    for seen in reversed(list(_chain(error))):  # the innermost one is closest to what happened
        if isinstance(seen, OSError) and (message := _of_system(seen)):
            return message
        if isinstance(seen, ValidationError):
            return _of_pydantic(seen)
        if isinstance(seen, (AssertionError, LookupError)) and (message := _of_devkit(seen)):
            return message
    return None


def find_data_error(error: BaseException) -> DataError | None:
    """The original DataError behind ``error``, or None.

    Looks through ``__cause__`` and, without importing Ray, through the attributes in which Ray keeps a remote error:
    ``cause`` (RayTaskError; its own text is the remote traceback) and ``worker_failures`` (Ray Train). Ray Data drops
    the original error of a map function unless ``DataContext.raise_original_map_exception`` is set: the jobs set it.
    """
    found = None
    for seen in _chain(error):
        if isinstance(seen, DataError):
            found = seen  # keep going: the innermost one has the message as it was written
    return found


def _of_system(error: OSError) -> str | None:
    """One sentence of an OSError that names a path and that a person can mend."""
    advice, reason = ADVICE.get(error.errno or 0), str(error.strerror or "")
    if advice is None:
        return None
    names = [str(name) for name in (error.filename, error.filename2) if isinstance(name, (str, bytes, os.PathLike))]
    if not names:  # Arrow's: the path is in its text
        return f"{reason}; {advice}" if "/" in reason or error.errno in DISK_FULL else None
    steps = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    tried = next((TRIED[name] for name in reversed(steps) if name in TRIED), "open this file")
    where = " -> ".join(dict.fromkeys(_TEMPORARY.sub(r"\1\2", name) for name in names))
    return f"{where}: cannot {tried} ({reason}); {advice}"


def _of_pydantic(error: ValidationError) -> str:
    lines = [f"  {'.'.join(map(str, one['loc'])) or 'the whole'}: {one['msg']}" for one in error.errors()]
    return f"{error.title} is not what it must be; correct these and run it again\n" + "\n".join(lines)


def _of_devkit(error: AssertionError | LookupError) -> str | None:
    frames = traceback.extract_tb(error.__traceback__)
    if not frames or "nuscenes" not in Path(frames[-1].filename).parts:
        return None
    said = f"no entry {error}" if isinstance(error, LookupError) else str(error) or (frames[-1].line or "an assertion")
    where = f"{Path(frames[-1].filename).name}, {frames[-1].name}"
    return (
        f"the nuScenes devkit refuses the dataset's tables ({said}; {where}): "
        "what refers to that entry, or the entry, is missing or wrong in VERSION/*.json; correct it, then index the "
        "dataset again"
    )


# What workers say when another one is gone: no cause of its own.
COLLATERAL = ("Connection closed by peer", "Connection reset by peer", "ProcessGroup", "NCCL communicator was aborted")


def root_error(error: BaseException) -> str:
    """What an error began with, as one paragraph: of a training's workers the one that failed by itself."""
    failures = getattr(error, "worker_failures", None)
    if not isinstance(failures, dict) or not failures:
        return _said(list(_chain(error))[-1])
    said = {rank: _said(list(_chain(failure))[-1]) for rank, failure in sorted(failures.items())}
    own = [rank for rank, text in said.items() if not any(mark in text for mark in COLLATERAL)]
    rank = (own or list(said))[0]
    others = f" ({len(said) - 1} more failed with it)" if len(said) > 1 else ""
    return f"worker of rank {rank}: {said[rank]}{others}"


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".strip()


def _chain(error: BaseException) -> Iterator[BaseException]:
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
    if stop.code is None or isinstance(stop.code, int):
        return stop.code or DONE
    print(stop.code, file=sys.stderr)
    return FAILED
