"""The sections of the configuration (``config.py``): one frozen pydantic model each. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from pdetr3d.class_list import ClassList, read_classes

Positive = Annotated[int, Field(ge=1)]
Meters = Annotated[float, Field(gt=0)]


# What a dataset may have none of, where data.allow_empty says so.
EmptyName = Literal["objects", "clicks", "boxes", "cameras", "val_objects"]


class Section(BaseModel):
    """Base of all sections: frozen, strict about unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class SimConfig(Section):
    """Size of the simulated world (``simulator/simulate.py``); unused where ``data.dataroot`` names a real one."""

    scenes: Positive = 840  # Scenes of the train split.
    select_scenes: Positive = 20  # Scenes of the split that chooses checkpoints.
    val_scenes: Positive = 120  # Scenes of the split that is scored.
    keyframes: Positive = 1  # per scene, at 2 Hz; where keyframes are few, each should show another street
    sweeps_per_keyframe: Annotated[int, Field(ge=0, le=9)] = 2  # LiDAR sweeps between two keyframes
    image_size_px: tuple[Positive, Positive] = (384, 144)  # width, height; flatter than 16:9: the sky is missing
    # Directions in which the LiDAR measures in one turn.
    lidar_azimuth_steps: Annotated[int, Field(ge=90, le=2160)] = 1080
    seed: Annotated[int, Field(ge=0)] = 0  # The world is a pure function of this seed and the other sim keys.
    processes: Annotated[int, Field(ge=0)] = 0  # 0: one per CPU core


class SensorConfig(Section):
    """Poorer sensors than the dataset's, for studies (``data/loading/sensor.py``): in training and prediction alike."""

    lidar_beams: Literal[32, 16, 8, 4] = 32  # of nuScenes' 32 rings: all, every second, fourth, eighth
    point_keep: Annotated[float, Field(gt=0, le=1)] = 1.0  # share of a sample's LiDAR points, drawn by its token
    image_scale: Annotated[float, Field(gt=0, le=1)] = 1.0  # of data.image_size_px, to which images are then stretched
    image_blur_px: Annotated[float, Field(ge=0)] = 0.0  # sigma of a Gaussian, in pixels of that smaller image
    jpeg_quality: Annotated[int, Field(ge=0, le=95)] = 0  # the smaller image is compressed anew; 0: it is not

    @property
    def worse_images(self) -> bool:
        """Whether images differ from the dataset's."""
        return self.image_scale < 1 or self.image_blur_px > 0 or self.jpeg_quality > 0


