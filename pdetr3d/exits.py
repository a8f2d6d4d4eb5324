"""Exit codes of every command (design section 8): 0 done, 2 the user's input is wrong, 1 anything else."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator

from pdetr3d.schema import DataError

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130  # 130 = 128 + SIGINT, as shells report it


def guarded(main: Callable[[], object]) -> int:
    """Run ``main`` and turn how it ends into an exit code; use as ``sys.exit(guarded(main))``.

    A DataError, also one that a remote task raised and a framework wrapped, becomes its message on stderr and code 2.
    Ctrl-C gives 130; a SystemExit keeps its code; any other error prints its traceback and gives 1.
    """
    try:
        main()
        return DONE
    except SystemExit as stop:
        return _code(stop)
    except KeyboardInterrupt:
        print("interrupted: nothing half-written is left; run the same command again to continue", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        wrong_input = find_data_error(error)
        if wrong_input is None:
            traceback.print_exc()
            return FAILED
        print(f"error: {wrong_input}", file=sys.stderr)
        return BAD_INPUT


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


def _chain(error: BaseException) -> Iterator[BaseException]:
    waiting, done = [error], set()
    while waiting:
        current = waiting.pop()
        if id(current) in done:
            continue
        done.add(id(current))
        yield current
        failures = getattr(current, "worker_failures", None)
        inner = [current.__cause__, getattr(current, "cause", None)]
        inner += list(failures.values()) if isinstance(failures, dict) else []
        waiting += [item for item in inner if isinstance(item, BaseException)]


def _code(stop: SystemExit) -> int:
    if stop.code is None or isinstance(stop.code, int):
        return stop.code or DONE
    print(stop.code, file=sys.stderr)
    return FAILED
