"""Computes numbers of every stage on a tiny simulated world, and compares them with the files in tests/golden.

python -m tests.golden_cases     (``make golden``) writes the files of the stages whose version was changed
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pdetr3d.batch import Batch
from pdetr3d.class_list import NUSCENES_CLASSES
from pdetr3d.config import Config, SimConfig, override
from pdetr3d.data.label_manifest import eval_records
from pdetr3d.data.loading.crops import CropLoader, crops_of
from pdetr3d.data.loading.load import load_sample
from pdetr3d.evaluation.nuscenes_eval import load_tables, score
from pdetr3d.pseudo_labels import class_mean_boxes, to_pseudo_labels
from pdetr3d.schema import Boxes3D
from pdetr3d.simulator.simulate import simulate
from pdetr3d.training.build import build
from pdetr3d.training.plan import BatchLoader
from pdetr3d.training.stage_versions import STAGE_VERSIONS
from tests.model_cases import QUERY_INITS
from tests.score_cases import ground_truth_predictions
from tests.training_cases import World, one_thread, open_world, run_locally, weights

FOLDER = Path(__file__).parent / "golden"
WORLD = SimConfig(
    scenes=3, select_scenes=1, val_scenes=1, keyframes=1, sweeps_per_keyframe=2, image_size_px=(96, 54),
    lidar_azimuth_steps=360, processes=1,
)  # fmt: skip
# Other CPUs round differently (by 0.4 % after an optimizer step), and a ray may hit or miss an edge.
RELATIVE, ABSOLUTE = 5e-3, 2e-4
TIMES = ("samples_per_s", "data_s", "step_s", "stall_share", "eta_s", "peak_memory_bytes")
DERIVED = "share_"  # beginning of the names of numbers that are derived from loss terms


def golden_world(folder: Path) -> World:
    """The world of all numbers, as an opened run."""
    simulate(folder / "world", WORLD)
    shutil.rmtree(folder / "run", ignore_errors=True)
    overrides = ["optim.batch_size=2", "optim.log_every=1", "teacher.optim.batch_size=2", "teacher.optim.log_every=1"]
    overrides.append("optim.lr=0.006")  # independent of the preset's, which may change
    return open_world(folder / "world", folder / "run", *overrides, "label.ratio=0.5", "teacher.dropout=0.1")


def summary(array: Any) -> list[Any]:
    """The shape, mean, mean square and some values of an array; NaN is counted and left out."""
    array = np.asarray(array)
    values = array.astype(np.float64).ravel()
    known = values[np.isfinite(values)]
    some = known[:: max(1, len(known) // 4)][:4].tolist()
    means = [float(known.mean()), float(np.square(known).mean())] if len(known) else []
    return [list(array.shape), len(values) - len(known), *means, *some]


def boxes_of(boxes: Boxes3D) -> list[Any]:
    """The first two boxes."""
    return [len(boxes), boxes.rows[:2].tolist(), boxes.label[:2].tolist(), boxes.score[:2].astype(float).tolist()]


def simulate_numbers(world: World) -> Any:
    """Numbers of the world's files: means of clouds and images, numbers of rows of tables."""
    root, found = world.data.index.dataroot, dict[str, Any]()
    for record in [*eval_records(world.data.index, "sim_train")][:2]:
        sample = load_sample(record, world.run.config.data, cameras=True)
        points = np.asarray(sample.points)
        # Rounded, because one of some thousand rays may hit or miss an edge.
        found[record.sample_token] = {
            "points": [float(len(points)), points.mean(0).tolist(), np.abs(points).mean(0).tolist()],
            "images": np.asarray(sample.images, float).mean(axis=tuple(range(1, sample.images.ndim))).tolist(),
        }
    for table in sorted((root / "v1.0-sim").glob("*.json")):
        rows = json.loads(table.read_text())
        found[table.stem] = [len(rows), sorted(rows[0]) if isinstance(rows, list) and rows else sorted(rows)]
    return found


def index_numbers(world: World) -> Any:
    """The first row of the index, and the tokens of all rows."""
    table = world.data.index.table
    first = _shortened(table.slice(0, 1).to_pylist()[0])
    return {"rows": table.num_rows, "tokens": digest(table["sample_token"].to_pylist()), "first": first}


def label_numbers(world: World) -> Any:
    """The roles and the clicks."""
    manifest = world.data.manifest
    clicks = manifest.clicks.to_pylist()
    return {"roles": manifest.roles, "clicks": len(clicks), "first": clicks[:2], "last": clicks[-1]}


