"""Requests to save a checkpoint at once: before a machine is taken away (drain notice), or a job is ended."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

from pyarrow.fs import FileSystem, FileType
from ray.train.v2._internal.execution.context import get_train_context

from ray_jobs.plug.resume import read_progress

FILE = "save.txt"  # the driver's request, in the stage's folder of checkpoints
POLL_S = 0.5
WAIT_S = 2.0  # a job that must end waits so long for its workers; with Ray's shutdown it ends within 5 s

_training: set[str] = set()  # folders of the stages that this driver trains now
_guard = threading.Lock()


class SaveRequests:
    """Looks for requests in the worker of rank 0. A thread reads the storage, so that no step waits for it."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._asked, self._stop, self._seen = threading.Event(), threading.Event(), False
        self._filesystem, self._path = FileSystem.from_uri(f"{folder}/{FILE}")
        self._pending = False
        threading.Thread(target=self._watch, name="save requests", daemon=True).start()

    def new(self) -> bool:
        """Whether there is a new request; True once per request."""
        if not self._seen and machine_is_drained():
            self._seen = True
            print("this training's machines are taken away soon: saving now", flush=True)
            return True
        if self._asked.is_set():
            self._asked.clear()
            return True
        return False

    def answered(self) -> None:
        """Remove the request after a checkpoint is stored; the driver waits for that."""
        if self._pending:
            self._filesystem.delete_file(self._path)
            self._pending = False

    def stop(self) -> None:
        """Stop looking for requests."""
        self._stop.set()

    def _watch(self) -> None:
        while not self._stop.wait(POLL_S):
            with contextlib.suppress(OSError):
                if not self._pending and self._filesystem.get_file_info(self._path).type == FileType.File:
                    self._pending = True
                    self._asked.set()


def machine_is_drained() -> bool:
    """Whether Ray knows that a machine of this worker group will be taken away.

    The public ``ray.train.get_preemption_info`` returns the same, but it is a barrier, which every step would have to
    pass. This function reads the information that it shares.
    """
    with contextlib.suppress(Exception):  # outside of a Ray Train worker, or another version of Ray
        return get_train_context().preemption_context.preemption_info is not None
    return False


@contextlib.contextmanager
def training(folder: str) -> Iterator[None]:
    """A context for training the stage of ``folder``, in which ``save_all`` includes it. Old requests are removed."""
    filesystem, path = FileSystem.from_uri(f"{folder}/{FILE}")
    if filesystem.get_file_info(path).type == FileType.File:
        filesystem.delete_file(path)
    with _guard:
        _training.add(folder)
    try:
        yield
    finally:
        with _guard:
            _training.discard(folder)


def save_all(wait_s: float = WAIT_S) -> None:
    """Ask the workers of all stages in training to save now, and wait up to ``wait_s`` for them; never raises."""
    asked = set()
    with _guard:
        folders = list(_training)
    for folder in folders:
        with contextlib.suppress(OSError):
            filesystem, path = FileSystem.from_uri(f"{folder}/{FILE}")
            if filesystem.get_file_info(path.rsplit("/", 1)[0]).type == FileType.Directory:
                with filesystem.open_output_stream(path):
                    asked.add(folder)
    end = time.monotonic() + wait_s
    while asked and time.monotonic() < end:
        time.sleep(0.1)
        for folder in list(asked):
            with contextlib.suppress(OSError):
                filesystem, path = FileSystem.from_uri(f"{folder}/{FILE}")
                if filesystem.get_file_info(path).type == FileType.NotFound:  # the worker has saved
                    asked.remove(folder)
                    print(f"{folder.rsplit('/', 1)[-1]}: saved at step {read_progress(folder)}", flush=True)
