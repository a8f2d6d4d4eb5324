"""Draws a frame in a browser tab: points, images, clicks, regions and boxes, as nodes of viser's scene."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import viser
from numpy.typing import NDArray

from pdetr3d.class_list import ClassList
from pdetr3d.click import marks
from pdetr3d.click.click_file import Click
from pdetr3d.click.desk import Frame
from pdetr3d.click.sheet import HALF_SIDE_M, Tile
from pdetr3d.click.views import View
from pdetr3d.data.labels.human_clicks import IGNORE
from pdetr3d.schema import Boxes3D
from pdetr3d.visualize import COLORS, height_colors

RGB = np.array([[int(color[i : i + 2], 16) for i in (1, 3, 5)] for color in COLORS], np.uint8)
WHITE = np.array([255, 255, 255], np.uint8)
FAINT = 0.6  # strength of the colors of clicks of earlier frames, and of suggestions after the next
NEAR_SHARE = 0.4  # factor on the points' size in the 3D view, whose camera is nearer
BOX_EDGES = 13  # lines of a box: its edges, and its heading
NOTHING: tuple[NDArray, NDArray] = np.zeros((0, 2, 3)), np.zeros((0, 3), np.uint8)


class Drawing:
    """The scene of one tab. Nodes have fixed names, so that drawing a node replaces the previous one."""

    def __init__(self, client: viser.ClientHandle, classes: ClassList) -> None:
        self.classes = classes
        self.client, self.scene = client, client.scene
        self.tiles: list[Tile] = []
        self._images: list[Any] = []
        self._with_images = True

    @property
    def shown_tiles(self) -> list[Tile]:
        """The images that can be clicked now."""
        return self.tiles if self._with_images else []

    def frame(self, frame: Frame | None, earlier: tuple[Sequence[Click], NDArray], point_m: float) -> None:
        """Show a frame's points and images; None: show an empty scene.

        Args:
            earlier: clicks of earlier frames, and their places (K, 3) in this frame [m]. point_m: size of points.
        """
        for node in self._images:
            node.remove()
        self._images, self.tiles = [], frame.tiles if frame is not None else []
        points = frame.points if frame is not None else np.zeros((0, 3), np.float32)
        points = points[np.abs(points[:, :2]).max(1, initial=0) < HALF_SIDE_M]
        colors = (255 * height_colors(points[:, 2])[:, :3]).astype(np.uint8)
        self._cloud = self.scene.add_point_cloud(
            "/points", points, colors, point_size=point_m, precision="float32", point_shading="flat"
        )
        for tile, image in zip(self.tiles, frame.images if frame is not None else [], strict=True):
            self._image(tile, image)
        clicks, places = earlier
        self._crosses("/earlier", places, _colors(clicks, self.classes, FAINT), arm_m=0.5, thickness=1.5)

    def _image(self, tile: Tile, image: NDArray[np.uint8]) -> None:
        x, y, z = tile.place(np.array([tile.camera.width_px / 2, tile.camera.height_px / 2]))
        node = self.scene.add_image(
            f"/images/{tile.name}", image, *tile.size_m, format="jpeg", jpeg_quality=90, cast_shadow=False,
            receive_shadow=False, wxyz=(0.0, 1.0, 0.0, 0.0), position=(x, y, z), visible=self._with_images,
        )  # fmt: skip
        left, top, low = tile.place(np.zeros(2))
        text = tile.name.removeprefix("CAM_").replace("_", " ").lower()
        corner = (left, top, low + marks.LIFT_M)
        label = self.scene.add_label(f"/images/name_{tile.name}", text, position=corner, visible=self._with_images)
        self._images += [node, label]

    def look(self, view: View, with_images: bool, point_m: float) -> None:
        """Move the camera to a view, and show or hide the images."""
        camera = self.client.camera
        with self.client.atomic():
            camera.fov = view.fov_rad
            camera.position = view.position_m
            camera.look_at = view.look_at_m
        self._with_images = with_images
        for node in self._images:
            node.visible = with_images
        self.point_size(point_m)

    def point_size(self, size_m: float) -> None:
        """Set the size of the LiDAR points as seen from above [m]."""
        self._cloud.point_size = size_m if self._with_images else NEAR_SHARE * size_m

    def clicks(self, clicks: Sequence[Click], chosen: Click | None) -> None:
        """Draw crosses in class colors, in the scene and on the images; circles around regions and the chosen click."""
        places = np.array([click.xyz_m for click in clicks]).reshape(-1, 3)
        self._crosses("/clicks", places, _colors(clicks, self.classes))
        segments, of = marks.on_images(places, self.shown_tiles)
        self._lines("/clicks_on_images", segments, _colors(clicks, self.classes)[of])
        rims = [marks.circle(np.array(click.xyz_m), click.radius_m) for click in clicks if click.radius_m is not None]
        if chosen is not None:
            rims += [marks.circle(np.array(chosen.xyz_m), radius) for radius in (1.1, 1.2)]
            spots = [tile.place(uv) for tile, uv in marks.seen_in(np.array(chosen.xyz_m), self.shown_tiles)]
            rims += [marks.circle(spot + [0, 0, marks.LIFT_M], 1.5 * marks.IMAGE_ARM_M) for spot in spots]
        lines = np.concatenate(rims) if rims else NOTHING[0]
        self._lines("/rims", lines, np.tile(WHITE, (len(lines), 1)), thickness=2.0)

    def boxes(self, name: str, boxes: Boxes3D, *, strength: float = 1.0, white: bool = False) -> None:
        """Draw edges and headings in class colors, or in white, in the scene and on the images.

        Args:
            name: of the scene's node. strength: of the colors, 0..1.
        """
        colors = np.tile(WHITE, (len(boxes), 1)) if white else (strength * RGB[boxes.label % len(RGB)]).astype(np.uint8)
        edges = marks.box_edges(boxes).reshape(-1, BOX_EDGES, 2, 3)
        parts = [(edges.reshape(-1, 2, 3), np.repeat(colors, BOX_EDGES, 0))]
        for one, color in zip(edges, colors, strict=True):
            seen = marks.edges_on_images(one, self.shown_tiles)
            parts.append((seen, np.tile(color, (len(seen), 1))))
        segments, of = (np.concatenate(part) for part in zip(*parts, strict=True))
        self._lines(f"/{name}", segments, of, thickness=2.0)

    def _crosses(
        self, name: str, places: NDArray, colors: NDArray[np.uint8], arm_m: float = marks.ARM_M, thickness: float = 3.0
    ) -> None:
        """Draw crosses at places (K, 3) within HALF_SIDE_M; farther ones would cover the images."""
        shown = np.abs(places[:, :2]).max(1, initial=0) < HALF_SIDE_M
        self._lines(name, marks.crosses(places[shown], arm_m), np.repeat(colors[shown], 3, 0), thickness)

    def _lines(self, name: str, segments: NDArray, colors: NDArray[np.uint8], thickness: float = 3.0) -> None:
        """Draw segments (S, 2, 3) in colors (S, 3); without segments the node is removed."""
        if not len(segments):
            self.scene.remove_by_name(name)
            return
        # viser interprets colors of lines as linear light, but those of points and of the panel as sRGB.
        linear = (255 * (colors / 255) ** 2.2).astype(np.uint8)
        ends = np.repeat(linear[:, None], 2, 1)
        self.scene.add_line_segments(
            name, segments.astype(np.float32), ends, thickness=thickness, thickness_units="screen"
        )


def _colors(clicks: Sequence[Click], classes: ClassList, strength: float = 1.0) -> NDArray[np.uint8]:
    """(K, 3) uint8: the color of each click's class; white for regions."""
    rows = [WHITE if click.name == IGNORE else RGB[classes.label_of[click.name] % len(RGB)] for click in clicks]
    return (strength * np.array(rows).reshape(-1, 3)).astype(np.uint8)
