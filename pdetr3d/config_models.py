"""The sections ``model``, ``teacher`` and ``student`` of the configuration (``config.py``). It imports no torch."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from pdetr3d.config_sections import OF_CLICKED_STUDENTS, Meters, OptimConfig, Positive, Section

RESNET_CHANNELS = {"resnet18": (64, 128, 256, 512), "resnet50": (256, 512, 1024, 2048)}  # of the four stages
TEN_TASKS = ((0,), (1, 2), (3, 4), (5,), (6, 7), (8, 9))  # CenterPoint's heads for nuScenes' ten classes
ONE_TASK = (tuple(range(10)),)  # one head for all ten classes
# GT sampling fills a sample up to these numbers of objects per class: by method.md 2.9, and for the rare classes of a
# small simulated world.
TEN_SAMPLING = (2, 3, 7, 4, 6, 2, 6, 6, 2, 2)
RARE_SAMPLING = (0, 4, 3, 4, 4, 4, 5, 5, 0, 4)
BY_CLASS = ("tasks", "gt_sampling", "circle_radius_m")  # the fields of StudentConfig that have values per class
MOST_CELLS = 16_384  # pillars or voxels along a side of the range: a map of the next power of two fits no GPU
SMALL_CHANNELS = (16, 32, 64)  # the default channels of image_backbone=small


class ModelConfig(Section):
    """The LiDAR encoder. Teacher and student have the same architecture, with weights of their own."""

    # Points are gathered in vertical pillars, or in voxels with a sparse encoder.
    lidar: Literal["pillar", "voxel"] = "pillar"
    # Kind of normalization. sync: batch norm over all workers, on GPUs. frozen: stored statistics.
    norm: Literal["batch", "sync", "group", "frozen"] = "batch"
    # Detection range x0, y0, z0, x1, y1, z1 in the LIDAR_TOP frame.
    range_m: tuple[float, float, float, float, float, float] = (-51.2, -51.2, -5.0, 51.2, 51.2, 3.0)
    pillar_m: Annotated[float, Field(gt=0)] = 0.2  # Side of a pillar.
    pillar_points: Positive = 20  # Most points of a pillar; more are thinned out evenly.
    # Pillars with fewer points are filled up with zeros, as some imported weights need (`pdetr3d import-weights`).
    pad_pillars: bool = False
    pillar_channels: Positive = 64  # Channels of the BEV map of pillars.
    voxel_m: tuple[Meters, Meters, Meters] = (0.1, 0.1, 0.2)  # Sides of a voxel: x, y, z.
    voxel_points: Positive = 10  # Most points of a voxel; points of the keyframe's sweep are kept first.
    max_voxels: tuple[Positive, Positive] = (90_000, 120_000)  # Most voxels of a sample: in training, in prediction.
    # Channels of the sparse encoder's stages. Each stage after the first halves the grid.
    voxel_channels: Annotated[tuple[Positive, ...], Field(min_length=1)] = (16, 32, 64, 128)
    backbone_channels: tuple[Positive, ...] = (64, 128, 256)  # Channels of the BEV backbone's stages.
    # Convolutions in each stage of the backbone after its first.
    backbone_layers: tuple[Annotated[int, Field(ge=0)], ...] = (3, 5, 5)
    # Stride of each stage of the backbone.
    backbone_strides: tuple[Positive, ...] = (2, 2, 2)
    # Stages of the backbones are computed again in the backward pass, which saves memory.
    checkpoint_activations: bool = False

    @property
    def grid(self) -> tuple[int, int]:
        """Pillars along y (rows) and x (columns)."""
        x, y = (round((self.range_m[i + 3] - self.range_m[i]) / self.pillar_m) for i in (0, 1))
        return y, x

    @property
    def bev_range_m(self) -> tuple[float, float, float, float]:
        """x0, y0, x1, y1 of the range [m]."""
        x0, y0, _, x1, y1, _ = self.range_m
        return x0, y0, x1, y1

    @property
    def voxel_grid(self) -> tuple[int, int, int]:
        """Voxels along z, y, x. As in SECOND, the grid has one layer along z more than the range; it stays empty."""
        x, y, z = (round((self.range_m[i + 3] - self.range_m[i]) / self.voxel_m[i]) for i in range(3))
        return z + 1, y, x

    @property
    def voxel_slices(self) -> int:
        """Layers along z of the sparse encoder's output (``models/sparse_encoder.py``)."""
        cells = self.voxel_grid[0]
        for padding in [1] * (len(self.voxel_channels) - 2) + [0] * min(1, len(self.voxel_channels) - 1):
            cells = (cells + 2 * padding - 3) // 2 + 1
        return (cells - 3) // 2 + 1

    @property
    def bev_channels(self) -> int:
        """Channels of the LiDAR encoder's BEV map."""
        return self.pillar_channels if self.lidar == "pillar" else self.voxel_channels[-1] * self.voxel_slices

    @property
    def bev_cell_m(self) -> float:
        """Side of one cell of the LiDAR encoder's BEV map [m]."""
        return self.pillar_m if self.lidar == "pillar" else self.voxel_m[0] * 2 ** (len(self.voxel_channels) - 1)

    @model_validator(mode="after")
    def _check_grid(self) -> ModelConfig:
        x0, y0, z0, x1, y1, z1 = self.range_m
        if not (x1 > x0 and y1 > y0 and z1 > z0):
            raise ValueError(
                f"model.range_m {self.range_m}: every maximum must exceed its minimum (x0, y0, z0, x1, y1, z1)"
            )
        side = self.pillar_m if self.lidar == "pillar" else self.voxel_m[0]
        if (cells := max(x1 - x0, y1 - y0) / side) > MOST_CELLS:
            raise ValueError(
                f"model.{self.lidar}_m {side}: the range spans {cells:.3g} {self.lidar}s along a side, allowed are "
                f"{MOST_CELLS}: make them larger, or model.range_m smaller"
            )
        if not (len(self.backbone_channels) == len(self.backbone_layers) == len(self.backbone_strides)):
            raise ValueError("model.backbone_channels, backbone_layers and backbone_strides must have equal lengths")
        if self.lidar == "voxel":
            self._check_voxels()
            return self
        stride = math.prod(self.backbone_strides)
        for axis, span in (("x", x1 - x0), ("y", y1 - y0)):
            cells = span / self.pillar_m
            if abs(cells - round(cells)) > 1e-6 or round(cells) % stride:
                raise ValueError(
                    f"model.pillar_m {self.pillar_m}: the range spans {cells:g} pillars along {axis}, which must be a "
                    f"whole multiple of the backbone's total stride {stride}; change model.pillar_m or model.range_m"
                )
        return self

    def _check_voxels(self) -> None:
        x, y, z = (self.range_m[i + 3] - self.range_m[i] for i in range(3))
        cells = (x / self.voxel_m[0], y / self.voxel_m[1], z / self.voxel_m[2])
        stride = math.prod(self.backbone_strides) * 2 ** (len(self.voxel_channels) - 1)
        whole = all(abs(n - round(n)) < 1e-6 for n in cells)
        if self.voxel_m[0] != self.voxel_m[1]:
            raise ValueError(f"model.voxel_m {self.voxel_m}: sides along x and y must be equal (BEV cells are square)")
        if not whole or round(cells[0]) % stride or round(cells[1]) % stride:
            raise ValueError(
                f"model.voxel_m {self.voxel_m}: the range spans {cells[0]:g} x {cells[1]:g} x {cells[2]:g} voxels; "
                f"they must be whole, in x and y a multiple of the total stride {stride} of sparse encoder and "
                "backbone; change model.voxel_m or model.range_m"
            )
        if self.voxel_slices < 1:
            raise ValueError(
                f"model.voxel_m {self.voxel_m}: {self.voxel_grid[0]} voxels along z are too few for the "
                f"{len(self.voxel_channels)} stages of model.voxel_channels; make them lower, or use fewer stages"
            )


