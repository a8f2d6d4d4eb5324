"""Tests of pictures of clicks: the camera, the content for turned or mirrored samples, windows as images."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from pdetr3d.batch import Batch
from pdetr3d.data.loading.crops import WINDOW_PX, CropLoader, Crops, crops_of, cut_window
from pdetr3d.data.loading.load import load_sample
from pdetr3d.geometry.crops import SIDE_FACTOR
from pdetr3d.models.box_code import viewing_direction
from pdetr3d.models.click_crops import ClickCrops, viewed_heading
from pdetr3d.models.picture_crop import PICTURE_PX, PictureCrop, best_view, take_pictures
from pdetr3d.models.point_crop import find_clicks
from pdetr3d.schema import FALLBACK_SIZE_M
from tests.training_cases import open_world

PRIOR = FALLBACK_SIZE_M
# A camera at the sensor that looks along x: u grows to the right (-y), v downwards (-z); focal length 100 px.
FORWARD = torch.tensor([[100.0, -100, 0, 0], [50, 0, -100, 0], [1, 0, 0, 0], [0, 0, 0, 1]])


@pytest.fixture(scope="module")
def world(sim_world: Path, tmp_path_factory: pytest.TempPathFactory):  # noqa: ANN201
    return open_world(sim_world, tmp_path_factory.mktemp("pictures") / "run", "label.ratio=1.0")


@pytest.fixture(scope="module")
def crops(world) -> Crops:  # noqa: ANN001
    return crops_of(world.boxed[:1], world.run.config.data, PRIOR, cameras=True)


def test_a_picture_shows_what_stands_round_the_click() -> None:
    """At 10 m a meter is 10 px. A pixel of a picture 3.2 m wide is then 1 px, and the click is in its middle."""
    pixels = torch.zeros(1, 100, 200, 3)
    pixels[0, 50:, 100:, 0] = 1.0  # below and to the right of (10, 0, 0)'s (100, 50)
    picture, seen = take_pictures(
        pixels,
        FORWARD[None, None],
        torch.ones(1, 1, dtype=torch.bool),
        torch.tensor([[[10.0, 0, 0]]]),
        torch.full((1, 1), 3.2),
    )
    expected = torch.zeros(PICTURE_PX, PICTURE_PX)
    expected[PICTURE_PX // 2 :, PICTURE_PX // 2 :] = 1
    assert seen.item()
    torch.testing.assert_close(picture[0, 0, 0], expected, atol=1e-3, rtol=0)


def test_under_autocast_a_place_stays_where_it_is() -> None:
    """bfloat16 cannot represent all pixel positions of a wide image."""
    far = torch.tensor([[[50.0, -49.3, 1]]])
    camera = torch.diag(torch.tensor([16.0, 9, 1, 1])) @ FORWARD  # 3200 x 900
    pixels = torch.rand(1, 900, 3200, 3, generator=torch.Generator().manual_seed(0))
    arguments = (pixels, camera[None, None], torch.ones(1, 1, dtype=torch.bool), far, torch.ones(1, 1))
    with torch.autocast("cpu", torch.bfloat16):
        rounded, seen = take_pictures(*arguments)
    assert seen.item()
    torch.testing.assert_close(rounded, take_pictures(*arguments)[0], atol=1e-5, rtol=1e-5)


def test_a_near_object_is_averaged_not_sampled() -> None:
    """At 2 m a pixel of a picture 2.56 m wide is 4 px, so stripes of 1 px become their mean."""
    pixels = torch.zeros(1, 100, 200, 3)
    pixels[:, :, ::2] = 1.0
    picture, _ = take_pictures(
        pixels,
        FORWARD[None, None],
        torch.ones(1, 1, dtype=torch.bool),
        torch.tensor([[[2.0, 0, 0]]]),
        torch.full((1, 1), 2.56),
    )
    inner = picture[0, 0, 0, 14:18]
    torch.testing.assert_close(inner, torch.full_like(inner, 0.5), atol=1e-3, rtol=0)


def test_the_view_is_the_valid_one_whose_middle_is_nearest() -> None:
    """A click at 45 degrees to the left is nearer to the middle of the camera that is turned by 60 degrees."""
    angle = np.deg2rad(60)
    turn = torch.eye(4)
    turn[:2, :2] = torch.tensor([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    views = torch.stack([FORWARD, FORWARD @ turn])[None]
    click = torch.tensor([[[7.0, 6.9, 0], [10, 0, 0], [-5, 0, 0]]])
    view, seen = best_view(views, torch.ones(1, 2, dtype=torch.bool), click, (200, 100))
    assert view[0, :2].tolist() == [1, 0] and seen[0].tolist() == [True, True, False]
    view, seen = best_view(views, torch.tensor([[True, False]]), click, (200, 100))
    assert view[0, 0] == 0 and seen[0].tolist() == [True, True, False]


def test_windows_are_cut_from_the_view_that_pictures_are_taken_of(world) -> None:  # noqa: ANN001
    """cut_window (NumPy) and best_view (torch) choose the same view, for random cameras, some of them invalid."""
    rng, (width, height) = np.random.default_rng(3), (200, 100)
    images = np.tile(np.arange(1, 7, dtype=np.uint8)[:, None, None, None] * 40, (1, height, width, 3))
    whole, chosen = load_sample(world.boxed[0], world.run.config.data, cameras=False), list[int]()
    for _ in range(40):
        turned = rng.uniform(-np.pi, np.pi, 6)
        views = np.stack([FORWARD.double().numpy() @ _turn(angle) for angle in turned])
        views[:, :3, 3] += rng.normal(size=(6, 3)) * [60, 30, 0.5]  # each stands somewhere else
        valid = rng.random(6) < 0.8
        sample = dataclasses.replace(whole, images=images, lidar2img=views, camera_valid=valid)
        for click in rng.uniform((-30, -30, -3), (30, 30, 3), (20, 3)):
            view, seen = best_view(
                torch.tensor(views)[None], torch.tensor(valid)[None], torch.tensor(click)[None, None], (width, height)
            )
            window, _, found = cut_window(sample, click, 1.0)
            assert found == bool(seen)
            if found:  # the place is in the window's middle, but for a pixel of rounding
                middle = window[WINDOW_PX // 2 - 1 : WINDOW_PX // 2 + 1, WINDOW_PX // 2 - 1 : WINDOW_PX // 2 + 1]
                assert middle.max() == images[int(view), 0, 0, 0]
            chosen.append(int(view) if found else -1)
    assert set(chosen) == {-1, 0, 1, 2, 3, 4, 5}


def _turn(angle: float) -> np.ndarray:
    """(4, 4): the frame turned by an angle round z."""
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
    return turn


def test_a_window_is_an_image_of_its_own(world, crops: Crops) -> None:  # noqa: ANN001
    """Pictures from windows equal those from the sample's images up to one more interpolation."""
    sample = load_sample(world.boxed[0], world.run.config.data, cameras=True)
    batch = Batch.from_arrays(CropLoader(crops, 0).as_stored(range(len(crops))))
    side = SIDE_FACTOR * torch.tensor(PRIOR)[batch.click_label].norm(dim=-1)
    mine, seen = take_pictures(
        batch.images.flatten(0, 1).float(), batch.lidar2img, batch.camera_valid, batch.click, side
    )
    whole = (
        torch.tensor(sample.images).float(),
        torch.tensor(sample.lidar2img).float()[None],
        torch.ones(1, 6, dtype=torch.bool),
    )
    theirs, whole_seen = take_pictures(*whole, batch.click.transpose(0, 1), side.T)
    both = seen[:, 0] & whole_seen[0]
    assert both.sum() >= 0.8 * len(crops)
    difference = (mine[:, 0] - theirs[0]).abs().flatten(1).mean(1)[both]
    spread = (theirs[0] - theirs[0].roll(1, 0)).abs().flatten(1).mean(1)[both]  # two objects' pictures
    assert difference.median() < 8 < spread.median()


