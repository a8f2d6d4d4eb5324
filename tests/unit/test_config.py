"""config.py and presets.py: overrides, the message for each kind of bad input, JSON, the documented formulas."""

from __future__ import annotations

import json

import numpy as np
import pytest
from pydantic import ValidationError

from pdetr3d import presets
from pdetr3d.config import Config, DataError, StudentConfig, override, sigma_m

BAD = [
    (["optim.lrr=1"], "unknown config key 'optim.lrr' (did you mean 'optim.lr'?)"),
    (["lr=1"], "optim.lr'?"),
    (["zzzzzz=1"], "sections: corruption, data, label, model"),
    (["optim=1"], "unknown config key 'optim'"),
    (["preset=other"], "unknown config key 'preset'"),
    (["x"], "override 'x' is not key=value"),
    (["optim.lr"], "override 'optim.lr' is not key=value"),
    (["run.arms=ours"], "config key run.arms = 'ours': Input should be a valid array; write run.arms=[ours]"),
    (["run.arms=[ours,full,ours]"], "run.arms ['ours', 'full', 'ours'] names a student twice; name each once"),
    (["run.seed=99999999999999999999"], "config key run.seed = 99999999999999999999: Input should be less than"),
    (["optim.lr=abc"], "config key optim.lr = 'abc': Input should be a valid number"),
    (["optim.lr="], "config key optim.lr = None: Input should be a valid number"),
    (["optim.lr=0"], "config key optim.lr = 0: Input should be greater than 0"),
    (["optim.lr=.nan"], "config key optim.lr = nan: Input should be a finite number"),
    (["optim.lr=.inf"], "config key optim.lr = inf: Input should be a finite number"),
    (["optim.batch_size=1.5"], "config key optim.batch_size = 1.5: Input should be a valid integer"),
    (["optim.batch_size='4'"], "config key optim.batch_size = '4': Input should be a valid integer"),
    (["label.ratio=0"], "config key label.ratio = 0: Input should be greater than 0"),
    (["label.ratio=-0.1"], "config key label.ratio = -0.1"),
    (["label.ratio=1.5"], "config key label.ratio = 1.5: Input should be less than or equal to 1"),
    (["label.split_by=town"], "'scene', 'keyframe' or 'prefix'"),
    (["label.redraw_clicks=7"], "config key label.redraw_clicks = 7"),
    (["teacher.query_init=foo"], "config key teacher.query_init = 'foo': Input should be 'explicit'"),
    (["teacher.matching=nearest"], "should be 'direct' or 'hungarian'"),
    (["teacher.fusion=sum"], "should be 'none', 'concat'"),
    (["teacher.query_init=learned"], "no query belongs to a click: set teacher.matching=hungarian"),
    (["teacher.query_init=group", "teacher.self_attention=true"], "several queries, which would see one another"),
    (["teacher.query_init=group", "teacher.group_copies=1"], "config key teacher.group_copies = 1"),
    (["student.guidance=boxes"], "should be 'none', 'full', 'partial', 'gaussian', 'box' or 'segmentation'"),
    (["student.guidance_head=projector"], "should be 'none' or 'predictor'"),
    (["student.guidance_branch=mean"], "should be 'self' or 'ema'"),
    (["student.guidance_warmup=1.5"], "config key student.guidance_warmup = 1.5"),
    (["student.guidance_click_share=0"], "config key student.guidance_click_share = 0"),
    (["student.guidance_momentum=1"], "config key student.guidance_momentum = 1"),
    (["model.lidar=voxels"], "should be 'pillar' or 'voxel'"),
    (["model.lidar=voxel", "model.voxel_m=[0.1,0.1]"], "config key model.voxel_m.2"),
    (["model.lidar=voxel", "model.voxel_m=[0.3,0.3,0.2]"], "341.333 x 341.333 x 40 voxels; they must be whole"),
    (["model.lidar=voxel", "model.voxel_m=[0.1,0.2,0.2]"], "sides along x and y must be equal"),
    (["model.lidar=voxel", "model.voxel_m=[3.2,3.2,0.2]"], "a multiple of the total stride 64"),
    (["model.lidar=voxel", "model.voxel_m=[0.1,0.1,1.0]"], "9 voxels along z are too few for the 4 stages"),
    (["model.voxel_channels=[]"], "config key model.voxel_channels"),
    (["model.max_voxels=[0,10]"], "config key model.max_voxels.0 = 0"),
    (
        ["teacher.image_backbone=resnet50", "teacher.image_channels=[16,32,64]"],
        "must be the last two, three or four of (256, 512, 1024, 2048)",
    ),
    (["student.neck_strides=[1,2]"], "need one entry for each stage of model.backbone_strides (2, 2, 2)"),
    (["student.neck_strides=[1,1,2]"], "must bring all stages of model.backbone_strides (2, 2, 2) to one grid"),
    (["student.neck_strides=[-1,-2,-4]"], "to one grid: positive"),
    (["data.loader=tf"], "should be 'ray' or 'torch'"),
    (["data.on_error=ignore"], "should be 'raise' or 'skip'"),
    (["data.packed=s3://b/p", "data.on_error=skip"], "data.packed s3://b/p: pdetr3d pack keeps whole samples alone"),
    (["optim.amp=fp8"], "should be 'fp32', 'bf16', 'fp16' or 'auto'"),
    (["optim.lr_multipliers=[[backbone,0]]"], "config key optim.lr_multipliers.0.1 = 0"),
    (["optim.lr_multipliers=[[a,0.1],[a,0.2]]"], "names a prefix twice"),
    (["teacher.grid_mask=1.5"], "config key teacher.grid_mask = 1.5"),
    (["teacher.image_weights=r50.pth"], "are for resnet18, resnet50, not for teacher.image_backbone small"),
    (["teacher.image_frozen_stages=1"], "not for teacher.image_backbone small"),
    (["model.norm=sync"], "model.norm=sync needs GPUs, but scaling.use_gpu is false: set scaling.use_gpu=true, or"),
    (["teacher.channels=30"], "teacher.channels 30 must be a multiple of teacher.heads 8"),
    (["student.neck_strides=[0.75,1.5,3]"], "(0.75, 1.5, 3.0): 0.75 is neither whole (enlarges) nor one by a whole"),
    (["student.tasks=[[],[0,1,2,3,4,5,6,7,8,9]]"], "config key student.tasks.0 = []"),
    (["student.tasks=[[0,1],[1,2]]"], "must hold each class index 0..9 exactly once"),
    (["student.gt_sampling=[2,3]"], "student.gt_sampling (2, 3) must hold 10 counts, one for each class"),
    (["student.gt_sampling_fade_out=1.5"], "config key student.gt_sampling_fade_out = 1.5"),
    (["student.pseudo_weight=-1"], "config key student.pseudo_weight = -1"),
    (["student.nms_iou=1"], "config key student.nms_iou = 1"),
    (["model.pillar_m=1e-9"], "pillar_m 1e-09: the range spans 1.02e+11 pillars along a side, allowed are 16384"),
    (["model.pillar_m=0.7"], "whole multiple of the backbone's total stride 8"),
    (["model.range_m=[-51.2,-51.2,3.0,51.2,51.2,-5.0]"], "every maximum must exceed its minimum"),
    (["model.range_m=[-51.2,-25.7,-5.0,51.2,25.7,3.0]"], "spans 100.391 pillars along y, which must be a whole"),
    (["model.range_m=[0,1]"], "config key model.range_m"),
    (["model.backbone_strides=[1,2]"], "must have equal lengths"),
    (["sim.image_size_px=[0,10]"], "config key sim.image_size_px.0 = 0"),
    (["sim.image_size_px=[320"], "cannot be read"),
    (["student.box_share=0.9", "optim.batch_size=4"], "student.box_share 0.9 of optim.batch_size 4 is 4 samples"),
    (["student.box_share=0.1", "optim.batch_size=4"], "set student.box_share between 0.25 and 0.75"),
    (["optim.batch_size=3", "scaling.workers=2"], "optim.batch_size 3 is global and must be a multiple"),
    (["teacher.optim.batch_size=3", "optim.batch_size=2", "scaling.workers=2"], "teacher.optim.batch_size 3 is global"),
    (["optim.patience=2"], "more optim.checkpoints (now 2) than it: set both"),
    (["optim.patience=1", "data.select_split=''"], "optim.patience 1 needs data.select_split (now '')"),
    (["teacher.optim.patience=1"], "teacher.optim.patience 1: checkpoints of the teacher are not scored"),
    (["optim.ema_decay=1"], "config key optim.ema_decay = 1: Input should be less than 1"),
    (["student.mean_teacher_decay=0"], "config key student.mean_teacher_decay = 0: Input should be greater than 0"),
    (["run.arms=[self_training]", "student.self_training_threshold=0.05"], "self_training_threshold 0.05 is below"),
    (["run.arms=[mean_teacher]", "student.score_threshold=0.4"], "set student.mean_teacher_threshold=0.4 or higher"),
    (["run.arms=[mean_student]"], "config key run.arms.0 = 'mean_student'"),
    (["scaling.workers=0"], "config key scaling.workers.constrained-int = 0"),
    (["scaling.workers=[1,3]", "optim.batch_size=4"], "[1,3], but is none of 3: a multiple of 6 is one of all"),
    (["scaling.workers=[4,2]"], "scaling.workers [4, 2]: the first number is the smaller one"),
    (["run.seed=-1"], "config key run.seed = -1"),
    (["label.seed=010"], "override 'label.seed=010': 010 is not read as people read it; write a number in decimal"),
    (["label.seed=1_0"], "1_0 is not read"),
    (["label.seed=0x10"], "0x10 is not read"),
    (["label.seed=1:30"], "1:30 is not read"),
    (["optim.lr=1_0.5e-1"], "1_0.5e-1 is not read"),
    (["sim.image_size_px=[320, 0100]"], "0100 is not read"),
]


