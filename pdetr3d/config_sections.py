"""The sections of the configuration (``config.py``) except those of models. It imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from pdetr3d.class_list import ClassList, read_classes

Positive = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # torch and numpy take at least these
Meters = Annotated[float, Field(gt=0)]


@dataclass(frozen=True)
class IgnoredBy:
    """Mark of a field, or of a whole section: stages that never read it. Unmarked fields count for every stage.

    ``pdetr3d.config_seen.seen_by`` reads the marks. tests/unit/test_stage_reads.py fails if a stage reads a field
    that it ignores by its mark. A stage depends on the results of earlier stages by their digests.

    Attributes:
        kinds: of stages (``pdetr3d.pipeline.graph.Stage.kind``).
    """

    kinds: tuple[str, ...]


INDEX, TEACHER, BOXES_ONLY, PSEUDO_LABELS = "index", "teacher", "student_boxes_only", "pseudo_labels"
EVERY = "every"  # instead of a kind: all stages ignore the field, since it changes no number
NO_NUMBERS = IgnoredBy((EVERY,))
NOT_INDEXED = IgnoredBy((INDEX,))
OF_POINT_LABELS = IgnoredBy((TEACHER, BOXES_ONLY))  # no effect on a stage that learns only from people's boxes
OF_CLICKED_STUDENTS = IgnoredBy((BOXES_ONLY,))  # no effect without clicks, pseudo labels or own labels
OF_STUDENTS = IgnoredBy((INDEX, TEACHER, PSEUDO_LABELS))
OF_TEACHERS = IgnoredBy((INDEX, BOXES_ONLY))


# The kinds of data that a dataset may lack if data.allow_empty names them.
EmptyName = Literal["objects", "clicks", "boxes", "cameras", "val_objects"]


class Section(BaseModel):
    """Base of all sections: frozen, strict about unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class SimConfig(Section):
    """Size of the simulated world. These keys do nothing when ``data.dataroot`` names a dataset."""

    scenes: Positive = 840  # Scenes of the train split.
    select_scenes: Positive = 20  # Scenes of the split that chooses checkpoints.
    val_scenes: Positive = 120  # Scenes of the split that is scored.
    keyframes: Positive = 1  # Keyframes of a scene, at 2 Hz. With 1, every keyframe shows another street.
    sweeps_per_keyframe: Annotated[int, Field(ge=0, le=9)] = 2  # LiDAR sweeps between two keyframes.
    image_size_px: tuple[Positive, Positive] = (384, 144)  # Width, height. Flatter than 16:9: without sky.
    # Directions in which the LiDAR measures in one turn.
    lidar_azimuth_steps: Annotated[int, Field(ge=90, le=2160)] = 1080
    seed: Seed = 0  # The world is a pure function of this seed and the other sim keys.
    processes: Annotated[int, Field(ge=0)] = 0  # Processes that make the world; 0: one per CPU core.


class SensorConfig(Section):
    """Sensors poorer than the dataset's, for studies (``data/loading/sensor.py``), in training and in prediction."""

    # Rings of the LiDAR that are kept, evenly spaced; the same number as lidar_rings keeps all.
    lidar_beams: Annotated[int, Field(ge=1, le=256)] = 32
    # Rings that the LiDAR has, a multiple of lidar_beams; files number them from 0. It is not used if all are kept.
    lidar_rings: Annotated[int, Field(ge=1, le=256)] = 32
    point_keep: Annotated[float, Field(gt=0, le=1)] = 1.0  # Share of a sample's LiDAR points that is kept, at random.
    # Images are made smaller by this factor, then stretched back to data.image_size_px.
    image_scale: Annotated[float, Field(gt=0, le=1)] = 1.0
    image_blur_px: Annotated[float, Field(ge=0)] = 0.0  # Sigma of a Gaussian blur, in pixels of the smaller image.
    jpeg_quality: Annotated[int, Field(ge=0, le=95)] = 0  # JPEG quality of the smaller image; 0: no compression.

    @model_validator(mode="after")
    def _check_beams(self) -> SensorConfig:
        if self.lidar_rings % self.lidar_beams:
            fitting = ", ".join(str(n) for n in range(1, self.lidar_rings + 1) if self.lidar_rings % n == 0)
            raise ValueError(
                f"data.sensor.lidar_beams {self.lidar_beams}: rings are kept evenly spaced, so that it must divide "
                f"data.sensor.lidar_rings {self.lidar_rings} (the rings that the LiDAR has): {fitting}"
            )
        return self

    @property
    def fewer_beams(self) -> bool:
        """Whether rings are left out."""
        return self.lidar_beams < self.lidar_rings

    @property
    def worse_images(self) -> bool:
        """Whether images are degraded."""
        return self.image_scale < 1 or self.image_blur_px > 0 or self.jpeg_quality > 0


