"""What a picture of a simulated object tells that no label says: its subtype, so its size, and which way it heads."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pdetr3d.data.sim_camera import render
from pdetr3d.data.sim_objects import build_shape
from pdetr3d.data.sim_shapes import pack_parts
from pdetr3d.data.sim_subtypes import Sizes
from pdetr3d.data.sim_world import Actor, EgoPath, Street, World
from pdetr3d.evaluation.pseudo_label_quality import yaw_error_rad
from pdetr3d.schema import CLASSES, FALLBACK_SIZE_M
from tests.training_cases import one_thread
from tests.world_crops import PICTURE_PX, Crops
from tests.world_models import PictureModel, predict, train, true_boxes

CAR, BARRIER, PEDESTRIAN = (CLASSES.index(name) for name in ("car", "barrier", "pedestrian"))
ATTRIBUTE = {CAR: "vehicle.parked", BARRIER: "", PEDESTRIAN: "pedestrian.standing"}
TRAIN, VAL, STEPS = 900, 300, 350


def photograph(label: int, rng: np.random.Generator, sizes: Sizes) -> tuple[np.ndarray, list[float]]:
    """One object, alone on a street, from a distance at which it fills a picture of 32 px; and its box."""
    kind, attribute = CLASSES[label], ATTRIBUTE[label]
    subtype = sizes.subtype(kind, rng)
    size = sizes.size(kind, subtype, rng, attribute)
    far = 15.0
    actor = Actor(kind, size, far, 0.0, rng.uniform(-np.pi, np.pi), attribute=attribute, subtype=subtype.name)
    parts = pack_parts([build_shape(kind, size, rng, subtype.name, attribute)])
    sun = np.array([*rng.uniform(-0.6, 0.6, 2), 0.6])
    street = Street(3.5, float("nan"), 3.5, 1, 1)
    still = EgoPath(0.0, 0, 1.0, 0.0, 0.0, 0.0)
    world = World(still, [actor], parts, street, (0.0, 0.0, 0.0), sun / np.linalg.norm(sun), 0.5, rng.uniform(0.8, 1.1))
    pose = np.eye(4)
    pose[:3, :3] = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]  # camera axes: right, down, ahead
    pose[:3, 3] = (0, 0, 1.5)
    focal = PICTURE_PX * far / (1.5 * float(np.linalg.norm(FALLBACK_SIZE_M[label])))
    middle = PICTURE_PX / 2
    row = middle + focal * (size[2] / 2 - 1.5) / far  # so that the object's middle is the picture's
    intrinsic = np.array([[focal, 0, middle], [0, focal, row], [0, 0, 1]])
    picture = render(world, pose, intrinsic, (PICTURE_PX, PICTURE_PX), 0.0, rng)[0]
    return picture, [far, 0.0, size[2] / 2, *size, actor.yaw_rad]


def album(count: int, seed: int) -> Crops:
    """Pictures without points: cars, standing people, barriers by turns."""
    rng, sizes = np.random.default_rng(seed), Sizes(0)
    label = np.resize(np.array([CAR, PEDESTRIAN, BARRIER]), count)
    pictures, boxes = zip(*(photograph(int(one), rng, sizes) for one in label), strict=True)
    box, none = np.array(boxes, np.float32), np.zeros(count, np.int64)
    pixel = np.full(count, 0.1, np.float32)
    points = np.zeros((0, 5), np.float32)
    return Crops(points, none, box[:, :3].copy(), label, box, np.zeros(count, np.float32), np.stack(pictures), pixel)


def test_pictures_tell_sizes_and_headings() -> None:
    """A small network on pictures alone, of unseen objects: far better than the class mean, and few turned headings."""
    prior = torch.from_numpy(FALLBACK_SIZE_M * Sizes(0).scale.astype(np.float32))
    torch.manual_seed(0)
    model, val = PictureModel(prior), album(VAL, 2)
    with one_thread():
        train(model, album(TRAIN, 1), STEPS, batch=64)
        found, truth = predict(model, val), true_boxes(val)
    car = val.label == CAR
    length, told = np.log(truth.size_m[car, 0]), np.log(found.size_m[car, 0])
    error = yaw_error_rad(found, truth)
    error[val.label == BARRIER] = np.abs(  # the devkit's period of pi hides which side is the front: here it counts
        (found.yaw_rad - truth.yaw_rad + np.pi)[val.label == BARRIER] % (2 * np.pi) - np.pi
    )
    turned = {CLASSES[label]: float((error[val.label == label] > np.pi / 2).mean()) for label in ATTRIBUTE}
    explained = 1 - ((length - told) ** 2).mean() / length.var()
    print(explained, turned, {CLASSES[label]: float(error[val.label == label].mean()) for label in ATTRIBUTE})
    assert explained > 0.5
    assert max(turned.values()) < 0.2, turned
    assert float(error.mean()) == pytest.approx(0.0, abs=0.5)
