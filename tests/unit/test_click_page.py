"""Tests of keys and clicks on the page without a browser: a stand-in replaces viser's client."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
from numpy.typing import NDArray

from pdetr3d.click.desk import Desk
from pdetr3d.click.page import Page
from pdetr3d.click.rays import Ray
from pdetr3d.click.session import Session
from pdetr3d.data.index.index import Index
from pdetr3d.data.index.nuscenes import build_index
from pdetr3d.geometry.camera import in_image, project
from pdetr3d.schema import Boxes3D, DataError, SampleRecord

SPLIT = "sim_train"
DOWN = (0, 0, -1)


@pytest.fixture(scope="module")
def index(sim_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Index:
    return Index.open(build_index(sim_world, "v1.0-sim", tmp_path_factory.mktemp("index") / "index.arrow"))


class World:
    """A click page and its messages."""

    def __init__(self, index: Index, folder: Path, **models: Any) -> None:
        self.session = Session(index, SPLIT, folder / "clicks.csv")
        self.client = MagicMock()
        self.client.camera.image_width, self.client.camera.image_height = 1200, 800
        self.client.gui.add_slider.side_effect = lambda *arguments: MagicMock(value=arguments[4])
        self.changes = 0
        self.page = Page(self.client, Desk(self.session, **models), self._changed)

    def _changed(self) -> None:
        self.changes += 1

    def said(self) -> str:
        return str(self.client.add_notification.call_args_list[-1].args)

    def shown(self) -> str:
        return str(self.page.status.content)

    def names(self) -> list[str]:
        return [click.name for click in self.session.clicks(self.page.token)]


def above(x: float, y: float) -> Ray:
    """A vertical ray from above."""
    return Ray.of((x, y, 300), DOWN)


def test_clicks_choices_moves_and_deletions(index: Index, tmp_path: Path) -> None:
    world = World(index, tmp_path)
    page = world.page
    page.choose_class(8)
    page.click(above(10, 5))
    assert world.names() == ["pedestrian"] and world.changes == 1
    first = world.session.clicks(page.token)[0]
    np.testing.assert_allclose(first.xyz_m[:2], [10, 5], atol=1e-9)
    page.set_mode("ignore")
    page.click(above(-12, 3))
    assert world.names() == ["pedestrian", "ignore"] and page.mode == ""
    assert world.session.clicks(page.token)[1].radius_m == 2.0
    page.click(above(30, 3))  # of the class chosen before
    page.choose(above(10.3, 5))
    assert page.chosen == first and "Chosen: pedestrian" in world.shown()
    page.choose_class(0)
    assert world.names() == ["car", "ignore", "pedestrian"] and page.chosen is not None
    page.set_mode("move")
    page.click(above(11, 6))
    np.testing.assert_allclose(world.session.clicks(page.token)[0].xyz_m[:2], [11, 6], atol=1e-9)
    assert page.chosen is None
    page.choose(above(11, 6))
    page.delete()
    assert world.names() == ["ignore", "pedestrian"]
    for expected in (3, 3, 3, 2, 1, 0):
        page.undo()
        assert len(world.names()) == expected
    page.guarded(page.undo)
    assert "nothing to undo" in world.said()


def test_clicks_on_images_and_in_3d(index: Index, tmp_path: Path) -> None:
    world = World(index, tmp_path)
    page = world.page
    assert page.frame is not None
    points, lidar2img = page.frame.points.astype(np.float64), page.frame.tiles[0].camera.lidar2img
    uv, depth = project(lidar2img, points)
    size = (page.frame.tiles[0].camera.width_px, page.frame.tiles[0].camera.height_px)
    seen = np.flatnonzero(in_image(uv, size))
    row = seen[np.argmin(depth[seen])]  # nothing is in front of the nearest point
    x, y, _ = page.frame.tiles[0].place(uv[row])
    page.click(above(x, y))
    (click,) = world.session.clicks(page.token)
    assert np.linalg.norm(np.array(click.xyz_m) - points[row]) < 0.7  # a point hit instead is close
    page.look("3d")
    page.guarded(lambda: page.click(above(x, y)))  # there are no images: the ground, far out, or the point itself
    found = world.session.clicks(page.token)
    np.testing.assert_allclose(found[1].xyz_m[:2], [x, y], atol=1e-9)
    page.guarded(lambda: page.click(Ray.of((0, 0, 0), (0, 0, 1))))
    assert "neither a LiDAR point nor ground" in world.said()


def test_done_frames_and_the_way_between_frames(index: Index, tmp_path: Path) -> None:
    world = World(index, tmp_path)
    page, tokens = world.page, world.session.tokens
    page.guarded(lambda: page.step(-1))
    assert "first frame" in world.said() and page.token == tokens[0]
    page.toggle_done()
    assert world.session.done(tokens[0]) and page.token == tokens[1] == page.desk.token
    assert "1 frames done" in world.shown() and f"Frame 2 of {len(tokens)}" in world.shown()
    page.undo()  # returns to the frame of the action
    assert page.token == tokens[0] and not world.session.done(tokens[0])
    page.step(1)
    page.toggle_done()
    page.step(-1)
    page.toggle_done()
    assert "(done)" not in world.shown() and page.token == tokens[1] and not world.session.done(tokens[1])
    page.guarded(page.delete)
    assert "choose a click first" in world.said()
    page.guarded(lambda: page.set_mode("move"))
    assert page.mode == ""


def test_the_view_is_fitted_again_when_the_canvas_has_another_shape(index: Index, tmp_path: Path) -> None:
    world = World(index, tmp_path)
    camera = world.client.camera
    (changed,), _ = camera.on_update.call_args
    first = camera.position
    camera.image_width, camera.image_height = 600, 400  # fewer pixels, the same shape
    camera.position = (1.0, 2.0, 3.0)  # the annotator zoomed
    asyncio.run(changed(camera))
    assert camera.position == (1.0, 2.0, 3.0)
    camera.image_width = 500
    asyncio.run(changed(camera))
    assert camera.position[2] > first[2]  # narrower: seen from farther
    names = []
    for _ in range(7):
        world.page.next_camera()
        names.append(world.page.view)
    assert len(set(names[:6])) == 6 and names[6] == names[0]


def test_a_frame_with_a_broken_file_is_told_and_passed_over(sim_world: Path, tmp_path: Path) -> None:
    copy = tmp_path / "world"
    shutil.copytree(sim_world, copy)
    index = Index.open(build_index(copy, "v1.0-sim", tmp_path / "index.arrow"))
    first, second = Session(index, SPLIT, tmp_path / "clicks.csv").tokens[:2]
    Path(index.record(first).lidar_path).write_bytes(b"123")
    world = World(index, tmp_path)
    assert world.page.token == first and "truncated LiDAR file" in world.said()
    world.page.click(above(1, 1))
    assert world.names() == []
    world.page.step(1)
    assert world.page.token == second and world.page.frame is not None


def teacher(asked: list[int]) -> Callable[..., Boxes3D]:
    """Stand-in for a teacher: boxes of 4 x 2 x 1 m at the clicks; records the number of clicks per call."""

    def boxes(record: SampleRecord, xyz: NDArray[np.float64], labels: NDArray[np.int64]) -> Boxes3D:
        asked.append(len(labels))
        return Boxes3D.build(xyz, np.tile([4, 2, 1], (len(labels), 1)), np.zeros(len(labels)), labels)

    return boxes


async def _quiet(page: Page) -> None:
    while page.tasks:
        await asyncio.gather(*page.tasks)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


def test_the_teacher_answers_the_newest_clicks(index: Index, tmp_path: Path) -> None:
    asked: list[int] = []

    async def test() -> None:
        world = World(index, tmp_path, teacher=teacher(asked))
        page = world.page
        await _quiet(page)
        asked.clear()
        for x in (10, 20, 30):
            page.click(above(x, 5))
        page.set_mode("ignore")
        page.click(above(-10, 5))
        await _quiet(page)
        assert asked == [3]  # the first two requests were outdated before their turn; regions have no box
        np.testing.assert_allclose(page.boxes.center_m[:, 0], [10, 20, 30], atol=1e-5)
        page.undo()
        page.undo()
        await _quiet(page)
        assert len(page.boxes) == 2
        page.step(1)
        assert len(page.boxes) == 0
        await _quiet(page)

    run(test)


def test_suggestions_are_accepted_or_skipped(index: Index, tmp_path: Path) -> None:
    def student(record: SampleRecord) -> Boxes3D:
        centers = np.array([[10, 5, 0.5], [20, 5, 0.5], [30, 5, 0.5]])
        score = np.array([0.5, 0.9, 0.7])
        return Boxes3D.build(centers, np.ones((3, 3)), np.zeros(3), np.array([0, 1, 8]), score=score)

    async def test() -> None:
        world = World(index, tmp_path, student=student)
        page = world.page
        await _quiet(page)
        assert "3 suggestions" in world.shown()
        page.accept()
        assert world.names() == ["truck"] and world.session.clicks(page.token)[0].xyz_m == (20, 5, 0.5)
        page.skip()
        page.accept()
        assert world.names() == ["truck", "car"]  # the pedestrian was skipped
        page.guarded(page.accept)
        assert "no suggestion left" in world.said()
        page.undo()
        assert "1 suggestions" in world.shown()

    run(test)


def test_what_a_model_refuses_is_told(index: Index, tmp_path: Path) -> None:
    def broken(record: SampleRecord) -> Boxes3D:
        raise DataError("sweeps/x.bin: truncated")

    async def test() -> None:
        world = World(index, tmp_path, student=broken)
        await _quiet(world.page)
        assert "sweeps/x.bin: truncated" in world.said() and "0 suggestions" in world.shown()

    run(test)