class TeacherConfig(Section):
    """The teacher: it turns clicks into boxes."""

    # crop: a baseline, a PointNet on the points around each click.
    model: Literal["point_detr3d", "crop"] = "point_detr3d"
    # Initialization of queries (docs/models.md).
    query_init: Literal["explicit", "implicit", "learned", "group"] = "explicit"
    learned_queries: Positive = 300  # Queries of a sample, with query_init=learned.
    group_copies: Annotated[int, Field(ge=2, le=32)] = 4  # Queries of a click in training, with query_init=group.
    # Decoder layers start from features of the points around the click. Only with query_init explicit and group.
    point_crop: bool = True
    picture_crop: bool = True  # The crop branch also sees a picture of each click, if the teacher has cameras.
    # Training of the crop branch, before the rest of the teacher, on the clicks of the box-labeled samples.
    crop_optim: OptimConfig = OptimConfig(lr=2e-3, epochs=40.0, batch_size=512)
    # Clicks without a box that the crop branch labels itself, for a second training on these and the human boxes.
    # About this number is drawn, in whole samples. 0: there is no second training.
    crop_self_labels: Annotated[int, Field(ge=0)] = 0
    # First guess of a box's heading: the principal axis of the points near the click, or forward.
    heading_start: Literal["points", "forward"] = "points"
    # Assignment of queries to boxes. direct: each to the box of its own click. hungarian: by least total cost.
    matching: Literal["direct", "hungarian"] = "direct"
    fusion: Literal["none", "concat", "d_roi"] = "d_roi"  # Image features of queries (docs/models.md).
    roi_grid: Annotated[int, Field(ge=1, le=15)] = 7  # Places of the RoI grid along each side.
    free_points: Annotated[int, Field(ge=0, le=64)] = 16  # Places that a query samples beside its RoI grid.
    # Layers of the decoder. The first finds headings; later layers see the points along them (not with implicit).
    decoder_layers: Positive = 2
    self_attention: bool = False  # Decoder layers begin with attention between the queries of a sample, as in DETR.
    channels: Positive = 256  # Channels of the decoder's queries and of the maps that they sample.
    heads: Positive = 8  # Attention heads. channels must be a multiple of it.
    fpn_levels: Positive = 4  # Levels of the BEV pyramid and of the image pyramid.
    # Image backbone. small: three stages, for small images.
    image_backbone: Literal["resnet18", "resnet50", "small"] = "resnet50"
    # Channels of the backbone's last stages, which the FPN reads; empty: the last three stages.
    image_channels: tuple[Positive, ...] = ()
    image_weights: str = ""  # File of ResNet weights to start from, with torchvision's or mmdetection's names.
    # With image_weights: the stem and this number of first stages are not trained; 0: all are trained.
    image_frozen_stages: Annotated[int, Field(ge=0, le=4)] = 0
    # With image_weights: batch norms of the image backbone use stored statistics and are not trained.
    image_norm_frozen: bool = False
    grid_mask: Annotated[float, Field(ge=0, le=1)] = 0.0  # Probability of GridMask on a training sample's images.
    # Dropout of the decoder in training.
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    box_weight: Annotated[float, Field(ge=0)] = 0.25  # Weight of the box loss.
    quality_weight: Annotated[float, Field(ge=0)] = 1.0  # Weight of the loss of the predicted BEV IoU.
    class_weight: Annotated[float, Field(ge=0)] = 2.0  # Weight of the class loss, with query_init=learned.
    start_from: str = ""  # Checkpoint (.pt) of a teacher to start from. Its classes must be the same.
    # The LiDAR encoder starts from the student that was trained only on the boxes.
    lidar_init: Literal["none", "boxes_only"] = "boxes_only"
    augment_flip: bool = False  # Samples and their images are mirrored at random in training.
    # Samples are turned about z by a random angle up to this one in training.
    augment_rotation_rad: Annotated[float, Field(ge=0)] = 0.0
    augment_scale: tuple[float, float] = (1.0, 1.0)  # Smallest and largest factor of a random scaling in training.
    optim: OptimConfig = OptimConfig(lr=2e-4, batch_size=8)  # Training of the teacher.

    @model_validator(mode="after")
    def _check(self) -> TeacherConfig:
        if self.channels % self.heads:
            raise ValueError(f"teacher.channels {self.channels} must be a multiple of teacher.heads {self.heads}")
        stages, used = RESNET_CHANNELS.get(self.image_backbone), len(self.fpn_inputs)
        if stages and (not 2 <= used <= 4 or self.fpn_inputs != stages[-used:]):
            raise ValueError(
                f"teacher.image_channels {self.image_channels} must be the last two, three or four of {stages}, the "
                f"stages of teacher.image_backbone {self.image_backbone}"
            )
        if stages is None and (self.image_frozen_stages or self.image_norm_frozen or self.image_weights):
            raise ValueError(
                f"teacher.image_frozen_stages {self.image_frozen_stages}, image_norm_frozen {self.image_norm_frozen} "
                f"and image_weights {self.image_weights!r} are for {', '.join(RESNET_CHANNELS)}, not for "
                f"teacher.image_backbone {self.image_backbone}: leave them at 0, false and empty"
            )
        if self.query_init == "learned" and self.matching == "direct":
            raise ValueError(
                "teacher.matching=direct gives the box of a click to the click's own query, but with "
                "teacher.query_init=learned no query belongs to a click: set teacher.matching=hungarian, "
                "or teacher.query_init to explicit, implicit or group"
            )
        if self.query_init == "group" and self.self_attention:
            raise ValueError(
                "teacher.self_attention=true with teacher.query_init=group: in training a click has several queries, "
                "which would see one another, and in use it has one: set one of the two keys to another value"
            )
        if self.model == "crop" and self.lidar_init != "none":
            raise ValueError(
                f"teacher.lidar_init={self.lidar_init} with teacher.model=crop: it has no BEV encoder that could start "
                "from a student's; set teacher.lidar_init=none"
            )
        return self

    @property
    def fpn_inputs(self) -> tuple[int, ...]:
        """Channels of the stages that the FPN reads: ``image_channels``, or by default of the backbone's last three."""
        return self.image_channels or RESNET_CHANNELS.get(self.image_backbone, SMALL_CHANNELS)[-3:]

    @property
    def has_crops(self) -> bool:
        """Whether queries see the points around their click; only queries that start at clicks can."""
        return self.point_crop and self.query_init in ("explicit", "group")

    @property
    def has_pictures(self) -> bool:
        """Whether the crop branch uses images."""
        return self.picture_crop and self.cameras and self.has_crops

    @property
    def cameras(self) -> bool:
        """Whether the teacher uses images."""
        return self.model == "point_detr3d" and self.fusion != "none"


