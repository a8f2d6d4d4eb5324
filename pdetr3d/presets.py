"""The presets: named configurations, some of which are derived from others. Label ratio and seeds are keys instead."""

from __future__ import annotations

import os

from pdetr3d.config import (
    Config,
    DataConfig,
    LabelConfig,
    ModelConfig,
    OptimConfig,
    RunSection,
    ScalingConfig,
    SimConfig,
    StudentConfig,
    TeacherConfig,
    override,
)
from pdetr3d.config_models import ONE_TASK, RARE_SAMPLING, TEN_SAMPLING
from pdetr3d.schema import DataError
from pdetr3d.words import close_to

# The image branch of method.md 2.4 and 2.9: stem, first stage and all norms are frozen, and the learning rate is a
# tenth. This needs weights: teacher.image_weights=FILE. Without them nothing is frozen, and the backbone needs the full
# learning rate: teacher.optim.lr_multipliers=[].
CAMERA_TEACHER = TeacherConfig(
    image_frozen_stages=1,
    image_norm_frozen=True,
    grid_mask=0.7,
    optim=OptimConfig(lr=2e-4, batch_size=8, lr_multipliers=(("images.backbone", 0.1),)),
)

# Full size, for 8 GPUs. The defaults of the config are method.md's (2.3-2.9, 5.1, 5.7).
NUSCENES_PILLAR = Config(
    preset="nuscenes-pillar",
    # nuScenes has no split for choosing checkpoints, so two of val's 150 scenes are used; none of val is trained on.
    data=DataConfig(select_split="mini_val"),
    teacher=CAMERA_TEACHER,
    student=StudentConfig(cbgs=True, gt_sampling=TEN_SAMPLING),
    # One cycle with its peak at 40 %. 20 passes over the about 123,600 samples that CBGS draws from 28,130
    # (method.md 5.7) are 88 passes over these.
    optim=OptimConfig(epochs=88.0, warmup_share=0.4, checkpoints=10),
    scaling=ScalingConfig(workers=8, cpus_per_worker=4, threads_per_worker=4, use_gpu=True),
)

# The same with voxels (method.md 2.2, 5.1): a BEV map of 256 channels with cells of 0.8 m, a backbone of two stages.
NUSCENES_VOXEL = NUSCENES_PILLAR.model_copy(
    update={
        "preset": "nuscenes-voxel",
        "model": ModelConfig(
            lidar="voxel", backbone_channels=(128, 256), backbone_layers=(5, 5), backbone_strides=(1, 2)
        ),
        "student": StudentConfig(cbgs=True, gt_sampling=TEN_SAMPLING, neck_channels=(256, 256), neck_strides=(1, 2)),
    }
)

SMALL_MODEL = ModelConfig(
    pillar_m=0.512,
    pillar_channels=32,
    backbone_channels=(32, 64, 96),
    backbone_layers=(1, 2, 2),
    backbone_strides=(2, 2, 2),
)

SMALL_STUDENT = StudentConfig(
    tasks=ONE_TASK,
    neck_channels=(16, 24, 24),
    neck_strides=(1, 2, 4),
    head_channels=32,
    regression_reach=1,  # cells are 1 m wide: most peaks are one cell beside the center
    box_weight=1.0,  # with 0.25: mAP 0.316 instead of 0.305, SPNDS 0.333 instead of 0.345 (arm "full", one seed)
    velocity_weight=0.1,
    augment_flip=False,
    augment_rotation_rad=0.1,
    augment_scale=(0.95, 1.05),
    augment_translation_m=0.2,
)

