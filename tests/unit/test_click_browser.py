"""Tests of the click page in a real browser: places of 20 clicks, a killed server, keys, and import of the clicks."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pdetr3d.cli import main
from pdetr3d.click.sheet import Tile, tiles
from pdetr3d.click.views import View, above, beside, over
from pdetr3d.data.index.index import Index
from pdetr3d.data.index.nuscenes import build_index
from pdetr3d.data.loading.load import read_lidar
from pdetr3d.geometry.boxes import rotate_z
from pdetr3d.geometry.camera import in_image, project
from pdetr3d.presets import load
from pdetr3d.schema import CLASSES, FALLBACK_SIZE_M
from pdetr3d.training import checkpoint
from pdetr3d.training.build import build
from tests.browser import browser, wait_for
from tests.ports import free_ports

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(600)]
SPLIT = "mini_train"
WINDOW_PX = (1300, 800)
AIM_M = 0.3


@dataclass
class Target:
    """A LiDAR point of an annotated object, and the object's class."""

    xyz_m: NDArray[np.float64]
    label: int


class Objects:
    """The keyframe's annotated objects as targets; visibility is checked from a given place."""

    def __init__(self, index: Index) -> None:
        self.token = index.tokens(SPLIT)[0]
        self.record, found = index.record(self.token), index.annotations(self.token)
        self.points = read_lidar(Path(self.record.lidar_path))[:, :3].astype(np.float64)
        self.tiles = tiles(self.record.cameras)
        self.inside = []
        for label, box in zip(found.label[found.kept], found.box[found.kept], strict=True):
            local = rotate_z(self.points[:, :2] - box[:2], -box[6] * np.ones(len(self.points)))
            offset = np.abs(np.column_stack([local, self.points[:, 2] - box[2]]))
            self.inside.append((int(label), np.flatnonzero((offset <= box[3:6] / 2).all(1))))
        self.taken: set[int] = set()

    def take(self, origin_m: Any, count: int, may: NDArray[np.bool_], spread_m: float) -> list[Target]:
        """One point on each of ``count`` objects not taken before, at which a click from ``origin_m`` is unambiguous.

        All points near the line of sight that are not 0.8 m behind the target differ from its distance by at most
        ``spread_m``.
        """
        targets = []
        for number, (label, rows) in enumerate(self.inside):
            for row in rows[may[rows]] if number not in self.taken and len(targets) < count else []:
                line = self.points[row] - origin_m
                far = float(np.linalg.norm(line))
                along = (self.points - origin_m) @ line / far
                off = np.linalg.norm(self.points - origin_m - along[:, None] * line / far, axis=1)
                near = along[(off < 0.6) & (along > 0.5) & (along < far + 0.8)]
                if (np.abs(near - far) < spread_m).all():
                    self.taken.add(number)
                    targets.append(Target(self.points[row], label))
                    break
        return targets