@pytest.mark.parametrize(("dotlist", "message"), BAD, ids=[" ".join(dotlist) for dotlist, _ in BAD])
def test_bad_overrides_name_key_value_and_fix(dotlist: list[str], message: str) -> None:
    with pytest.raises(DataError) as caught:
        presets.load("quickstart", dotlist)
    assert message in str(caught.value)


def test_sync_norm_with_gpus_is_allowed() -> None:
    assert presets.load("quickstart", ["model.norm=sync", "scaling.use_gpu=true"]).model.norm == "sync"


def test_every_problem_is_reported_at_once() -> None:
    with pytest.raises(DataError) as caught:
        presets.load("quickstart", ["optim.lr=0", "label.ratio=2"])
    assert len(str(caught.value).splitlines()) == 2


def test_good_overrides_take_effect_and_leave_the_preset_alone() -> None:
    before = presets.QUICKSTART.to_json()
    config = presets.load(
        "quickstart",
        [
            "optim.lr=5e-4",
            "sim.image_size_px=[320,180]",
            "scaling.workers=4",
            "optim.batch_size=4",
            "teacher.optim.batch_size=8",
            "optim.epochs=4",
            "run.name=a b",
            "label.ratio=1",
        ],
    )
    assert config.optim.lr == 5e-4 and config.sim.image_size_px == (320, 180) and config.scaling.workers == 4
    assert config.optim.epochs == 4.0 and isinstance(config.optim.epochs, float)
    assert config.run.name == "a b" and config.label.ratio == 1.0
    assert presets.QUICKSTART.to_json() == before
    changed = {key for key, value in config.flat().items() if value != presets.QUICKSTART.flat()[key]}
    assert changed == {
        "optim.lr",
        "sim.image_size_px",
        "scaling.workers",
        "optim.batch_size",
        "teacher.optim.batch_size",
        "optim.epochs",
        "run.name",
        "label.ratio",
    }