class DataConfig(Section):
    """The nuScenes-format dataset and how samples are read."""

    dataroot: str = ""  # Folder of the dataset; empty: the simulated world in the run directory.
    # Folder or URI that `pdetr3d pack` wrote. Points and images are read there, and only the tables in the dataroot.
    packed: str = ""
    version: str = "v1.0-trainval"  # Name of the folder of tables under the dataroot.
    train_split: str = "train"  # The split that is trained on.
    select_split: str = ""  # The split that chooses checkpoints; empty: the last checkpoint is taken.
    val_split: str = "val"  # The split that is only scored.
    num_sweeps: Annotated[int, Field(ge=1, le=10)] = 10  # LiDAR sweeps of a sample, the keyframe's included.
    image_size_px: tuple[Positive, Positive] = (1600, 900)  # Width, height of the teacher's images.
    # Loader of batches: Ray Data tasks, or torch's DataLoader in each worker. The batches are the same.
    loader: Literal["ray", "torch"] = "ray"
    # A broken file ends the job, or its sample is left out and listed (data/skipped.json).
    on_error: Literal["raise", "skip"] = "raise"
    # Largest share of a split that may be left out, with on_error=skip.
    skip_limit: Annotated[float, Field(ge=0, le=1), NO_NUMBERS] = 0.01
    # YAML file of your own classes (docs/datasets.md), its text in {}, or kitti; empty: nuScenes' ten.
    classes: str = ""
    # YAML file: name of a category -> one of the classes, or null; empty: the names that the classes list.
    categories: str = ""
    # YAML file: name of a sensor -> CAM_FRONT ... or LIDAR_TOP, or null; empty: nuScenes' names.
    cameras: str = ""
    lidar_columns: Annotated[int, Field(ge=3, le=32)] = 5  # Numbers per point: x, y, z, intensity, ring, unread ones.
    lidar_dtype: Literal["float32", "float64"] = "float32"  # Type of the numbers in LiDAR files.
    lidar_ring: bool = True  # The fifth column is the ring. false: it is something else, and is not read.
    # Largest share of a LiDAR file's points that may be NaN. These points are left out.
    nan_limit: Annotated[float, Field(ge=0, lt=1)] = 0.5
    follow_links: bool = False  # Files may be links that leave the dataroot.
    allow_empty: tuple[EmptyName, ...] = ()  # The dataset may have none at all of these.
    deep_digest: bool = False  # The dataset's digest covers the content of all files, not of a sample of them.
    sensor: Annotated[SensorConfig, NOT_INDEXED] = SensorConfig()

    @field_validator("classes")
    @classmethod
    def _read_classes(cls, value: str) -> str:
        """Replace a file's name by its content: other machines do not have the file, and it may change."""
        return read_classes(value).text

    @property
    def class_list(self) -> ClassList:
        """The list of classes that ``classes`` gives."""
        return read_classes(self.classes)

    @property
    def has_rings(self) -> bool:
        """Whether a LiDAR file's points have a ring."""
        return self.lidar_ring and self.lidar_columns > 4

    @model_validator(mode="after")
    def _check_rings(self) -> DataConfig:
        if not self.has_rings and self.sensor.fewer_beams:
            raise ValueError(
                f"data.sensor.lidar_beams {self.sensor.lidar_beams} with data.lidar_columns {self.lidar_columns} and "
                f"data.lidar_ring {self.lidar_ring}: points have no ring to thin by; use data.sensor.point_keep"
            )
        if self.packed and self.sensor.fewer_beams:
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


