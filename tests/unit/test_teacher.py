"""Tests of the teacher: one box per click, independent queries, no unused parameters, places of D-RoI sampling."""

import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from pdetr3d.batch import Batch, TeacherOutput
from pdetr3d.config import Config
from pdetr3d.geometry.camera import MIN_DEPTH_M
from pdetr3d.geometry.camera import project as project_numpy
from pdetr3d.geometry.tensors import box_corners, project
from pdetr3d.models.box_code import backwards, direction_of, turn
from pdetr3d.models.decoder import SelfAttention
from pdetr3d.models.roi_fusion import CameraRoI, Views
from pdetr3d.models.teacher import Teacher
from pdetr3d.presets import load
from pdetr3d.schema import CAMERAS, CLASSES, FALLBACK_SIZE_M
from pdetr3d.training.build import build, click_boxes, initialize_crops
from tests.model_cases import (
    FUSIONS,
    QUERY_INITS,
    change,
    make_batch,
    one_sample,
    same_on_all_ranks,
    shaken,
    tiny_config,
)


def teacher(config: Config | None = None, shake: bool = True) -> torch.nn.Module:
    """A teacher with noise on its zero-initialized layers, so that boxes depend on all inputs."""
    model = build("teacher", config or tiny_config(), FALLBACK_SIZE_M).model
    return shaken(model) if shake else model.eval()


def run(model: torch.nn.Module, batch: Batch) -> TeacherOutput:
    with torch.no_grad():
        return model(batch)


def test_starts_at_the_class_mean_box_at_the_click_heading_forward() -> None:
    batch = make_batch()
    box = run(teacher(tiny_config("teacher.heading_start=forward"), shake=False), batch).box[-1]
    torch.testing.assert_close(box[..., 6], torch.full_like(box[..., 6], torch.pi / 2))
    torch.testing.assert_close(box[..., :3], batch.click)
    torch.testing.assert_close(box[..., 3:6], torch.tensor(FALLBACK_SIZE_M)[batch.click_label])


@pytest.mark.parametrize("model", ["point_detr3d", "crop"])
def test_starts_along_the_points_near_the_click(model: str) -> None:
    batch = make_batch(samples=2, clicks=1)
    label, angles = torch.zeros(2, 1, dtype=torch.long), torch.tensor([0.6, 2.5])  # cars
    along = torch.linspace(-2, 2, 41)[:, None]
    lines = [along * torch.tensor([[a.cos(), a.sin(), 0]]) + c for a, c in zip(angles, batch.click[:, 0], strict=True)]
    points = torch.cat([torch.cat(lines), torch.zeros(82, 2)], 1)
    batch = change(batch, click_label=label, points=points, point_sample=torch.arange(2).repeat_interleave(41))
    box = run(teacher(tiny_config(f"teacher.model={model}", "teacher.lidar_init=none"), shake=False), batch).box[-1]
    torch.testing.assert_close(box[:, 0, 6], angles, atol=0.15, rtol=0)  # 41 points: sure to 41/46
    torch.testing.assert_close(box[..., :3], batch.click)


CLICK_KEYS = ("click", "canonical_click", "click_label", "click_box", "click_valid")
any_init = pytest.mark.parametrize("init", QUERY_INITS)


def answers_of(model: torch.nn.Module, batch: Batch) -> list[torch.Tensor]:
    """Per sample (K, 9): box, score and class of every click."""
    rows = [
        np.column_stack([b.center_m, b.size_m, b.yaw_rad, b.score, b.label])
        for b in click_boxes(run(model, batch), batch)
    ]
    return [torch.tensor(row) for row in rows]