def test_a_list_override_replaces_the_whole_list() -> None:
    strides = ["model.backbone_strides=[1,2]", "model.backbone_channels=[8,16]", "model.backbone_layers=[1,1]"]
    strides += ["student.neck_strides=[1,2]", "student.neck_channels=[8,8]"]
    assert presets.load("quickstart", strides).model.backbone_strides == (1, 2)


def test_the_last_of_two_overrides_wins() -> None:
    assert presets.load("quickstart", ["run.seed=1", "run.seed=2"]).run.seed == 2


def test_json_refuses_what_it_does_not_know() -> None:
    text = presets.QUICKSTART.to_json().replace('"weight_decay"', '"wieght_decay"', 1)
    with pytest.raises(DataError, match="did you mean '.*weight_decay'"):
        Config.from_json(text)


def test_removed_keys_are_read_where_they_changed_nothing() -> None:
    """Files of older code hold them."""
    tree = json.loads(presets.QUICKSTART.to_json())
    tree["student"]["drift"] = tree["model"]["pillar_padding"] = False
    assert Config.from_json(json.dumps(tree)) == presets.QUICKSTART
    tree["student"]["drift"] = True
    with pytest.raises(DataError, match=r"student\.drift = true: it was removed, .*Code before version 0\.1\.0 wrote"):
        Config.from_json(json.dumps(tree))
    with pytest.raises(DataError, match="'model.pillar_padding': its name is model.pad_pillars now"):
        override(presets.QUICKSTART, ["model.pillar_padding=true"])
    with pytest.raises(DataError, match="Invalid JSON"):
        Config.from_json("{")