def load_numbers(world: World) -> Any:
    """Augmented, collated batches of both stages."""
    config, records = world.run.config, list(world.records)[:2]
    student = BatchLoader(config, "student", cameras=False, weak_view=True)(records, [1, 1])
    teacher = BatchLoader(config, "teacher", cameras=True)(records, [1, 1])
    return {
        stage: {name: summary(array) for name, array in arrays.items() if array.dtype.kind in "fiub"}
        for stage, arrays in (("student", student), ("teacher", teacher))
    }


def training_numbers(kind: str) -> Callable[[World], Any]:
    """``trained`` of the plain configuration and of one with other parts."""
    other = {
        "teacher": [*QUERY_INITS["learned"], "teacher.fusion=concat", "model.lidar=voxel",
                    "model.voxel_m=[0.4,0.4,0.4]", "model.voxel_channels=[4,8]"],
        "student": ["student.guidance=full", "student.guidance_head=predictor", "student.nms=circle",
                    "optim.ema_decay=0.9", "student.cbgs=true"],
    }  # fmt: skip

    def numbers(world: World) -> Any:
        plain_config = world.run.config
        cut, cameras = None, plain_config.teacher.has_pictures
        if kind == "teacher":
            cut = crops_of(world.boxed, plain_config.data, world.prior_size_m, cameras=cameras)
        crops = {} if cut is None else CropLoader(cut, plain_config.run.seed)([0, 1], [3, 4])
        return {
            **({"crops": {name: summary(a) for name, a in crops.items() if a.dtype.kind in "fiub"}} if crops else {}),
            "plain": trained(kind, plain_config, world),
            "other": trained(kind, override(plain_config, other[kind]), world),
        }

    return numbers


def trained(kind: str, config: Config, world: World) -> Any:
    """The loss terms of two steps, the weights after them, and the boxes of one sample."""
    records = world.boxed if kind == "teacher" else list(world.records)
    with tempfile.TemporaryDirectory() as scratch:
        local = run_locally(kind, config, records, Path(scratch), 2)
        state = weights(Path(scratch) / "step_0000002" / "checkpoint.pt")
    task = build(kind, config, world.prior_size_m)
    task.model.load_state_dict(state)
    task.model.eval()
    batch = Batch.from_arrays(BatchLoader(config, "predict", cameras=kind == "teacher")(records[:1], [0]))
    with one_thread(), torch.no_grad():
        found = task.predict(task.model(batch), batch)[0]
    parts: dict[str, float] = {}
    for name, value in state.items():
        part = name.split(".")[0]
        parts[part] = parts.get(part, 0.0) + float(value.double().square().sum())
    return {
        "keys": digest([[name, list(value.shape)] for name, value in state.items()]),
        "terms": [
            {k: v for k, v in metrics.items() if k not in TIMES and not k.startswith(DERIVED)}
            for _, metrics in local.history
        ],
        "weights": parts,
        # Rounding decides which of an untrained student's boxes are the best.
        "boxes": boxes_of(found) if kind == "teacher" else len(found) > 0,
    }


def pseudo_label_numbers(world: World) -> Any:
    """Pseudo-label rows for boxes that are moved, enlarged and turned in a known way."""
    record = next(record for record in world.records if record.role == "point" and len(record.clicks))
    boxes = class_mean_boxes(record.clicks, world.prior_size_m)
    rows = boxes.rows.astype(np.float64)
    steps = np.arange(len(rows))
    rows[:, 0] += 0.4 * steps
    rows[:, 3] *= 1 + steps
    rows[:, 6] += 0.1 * steps
    moved = Boxes3D.build(rows[:, :3], rows[:, 3:6], rows[:, 6], boxes.label, score=0.5 + 0.01 * steps, source=0)
    tables = {
        str(snap): to_pseudo_labels(record, moved, world.prior_size_m, "teacher", snap=snap, classes=NUSCENES_CLASSES)
        for snap in (False, True)
    }
    return {
        snap: table.astype(object).where(table.notna(), None).to_dict("records")[:6] for snap, table in tables.items()
    }


def evaluate_numbers(world: World) -> Any:
    """Scores of the true boxes, some of which are moved, with increasing scores."""
    root = world.data.index.dataroot
    truth, poses = ground_truth_predictions(
        load_tables(root, "v1.0-sim", classes=NUSCENES_CLASSES), "sim_train", classes=NUSCENES_CLASSES
    )
    found = {}
    for token, boxes in truth.items():
        rows = boxes.rows.astype(np.float64)
        rows[:, 0] += 0.4 * (np.arange(len(rows)) % 4)
        rows[:, 6] += 0.1
        confidence = np.linspace(0.2, 0.9, len(rows))
        found[token] = Boxes3D.build(rows[:, :3], rows[:, 3:6], rows[:, 6], boxes.label, score=confidence, source=0)
    with tempfile.TemporaryDirectory() as scratch:
        report = score(root, "v1.0-sim", "sim_train", found, poses, Path(scratch), classes=NUSCENES_CLASSES)
    report["by_distance"] = {name: report["by_distance"][name] for name in ("10-20", "20-30")}
    return report