class DataConfig(Section):
    """The nuScenes-format dataset and how samples are read."""

    dataroot: str = ""  # empty: the simulated world under the run directory
    packed: str = ""  # folder or URI of `pdetr3d pack`: points and images come from there; the dataroot holds tables
    version: str = "v1.0-trainval"  # Name of the folder of tables under the dataroot.
    train_split: str = "train"  # The split that is trained on.
    select_split: str = ""  # chooses checkpoints; empty: the last checkpoint is taken
    val_split: str = "val"  # scored only
    num_sweeps: Annotated[int, Field(ge=1, le=10)] = 10  # as the devkit's nsweeps: the keyframe counts
    image_size_px: tuple[Positive, Positive] = (1600, 900)  # width, height the teacher sees
    loader: Literal["ray", "torch"] = "ray"  # torch: DataLoader processes inside each worker, the same batches
    on_error: Literal["raise", "skip"] = "raise"  # skip: samples with a broken file are left out (loading/skipped.py)
    skip_limit: Annotated[float, Field(ge=0, le=1)] = 0.01  # share of a split that may be left out, with on_error=skip
    classes: str = ""  # YAML file of own classes, its text in {}, or kitti (class_list.py); empty: nuScenes' ten
    categories: str = ""  # YAML file: own category name -> one of the classes, or null; empty: the classes' own names
    cameras: str = ""  # YAML file: own channel -> CAM_FRONT ... (LIDAR_TOP), or null; empty: nuScenes' names
    lidar_columns: Annotated[int, Field(ge=3, le=32)] = 5  # numbers a point: x, y, z, intensity, ring, others unread
    lidar_dtype: Literal["float32", "float64"] = "float32"  # Type of the numbers in LiDAR files.
    lidar_ring: bool = True  # the fifth column is the ring; false: it is something else, and not read
    nan_limit: Annotated[float, Field(ge=0, lt=1)] = 0.5  # share of a LiDAR file's points that may be NaN (left out)
    follow_links: bool = False  # files may be links that leave the dataroot
    allow_empty: tuple[EmptyName, ...] = ()  # what of a dataset may be none at all (data/index/empty.py)
    deep_digest: bool = False  # the dataset's digest covers the content of all its files, not of a sample of them
    sensor: SensorConfig = SensorConfig()

    @field_validator("classes")
    @classmethod
    def _read_classes(cls, value: str) -> str:
        """A file's content is kept, not its name: other machines have no such file, and it may change."""
        return read_classes(value).text

    @property
    def class_list(self) -> ClassList:
        """What ``classes`` says."""
        return read_classes(self.classes)

    @property
    def has_rings(self) -> bool:
        """Whether a LiDAR file's points have a ring."""
        return self.lidar_ring and self.lidar_columns > 4

    @model_validator(mode="after")
    def _check_rings(self) -> DataConfig:
        if not self.has_rings and self.sensor.lidar_beams < 32:
            raise ValueError(
                f"data.sensor.lidar_beams {self.sensor.lidar_beams} with data.lidar_columns {self.lidar_columns} and "
                f"data.lidar_ring {self.lidar_ring}: points have no ring to thin by; use data.sensor.point_keep"
            )
        if self.packed and self.sensor.lidar_beams < 32:
            raise ValueError(
                f"data.sensor.lidar_beams {self.sensor.lidar_beams} with data.packed {self.packed}: packs do not keep "
                "the points' rings; read the dataset's files (data.packed empty), or thin by data.sensor.point_keep"
            )
        return self

    @model_validator(mode="after")
    def _check_skip(self) -> DataConfig:
        if self.packed and self.on_error == "skip":
            raise ValueError(
                f"data.on_error skip with data.packed {self.packed}: pdetr3d pack keeps whole samples alone, so there "
                "is nothing to skip: set data.on_error=raise (or read the dataset's files: data.packed empty)"
            )
        return self


# What a label manifest fixes: with label.source=manifest these keys of ``label`` have the manifest's values.
OF_MANIFEST = ("ratio", "seed", "split_by", "folds", "balance", "no_boxes_of", "click_share")


