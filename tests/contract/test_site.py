"""The documentation's site, opened from disk in a browser: its search, its width on a phone, where it loads from."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser import browser, wait_for

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

ROOT = Path(__file__).resolve().parents[2]
PHONE_PX = (400, 900)

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("site")]
# Scripts, images and style sheets of other hosts.
LOADS = re.compile(
    r'<(?:script|img|iframe)\b[^>]*\bsrc="?https?:[^\s">]*|<link\b[^>]*\bstylesheet\b[^>]*https?:[^\s">]*'
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})
    return folder


@pytest.fixture(scope="module")
def phone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with browser(tmp_path_factory.mktemp("browser"), (1280, 900)) as driver:
        size = {"width": PHONE_PX[0], "height": PHONE_PX[1], "deviceScaleFactor": 1, "mobile": True}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        yield driver


def show(driver: Chrome, page: Path) -> None:
    """Open a page and wait until it is complete, which ``get`` does not for every file."""
    driver.get(page.as_uri())
    ready = "return document.readyState === 'complete' && document.querySelector('article h1') !== null"
    wait_for(lambda: driver.execute_script(ready), lambda: f"{page} has no heading", timeout_s=20)


@pytest.mark.browser
def test_the_search_finds_a_config_key(site: Path, phone: Chrome) -> None:
    show(phone, site / "docs" / "jobs.html")
    phone.find_element("css selector", "label.md-header__button[for=__search]").click()
    field = phone.find_element("css selector", ".md-search__input")
    wait_for(field.is_displayed, lambda: "the field of the search is hidden", timeout_s=20)
    said = phone.find_element("css selector", ".md-search-result__meta")
    wait_for(lambda: "Type to start" in said.text, lambda: f"the search does not start: {said.text}", timeout_s=60)
    field.send_keys("holdout")  # a part of the key label.holdout
    links = ".md-search-result__link[href*='docs/configuration.html']"
    wait_for(lambda: phone.find_elements("css selector", links), lambda: "the search does not find it", timeout_s=60)


@pytest.mark.browser
def test_no_page_is_wider_than_a_phone(site: Path, phone: Chrome) -> None:
    pages = sorted(path for path in site.rglob("*.html") if path.name != "404.html")
    widths = {}
    for page in pages:
        show(phone, page)
        widths[str(page.relative_to(site))] = phone.execute_script("return document.documentElement.scrollWidth")
    assert len(pages) > 15 and {name: width for name, width in widths.items() if width > PHONE_PX[0]} == {}


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    found = {str(page.relative_to(site)): LOADS.findall(page.read_text()) for page in site.rglob("*.html")}
    assert len(found) > 15 and {name: urls for name, urls in found.items() if urls} == {}
