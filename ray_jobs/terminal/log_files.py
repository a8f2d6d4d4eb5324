"""Files of ``logs/``, and the loggers of the libraries in the job's own process that write there."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from logging.handlers import RotatingFileHandler
from pathlib import Path

JOB_LOG = "job.log"  # what the libraries' loggers say here, and all that the workers print
LOGGERS = ("ray", "ray.data", "ray.train", "ray.tune", "mlflow", "alembic")
OURS = "pdetr3d"  # logger of the core
LINE = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
LOG_BYTES = 32 * 1024**2  # of a file; then it becomes FILE.1, in the place of an older one


class LogFile(RotatingFileHandler):
    """A log file: added to an older one's end, of bounded size, opened when there is a line for it.

    Args:
        say: told once when it cannot be written; a full disk stops no job for the log.
    """

    def __init__(self, file: Path, say: Callable[[str], None]) -> None:
        super().__init__(file, maxBytes=LOG_BYTES, backupCount=1, delay=True, errors="replace")
        self.say, self.failed = say, False

    def format(self, record: logging.LogRecord) -> str:
        """A line of the file. A formatter would not stay: Ray gives its own to all handlers of its logger."""
        return LINE.format(record)

    def line(self, who: str, text: str) -> None:
        """Write a line of another process."""
        self.handle(logging.LogRecord(who, logging.INFO, "", 0, text, None, None))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  (logging's name)
        """Said once."""
        if not self.failed:
            self.failed = True
            self.say(f"{self.baseFilename} cannot be written, its lines are lost: {sys.exc_info()[1]}")


class Libraries:
    """What libraries log in this process goes to a file, and their errors to the screen as before.

    Args:
        file: of all of them. warn: told of each warning: its text, and whether our own core logged it.
        verbose: the screen keeps everything.
    """

    def __init__(self, file: LogFile, warn: Callable[[str, bool], None], verbose: bool) -> None:
        self.file, self.warnings, self.verbose = file, _Warnings(warn), verbose
        self.levels: dict[logging.Handler, int] = {}  # of handlers that write to the screen, as they were

    def take(self) -> None:
        """Begin, and again after a library was imported or started: some put handlers of their own then."""
        for logger in map(logging.getLogger, LOGGERS):
            for handler in logger.handlers:
                if not self.verbose and _on_screen(handler) and handler not in self.levels:
                    self.levels[handler] = handler.level
                    handler.setLevel(max(handler.level, logging.ERROR))
            if "." not in logger.name or not logger.propagate:  # else its parent has it
                logger.addHandler(self.file)
                logger.addHandler(self.warnings)
        logging.getLogger(OURS).addHandler(self.warnings)

    def release(self) -> None:
        """All as it was."""
        for logger in map(logging.getLogger, (*LOGGERS, OURS)):
            logger.removeHandler(self.file)
            logger.removeHandler(self.warnings)
        for handler, level in self.levels.items():
            handler.setLevel(level)
        self.levels.clear()


class _Warnings(logging.Handler):
    def __init__(self, warn: Callable[[str, bool], None]) -> None:
        super().__init__(logging.WARNING)
        self.warn = warn

    def emit(self, record: logging.LogRecord) -> None:
        ours = record.name.partition(".")[0] == OURS
        if ours or record.levelno < logging.ERROR:  # libraries' errors are on the screen already
            self.warn(record.getMessage(), ours)


def _on_screen(handler: logging.Handler) -> bool:
    return isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler)


def warnings_to_stdout() -> None:
    """In a process of the cluster: what our core logs goes where the job's console takes it for ours."""
    logger = logging.getLogger(OURS)
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("warning: %(message)s"))
        logger.addHandler(handler)