class LabelConfig(Section):
    """Which samples are box-labeled, and the clicks."""

    source: Literal["simulate", "manifest"] = "simulate"  # simulate: drawn from the boxes of the tables
    manifest: str = ""  # folder that `pdetr3d label` wrote, with label.source=manifest; it fixes OF_MANIFEST's keys
    holdout: Annotated[float, Field(ge=0, lt=1)] = 0.0  # of box-labeled scenes, to measure a first teacher on; 0: none
    ratio: Annotated[float, Field(gt=0, le=1)] = 0.05  # Share of the train samples that are box-labeled.
    seed: Annotated[int, Field(ge=0)] = 0  # Draws which samples are box-labeled, and the simulated clicks.
    # What is drawn: whole scenes or keyframes, at random; prefix: the first samples.
    split_by: Literal["scene", "keyframe", "prefix"] = "scene"
    # 0: off; else scenes are put into so many folds of about equal size, and all but fold number label.seed (of more
    # seeds than folds: the rest of the division) are box-labeled, whatever label.ratio says.
    folds: Annotated[int, Field(ge=0)] = 0
    balance: bool = False  # scenes (keyframes) are chosen so that classes get equally many boxes, not at random
    no_boxes_of: tuple[str, ...] = ()  # scenes (keyframes) that show one of these classes are never box-labeled
    click_share: Annotated[float, Field(gt=0, le=1)] = (
        1.0  # of point-labeled samples' objects that get a (simulated) click
    )
    pseudo_for: Literal["point", "all"] = "point"  # samples whose boxes the student takes from the teacher
    redraw_clicks: bool = True  # the teacher redraws simulated clicks of box-labeled samples each epoch
    snap: bool = False  # a pseudo label that misses its click by a little is moved onto it instead of being rejected

    @model_validator(mode="after")
    def _check_source(self) -> LabelConfig:
        if self.source == "manifest" and not self.manifest:
            raise ValueError(
                "label.source=manifest needs label.manifest: the folder that `pdetr3d label` wrote (or set "
                "label.source=simulate)"
            )
        if self.source == "simulate" and self.manifest:
            raise ValueError(
                f"label.manifest {self.manifest!r} with label.source=simulate, which draws its own clicks: set "
                "label.source=manifest to train on that manifest (or leave label.manifest empty)"
            )
        return self

    @model_validator(mode="after")
    def _check_choice(self) -> LabelConfig:
        if self.folds == 1:
            raise ValueError("label.folds 1 leaves no fold to learn from: set it to 2 or more, or to 0 for none")
        if self.folds and (self.split_by != "scene" or self.balance or self.no_boxes_of):
            raise ValueError(
                f"label.folds {self.folds} says which scenes are box-labeled, but so do label.split_by "
                f"{self.split_by}, label.balance {self.balance} and label.no_boxes_of {list(self.no_boxes_of)}: set "
                "label.folds=0, or leave these at scene, false and []"
            )
        if self.split_by == "prefix" and (self.balance or self.no_boxes_of):
            raise ValueError(
                f"label.balance {self.balance} and label.no_boxes_of {list(self.no_boxes_of)} choose among scenes or "
                "keyframes, but label.split_by=prefix takes the first ones: set it to scene or keyframe"
            )
        return self

    @property
    def everywhere(self) -> LabelConfig:
        """The same with boxes on all samples: nothing is left to choose."""
        simulated = {"source": "simulate", "manifest": "", "holdout": 0.0}
        return self.model_copy(update={"ratio": 1.0, "folds": 0, "balance": False, "no_boxes_of": (), **simulated})


class OptimConfig(Section):
    """AdamW with a one-cycle schedule; ``epochs`` count passes over the whole train split, whatever ``label.ratio``."""

    lr: Annotated[float, Field(gt=0)] = 1e-3  # Peak learning rate.
    weight_decay: Annotated[float, Field(ge=0)] = 0.01  # AdamW's weight decay.
    epochs: Annotated[float, Field(gt=0)] = 20.0  # Passes over the whole train split; may be a fraction.
    batch_size: Positive = 32  # global, over all workers
    warmup_share: Annotated[float, Field(ge=0, lt=1)] = 0.1  # of all steps
    clip_norm: Annotated[float, Field(gt=0)] = 35.0  # Gradients are scaled down to this norm.
    # A step whose loss or gradients are NaN or infinite is put on record (training/nonfinite.py), then training stops,
    # or goes on without it, so often at most.
    on_nonfinite: Literal["raise", "skip"] = "raise"
    nonfinite_limit: Positive = 10  # So many steps may be left out, with on_nonfinite=skip.
    checkpoints: Positive = 1  # kept, evenly from checkpoints_from on; the last step is one of them
    checkpoints_from: Annotated[float, Field(ge=0, lt=1)] = 0.5  # share of the steps after which the first is kept
    save_every: Annotated[int, Field(ge=0)] = 500  # steps between points to continue from, kept ones apart; 0: none
    patience: Annotated[int, Field(ge=0)] = 0  # kept checkpoints without a better SPNDS that end training; 0: none do
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0  # of a moving average of the weights, which predicts; 0: none
    log_every: Positive = 10  # steps
    # fp16 scales the loss (GradScaler); auto is bf16 where that is faster, fp32 elsewhere.
    amp: Literal["fp32", "bf16", "fp16", "auto"] = "fp32"
    compile: bool = False  # torch.compile of the dense parts
    # (prefix of parameter names, factor on lr) each, e.g. [[images.backbone,0.1]]; the longest prefix counts.
    lr_multipliers: tuple[tuple[Annotated[str, Field(min_length=1)], Annotated[float, Field(gt=0)]], ...] = ()

    @model_validator(mode="after")
    def _check_multipliers(self) -> OptimConfig:
        prefixes = [prefix for prefix, _ in self.lr_multipliers]
        if len(set(prefixes)) < len(prefixes):
            raise ValueError(f"optim.lr_multipliers names a prefix twice: {prefixes}; each may stand once")
        return self


