"""Tests of the redirection of native code's output: a job's screen shows Python's stderr, and the log file the rest."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ray_jobs.terminal.native_output import NativeOutput

JOB = """
import logging, os, sys
from pathlib import Path
from ray_jobs.terminal.console import console
logger = logging.getLogger("ray")
logger.addHandler(logging.StreamHandler())  # as Ray does when it is imported
with console(Path(sys.argv[1]), verbose=len(sys.argv) > 2):
    os.write(2, b"native inside\\n")
    print("python inside\\udcff", file=sys.stderr)  # a name of a file may hold bytes that are no text
    logger.error("an error of Ray")
os.write(2, b"native after\\n")
print("python after", file=sys.stderr)
raise ValueError("the end")
"""


def run_job(folder: Path, *words: str) -> tuple[list[str], str]:
    """Run JOB; return the lines of its stderr, and the text of the log file."""
    done = subprocess.run([sys.executable, "-c", JOB, str(folder), *words], capture_output=True, text=True, check=False)
    file = folder / "logs" / "native.log"
    return done.stderr.splitlines(), file.read_text() if file.exists() else ""


def test_native_output_goes_to_the_file_while_a_job_runs(tmp_path: Path) -> None:
    screen, log = run_job(tmp_path)
    assert screen[:4] == [r"python inside\udcff", "an error of Ray", "native after", "python after"]
    assert screen[-1] == "ValueError: the end"
    assert log == "native inside\n"


def test_verbose_shows_it(tmp_path: Path) -> None:
    screen, log = run_job(tmp_path, "verbose")
    assert screen[:2] == ["native inside", r"python inside\udcff"] and log == ""


def test_a_job_without_stderr_runs(tmp_path: Path) -> None:
    job = "import sys; from pathlib import Path; from ray_jobs.terminal.console import console\n"
    job += "with console(Path(sys.argv[1])): print('here', sys.stderr)"
    shell = 'exec "$PYTHON" -c "$JOB" "$FOLDER" 2>&-'
    names = {"PYTHON": sys.executable, "JOB": job, "FOLDER": str(tmp_path)}
    done = subprocess.run(["bash", "-c", shell], env=os.environ | names, stdout=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "here None\n")


def test_a_stderr_that_is_replaced_while_a_job_runs_stays(tmp_path: Path) -> None:
    job = "import io, sys; from pathlib import Path; from ray_jobs.terminal.native_output import NativeOutput\n"
    job += "mine, other = NativeOutput(Path(sys.argv[1]) / 'native.log'), io.StringIO()\n"
    job += "mine.take(); sys.stderr = other; mine.release(); print(sys.stderr is other)"
    done = subprocess.run([sys.executable, "-c", job, str(tmp_path)], stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout == "True\n"


def test_a_replaced_stderr_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    replaced = sys.stderr
    mine = NativeOutput(tmp_path / "native.log")
    mine.take()
    assert sys.stderr is replaced
    mine.release()
    print("still here", file=sys.stderr)
    assert capsys.readouterr().err == "still here\n"