QUICKSTART = Config(
    preset="quickstart",
    data=DataConfig(
        version="v1.0-sim",
        train_split="sim_train",
        select_split="sim_select",
        val_split="sim_val",
        num_sweeps=3,
        image_size_px=(384, 144),
    ),
    sim=SimConfig(),
    # More channels cost little here, because convolutions are the smaller part of a step.
    model=SMALL_MODEL.model_copy(
        update={"pillar_points": 10, "pillar_channels": 48, "backbone_channels": (64, 96, 128)}
    ),
    teacher=TeacherConfig(
        roi_grid=5,
        free_points=4,
        channels=64,
        heads=8,
        fpn_levels=3,
        image_backbone="small",
        box_weight=1.0,
        decoder_layers=3,
        crop_optim=OptimConfig(lr=2e-3, epochs=80.0, batch_size=64, log_every=250),
        lidar_init="none",  # it does not help headings that start along the points, and the teacher would have to wait
        augment_flip=False,  # a mirrored world drives on the left: headings are harder to learn from few scenes
        augment_rotation_rad=0.3,
        augment_scale=(0.95, 1.05),
        optim=OptimConfig(lr=2e-3, epochs=14.0, batch_size=2, log_every=25, amp="auto"),
    ),
    student=SMALL_STUDENT.model_copy(
        update={
            "neck_channels": (32, 32, 32),
            "head_channels": 48,
            # Only rare classes are pasted, so that a step of two samples contains some of them.
            "gt_sampling": RARE_SAMPLING,
            "gt_sampling_pseudo_score": 0.6,
        }
    ),
    # In so few passes, many steps of small batches learn more than few steps of large ones.
    optim=OptimConfig(lr=8e-3, epochs=2.1, batch_size=2, checkpoints=2, log_every=50, amp="auto"),
    # Two stages run at once, each on one worker with one thread. Two threads or two workers per stage would wait for
    # each other at every step, since Ray uses the same cores; and a worker's batch norms see two samples, not one.
    scaling=ScalingConfig(
        cpus_per_worker=0.75, threads_per_worker=1, data_cpus=0.25, inference_workers=2, concurrent_stages=2
    ),
)

# Like the quickstart, but trained until the select split's SPNDS no longer rises, so that students can be compared in a
# report. It takes hours on two cores.
HEADLINE = QUICKSTART.model_copy(
    update={
        "preset": "headline",
        "teacher": QUICKSTART.teacher.model_copy(
            update={
                "crop_optim": QUICKSTART.teacher.crop_optim.model_copy(update={"epochs": 330.0}),  # about 8,000 steps
                "crop_self_labels": 30_000,
                # The crop branch has learned already. At the full rate: yaw error 0.394 rad, not 0.374 (one seed).
                "optim": QUICKSTART.teacher.optim.model_copy(
                    update={"epochs": 56.0, "lr_multipliers": (("crops", 0.1),)}
                ),
            }
        ),
        "optim": QUICKSTART.optim.model_copy(
            update={"lr": 3e-3, "epochs": 20.0, "checkpoints": 10, "checkpoints_from": 0.4, "patience": 3}
        ),
        "run": RunSection(arms=("boxes_only", "self_training", "mean_teacher", "ours", "full")),
    }
)

# Overfits 1-3 real keyframes and scores on the same ones, which only shows that training on real data works. So there
# is no augmentation, every keyframe is box-labeled for the teacher, and the student sees only the teacher's boxes.
REAL_SMOKE = QUICKSTART.model_copy(
    update={
        "preset": "real-smoke",
        "data": DataConfig(
            version="v1.0-mini",
            train_split="mini_train",
            val_split="mini_train",
            num_sweeps=3,
            image_size_px=(400, 225),
        ),
        # Real barriers stand in rows and people in groups: with cells of 1 m, neighbors would share a peak.
        "model": SMALL_MODEL.model_copy(update={"pillar_m": 0.256}),
        "label": LabelConfig(ratio=1.0, pseudo_for="all"),
        "teacher": QUICKSTART.teacher.model_copy(
            update={
                "augment_rotation_rad": 0.0,
                "augment_scale": (1.0, 1.0),
                "dropout": 0.0,
                "crop_optim": OptimConfig(lr=2e-3, epochs=400.0, batch_size=64, log_every=100),
                "optim": OptimConfig(lr=2e-3, epochs=120.0, batch_size=1),
            }
        ),
        "student": SMALL_STUDENT.model_copy(
            update={
                "augment_flip": False,
                "augment_rotation_rad": 0.0,
                "augment_scale": (1.0, 1.0),
                "augment_translation_m": 0.0,
                "direction_share": 1.0,
            }
        ),
        "optim": OptimConfig(lr=2e-3, epochs=150.0, batch_size=1),
        "scaling": ScalingConfig(workers=1, cpus_per_worker=1.0, threads_per_worker=1),
        "run": RunSection(arms=("ours",)),
    }
)

# Compares teachers at an image size at which a far car covers more than one cell (design section 9). Do not change it:
# its figures are reported. 38 box-labeled samples * 14 epochs / 2 = 266 steps.
FUSION_STUDY = QUICKSTART.model_copy(
    update={
        "preset": "fusion-study",
        "model": SMALL_MODEL,
        "student": SMALL_STUDENT,
        "data": QUICKSTART.data.model_copy(update={"image_size_px": (576, 216)}),
        "sim": SimConfig(scenes=380, select_scenes=2, val_scenes=2, image_size_px=(576, 216)),
        "label": LabelConfig(ratio=0.1),
        # Two teachers train at the same time, each on one core, which its loading tasks share.
        "scaling": ScalingConfig(workers=1, cpus_per_worker=0.7, data_cpus=0.25, concurrent_stages=2),
    }
)