class CorruptionConfig(Section):
    """Trouble in the input of prediction, for robustness studies (``corruption.py``). Training never sees it."""

    click_noise_factor: Annotated[float, Field(ge=0)] = 1.0  # of a simulated click's offset from its box's center
    missing_cameras: Annotated[int, Field(ge=0, le=6)] = 0  # of each sample, drawn by its token
    extrinsics_deg: Annotated[float, Field(ge=0, le=180)] = 0.0  # each camera turned about a random axis
    blur_px: Annotated[float, Field(ge=0)] = 0.0  # sigma of a Gaussian blur


class ScalingConfig(Section):
    """Ray resources of training workers and of batch inference."""

    # One number, or [fewest, most]: training goes on with what machines there are between both, from its last saved
    # point. The global batch, the schedule and the order of samples stay.
    workers: Positive | tuple[Positive, Positive] = 1
    # CPU cores that Ray reserves for a training worker or an actor.
    cpus_per_worker: Annotated[float, Field(gt=0)] = 1.0
    threads_per_worker: Positive = 1  # Threads that PyTorch computes with in a worker.
    use_gpu: bool = False  # Workers and actors get GPUs.
    gpus_per_worker: Annotated[float, Field(gt=0, le=1)] = 1.0  # of a training worker or an actor, with use_gpu
    data_cpus: Annotated[float, Field(gt=0)] = 0.5  # of one loading task
    loader_processes: Annotated[int, Field(ge=0)] = 1  # of each worker, with data.loader=torch; 0: the worker itself
    inference_workers: Annotated[int, Field(ge=0)] = 0  # 0: as many as workers
    concurrent_stages: Positive = 1  # of a pipeline, each with its own workers, where they do not wait for one another
    max_failures: Annotated[int, Field(ge=0)] = 3  # of a stage's workers; machines announced as taken away do not count
    stall_s: Annotated[float, Field(gt=0)] = 300.0  # without a step, after which each rank says what it waits for
    collective_timeout_s: Annotated[float, Field(ge=1)] = 1800.0  # that ranks wait for one another before they fail

    @model_validator(mode="after")
    def _check_workers(self) -> ScalingConfig:
        if self.fewest_workers > self.most_workers:
            raise ValueError(f"scaling.workers {list(self.worker_range)}: the first number is the smaller one")
        return self

    @property
    def worker_range(self) -> tuple[int, int]:
        """Fewest and most training workers."""
        return self.workers if isinstance(self.workers, tuple) else (self.workers, self.workers)

    @property
    def fewest_workers(self) -> int:
        """With which training goes on."""
        return self.worker_range[0]

    @property
    def most_workers(self) -> int:
        """That training asks for."""
        return self.worker_range[1]


class RunSection(Section):
    """Identity of the run."""

    seed: Annotated[int, Field(ge=0)] = 0  # Initial weights, order of samples and augmentation follow from it.
    name: str = ""  # Name of the run in MLflow.
    # Students to train; self_training and mean_teacher learn from the point-labeled samples, but not from their clicks.
    arms: tuple[Literal["boxes_only", "self_training", "mean_teacher", "ours", "full"], ...] = (
        "boxes_only",
        "ours",
        "full",
    )


class StorageConfig(Section):
    """Where Ray Train writes: empty = inside the run directory."""

    path: str = ""  # Folder or URI for what Ray Train writes; empty: inside the run directory.