STAGES: dict[str, Callable[[World], Any]] = {
    "simulate": simulate_numbers,
    "index": index_numbers,
    "label": label_numbers,
    "load": load_numbers,
    "teacher": training_numbers("teacher"),
    "pseudo_labels": pseudo_label_numbers,
    "student": training_numbers("student"),
    "evaluate": evaluate_numbers,
}


def digest(value: Any) -> str:
    """A digest of texts and whole numbers, which are equal on every machine."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def _shortened(value: Any) -> Any:
    """Cut lists to their first two entries and their length."""
    if isinstance(value, dict):
        return {key: _shortened(item) for key, item in value.items()}
    if isinstance(value, list) and len(value) > 16:
        return [len(value), *map(_shortened, value[:2])]
    return [_shortened(item) for item in value] if isinstance(value, list) else value


def plain(value: Any) -> Any:
    """The value after a round trip through JSON; floats have 6 digits."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(item) for item in value]
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, float | np.floating):
        return float(f"{value:.6g}") if math.isfinite(value) else str(float(value))
    return int(value) if isinstance(value, np.integer) else value


def differences(there: Any, now: Any, at: str = "") -> list[str]:
    """The places where two plain values differ, floats by more than rounding."""
    if isinstance(there, dict) and isinstance(now, dict):
        found = [f"{at}.{key}: only {'there' if key in there else 'now'}" for key in there.keys() ^ now.keys()]
        return found + [
            d for key in there.keys() & now.keys() for d in differences(there[key], now[key], f"{at}.{key}")
        ]
    if isinstance(there, list) and isinstance(now, list):
        if len(there) != len(now):
            return [f"{at}: {len(there)} entries there, {len(now)} now"]
        return [d for i, (a, b) in enumerate(zip(there, now, strict=True)) for d in differences(a, b, f"{at}[{i}]")]
    numbers = isinstance(there, float) or isinstance(now, float)
    if numbers and isinstance(there, int | float) and isinstance(now, int | float):
        return (
            [] if math.isclose(there, now, rel_tol=RELATIVE, abs_tol=ABSOLUTE) else [f"{at}: {there} there, {now} now"]
        )
    return [] if there == now else [f"{at}: {there} there, {now} now"]


def verdict(stage: str, now: Any, version: int) -> str:
    """The problem of a stage's numbers and the fix; empty without a problem."""
    file = FOLDER / f"{stage}.json"
    there = json.loads(file.read_text()) if file.exists() else {"version": None, "numbers": {}}
    changed = differences(there["numbers"], now)
    if there["version"] == version and not changed:
        return ""
    if there["version"] != version:
        return (
            f"STAGE_VERSIONS[{stage!r}] is {version}, but tests/golden/{stage}.json is of {there['version']}: run "
            "`make golden` and commit what it writes"
        )
    shown = "\n".join(f"  {line}" for line in changed[:8])
    return (
        f"the numbers of stage {stage!r} changed in {len(changed)} places:\n{shown}\n"
        f"If that is not meant, mend the code. If it is meant, set STAGE_VERSIONS[{stage!r}] to {version + 1} in "
        "pdetr3d/training/stage_versions.py (begun runs then end instead of mixing old and new numbers), run "
        "`make golden`, and commit both"
    )


def write(world: World) -> list[str]:
    """Write the files of stages whose version has changed; returns the problems of the others."""
    wrong = []
    for stage, numbers in STAGES.items():
        now, version, file = plain(numbers(world)), STAGE_VERSIONS[stage], FOLDER / f"{stage}.json"
        if not file.exists() or json.loads(file.read_text())["version"] != version:
            file.parent.mkdir(exist_ok=True)
            file.write_text(json.dumps({"version": version, "numbers": now}, indent=1, sort_keys=True) + "\n")
            print(f"written: {file}")
        elif problem := verdict(stage, now, version):
            wrong.append(problem)
    return wrong


def main() -> None:
    """Run ``make golden``."""
    with tempfile.TemporaryDirectory() as scratch:
        wrong = write(golden_world(Path(scratch)))
    sys.exit("\n\n".join(wrong) or 0)


if __name__ == "__main__":
    main()
