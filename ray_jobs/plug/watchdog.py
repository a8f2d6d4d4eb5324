"""A training that stands still is reported, with what each rank waits for: a hung collective says nothing by itself."""

from __future__ import annotations

import json
import sys
import threading
import time
import traceback
from types import FrameType

from pyarrow.fs import FileSelector, FileSystem

FOLDER = "waiting"  # of a word from each rank, in the stage's folder of checkpoints
COLLECTIVE = ("torch/distributed", "torch/nn/parallel/distributed", "torch/autograd/graph")  # DDP waits in backward
POLL_S = 5.0


class Watchdog:
    """Watches the calling thread, which reports what it begins by ``beat``.

    Args:
        folder: URI of the stage's folder. rank, world_size: of this worker. stall_s: without a beat for so long, this
            rank writes down where it stands, and the first rank that did so prints what all of them said.
    """

    def __init__(self, folder: str, rank: int, world_size: int, stall_s: float) -> None:
        self.folder, self.rank, self.world_size, self.stall_s = folder, rank, world_size, stall_s
        self.thread_id = threading.get_ident()
        self.last, self.doing, self.step, self.told = time.monotonic(), "begins", 0, -1.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def beat(self, doing: str, step: int) -> None:
        """The thread now does this, for this step (counted from 0)."""
        self.doing, self.step, self.last = doing, step, time.monotonic()

    def stop(self) -> None:
        """Watch no longer."""
        self._stop.set()

    def _watch(self) -> None:
        poll = min(POLL_S, self.stall_s / 4)
        while not self._stop.wait(poll):
            last, silent = self.last, time.monotonic() - self.last
            if silent < self.stall_s or self.told == last:
                continue
            try:
                self.write(silent)
                if self._stop.wait(2 * poll) or self.last != last:  # the others write, too
                    continue
                if text := self.report(silent):
                    print(text, flush=True)
            except OSError as error:  # storage is away: that is why, perhaps
                print(f"rank {self.rank} stands still for {silent:.0f} s; {error}", flush=True)
            self.told = last

    def write(self, silent_s: float) -> None:
        """Write this rank's word: step, what it does, where in the code."""
        frame = sys._current_frames().get(self.thread_id)
        word = {"step": self.step, "does": self.doing, "at": where(frame), "since": time.time() - silent_s}
        filesystem, path = FileSystem.from_uri(f"{self.folder}/{FOLDER}")
        filesystem.create_dir(path, recursive=True)
        with filesystem.open_output_stream(f"{path}/rank_{self.rank}.json") as stream:
            stream.write(json.dumps(word).encode())

    def report(self, silent_s: float) -> str:
        """What the ranks said since this one stands still; empty where a rank before this one is to tell it."""
        filesystem, path = FileSystem.from_uri(f"{self.folder}/{FOLDER}")
        words = {}
        for info in filesystem.get_file_info(FileSelector(path, allow_not_found=True)):
            if info.mtime is not None and info.mtime.timestamp() > time.time() - silent_s:  # not of an earlier stand
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
    """The innermost place in our code, and whether it waits inside a collective operation."""
    if frame is None:
        return "its thread has ended"
    stack = traceback.extract_stack(frame)
    ours = [f"{f.filename.rsplit('/', 1)[-1]}:{f.lineno} {f.name}" for f in stack if "/pdetr3d/" in f.filename]
    inner = [f.name for f in stack if any(part in f.filename for part in COLLECTIVE)]
    place = ours[-1] if ours else f"{stack[-1].filename}:{stack[-1].lineno}"
    return f"{place}, in a collective operation ({inner[-1]})" if inner else place
