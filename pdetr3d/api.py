"""The Python API for notebooks and scripts, as ``pdetr3d.NAME``: load a sample, draw it, predict by a trained model.

Boxes and points are in the sample's LIDAR_TOP frame (x right, y forward, z up); meters, radians. Wrong input raises
``pdetr3d.errors.DataError``, whose message names file, value, what is allowed and the fix.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pdetr3d.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    from pdetr3d.class_list import ClassList
    from pdetr3d.config import Config
    from pdetr3d.data.index.index import Index
    from pdetr3d.inference.student import StudentPredictor
    from pdetr3d.inference.teacher import TeacherPredictor
    from pdetr3d.schema import Boxes3D, Sample


def load_config(preset: str = "", overrides: list[str] | None = None, file: str | Path | None = None) -> Config:
    """Load a preset, change it by a YAML file of keys, and then by overrides such as ``["optim.lr=0.001"]``.

    Args:
        preset: its name; may be empty if ``file`` names it. overrides: ``key=value`` texts. file: YAML.

    Raises:
        DataError: for an unknown preset or key, a value that is not allowed, or a broken file.
    """
    from pdetr3d.config_file import with_file
    from pdetr3d.presets import load

    return load(*with_file(None if file is None else Path(file), preset or None, overrides))


def run_pipeline(
    config: Config, folder: str | Path, arms: Sequence[str] | None = None, device: str = "cpu"
) -> dict[str, dict[str, Any]]:
    """Train teacher, pseudo labels and students, and score the students: in this process, without Ray and MLflow.

    It is slower than the jobs, which load samples and train stages in several processes, and it ignores
    ``optim.patience``. Use it to step through a training with a debugger, or where Ray is not installed. The run
    directory is a job's: the same call continues an interrupted one, and the verbs that read runs take it.

    Args:
        config: from ``load_config``. Without ``data.dataroot`` the simulated world is made in the folder.
        folder: the run directory. arms: students to train; default: those of ``run.arms``. device: PyTorch's name.

    Returns:
        Student -> its scores on the val split (``pdetr3d.evaluation.nuscenes_eval.score``).

    Raises:
        DataError: when data, labels or the run directory cannot be used.
    """
    from contextlib import closing

    from pdetr3d.pipeline.execute import execute, pipeline_goals
    from pdetr3d.pipeline.observer import Observer
    from pdetr3d.pipeline.run import Run
    from pdetr3d.pipeline.runner import LocalRunner
    from pdetr3d.pipeline.scoring import evaluate
    from pdetr3d.training.run_dir import RunDir

    with closing(RunDir(Path(folder), config)) as place:
        run = Run(place, LocalRunner(device), Observer())
        chosen = config.run.arms if arms is None else arms
        execute(pipeline_goals(run, chosen), run)
        return evaluate(run, chosen)


def open_index(file: str | Path) -> Index:
    """Open an index that ``pdetr3d index`` wrote: see ``len(index)``, ``index.splits``, ``index.tokens(split)``.

    Raises:
        DataError: when the file is missing or is no index.
    """
    from pdetr3d.data.index.index import Index

    return Index.open(Path(file))


def load_sample(
    index: Index | str | Path,
    sample: str | int = 0,
    split: str = "",
    like: StudentPredictor | TeacherPredictor | None = None,
    sweeps: int = 1,
) -> Sample:
    """Read the files of one keyframe.

    Args:
        index: from ``open_index``, or the file. sample: a sample token, or the number of a sample, from 0.
        split: in which a number counts; empty: the whole index.
        like: a model. As many sweeps, and images of the same size, are read as in its training.
        sweeps: number of sweeps without ``like``, 1..10 with the keyframe; images then keep their size.

    Returns:
        A Sample with ``points`` (P, 5) float32 x, y, z [m], intensity [0..255], age [s]; ``images`` (6, H, W, 3) uint8,
        RGB; ``lidar2img`` (6, 4, 4) float64; ``boxes``, the boxes that people drew and that contain sensor points;
        ``classes``, the names of their labels; no ``clicks``.

    Raises:
        DataError: for an unknown sample or split, or a missing or broken file.
    """
    from pdetr3d.data.label_manifest import inspection_record
    from pdetr3d.data.loading.load import load_sample as read

    opened = open_index(index) if isinstance(index, str | Path) else index
    if not 1 <= sweeps <= 10:
        raise DataError(f"sweeps={sweeps}: allowed 1..10")
    record = inspection_record(opened, token_of(opened, sample, split))
    sizes = [(camera.width_px, camera.height_px) for camera in record.cameras if camera]
    data = opened.reading.model_copy(update={"num_sweeps": sweeps, "image_size_px": sizes[0] if sizes else (1, 1)})
    if like is not None:
        mine = like.config.data
        data = data.model_copy(update={"num_sweeps": mine.num_sweeps, "image_size_px": mine.image_size_px})
    return dataclasses.replace(read(record, data, cameras=bool(sizes)), classes=opened.classes)


def token_of(index: Index, sample: str | int, split: str = "") -> str:
    """The token of a sample that is given by its token, or by its number from 0 in the split or the whole index.

    Raises:
        DataError: for an unknown token or split, or a number that is too large (the message names the range).
    """
    if isinstance(sample, str) and (sample in index or not sample.isdecimal()):
        index.row(sample)  # an unknown token gets its message here
        return sample
    tokens = index.token_column(split) if split else index.table.column("sample_token")
    if not 0 <= int(sample) < len(tokens):
        where = f"split {split!r} of {index.path}" if split else str(index.path)
        raise DataError(f"sample number {sample}: {where} has {len(tokens)} samples, 0..{len(tokens) - 1}")
    return str(tokens[int(sample)].as_py())


def load_student(path: str | Path, arm: str = "ours") -> StudentPredictor:
    """Load a trained student: ``student.predict(points)`` and ``student.boxes(record)`` return ``Boxes3D``.

    Args:
        path: a run directory, a folder that ``pdetr3d export`` wrote, or a checkpoint file.
        arm: name of the student in a run directory.

    Raises:
        DataError: when there is no student at ``path``; the message names what is allowed.
    """
    from pdetr3d.inference.student import StudentPredictor

    return StudentPredictor.load(Path(path), arm)


def load_teacher(path: str | Path) -> TeacherPredictor:
    """Load a trained teacher: ``teacher.boxes(record, clicks, classes)`` returns one box per click, in their order.

    Args:
        path: a run directory, or a teacher's checkpoint file.

    Raises:
        DataError: when there is no teacher at ``path``; the message names what is allowed.
    """
    from pdetr3d.inference.teacher import TeacherPredictor

    return TeacherPredictor.load(Path(path))


def decode_maps(export: str | Path, heatmaps: Sequence[ArrayLike], peak: ArrayLike, regression: ArrayLike) -> Boxes3D:
    """Decode the outputs of an exported student in your own runtime: see ``finished/deploy/maps.decode_maps``."""
    from pdetr3d.finished.deploy import maps

    return maps.decode_maps(export, heatmaps, peak, regression)


@dataclass(frozen=True)
class Picture:
    """A drawn sample, which a notebook shows.

    Attributes:
        png: the content of the PNG file.
    """

    png: bytes

    def _repr_png_(self) -> bytes:
        return self.png

    def save(self, file: str | Path) -> Path:
        """Write the PNG file, replacing an older one; returns its path."""
        from pdetr3d.data.storage.files import atomic_path

        with atomic_path(Path(file)) as temporary:
            temporary.write_bytes(self.png)
        return Path(file)


def draw(
    sample: Sample,
    predictions: Boxes3D | None = None,
    clicks: NDArray[np.floating] | None = None,
    classes: ClassList | None = None,
) -> Picture:
    """Draw a sample from above and in its cameras, with boxes (solid), predictions (dashed) and clicks (crosses).

    Args:
        sample: from ``load_sample``. predictions: boxes of a student or a teacher, in the sample's frame.
        clicks: (K, 3) x, y, z [m], drawn instead of the sample's own.
        classes: names of the labels, e.g. of ``predictions`` (``student.config.classes``); default: the sample's own,
            and nuScenes' ten for a sample that was made otherwise.
    """
    from pdetr3d.class_list import NUSCENES_CLASSES
    from pdetr3d.inference.teacher import point_labels
    from pdetr3d.visualize import SHOWN_M, draw_sample

    if clicks is not None:
        sample = dataclasses.replace(sample, clicks=point_labels(clicks, [0] * len(clicks)))
    return Picture(draw_sample(sample, predictions, SHOWN_M, classes=classes or sample.classes or NUSCENES_CLASSES))
