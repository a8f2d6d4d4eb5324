"""Starts a headless Chromium for a test (Debian's packages chromium and chromium-driver, WebGL in software)."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

T = TypeVar("T")
PROGRAMS = ("chromium", "chromedriver")


def missing() -> str:
    """The missing programs for opening a page; empty if there are none."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    return f"no {', '.join(absent)} (apt-get install chromium chromium-driver)" if absent else ""


@contextmanager
def browser(folder: Path, size_px: tuple[int, int]) -> Iterator[Chrome]:
    """A browser with its profile under ``folder`` and a window of this size, closed at the end."""
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    width, height = size_px
    for argument in (
        "--headless=new",
        "--no-sandbox",  # as root; the page is this project's own
        "--disable-dev-shm-usage",
        "--use-angle=swiftshader",
        "--enable-unsafe-swiftshader",
        "--hide-scrollbars",
        f"--window-size={width},{height}",
        f"--user-data-dir={folder / 'profile'}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    driver = Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


def wait_for(what: Callable[[], T], why: Callable[[], str], timeout_s: float = 120) -> T:
    """Call ``what`` until its result is true; returns the result, or fails after ``timeout_s`` with ``why``'s text."""
    end = time.monotonic() + timeout_s
    while not (answer := what()):
        assert time.monotonic() < end, why()
        time.sleep(0.1)
    return answer