def assert_same(got: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@any_init
def test_permuting_clicks_permutes_boxes(init: str) -> None:
    model, batch = teacher(tiny_config(*QUERY_INITS[init])), make_batch(clicks=6)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    moved = change(batch, **{k: getattr(batch, k)[:, order] for k in CLICK_KEYS})
    assert_same(answers_of(model, moved), [rows[order] for rows in answers_of(model, batch)])


@any_init
def test_padding_changes_nothing(init: str) -> None:
    config = tiny_config(*QUERY_INITS[init])
    model, batch = teacher(config), make_batch(clicks=4)
    fill = {k: torch.zeros_like(getattr(batch, k)) for k in CLICK_KEYS}
    padded = change(batch, **{k: torch.cat([getattr(batch, k), fill[k]], 1) for k in CLICK_KEYS})
    assert_same(answers_of(model, padded), answers_of(model, batch))
    task = build("teacher", config, FALLBACK_SIZE_M)
    for mode in (True, False):  # copies of a group are there in training only
        model.train(mode)
        terms, expected = (task.losses(run(model, b), b, same_on_all_ranks) for b in (padded, batch))
        torch.testing.assert_close(terms, expected, atol=1e-4, rtol=1e-4)


@any_init
@pytest.mark.parametrize("norm", ["group", "frozen"])
def test_batch_of_two_equals_two_batches_of_one(init: str, norm: str) -> None:
    model, batch = teacher(tiny_config(*QUERY_INITS[init], f"model.norm={norm}")), make_batch()
    alone = [answers_of(model, one_sample(batch, i))[0] for i in range(2)]
    assert_same(alone, answers_of(model, batch))


@any_init
def test_clicks_in_boxes_out_with_their_classes(init: str) -> None:
    batch = make_batch(clicks=11)  # more than the 9 learned queries
    boxes = click_boxes(run(teacher(tiny_config(*QUERY_INITS[init])), batch), batch)
    assert [b.label.tolist() for b in boxes] == batch.click_label.tolist()


@pytest.mark.parametrize(("attending", "seen"), [(False, False), (True, True)])
def test_queries_see_one_another_with_self_attention_alone(attending: bool, seen: bool) -> None:
    """Another class of the last click, in the first sample."""
    words = [f"teacher.self_attention={str(attending).lower()}", "teacher.fusion=none"]
    model, batch = teacher(tiny_config(*words)), make_batch()
    label = batch.click_label.clone()
    label[0, -1] = (label[0, -1] + 1) % len(CLASSES)
    changed = (run(model, change(batch, click_label=label)).box[-1] - run(model, batch).box[-1]).abs().amax(-1)
    assert (changed[0, :-1] > 1e-5).all() == seen and changed[0, -1] > 1e-3
    assert changed[1].max() == 0


def test_self_attention_by_hand() -> None:
    """Three queries, one head of one channel, all projections 1. The third query is padding, so the first two attend to
    one another, and the third also to itself. The sum goes through a layer norm, which one channel would make 0: it is
    replaced by the identity."""
    config = tiny_config("teacher.channels=1", "teacher.heads=1").teacher
    layer = SelfAttention(config).eval()
    for part in (layer.query, layer.key, layer.value, layer.output):
        torch.nn.init.ones_(part.weight)
        torch.nn.init.zeros_(part.bias)
    layer.norm = torch.nn.Identity()
    query, position = torch.tensor([[[1.0], [2.0], [4.0]]]), torch.tensor([[[0.0], [1.0], [-3.0]]])
    found = layer(query, position, torch.tensor([[True, True, False]]))[0, :, 0]
    placed = [1.0, 3.0, 1.0]
    expected = []
    for i, keys in enumerate(([0, 1], [0, 1], [0, 1, 2])):
        weight = [math.exp(placed[i] * placed[k]) for k in keys]
        mean = sum(w * query[0, k, 0].item() for w, k in zip(weight, keys, strict=True)) / sum(weight)
        expected.append(query[0, i, 0].item() + mean)
    torch.testing.assert_close(found, torch.tensor(expected))


@any_init
def test_zero_clicks_train_and_infer(init: str) -> None:
    task, batch = build("teacher", tiny_config(*QUERY_INITS[init]), FALLBACK_SIZE_M), make_batch()
    empty = change(batch, **{k: getattr(batch, k)[:, :0] for k in CLICK_KEYS})
    output = task.model(empty)
    terms = task.losses(output, empty, same_on_all_ranks)
    sum(terms.values()).backward()
    # Learned queries still learn that there is nothing.
    assert (terms["box"] + terms["quality"]).item() == 0 and ("class" in terms) == init.startswith("learned")
    assert all(p.grad is not None for p in task.model.decoder.box_heads.parameters())
    assert [len(b) for b in task.predict(output, empty)] == [0, 0]


@any_init
@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_parameter_receives_gradients(init: str, fusion: str) -> None:
    """Once the heads are not zero, all parameters get gradients: offsets of both sensors and every layer included."""
    config = tiny_config("teacher.decoder_layers=2", "teacher.free_points=2", *QUERY_INITS[init], *FUSIONS[fusion])
    task, batch = build("teacher", config, FALLBACK_SIZE_M), make_batch(clicks=8)
    shaken(task.model).train()
    sum(task.losses(task.model(batch), batch, same_on_all_ranks).values()).backward()
    # A camera's value bias and the like are used where any click is visible: all of them must move.
    inert = [n for n, p in task.model.named_parameters() if p.grad is None or not 0 < p.grad.abs().sum() < torch.inf]
    assert inert == []
    names = [n for n, _ in task.model.named_parameters()]
    assert any("lidar.offset" in n for n in names)
    assert any("camera.roi_offset" in n for n in names) == (fusion == "d_roi")


@any_init
def test_a_few_steps_with_hungarian_matching_lower_the_loss(init: str) -> None:
    config = tiny_config(*QUERY_INITS[init], "teacher.matching=hungarian", "teacher.fusion=none")
    task, batch = build("teacher", config, FALLBACK_SIZE_M), make_batch(points=50)
    optimizer, history = torch.optim.Adam(task.model.parameters(), lr=5e-3), []
    for _ in range(6):
        loss = torch.stack(list(task.losses(task.model(batch), batch, same_on_all_ranks).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < 0.95 * history[0]


@pytest.mark.parametrize("fusion", ["concat", "d_roi"])
def test_cameras_matter(fusion: str) -> None:
    model, batch = teacher(tiny_config(*FUSIONS[fusion])), make_batch()
    shuffled = change(batch, images=batch.images.flip(1))
    assert (run(model, shuffled).box[-1] - run(model, batch).box[-1]).abs().max() > 1e-4


@pytest.mark.parametrize("fusion", ["concat", "d_roi"])
def test_missing_camera_is_masked(fusion: str) -> None:
    model, batch = teacher(tiny_config(*FUSIONS[fusion])), make_batch()
    dark = change(batch, camera_valid=torch.zeros_like(batch.camera_valid))
    noise = change(dark, images=255 - batch.images)
    assert run(model, dark).box[-1].isfinite().all()
    torch.testing.assert_close(run(model, dark).box[-1], run(model, noise).box[-1])


def test_lidar_only_teacher_ignores_images() -> None:
    model, batch = teacher(tiny_config("teacher.fusion=none")), make_batch()
    noise = change(batch, images=255 - batch.images)
    torch.testing.assert_close(run(model, batch).box[-1], run(model, noise).box[-1])


def test_implicit_boxes_are_relative_to_the_click_first_and_to_the_learned_reference_then() -> None:
    """Before training the first layer gives the class-mean box at the click, the second one at its reference."""
    config = tiny_config(*QUERY_INITS["implicit"], "teacher.decoder_layers=2")
    model, batch = teacher(config, shake=False), make_batch()
    output, queries = run(model, batch), model.query(batch.click, batch.click_label)
    torch.testing.assert_close(output.box[0][..., :3], batch.click)
    torch.testing.assert_close(output.box[1][..., :3], queries.reference)
    assert (queries.reference - batch.click).norm(dim=-1).min() > 0.1


@pytest.mark.parametrize(
    ("init", "layers", "clicked", "learning"),
    [
        ("explicit", 2, [True, True], [False, False]),
        ("implicit", 1, [True], [False]),
        ("implicit", 2, [True, False], [False, False]),
        ("learned", 2, [False, False], [True, False]),
    ],
)
def test_what_a_layers_code_is_relative_to(init: str, layers: int, clicked: list[bool], learning: list[bool]) -> None:
    """A layer's code is relative to the click, to a reference with gradient, or to the previous layer's refined one."""
    config = tiny_config(*QUERY_INITS[init], f"teacher.decoder_layers={layers}", "teacher.fusion=none")
    batch = make_batch(clicks=9)  # as many as learned queries
    output = teacher(config)(batch)
    assert [torch.equal(anchor, batch.click) for anchor in output.anchor] == clicked
    assert [anchor.requires_grad for anchor in output.anchor] == learning


def test_projection_equals_numpy_and_real_calibration(real_data) -> None:
    from pdetr3d.data.index.index import Index
    from pdetr3d.data.index.nuscenes import build_index

    points = np.random.default_rng(0).uniform(-40, 40, (50, 3))
    with tempfile.TemporaryDirectory() as folder:
        index = Index.open(build_index(real_data, "v1.0-mini", Path(folder) / "index.arrow"))
        record = index.record(index.tokens("mini_train")[0])
    matrices = np.stack([camera.lidar2img for camera in record.cameras])
    assert len(matrices) == len(CAMERAS)
    pixel, depth = project(torch.tensor(matrices)[None], torch.tensor(points)[None])
    for view in range(6):
        expected, expected_depth = project_numpy(matrices[view], points)
        front = expected_depth > 0.2
        np.testing.assert_allclose(pixel[0, view][front], expected[front], atol=1e-6)
        np.testing.assert_allclose(depth[0, view], expected_depth, atol=1e-9)


def test_roi_grid_center_is_the_devkits_projection_of_the_click(real_data) -> None:
    """The test covers every visible object of the real keyframe, with a box of its class's mean size.

    The devkit projects by the global poses. If the image border cuts the grid's rectangle, the rest is centered.
    """
    from nuscenes import NuScenes
    from nuscenes.eval.detection.utils import category_to_detection_name
    from nuscenes.utils.geometry_utils import view_points

    from pdetr3d.data.index.index import Index
    from pdetr3d.data.index.nuscenes import build_index

    nusc = NuScenes("v1.0-mini", str(real_data), verbose=False)
    with tempfile.TemporaryDirectory() as folder:
        index = Index.open(build_index(real_data, "v1.0-mini", Path(folder) / "index.arrow"))
        record = index.record(index.tokens("mini_train")[0])
    sample = nusc.get("sample", record.sample_token)
    click = {box.token: box.center for box in nusc.get_sample_data(sample["data"]["LIDAR_TOP"])[1]}
    fusion, image, whole, cut, apart = CameraRoI(24, 2, 3, roi_grid=1, free_points=0), np.array([1600.0, 900]), 0, 0, []
    for name, camera in zip(CAMERAS, record.cameras, strict=True):
        size = torch.tensor(image)
        views = Views(torch.tensor(camera.lidar2img)[None, None], torch.ones(1, 1, dtype=torch.bool), size, size)
        _, boxes, intrinsic = nusc.get_sample_data(sample["data"][name])  # those in view
        for box in boxes:
            expected = view_points(box.center[:, None], intrinsic, normalize=True)[:2, 0]
            label = category_to_detection_name(box.name)
            if label is None or not ((expected > 0) & (expected < image)).all():
                continue
            roi = torch.tensor([[[*click[box.token], *FALLBACK_SIZE_M[CLASSES.index(label)], 0.0]]], dtype=torch.double)
            center, _ = project(views.lidar2img, roi[..., :3])
            place = (fusion.roi_places(views, roi, center) * size)[0, 0, 0, 0].numpy()
            pixel, depth = project_numpy(camera.lidar2img, box_corners(roi)[0, 0].numpy())
            pixel = np.where((depth > MIN_DEPTH_M)[:, None], pixel, expected)
            half = (pixel.max(0) - pixel.min(0)) / 2
            low, high = expected - half, expected + half
            np.testing.assert_allclose(place, (low.clip(0) + np.minimum(high, image)) / 2, atol=0.05)
            if (low >= 0).all() and (high <= image).all():
                np.testing.assert_allclose(place, expected, atol=0.05)
                apart.append(np.abs((pixel.min(0) + pixel.max(0)) / 2 - expected).max())
                whole += 1
            else:
                cut += 1
    assert whole > 40 and cut > 0
    assert max(apart) > 5  # so far the corners' own middle is from the click: the test can tell one from the other


@pytest.mark.parametrize(
    ("preset", "bev", "sides"),
    [
        ("nuscenes-pillar", (1, 64, 512, 512), (256, 128, 64, 32)),
        ("nuscenes-voxel", (1, 256, 128, 128), (128, 64, 32, 16)),
    ],
)
def test_bev_levels_at_full_size(preset: str, bev: tuple[int, ...], sides: tuple[int, ...]) -> None:
    """The levels are those of method.md 2.2 and 2.3; ``bev`` is the LiDAR encoder's output."""
    with torch.device("meta"):
        model = Teacher(load(preset, ["teacher.fusion=none"]), torch.ones(10, 3))
        levels = model.fpn(model.backbone(torch.empty(bev)))
    assert [tuple(level.shape) for level in levels] == [(1, 256, side, side) for side in sides]


def test_corners_by_hand() -> None:
    box = torch.tensor([1.0, 2, 3, 4, 2, 1, np.pi / 2])
    corners = box_corners(box)
    assert corners[:, 0].min().item() == pytest.approx(0, abs=1e-5) and corners[:, 0].max().item() == pytest.approx(2)
    assert corners[:, 1].min().item() == pytest.approx(0, abs=1e-5) and corners[:, 1].max().item() == pytest.approx(4)


@pytest.mark.parametrize("init", ["explicit", "group"])
def test_a_fresh_decoder_adds_nothing_to_what_the_crop_branch_says(init: str) -> None:
    """A teacher that starts from a trained crop branch therefore starts with that branch's quality."""
    overrides = [*QUERY_INITS[init], "teacher.decoder_layers=2"]
    crops = shaken(build("crops", tiny_config(*overrides), FALLBACK_SIZE_M).model)
    model, batch = teacher(tiny_config(*overrides), shake=False), make_batch(clicks=3)
    assert not torch.equal(run(crops, batch).box[-1], run(model, batch).box[-1])
    initialize_crops(model, crops.state_dict())
    for alone, whole in zip(run(crops, batch).box, run(model, batch).box, strict=True):
        torch.testing.assert_close(whole, alone, atol=1e-5, rtol=1e-5)
    model.train()
    assert model(batch).box[-1].shape[1] == (9 if init == "group" else 3)


@pytest.mark.parametrize("init", ["implicit", "learned"])
def test_queries_that_do_not_start_at_their_click_see_no_crop_of_it(init: str) -> None:
    model = teacher(tiny_config(*QUERY_INITS[init]))
    assert isinstance(model, Teacher) and model.crops is None


@pytest.mark.parametrize("model", ["crop", "point_detr3d"])
def test_headings_of_the_first_stage_are_a_little_wrong_in_training_alone(model: str) -> None:
    config = tiny_config(f"teacher.model={model}", "teacher.decoder_layers=2")
    net, batch = teacher(config), make_batch(samples=40, clicks=5)
    first, second = run(net, batch).box[0], run(net, batch).frame[1]
    torch.testing.assert_close(second, direction_of(first[..., 6]))
    noisy = run(net.train(), batch).frame[1]
    off = torch.atan2(*turn(noisy, backwards(second)).flip(-1).unbind(-1)).abs()
    turned = (off > np.pi / 2).float().mean().item()
    assert turned == pytest.approx(0.1, abs=0.06) and torch.equal(run(net.train(), batch).frame[1], noisy)
    assert off[off < np.pi / 2].square().mean().sqrt().item() == pytest.approx(0.15, abs=0.03)