class Tab:
    """The click page in a browser tab, with its current state."""

    def __init__(self, driver: Chrome, out: Path) -> None:
        self.driver, self.out = driver, out
        self.canvas_px, self.aspect = (0, 0), 1.0

    def status(self) -> dict[str, str]:
        found = self.driver.execute_script(
            "const s = document.getElementById('pdetr3d-status'), c = document.querySelector('canvas');"
            "return s && c ? {...s.dataset, text: s.innerText, size: c.clientWidth + 'x' + c.clientHeight} : {}"
        )
        return dict(found)

    def settle(self, view: str, text: str = "") -> None:
        """Wait until the page shows this view, fitted to the canvas size, and ``text``."""

        def there() -> bool:
            now = self.status()
            if now.get("view") != view or text not in now["text"]:
                return False
            width, height = (int(side) for side in now["size"].split("x"))
            self.canvas_px, self.aspect = (width, height), float(now["aspect"])
            return abs(self.aspect * height / width - 1) < 0.01

        wait_for(there, lambda: f"the page does not show {view!r} with {text!r}: {self.status()}")
        # viser's message about slow graphics covers the canvas.
        self.driver.execute_script(
            "document.querySelectorAll('.mantine-Notification-closeButton').forEach(b => b.click())"
        )
        # Camera and marks travel together; the next picture is drawn with both.
        self.driver.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")

    def key(self, key: str) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver).send_keys(key).perform()

    def click(self, uv_px: NDArray[np.float64]) -> None:
        from selenium.webdriver.common.actions.action_builder import ActionBuilder

        actions = ActionBuilder(self.driver)
        actions.pointer_action.move_to_location(*(round(value) for value in uv_px.tolist())).click()
        actions.perform()

    def pixel(self, view: View, place_m: NDArray[np.float64]) -> NDArray[np.float64]:
        """The canvas pixel (2,) of a place (3,): a pinhole camera with z up, written out independently."""
        forward = np.subtract(view.look_at_m, view.position_m)
        forward /= np.linalg.norm(forward)
        right = np.cross(forward, [0, 0, 1])
        right /= np.linalg.norm(right)
        seen = place_m - view.position_m
        focal = self.canvas_px[1] / 2 / np.tan(view.fov_rad / 2)
        u, v = focal * (seen @ right), -focal * (seen @ np.cross(right, forward))
        return np.array(self.canvas_px) / 2 + np.array([u, v]) / (seen @ forward)

    def screenshot(self) -> bytes:
        """A PNG of the page; empty if the browser ran into its timeout."""
        from selenium.common.exceptions import TimeoutException

        try:
            return self.driver.get_screenshot_as_png()
        except TimeoutException:
            return b""

    def rows(self) -> list[dict[str, str]]:
        return list(csv.DictReader(io.StringIO(self.out.read_text()))) if self.out.exists() else []

    def make(self, target: Target, uv_px: NDArray[np.float64]) -> None:
        """Choose the class by its key, click at a pixel, and wait until the click is in the file."""
        before = len(self.rows())
        self.key(str(target.label))
        self.click(uv_px)
        wait_for(lambda: len(self.rows()) > before, lambda: f"no click came of {target} at {uv_px}: {self.status()}")