# With label.source=manifest, these keys of ``label`` have the manifest's values.
OF_MANIFEST = ("ratio", "seed", "split_by", "folds", "balance", "no_boxes_of", "click_share")


class LabelConfig(Section):
    """Which samples are box-labeled, and the clicks."""

    source: Literal["simulate", "manifest"] = "simulate"  # simulate: clicks are drawn from the tables' boxes.
    # Folder that `pdetr3d label` wrote, with label.source=manifest. It fixes ratio, seed, split_by, folds, balance,
    # no_boxes_of and click_share.
    manifest: Annotated[str, NO_NUMBERS] = ""
    # Share of the box-labeled scenes that are held out: a first teacher is trained on the others and measured on these;
    # 0: none.
    holdout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    ratio: Annotated[float, Field(gt=0, le=1)] = 0.05  # Share of the train samples that are box-labeled.
    seed: Seed = 0  # Draws which samples are box-labeled, and the simulated clicks.
    # Whole scenes or single keyframes are drawn at random; prefix: the first samples are taken.
    split_by: Literal["scene", "keyframe", "prefix"] = "scene"
    # Number of folds of about equal size for the scenes. All folds except number label.seed (modulo label.folds) are
    # box-labeled; label.ratio has no effect. 0: off.
    folds: Annotated[int, Field(ge=0)] = 0
    balance: bool = False  # Scenes (keyframes) are chosen for many boxes of rare classes, not at random.
    no_boxes_of: tuple[str, ...] = ()  # Scenes (keyframes) that show one of these classes are never box-labeled.
    # Share of the objects of point-labeled samples that get a simulated click.
    click_share: Annotated[float, Field(gt=0, le=1), OF_POINT_LABELS] = 1.0
    # Samples that get pseudo labels: the point-labeled ones, or all.
    pseudo_for: Annotated[Literal["point", "all"], OF_POINT_LABELS] = "point"
    redraw_clicks: bool = True  # Each pass of the teacher draws new simulated clicks of the box-labeled samples.
    # A pseudo box that misses its click by up to 0.5 m is moved onto it, not rejected.
    snap: Annotated[bool, OF_POINT_LABELS] = False

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
        """The config with boxes on all samples."""
        simulated = {"source": "simulate", "manifest": "", "holdout": 0.0}
        return self.model_copy(update={"ratio": 1.0, "folds": 0, "balance": False, "no_boxes_of": (), **simulated})


class OptimConfig(Section):
    """Students: AdamW with linear warm-up and cosine decay. The teacher and its crop branch have the same keys."""

    lr: Annotated[float, Field(gt=0)] = 1e-3  # Peak learning rate.
    weight_decay: Annotated[float, Field(ge=0)] = 0.01  # AdamW's weight decay.
    # Number of passes, which may be a fraction: a student's over all labeled train samples, for any label.ratio; the
    # teacher's over the box-labeled samples; the crop branch's over their clicks.
    epochs: Annotated[float, Field(gt=0)] = 20.0
    batch_size: Positive = 32  # Samples (crop branch: clicks) of a step, over all workers.
    warmup_share: Annotated[float, Field(ge=0, lt=1)] = 0.1  # Share of the steps in which the rate rises.
    clip_norm: Annotated[float, Field(gt=0)] = 35.0  # Gradients are scaled down to this norm.
    # A step whose loss or gradients are NaN or infinite is recorded in nonfinite/. Then training stops, or skips it.
    on_nonfinite: Literal["raise", "skip"] = "raise"
    nonfinite_limit: Positive = 10  # Largest number of skipped steps, with on_nonfinite=skip.
    checkpoints: Positive = 1  # Checkpoints that are kept, evenly from checkpoints_from to the last step.
    checkpoints_from: Annotated[float, Field(ge=0, lt=1)] = 0.5  # Share of the steps before the first kept checkpoint.
    # Steps between further checkpoints from which an interrupted training continues; 0: none.
    save_every: Annotated[int, Field(ge=0)] = 500
    # Training ends after so many kept checkpoints without a better SPNDS; 0: it does not end early.
    patience: Annotated[int, Field(ge=0)] = 0
    # Decay of a moving average of the weights, which then predicts; 0: no average.
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    log_every: Positive = 10  # Steps between two points of a curve.
    # Type of the arithmetic. fp16 scales the loss (GradScaler); auto is bf16 where that is faster, fp32 elsewhere.
    amp: Literal["fp32", "bf16", "fp16", "auto"] = "fp32"
    compile: bool = False  # The dense parts are compiled by torch.compile.
    # Pairs of a prefix of parameter names and a factor on lr, e.g. [[images.backbone,0.1]]. The longest prefix counts.
    lr_multipliers: tuple[tuple[Annotated[str, Field(min_length=1)], Annotated[float, Field(gt=0)]], ...] = ()

    @model_validator(mode="after")
    def _check_multipliers(self) -> OptimConfig:
        prefixes = [prefix for prefix, _ in self.lr_multipliers]
        if len(set(prefixes)) < len(prefixes):
            raise ValueError(f"optim.lr_multipliers names a prefix twice: {prefixes}; each may stand once")
        return self


