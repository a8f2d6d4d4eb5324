"""Reports a training that stands still and what each rank waits for; a hung collective operation raises no error."""

from __future__ import annotations

import json
import sys
import threading
import time
import traceback
from types import FrameType

from pyarrow.fs import FileSelector, FileSystem

FOLDER = "waiting"  # the folder in the stage's folder to which each rank writes its state
COLLECTIVE = ("torch/distributed", "torch/nn/parallel/distributed", "torch/autograd/graph")  # DDP waits in backward
POLL_S = 5.0


class Watchdog:
    """Watches the calling thread, which calls ``beat`` at the beginning of each activity.

    Args:
        folder: URI of the stage's folder. rank, world_size: of this worker. stall_s: after this time without a beat the
            rank writes its state, and the lowest rank that did so prints the states of all ranks.
    """

    def __init__(self, folder: str, rank: int, world_size: int, stall_s: float) -> None:
        self.folder, self.rank, self.world_size, self.stall_s = folder, rank, world_size, stall_s
        self.thread_id = threading.get_ident()
        self.last, self.doing, self.step, self.told = time.monotonic(), "begins", 0, -1.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def beat(self, doing: str, step: int) -> None:
        """Record the thread's new activity, and the step (counted from 0) for which it is."""
        self.doing, self.step, self.last = doing, step, time.monotonic()

    def stop(self) -> None:
        """Stop watching."""
        self._stop.set()

    def _watch(self) -> None:
        poll = min(POLL_S, self.stall_s / 4)
        while not self._stop.wait(poll):
            last, silent = self.last, time.monotonic() - self.last
            if silent < self.stall_s or self.told == last:
                continue
            try:
                self.write(silent)
                if self._stop.wait(2 * poll) or self.last != last:  # the other ranks need time to write
                    continue
                if text := self.report(silent):
                    print(text, flush=True)
            except OSError as error:  # unreachable storage may be the cause of the stall
                print(f"rank {self.rank} stands still for {silent:.0f} s; {error}", flush=True)
            self.told = last

    def write(self, silent_s: float) -> None:
        """Write this rank's state: its step, its activity, and its place in the code."""
        frame = sys._current_frames().get(self.thread_id)
        word = {"step": self.step, "does": self.doing, "at": where(frame), "since": time.time() - silent_s}
        filesystem, path = FileSystem.from_uri(f"{self.folder}/{FOLDER}")
        filesystem.create_dir(path, recursive=True)
        with filesystem.open_output_stream(f"{path}/rank_{self.rank}.json") as stream:
            stream.write(json.dumps(word).encode())

    def report(self, silent_s: float) -> str:
        """The states that ranks wrote since this one stands still; "" if a lower rank reports them."""
        filesystem, path = FileSystem.from_uri(f"{self.folder}/{FOLDER}")
        words = {}
        for info in filesystem.get_file_info(FileSelector(path, allow_not_found=True)):
            if info.mtime is not None and info.mtime.timestamp() > time.time() - silent_s:  # not of an earlier stall
                with filesystem.open_input_stream(info.path) as stream:
                    rank = int(info.base_name.removeprefix("rank_").removesuffix(".json"))
                    words[rank] = json.loads(stream.read())
        if not words or min(words) != self.rank:
            return ""
        lines = [f"  rank {r}: step {w['step']}, {w['does']}: {w['at']}" for r, w in sorted(words.items())]
        silent = [rank for rank in range(self.world_size) if rank not in words]
        if silent:
            lines.append(f"  no word from ranks {silent}: their processes, machines or storage do not answer")
        waiting = [rank for rank, word in sorted(words.items()) if "collective" in word["at"]]
        if waiting and len(waiting) < self.world_size:
            others = [rank for rank in range(self.world_size) if rank not in waiting]
            lines.append(f"  ranks {waiting} wait in a collective operation for ranks {others}")
        return f"no step for {silent_s:.0f} s (scaling.stall_s):\n" + "\n".join(lines)


def where(frame: FrameType | None) -> str:
    """The innermost place in our code, in words, and whether it waits in a collective operation."""
    if frame is None:
        return "its thread has ended"
    stack = traceback.extract_stack(frame)
    ours = [f"{f.filename.rsplit('/', 1)[-1]}:{f.lineno} {f.name}" for f in stack if "/pdetr3d/" in f.filename]
    inner = [f.name for f in stack if any(part in f.filename for part in COLLECTIVE)]
    place = ours[-1] if ours else f"{stack[-1].filename}:{stack[-1].lineno}"
    return f"{place}, in a collective operation ({inner[-1]})" if inner else place
