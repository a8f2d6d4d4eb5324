"""The page of one browser tab, shown with viser: it turns keys, buttons and pointer events into actions of the session.

All handlers are coroutines: viser runs them one after another on its event loop, in the order of the events.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import viser

from pdetr3d.click.click_file import Click
from pdetr3d.click.desk import Desk, Frame, open_suggestions
from pdetr3d.click.drawing import FAINT, Drawing
from pdetr3d.click.panel import KEYS, status_html
from pdetr3d.click.rays import Ray, cut, nearest
from pdetr3d.click.sheet import through
from pdetr3d.click.views import above, beside, over
from pdetr3d.data.labels.human_clicks import IGNORE
from pdetr3d.schema import Boxes3D, DataError

NOTICE_S = 6.0  # a message is shown for this time
SHAPE = 0.01  # after a larger relative change of the canvas's width / height the view is fitted again


class Page:
    """One tab with its frame, class, chosen click and view.

    Args:
        client: viser's handle of the tab. desk: shared by all tabs.
        changed: is called after each action, so that other tabs update.
    """

    def __init__(self, client: viser.ClientHandle, desk: Desk, changed: Callable[[], None]) -> None:
        self.client, self.desk, self.session, self.changed = client, desk, desk.session, changed
        self.drawing = Drawing(client, desk.session.index.classes)
        self.token = desk.token
        self.frame: Frame | None = None
        self.label = 0
        self.chosen: Click | None = None
        self.mode = ""  # the next click's effect: "": a new click, "move", "ignore"
        self.view = "above"
        self.aspect = 1.0  # width / height of the canvas to which the view was fitted
        self.boxes, self.suggestions = Boxes3D.empty(), Boxes3D.empty()
        self.asked: tuple[Click, ...] | None = None  # the clicks for which the teacher was asked for ``boxes``
        self.skipped: set[int] = set()  # rows of skipped suggestions
        self.tasks: set[asyncio.Task] = set()
        self._build()
        self.go(self.token)

    # -- elements of the page -----------------------------------------------------------------------------------------

    def _build(self) -> None:
        gui = self.client.gui
        self.status = gui.add_html("")
        for number, name in enumerate(self.session.index.classes.names):
            key = str(number) if number < 10 else None  # classes from the eleventh on have buttons
            self._on(f"class {name}", key, functools.partial(self.choose_class, number), button=key is None)
        buttons = [
            ("Done / not done", "D", self.toggle_done),
            ("Next frame", "N", lambda: self.step(1)),
            ("Previous frame", "P", lambda: self.step(-1)),
            ("Undo", "U", self.undo),
            ("Delete chosen", "X", self.delete),
            ("Move chosen", "M", lambda: self.set_mode("move")),
            ("Not sure", "I", lambda: self.set_mode("ignore")),
            ("From above", "B", lambda: self.look("points" if self.view == "above" else "above")),
            ("3D", "V", lambda: self.look("3d")),
            ("Next camera", "C", self.next_camera),
        ]
        if self.desk.student is not None:
            buttons += [("Accept suggestion", "A", self.accept), ("Skip suggestion", "S", self.skip)]
        for label, key, act in buttons:
            self._on(label, key, act, button=True)
        self._on("choose nothing", "escape", lambda: self.set_mode(""))
        self.radius = gui.add_slider("Radius of not sure [m]", 0.5, 10.0, 0.5, 2.0)
        self.point_size = gui.add_slider("Point size [m]", 0.05, 0.6, 0.05, 0.2)
        self.point_size.on_update(self._resize_points)
        gui.add_markdown(KEYS)
        scene = self.client.scene
        scene.on_click()(self._clicked)  # type: ignore[arg-type]  # viser takes coroutines here, too
        scene.on_click(modifier="shift")(self._choose_at)  # type: ignore[arg-type]
        self.client.camera.on_update(self._canvas_changed)

    def _on(self, label: str, key: Any, act: Callable[[], None], button: bool = False) -> None:
        async def run(_: Any) -> None:
            self.guarded(act)

        self.client.gui.add_command(label, hotkey=key).on_trigger(run)
        if button:
            self.client.gui.add_button(f"{label} ({key})" if key else label).on_click(run)

    def guarded(self, act: Callable[[], None]) -> None:
        """Run an action; the page shows the message of an error."""
        try:
            act()
        except (DataError, OSError) as error:
            self.say("Not done", str(error))

    def say(self, title: str, text: str) -> None:
        """Show a message for NOTICE_S seconds."""
        self.client.add_notification(title, text, auto_close_seconds=NOTICE_S, color="orange")

    # -- actions ------------------------------------------------------------------------------------------------------

    def go(self, token: str) -> None:
        """Show a frame."""
        self.token = self.desk.token = token
        self.chosen, self.mode, self.asked, self.skipped = None, "", None, set()
        self.boxes, self.suggestions = Boxes3D.empty(), Boxes3D.empty()
        try:
            self.frame = self.desk.load(token)
        except DataError as error:
            self.frame = None
            self.say("This frame cannot be shown", str(error))
        self.drawing.frame(self.frame, self.session.earlier(token), float(self.point_size.value))
        self.look(self.view)
        if self.desk.student is not None and self.frame is not None:
            self._start(self._propose())

    def step(self, by: int) -> None:
        """Go to the next frame (1) or the previous one (-1), unless there is none."""
        place = self.session.tokens.index(self.token) + by
        if 0 <= place < len(self.session.tokens):
            self.go(self.session.tokens[place])
        else:
            self.say("No frame there", "This is the last frame." if by > 0 else "This is the first frame.")

    def choose_class(self, label: int) -> None:
        """Set the class of the next clicks and, if a click is chosen, of this click."""
        self.label = label
        if self.chosen is not None:
            self.chosen = self.session.rename(self.chosen, self.session.index.classes.names[label])
            self.changed()
        self.refresh()

    def set_mode(self, mode: str) -> None:
        """Set the effect of the next click (``mode``); "" also gives up the chosen click."""
        if mode == "move" and self.chosen is None:
            raise DataError("choose a click first: Shift+click on it")
        self.mode = mode
        if not mode:
            self.chosen = None
        self.refresh()

    def toggle_done(self) -> None:
        """Mark the frame as done and go on to the next one; or mark it as not done."""
        done = not self.session.done(self.token)
        self.session.set_done(self.token, done)
        self.changed()
        if done and self.token != self.session.tokens[-1]:
            self.step(1)
        else:
            self.refresh()

    def undo(self) -> None:
        """Undo the last action, in any frame, and show its frame."""
        token = self.session.undo()
        if token is None:
            raise DataError("there is nothing to undo: earlier actions were made before pdetr3d click was started")
        self.chosen, self.mode = None, ""
        self.changed()
        if token != self.token:
            self.go(token)
        else:
            self.refresh()

    def delete(self) -> None:
        """Delete the chosen click."""
        if self.chosen is None:
            raise DataError("choose a click first: Shift+click on it")
        self.session.delete(self.chosen)
        self.chosen, self.mode = None, ""
        self.changed()
        self.refresh()

    def click(self, ray: Ray) -> None:
        """Handle a click into the scene: make a click or a region, or move the chosen click (``mode``)."""
        if self.frame is None:
            return
        hit = cut(self._scene_ray(ray), self.frame.points, self.frame.record.lidar2ego)
        if hit is None:
            raise DataError("there is neither a LiDAR point nor ground where you clicked")
        if self.mode == "move" and self.chosen is not None:
            self.session.move(self.chosen, hit.xyz_m)
            self.chosen = None
        elif self.mode == "ignore":
            self.session.add(self.token, hit.xyz_m, IGNORE, float(self.radius.value))
        else:
            self.session.add(self.token, hit.xyz_m, self.session.index.classes.names[self.label])
        self.mode = ""
        self.changed()
        self.refresh()

    def choose(self, ray: Ray) -> None:
        """Choose the click that is nearest to a ray."""
        clicks = self.session.clicks(self.token)
        found = nearest(self._scene_ray(ray), np.array([click.xyz_m for click in clicks]).reshape(-1, 3))
        self.chosen = None if found is None else clicks[found]
        self.refresh()

    def accept(self) -> None:
        """Make a click of the most confident suggestion."""
        row = self._suggested()
        if row is None:
            raise DataError("there is no suggestion left in this frame")
        self.session.add(
            self.token, self.suggestions.center_m[row], self.session.index.classes.names[self.suggestions.label[row]]
        )
        self.changed()
        self.refresh()

    def skip(self) -> None:
        """Skip the most confident suggestion."""
        row = self._suggested()
        if row is not None:
            self.skipped.add(row)
        self.refresh()

    def _suggested(self) -> int | None:
        """The row of the best suggestion that is neither skipped nor clicked."""
        rows = self._open_suggestions()
        return rows[0] if rows else None

    def _open_suggestions(self) -> list[int]:
        return open_suggestions(self.suggestions, self.session.clicks(self.token), self.skipped)

    def _scene_ray(self, ray: Ray) -> Ray:
        """The ray in the scene; a ray that meets an image becomes the ray of its pixel."""
        return through(ray, self.drawing.shown_tiles)[0]

    async def _clicked(self, event: viser.SceneClickEvent) -> None:
        self.guarded(lambda: self.click(Ray.of(event.ray_origin, event.ray_direction)))

    async def _choose_at(self, event: viser.SceneClickEvent) -> None:
        self.guarded(lambda: self.choose(Ray.of(event.ray_origin, event.ray_direction)))

    # -- views --------------------------------------------------------------------------------------------------------

    def look(self, name: str) -> None:
        """Show a view: "above" (points and images), "points" (larger), "3d", or a camera's name (its image)."""
        camera, tiles = self.client.camera, self.drawing.tiles
        aspect = self.aspect = _aspect(camera)
        tile = next((tile for tile in tiles if tile.name == name), None)
        self.view = name if tile is not None or name in ("3d", "points") else "above"
        if tile is not None:
            view = over(tile, aspect)
        else:
            view = beside() if name == "3d" else above([] if name == "points" else tiles, aspect)
        self.drawing.look(view, self.view != "3d", float(self.point_size.value))
        self.refresh()

    def next_camera(self) -> None:
        """Show the next camera's image on the whole canvas."""
        names = [tile.name for tile in self.drawing.tiles]
        if names:
            self.look(names[(names.index(self.view) + 1) % len(names)] if self.view in names else names[0])

    async def _canvas_changed(self, camera: viser.CameraHandle) -> None:
        """Fit the view again after the canvas changed its shape. The number of pixels does not matter: viser draws
        fewer of them if the graphics are slow."""
        if abs(_aspect(camera) / self.aspect - 1) > SHAPE:
            self.look(self.view)

    async def _resize_points(self, _: Any) -> None:
        self.drawing.point_size(float(self.point_size.value))

    def refresh(self) -> None:
        """Draw the marks and the panel anew from the session's state."""
        clicks = self.session.clicks(self.token)
        if self.chosen is not None and self.chosen not in clicks:
            self.chosen = None  # another tab deleted it
        self.drawing.clicks(clicks, self.chosen)
        self.drawing.boxes("boxes", self.boxes)
        rows = np.array(self._open_suggestions(), np.int64)
        self.drawing.boxes("suggestions", self.suggestions[rows[1:]], strength=FAINT)
        self.drawing.boxes("next_suggestion", self.suggestions[rows[:1]], white=True)
        self.status.content = status_html(
            self.session,
            self.token,
            label=self.label,
            chosen=self.chosen,
            mode=self.mode,
            suggestions=None if self.desk.student is None else len(rows),
            state=f'data-view="{self.view}" data-aspect="{self.aspect!r}"',
        )
        objects = tuple(click for click in clicks if click.radius_m is None)
        if self.desk.teacher is not None and self.frame is not None and objects != self.asked:
            self.asked = objects
            self._start(self._ask_teacher(objects))

    # -- models -------------------------------------------------------------------------------------------------------

    def _start(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self.tasks.add(task)  # asyncio itself does not keep a task alive
        task.add_done_callback(self.tasks.discard)

    async def _ask_teacher(self, clicks: tuple[Click, ...]) -> None:
        """Show the teacher's boxes of the clicks, unless there are newer clicks when they arrive."""
        frame, teacher = self.frame, self.desk.teacher
        assert frame is not None and teacher is not None
        places = np.array([click.xyz_m for click in clicks]).reshape(-1, 3)
        labels = np.array([self.session.index.classes.label_of[click.name] for click in clicks], np.int64)
        boxes = await self._answer(lambda: teacher(frame.record, places, labels), frame, clicks)
        if boxes is not None:
            self.boxes = boxes
            self.refresh()

    async def _propose(self) -> None:
        """Show the student's boxes of the frame as suggestions."""
        frame, student = self.frame, self.desk.student
        assert frame is not None and student is not None
        boxes = await self._answer(lambda: student(frame.record), frame, None)
        if boxes is not None:
            self.suggestions = boxes
            self.refresh()

    async def _answer(
        self, ask: Callable[[], Boxes3D], frame: Frame, clicks: tuple[Click, ...] | None
    ) -> Boxes3D | None:
        """The boxes of a model, which answers one tab at a time; None if the page's frame or clicks have changed."""

        def stale() -> bool:
            return self.frame is not frame or (clicks is not None and self.asked != clicks)

        async with self.desk.turn:
            if stale():
                return None
            try:
                boxes = await asyncio.to_thread(ask)
            except DataError as error:
                self.say("The model cannot see this frame", str(error))
                return None
        return None if stale() else boxes


def _aspect(camera: viser.CameraHandle) -> float:
    return camera.image_width / max(1, camera.image_height)