def test_a_turned_sample_s_picture_is_the_same_and_a_mirrored_one_s_is_mirrored(crops: Crops) -> None:
    loader = CropLoader(crops, seed=7, redraw=False)
    index = int(np.nonzero(crops.seen[:, 0])[0][0])

    def take(batch: Batch) -> torch.Tensor:
        side = SIDE_FACTOR * torch.tensor(PRIOR)[batch.click_label].norm(dim=-1)
        return take_pictures(
            batch.images.flatten(0, 1).float(), batch.lidar2img, batch.camera_valid, batch.click, side
        )[0][0, 0]

    stored, mirrored = take(Batch.from_arrays(loader.as_stored([index]))), set()
    for number in range(8):
        batch = Batch.from_arrays(loader([index], [number]))
        flip = torch.det(batch.augmentation[0, :2, :2]).item() < 0
        torch.testing.assert_close(take(batch), stored.flip(-1) if flip else stored, atol=1.0, rtol=0)
        mirrored.add(flip)
    assert mirrored == {True, False} and stored.std() > 5


def test_without_a_camera_a_picture_says_nothing(crops: Crops) -> None:
    torch.manual_seed(0)
    net = PictureCrop(8, 10).eval()
    arrays = CropLoader(crops, 0).as_stored([0, 1])
    prior = torch.tensor(PRIOR)[crops.label[:2]][:, None]
    arrays["camera_valid"] = np.array([[True], [False]])
    batch = Batch.from_arrays(arrays)
    with torch.no_grad():
        found = net(batch, batch.click, prior, batch.click_label)
    assert found[0].max() > 0 and found[1].abs().max() == 0
    none = Batch.from_arrays(CropLoader(Crops(**{**vars(crops), "seen": crops.seen & False}), 0).as_stored([0, 1]))
    with torch.no_grad():
        assert net(none, none.click, prior, none.click_label).shape == (2, 1, 8)