def test_sections_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        presets.QUICKSTART.optim.lr = 1.0  # type: ignore[misc]


def test_unknown_preset_names_the_closest_and_all() -> None:
    with pytest.raises(DataError, match="did you mean 'quickstart'.*allowed: .*nuscenes-pillar"):
        presets.load("quikstart")
    with pytest.raises(DataError, match="unknown preset ''"):
        presets.load("")


def test_real_smoke_takes_its_dataroot_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PDETR3D_REAL_DATA", raising=False)
    with pytest.raises(DataError, match="PDETR3D_REAL_DATA"):
        presets.load("real-smoke")
    assert presets.load("real-smoke", ["data.dataroot=given"]).data.dataroot == "given"
    monkeypatch.setenv("PDETR3D_REAL_DATA", "from-env")
    assert presets.load("real-smoke").data.dataroot == "from-env"
    assert presets.load("real-smoke", ["data.dataroot=given"]).data.dataroot == "given"
    assert presets.load("quickstart").data.dataroot == ""


def test_grid_counts_pillars() -> None:
    """102.4 m / 0.512 m = 200 cells; 102.4 / 0.2 = 512."""
    assert presets.QUICKSTART.model.grid == (200, 200)
    assert presets.NUSCENES_PILLAR.model.grid == (512, 512)


def test_sizes_of_the_full_presets() -> None:
    """method.md 2.2, 2.3, 5.1: both students' heads see 128 x 128 cells of 0.8 m."""
    pillar, voxel = presets.NUSCENES_PILLAR, presets.NUSCENES_VOXEL
    assert pillar.student_cell_m == pytest.approx(0.8) and voxel.student_cell_m == pytest.approx(0.8)
    assert voxel.model.voxel_grid == (41, 1024, 1024)
    assert voxel.model.voxel_slices == 2 and voxel.model.bev_channels == 256  # z: 41, 21, 11, 5, then 2
    assert pillar.model.bev_channels == 64 and pillar.model.bev_cell_m == 0.2
    assert voxel.model.bev_cell_m == pytest.approx(0.8)
    shared = {"preset", "model", "student"}
    assert pillar.model_dump(exclude=shared) == voxel.model_dump(exclude=shared)


def test_fewer_stages_leave_more_slices() -> None:
    """41 -> (not padded) 20 -> 9; a single stage: 41 -> 20."""
    two = ["model.lidar=voxel", "model.voxel_channels=[8,16]"]
    assert presets.load("quickstart", two).model.bev_channels == 16 * 9
    assert presets.load("quickstart", ["model.lidar=voxel", "model.voxel_channels=[8]"]).model.voxel_slices == 20


def test_sigma_is_the_larger_of_floor_and_factor_times_root_area() -> None:
    """A car 4.6 x 1.9: 0.5 * sqrt(8.74) = 1.4782; a cone 0.4 x 0.4: 0.2, below the floor 0.66."""
    sigma = sigma_m(StudentConfig(), np.array([[4.6, 1.9, 1.7], [0.4, 0.4, 1.0]]))
    np.testing.assert_allclose(sigma, [1.47817, 0.66], rtol=1e-5)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("/data/my set [1] #2", "/data/my set [1] #2"),  # YAML would end it at the "#"
        ("a: b", "a: b"),
        ("100", "100"),
        ("", ""),
        ('"quoted"', "quoted"),  # as commands in reports have it
        ("''", ""),
        ("'it's'", "'it's'"),
    ],
)
def test_text_is_taken_as_it_is(given: str, kept: str) -> None:
    changed = override(presets.QUICKSTART, ["optim.lr=1e-2", f"data.dataroot={given}", "sim.scenes=7"])
    assert (changed.data.dataroot, changed.optim.lr, changed.sim.scenes) == (kept, 0.01, 7)


def test_override_of_nothing_is_the_same_config() -> None:
    assert override(presets.QUICKSTART, []) == presets.QUICKSTART