# KITTI as `pdetr3d import kitti` writes it: single frames with one camera, annotated only in front of the car. x of
# LIDAR_TOP points right and y forward, so KITTI's 0 .. 70.4 m ahead are along y.
KITTI_RANGE_M = (-40.0, 0.0, -3.0, 40.0, 70.4, 1.0)
KITTI_DATA = DataConfig(
    classes="kitti",
    version="v1.0-kitti",
    train_split="kitti_train",
    val_split="kitti_val",
    num_sweeps=1,
    image_size_px=(1242, 375),
    lidar_ring=False,
)

# Full size, for the object benchmark's 7,481 frames with labels: 400 x 352 pillars, heads on 200 x 176 cells of 0.4 m.
KITTI = Config(
    preset="kitti",
    data=KITTI_DATA,
    model=ModelConfig(range_m=KITTI_RANGE_M, pillar_m=0.2, pillar_points=32),
    teacher=CAMERA_TEACHER,
    # One head per group of classes; GT sampling has the numbers of nuScenes' similar classes.
    student=StudentConfig(tasks=(), circle_radius_m=(), neck_strides=(1, 2, 4), gt_sampling=(2, 3, 4, 2, 6)),
    optim=OptimConfig(epochs=80.0, batch_size=16, warmup_share=0.4),
    scaling=ScalingConfig(workers=4, cpus_per_worker=4, threads_per_worker=4, use_gpu=True),
)

# KITTI with some dozens of frames on two CPU cores, which only shows that training on real frames works.
KITTI_SMALL = QUICKSTART.model_copy(
    update={
        "preset": "kitti-small",
        "data": KITTI_DATA.model_copy(update={"image_size_px": (400, 120)}),
        "model": SMALL_MODEL.model_copy(update={"range_m": KITTI_RANGE_M, "pillar_m": 0.4}),
        # The frames of a drive show the same cars, and there are few drives, so some frames of each drive have boxes.
        "label": LabelConfig(ratio=0.2, split_by="keyframe"),
        "teacher": QUICKSTART.teacher.model_copy(
            update={
                "augment_flip": True,  # there are few frames, and no class depends on left and right
                "crop_optim": OptimConfig(lr=2e-3, epochs=1200.0, batch_size=64, log_every=250),
                "optim": OptimConfig(lr=2e-3, epochs=40.0, batch_size=2, log_every=25, amp="auto"),
            }
        ),
        "student": SMALL_STUDENT.model_copy(
            update={"tasks": (), "circle_radius_m": (), "augment_flip": True, "augment_rotation_rad": 0.3}
        ),
        "optim": OptimConfig(lr=4e-3, epochs=30.0, batch_size=2, log_every=50, amp="auto"),
    }
)


PRESETS = {
    preset.preset: preset
    for preset in (QUICKSTART, HEADLINE, REAL_SMOKE, FUSION_STUDY, NUSCENES_PILLAR, NUSCENES_VOXEL, KITTI_SMALL, KITTI)
}


def check_preset(name: str) -> str:
    """Check and return the name of a preset.

    Raises:
        DataError: for an unknown preset (names the closest).
    """
    if name not in PRESETS:
        raise DataError(f"unknown preset {name!r}{close_to(name, PRESETS)}; allowed: {', '.join(PRESETS)}")
    return name


def load(name: str, dotlist: list[str] | None = None) -> Config:
    """The preset ``name`` with overrides. ``real-smoke`` takes its dataroot from PDETR3D_REAL_DATA unless it is given.

    Raises:
        DataError: for an unknown preset (names the closest) or override.
    """
    check_preset(name)
    dotlist = list(dotlist or [])
    if name == "real-smoke" and not any(item.startswith("data.dataroot=") for item in dotlist):
        root = os.environ.get("PDETR3D_REAL_DATA", "")
        if not root:
            raise DataError(
                "preset real-smoke needs a nuScenes-format folder: set PDETR3D_REAL_DATA or data.dataroot=FOLDER"
            )
        dotlist.append(f"data.dataroot={root}")
    return override(PRESETS[name], dotlist)
