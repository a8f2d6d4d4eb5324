"""The log files in ``logs/``, and the redirection of libraries' loggers in the job's process to them."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from logging.handlers import RotatingFileHandler
from pathlib import Path

JOB_LOG = "job.log"  # the file of this process's library logs and of all workers' output
NATIVE_LOG = "native.log"  # the file of what native code of this process writes to stderr
LOGGERS = ("ray", "ray.data", "ray.train", "ray.tune", "mlflow", "alembic")
OURS = "pdetr3d"  # the logger of the package pdetr3d
LINE = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
LOG_BYTES = 32 * 1024**2  # a file of this size is renamed to FILE.1, which replaces an older one


class LogFile(RotatingFileHandler):
    """A log file of limited size, which continues an older file and is opened when the first line is written.

    Args:
        file: the path. say: called once with a message if the file cannot be written, e.g. on a full disk; the job
            continues.
    """

    def __init__(self, file: Path, say: Callable[[str], None]) -> None:
        super().__init__(file, maxBytes=LOG_BYTES, backupCount=1, delay=True, errors="replace")
        self.say, self.failed = say, False

    def format(self, record: logging.LogRecord) -> str:
        """Format a line. A formatter object would not last: Ray sets its own on all handlers of its logger."""
        return LINE.format(record)

    def line(self, who: str, text: str) -> None:
        """Write a line of the process ``who``."""
        self.handle(logging.LogRecord(who, logging.INFO, "", 0, text, None, None))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  (logging's name)
        """Report the first failed write."""
        if not self.failed:
            self.failed = True
            self.say(f"{self.baseFilename} cannot be written, its lines are lost: {sys.exc_info()[1]}")


class Libraries:
    """Redirects the logs of libraries in this process to a file; only their errors stay on the screen.

    Args:
        file: of all libraries. warn: called for each warning with its text, and whether our own package logged it.
        verbose: keep all logs on the screen, too.
    """

    def __init__(self, file: LogFile, warn: Callable[[str, bool], None], verbose: bool) -> None:
        self.file, self.warnings, self.verbose = file, _Warnings(warn), verbose
        self.levels: dict[logging.Handler, int] = {}  # handler that writes to the screen -> its original level

    def take(self) -> None:
        """Begin. Call it again after importing or starting a library, since some add handlers of their own then."""
        for logger in map(logging.getLogger, LOGGERS):
            for handler in logger.handlers:
                if not self.verbose and _on_screen(handler) and handler not in self.levels:
                    if isinstance(handler, logging.StreamHandler) and handler.stream is sys.__stderr__:
                        handler.setStream(sys.stderr)  # see native_output.py
                    self.levels[handler] = handler.level
                    handler.setLevel(max(handler.level, logging.ERROR))
            if "." not in logger.name or not logger.propagate:  # other loggers pass their records to these
                logger.addHandler(self.file)
                logger.addHandler(self.warnings)
        logging.getLogger(OURS).addHandler(self.warnings)

    def release(self) -> None:
        """End: restore the loggers and handlers."""
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
        if ours or record.levelno < logging.ERROR:  # the screen already shows libraries' errors
            self.warn(record.getMessage(), ours)


def _on_screen(handler: logging.Handler) -> bool:
    return isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler)


def warnings_to_stdout() -> None:
    """In a process of the cluster: log our package's warnings to stdout, where the job's console expects them."""
    logger = logging.getLogger(OURS)
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("warning: %(message)s"))
        logger.addHandler(handler)
