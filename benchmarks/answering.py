"""A process that times its steps on request; it imports nothing, so that any Python runs it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping


def answer(acts: Mapping[str, Callable[[], object]], parameters: int) -> None:
    """Print the number of parameters; then, for each line of stdin, call the act of that name and print its seconds."""
    print(parameters, flush=True)
    for line in sys.stdin:
        begin = time.perf_counter()
        acts[line.strip()]()
        print(time.perf_counter() - begin, flush=True)