def start(index: Index, out: Path, port: int) -> subprocess.Popen[str]:
    """`pdetr3d click` in a process of its own, ready for a browser."""
    command = [sys.executable, "-m", "ray_jobs.commands", "click", "--index", str(index.path), "--split", SPLIT]
    command += ["--out", str(out), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("open http://127.0.0.1:"):
            return process
    raise AssertionError("".join(lines))


def images_shown(tab: Tab, view: View, shown: list[Tile]) -> list[float]:
    """Correlation between each image file and the part of the screen that should show it."""
    screen = Image.open(io.BytesIO(wait_for(tab.screenshot, lambda: "no screenshot"))).convert("L")
    found = []
    for tile in shown:
        ends = np.array([[0.0, 0.0], [tile.camera.width_px, tile.camera.height_px]])
        left, top, right, bottom = (round(x) for end in ends for x in tab.pixel(view, tile.place(end)).tolist())
        cropped, file = screen.crop((left, top, right, bottom)), Image.open(tile.camera.path).convert("L")
        seen, expected = (np.asarray(image.resize((64, 36)), float).ravel() for image in (cropped, file))
        found.append(float(np.corrcoef(seen, expected)[0, 1]))
    return found


def test_twenty_clicks_land_where_they_were_aimed_and_none_is_lost(real_data: Path, tmp_path: Path) -> None:
    index = Index.open(build_index(real_data, "v1.0-mini", tmp_path / "index.arrow"))
    objects, out = Objects(index), tmp_path / "clicks.csv"
    port = free_ports(1)[0]
    aimed: list[Target] = []
    server = start(index, out, port)
    try:
        with browser(tmp_path, WINDOW_PX) as driver:
            tab = Tab(driver, out)
            driver.get(f"http://127.0.0.1:{port}")
            tab.settle("above", "Frame 1 of 1")

            view = above(objects.tiles, tab.aspect)
            likeness = images_shown(tab, view, objects.tiles)
            assert min(likeness) > 0.85, likeness  # names lie over the corners
            tab.key("b")
            tab.settle("points")
            view = above([], tab.aspect)
            wide = np.abs(objects.points[:, :2]).max(1) < 48
            for target in objects.take(np.array(view.position_m), 7, wide, 0.15):
                tab.make(target, tab.pixel(view, target.xyz_m))
                aimed.append(target)

            for tile in objects.tiles:
                if len(aimed) == 14:
                    break
                tab.key("c")
                tab.settle(tile.name)
                view = over(tile, tab.aspect)
                uv, _ = project(tile.camera.lidar2img, objects.points)
                eye = -np.linalg.inv(tile.camera.lidar2img[:3, :3]) @ tile.camera.lidar2img[:3, 3]
                for target in objects.take(
                    eye, min(3, 14 - len(aimed)), in_image(uv - 20, np.array([1560, 860])), 0.25
                ):
                    pixel, _ = project(tile.camera.lidar2img, target.xyz_m)
                    tab.make(target, tab.pixel(view, tile.place(pixel)))
                    aimed.append(target)
            assert len(aimed) == 14

            # A second annotator is refused; the first one is killed and loses nothing.
            again = ["click", "--index", str(index.path), "--split", SPLIT, "--out", str(out), "--port", "0"]
            assert main(again) == 2
            os.kill(server.pid, signal.SIGKILL)
            server.wait(30)
            assert len(tab.rows()) == 14
            server = start(index, out, port)
            driver.refresh()
            tab.settle("above", "14 clicks")

            tab.key("v")
            tab.settle("3d")
            view = beside()
            pixels = np.array([tab.pixel(view, point) for point in objects.points])
            seen = in_image(pixels - 20, np.array(tab.canvas_px) - 40) & (objects.points[:, 1] > -20) & wide
            for target in objects.take(np.array(view.position_m), 6, seen, 0.2):
                tab.make(target, tab.pixel(view, target.xyz_m))
                aimed.append(target)
            assert len(aimed) == 20

            tab.key("u")
            wait_for(lambda: len(tab.rows()) == 19, lambda: "u takes no click back")
            tab.make(aimed[-1], tab.pixel(view, aimed[-1].xyz_m))
            tab.key("d")
            tab.settle("3d", "(done)")
            driver.refresh()
            tab.settle("above", "(done)")
            asked = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    finally:
        server.kill()
        server.wait(30)

    errors = [
        float(np.linalg.norm(np.array([float(row[axis]) for axis in "xyz"]) - target.xyz_m))
        for row, target in zip(tab.rows(), aimed, strict=True)
    ]
    assert max(errors) < AIM_M, errors
    assert [row["class"] for row in tab.rows()] == [CLASSES[target.label] for target in aimed]
    assert json.loads((tmp_path / "clicks.csv.done.json").read_text()) == {"done": [objects.token], "empty": []}
    requests = [each["params"] for each in asked if each["method"] == "Network.requestWillBeSent"]
    ours = f"http://127.0.0.1:{port}/"  # not those of Chromium's own first page
    urls = [each["request"]["url"] for each in requests if each["documentURL"].startswith(ours)]
    assert urls and all(url.startswith((ours, "data:", "blob:")) for url in urls), urls
    import_them = ["label", "--index", str(index.path), "--split", SPLIT, "--import", str(out)]
    assert main([*import_them, "--out", str(tmp_path / "labels")]) == 0
    # And they become boxes of a teacher (any will do: this is about the file).
    config = load("quickstart")
    model = build("teacher", config, FALLBACK_SIZE_M).model
    checkpoint.save(tmp_path / "teacher", model, None, 1, config.to_json())
    boxes = ["boxes", str(tmp_path / "teacher" / "checkpoint.pt"), "--index", str(index.path), "--clicks", str(out)]
    assert main([*boxes, "--out", str(tmp_path / "boxes.csv")]) == 0
    made = list(csv.DictReader(io.StringIO((tmp_path / "boxes.csv").read_text())))
    assert [row["class"] for row in made] == [CLASSES[target.label] for target in aimed]