class CorruptionConfig(Section):
    """Corrupted input of prediction, for robustness studies. Training never sees it."""

    # Factor on the offset of a simulated click from the center of its box.
    click_noise_factor: Annotated[float, Field(ge=0)] = 1.0
    missing_cameras: Annotated[int, Field(ge=0, le=6)] = 0  # Cameras that are left out of each sample, at random.
    # Each camera is turned by this angle about a random axis.
    extrinsics_deg: Annotated[float, Field(ge=0, le=180)] = 0.0
    blur_px: Annotated[float, Field(ge=0)] = 0.0  # Sigma of a Gaussian blur of the images.


class ScalingConfig(Section):
    """Ray resources of training workers and of batch inference."""

    # Training workers: one number, or [fewest, most]. With a range, training continues from its last checkpoint with as
    # many workers as there are machines. The global batch, the schedule and the order of samples stay.
    workers: Positive | tuple[Positive, Positive] = 1
    # CPU cores that Ray reserves for a training worker or an actor.
    cpus_per_worker: Annotated[float, Field(gt=0)] = 1.0
    threads_per_worker: Positive = 1  # Threads of PyTorch in a worker.
    use_gpu: bool = False  # Training workers and actors of prediction get GPUs.
    gpus_per_worker: Annotated[float, Field(gt=0, le=1)] = 1.0  # GPUs of a worker or an actor, with use_gpu.
    data_cpus: Annotated[float, Field(gt=0)] = 0.5  # CPU cores that Ray reserves for a loading task.
    # Loading processes of each worker, with data.loader=torch; 0: the worker itself loads.
    loader_processes: Annotated[int, Field(ge=0)] = 1
    inference_workers: Annotated[int, Field(ge=0)] = 0  # Actors of prediction; 0: as many as workers.
    concurrent_stages: Positive = 1  # Independent stages that a pipeline trains at once, each with its own workers.
    # Failures of workers that a stage survives. Machines whose end was announced do not count.
    max_failures: Annotated[int, Field(ge=0)] = 3
    stall_s: Annotated[float, Field(gt=0)] = 300.0  # After this time without a step each worker prints where it waits.
    collective_timeout_s: Annotated[float, Field(ge=1)] = 1800.0  # Workers that wait longer for another worker fail.

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
        """The least number of workers with which training continues."""
        return self.worker_range[0]

    @property
    def most_workers(self) -> int:
        """The number of workers that training requests."""
        return self.worker_range[1]


Arm = Literal["boxes_only", "self_training", "mean_teacher", "ours", "full"]  # a student, named by its labels


class RunSection(Section):
    """Seed, name and students of the run."""

    seed: Seed = 0  # Initial weights, order of samples and augmentation follow from it.
    name: Annotated[str, NO_NUMBERS] = ""  # Name of the run in MLflow.
    # Students to train; self_training and mean_teacher learn from the point-labeled samples, but not from their clicks.
    arms: Annotated[tuple[Arm, ...], NO_NUMBERS] = ("boxes_only", "ours", "full")


class StorageConfig(Section):
    """Where Ray Train writes."""

    path: str = ""  # Folder or URI for Ray Train's files; empty: inside the run directory.