class StudentConfig(Section):
    """The student: CenterPoint with point-guided self-supervision."""

    # Numbers of the classes of each detection head; []: a head for each group of data.classes. Setting only
    # data.classes sets it to [].
    tasks: tuple[Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)], ...] = TEN_TASKS
    # Channels to which the neck brings each of the backbone's stages.
    neck_channels: tuple[Positive, ...] = (128, 128, 128)
    neck_strides: tuple[float, ...] = (0.5, 1, 2)  # Upsampling of each stage to the head's grid. 0.5 halves it.
    head_channels: Positive = 64  # Channels of the detection heads.
    # Cells around a center that also learn its box, as in AFDet.
    regression_reach: Annotated[int, Field(ge=0, le=4)] = 0
    # Share of each batch that is drawn from box-labeled samples; 0: samples are drawn without regard to boxes.
    box_share: Annotated[float, Field(ge=0, lt=1), OF_CLICKED_STUDENTS] = 0.0
    cbgs: bool = False  # Class-balanced resampling of the train samples. The number of steps stays.
    # GT sampling: objects are pasted until a sample holds this number of each class; []: off. Setting only data.classes
    # turns it off.
    gt_sampling: tuple[Annotated[int, Field(ge=0)], ...] = ()
    # Share of the steps, at the end of the training, without GT sampling.
    gt_sampling_fade_out: Annotated[float, Field(ge=0, le=1)] = 0.25
    # Pseudo labels of at least this score are pasted, too; 0: only people's boxes.
    gt_sampling_pseudo_score: Annotated[float, Field(ge=0, le=1), OF_CLICKED_STUDENTS] = 0.0
    # Places at which the features of the two views must agree. gaussian: at the clicks · partial: at a random share of
    # them, drawn anew each pass · full: everywhere · box: in the training boxes · segmentation: where LiDAR points
    # stand above the ground · none: no guidance
    guidance: Annotated[Literal["none", "full", "partial", "gaussian", "box", "segmentation"], OF_CLICKED_STUDENTS] = (
        "gaussian"
    )
    guidance_weight: Annotated[float, Field(ge=0), OF_CLICKED_STUDENTS] = 0.1  # Weight of the agreement of both views.
    # Share of the steps in which guidance_weight rises from 0.
    guidance_warmup: Annotated[float, Field(ge=0, le=1), OF_CLICKED_STUDENTS] = 0.0
    # Share of the clicks, with guidance=partial.
    guidance_click_share: Annotated[float, Field(gt=0, le=1), OF_CLICKED_STUDENTS] = 0.5
    # predictor: a projector on both views, then SimSiam's predictor.
    guidance_head: Annotated[Literal["none", "predictor"], OF_CLICKED_STUDENTS] = "none"
    # ema: an averaged copy of the weights sees the weak view, as in BYOL.
    guidance_branch: Annotated[Literal["self", "ema"], OF_CLICKED_STUDENTS] = "self"
    # Momentum of the average of guidance_branch=ema; it is smaller in the first steps.
    guidance_momentum: Annotated[float, Field(ge=0, lt=1), OF_CLICKED_STUDENTS] = 0.999
    # Sigma of the mask at a click: this factor times sqrt(l w) of the mean size of its class.
    mask_sigma_factor: Annotated[float, Field(ge=0), OF_CLICKED_STUDENTS] = 0.5
    mask_sigma_floor_m: Annotated[float, Field(gt=0), OF_CLICKED_STUDENTS] = 0.66  # Least sigma of a mask.
    box_weight: Annotated[float, Field(ge=0)] = 0.25  # Weight of the box loss.
    velocity_weight: Annotated[float, Field(ge=0)] = 0.2  # Weight of the velocity loss, where the velocity is known.
    # Weight of people's boxes in the losses.
    human_weight: Annotated[float, Field(ge=0)] = 1.0
    # A pseudo label weighs pseudo_weight * score ** score_power.
    pseudo_weight: Annotated[float, Field(ge=0), OF_CLICKED_STUDENTS] = 1.0
    # Exponent of the score in the weight of a pseudo label; 0: the score does not count.
    score_power: Annotated[float, Field(ge=0), OF_CLICKED_STUDENTS] = 0.0
    # Share of the pseudo labels, those of the surest direction, that teach a heading; the others teach its axis alone.
    direction_share: Annotated[float, Field(gt=0, le=1), OF_CLICKED_STUDENTS] = 0.7
    # Places without a click. background: they are background. ignore: they are not, where the student's moving average
    # (optim.ema_decay) scores at least unclicked_threshold and no click lies within unclicked_radius_m.
    unclicked: Annotated[Literal["background", "ignore"], OF_CLICKED_STUDENTS] = "background"
    # Least score at which a place is ignored, with unclicked=ignore.
    unclicked_threshold: Annotated[float, Field(gt=0, lt=1), OF_CLICKED_STUDENTS] = 0.3
    # A place within this distance of a click is not ignored, with unclicked=ignore.
    unclicked_radius_m: Annotated[Meters, OF_CLICKED_STUDENTS] = 2.0
    augment_flip: bool = True  # Samples are mirrored at random in training.
    # Samples are turned about z by a random angle up to this one in training.
    augment_rotation_rad: Annotated[float, Field(ge=0)] = 0.3925
    augment_scale: tuple[float, float] = (0.85, 1.15)  # Smallest and largest factor of a random scaling in training.
    # Standard deviation of a random shift along each axis in training.
    augment_translation_m: Annotated[float, Field(ge=0)] = 0.5
    score_threshold: Annotated[float, Field(ge=0, lt=1)] = 0.1  # Boxes with a lower score are not predicted.
    # Outputs from which the heading is decoded. axis: the box's axis and the direction along it. direction: only the
    # direction, as in imported weights (`pdetr3d import-weights`). Training always learns both.
    heading: Literal["axis", "direction"] = "axis"
    # Boxes of a class suppress one another by BEV IoU (rotated), or by distance (circle).
    nms: Literal["rotated", "circle"] = "rotated"
    # A box is dropped when its BEV IoU with a better box of its class is higher, with nms=rotated.
    nms_iou: Annotated[float, Field(gt=0, lt=1)] = 0.2
    # Radius of each class, with nms=circle. The defaults are the square roots of CenterPoint's 4, 12, 10, 1, 0.85 and
    # 0.175, which it compares with squared distances. Setting only data.classes empties the list.
    circle_radius_m: tuple[Meters, ...] = (2.0, 3.46, 3.46, 3.16, 3.16, 1.0, 0.92, 0.92, 0.42, 0.42)
    max_boxes: Positive = 500  # Most boxes of a sample. 500 is the devkit's limit.
    # Arm self_training: the model's own boxes on point-labeled samples become labels from this score on.
    self_training_threshold: Annotated[float, Field(ge=0, lt=1), OF_CLICKED_STUDENTS] = 0.3
    # Arm mean_teacher: the mean teacher's boxes on point-labeled samples become labels from this score on.
    mean_teacher_threshold: Annotated[float, Field(ge=0, lt=1), OF_CLICKED_STUDENTS] = 0.3
    # Arm mean_teacher: weight of the losses on point-labeled samples.
    mean_teacher_weight: Annotated[float, Field(ge=0), OF_CLICKED_STUDENTS] = 1.0
    # Arm mean_teacher: share of the steps in which mean_teacher_weight rises from 0.
    mean_teacher_warmup: Annotated[float, Field(ge=0, le=1), OF_CLICKED_STUDENTS] = 0.5
    # Arm mean_teacher: decay of its average of weights. (optim.ema_decay is another average.)
    mean_teacher_decay: Annotated[float, Field(gt=0, lt=1), OF_CLICKED_STUDENTS] = 0.999


def sigma_m(config: StudentConfig, prior_size_m: np.ndarray) -> np.ndarray:
    """Gaussian mask sigma per class [m]: max(floor, factor * sqrt(l * w)) of the class prior (C, 3) [m]."""
    return np.maximum(
        config.mask_sigma_floor_m, config.mask_sigma_factor * np.sqrt(prior_size_m[:, 0] * prior_size_m[:, 1])
    )