def test_crops_without_cameras_have_no_images(world) -> None:  # noqa: ANN001
    arrays = CropLoader(crops_of(world.boxed[:1], world.run.config.data, PRIOR, cameras=False), 0).as_stored([0])
    assert arrays["images"].shape[1] == arrays["lidar2img"].shape[1] == arrays["camera_valid"].shape[1] == 0


def test_a_viewed_heading_is_turned_from_the_viewing_ray_into_the_frame() -> None:
    """A heading of 20 degrees from a viewing ray at 30 degrees is 50 degrees, and 40 in a frame at 10 degrees."""
    ray, seen, frame = np.deg2rad([30.0, 20.0, 10.0])
    click = torch.tensor([[[10 * np.cos(ray), 10 * np.sin(ray), 0.5]]], dtype=torch.float32)
    heading = torch.tensor([[[np.sin(seen), np.cos(seen), np.sin(2 * seen), np.cos(2 * seen)]]], dtype=torch.float32)
    into = torch.tensor([[[np.cos(frame), np.sin(frame)]]], dtype=torch.float32)
    angle = np.deg2rad(40.0)
    expected = [np.sin(angle), np.cos(angle), np.sin(2 * angle), np.cos(2 * angle)]
    np.testing.assert_allclose(viewed_heading(heading, click, into)[0, 0], expected, atol=1e-6)


def test_a_picture_says_headings_and_nothing_else(crops: Crops) -> None:
    torch.manual_seed(0)
    batch = Batch.from_arrays(CropLoader(crops, 0).as_stored(np.nonzero(crops.seen[:, 0])[0][:6]))
    branch = ClickCrops(8, 10, 2, pictures=True).eval()
    for head in branch.picture_heads:
        torch.nn.init.normal_(head.weight)
    clicks = find_clicks(*batch.crops, torch.tensor(PRIOR))
    frame = viewing_direction(batch.click)
    with torch.no_grad():
        for stage in (0, 1):
            without, with_picture = branch(stage, clicks, frame)[1], branch(stage, branch.look(batch, clicks), frame)[1]
            changed = (with_picture - without).abs().amax((0, 1)) > 0
            assert changed.nonzero()[:, 0].tolist() == [6, 7, 8, 9]
