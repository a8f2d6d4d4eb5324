"""Checks of training: losses, features and waiting times from the run's MLflow curves, clicks from its manifest.

The checks take the same arguments as those of ``boxes.py``, whose comments define "quickstart".
"""

from __future__ import annotations

import numpy as np

from pdetr3d.finished.doctor.result import Result, change, setting
from pdetr3d.finished.doctor.run import Run
from pdetr3d.pseudo_labels import CLICK_TOLERANCE_M
from pdetr3d.schema import DataError
from pdetr3d.tracking.history import History

# A loss of this many times the least loss before is a jump. The quickstart's students reach 1.06, its teachers 1.15.
SPIKE = 1.5
COLLAPSED = 0.1  # lowest channel std; the quickstart's student has 0.64 untrained and 0.40 at its end
STRAY = 0.05  # allowed share of clicks outside their boxes: an estimate; no simulated click is outside
STARVED = 0.2  # allowed share of a step spent waiting; the quickstart's stages wait 0.003 to 0.010 of it


def losses(run: Run, other: Run | None) -> Result:
    """Check that no loss jumped and no training failed."""
    judged = {s: h for s, h in run.histories.items() if "loss" in h.curves or h.status == "FAILED"}
    if not judged:
        raise DataError("no stage logged a loss: none was trained here, or it was ended before its first log")
    bad = {stage: problem for stage, history in judged.items() if (problem := _problem(history))}
    if not bad:
        return Result("ok", f"no loss rose above {SPIKE} times its least before ({', '.join(judged)})")
    advice = []
    for section in dict.fromkeys("teacher.optim" if stage == "teacher" else "optim" for stage in bad):
        lower = ", ".join(change(run, "lower", f"{section}.{key}") for key in ("lr", "clip_norm"))
        advice.append(f"{lower}, {change(run, 'raise', f'{section}.warmup_share')}")
        advice.append(f"compute exactly: {setting(run, f'{section}.amp', 'fp32')}")
    evidence = tuple(f"{stage}: {problem}" for stage, problem in bad.items())
    return Result("problem", f"Training is unstable: {', '.join(bad)}.", evidence, tuple(advice))


def features(run: Run, other: Run | None) -> Result:
    """Check that the student's features did not collapse: equal features make two views agree best."""
    curves = {s: h.curves["feature_std"] for s, h in run.histories.items() if "feature_std" in h.curves}
    if not curves:
        raise DataError("no stage logged feature_std: no student was trained here, or an older version trained it")
    seen = tuple(f"{stage}: channel std {c.values[-1]:.3f}, at first {c.values[0]:.3f}" for stage, c in curves.items())
    bad = [stage for stage, curve in curves.items() if not curve.values[-1] >= COLLAPSED]  # NaN, too
    if not bad:
        return Result("ok", "; ".join(seen))
    advice = (
        f"{change(run, 'lower', 'student.guidance_weight')}, {change(run, 'raise', 'student.guidance_warmup')}",
        f"views that differ: {setting(run, 'student.guidance_head', 'predictor')}, "
        f"{setting(run, 'student.guidance_branch', 'ema')}",
        change(run, "lower", "optim.lr"),
    )
    return Result("problem", f"Features have collapsed: {', '.join(bad)}.", seen, advice)


def clicks(run: Run, other: Run | None) -> Result:
    """Check that the clicks of box-labeled samples lie in their boxes."""
    facts = run.clicks
    stray = facts.outside_m > CLICK_TOLERANCE_M
    seen = f"{stray.sum()} of {len(stray)} clicks are over {CLICK_TOLERANCE_M} m outside the boxes of their class"
    if stray.mean() <= STRAY:
        return Result("ok", seen)
    evidence = [seen, f"{facts.other_class.sum()} lie in a box of another class"]
    near = facts.offset_m[stray & np.isfinite(facts.outside_m)]
    if len(near):
        offset = ", ".join(f"{value:.2f}" for value in np.median(near, axis=0))
        evidence.append(
            f"from the nearest such box's center the strays lie at ({offset}) m (median x, y, z; LIDAR_TOP)"
        )
    worst, data = facts.token[facts.outside_m.argmax()], run.path / "data"
    advice = (
        f"look at one: `pdetr3d inspect {worst} --index {data}/index.arrow --manifest {data}/manifest`",
        "all off alike: the column `frame` of the imported clicks is wrong; another class: compare the class names",
        "then import them again: `pdetr3d label --import`",
    )
    return Result("problem", "Clicks disagree with boxes.", tuple(evidence), advice)


def waiting(run: Run, other: Run | None) -> Result:
    """Check that training steps do not wait for their batches."""
    shares, seen = {}, []
    for stage, history in run.histories.items():
        wait, step = (history.curves.get(key) for key in ("data_s", "step_s"))
        if wait and step and len(wait.values) == len(step.values) > 1:  # the first value contains the stream's start
            shares[stage] = float(np.median(np.divide(wait.values[1:], step.values[1:])))
            seen.append(f"{stage}: {shares[stage]:.1%} of {np.median(step.values[1:]):.2f} s a step")
    if not shares:
        raise DataError("no stage logged its times twice (the first ones hold the start of the stream)")
    bad = [stage for stage, share in shares.items() if share > STARVED]
    if not bad:
        return Result("ok", f"waiting for data: {', '.join(seen)}")
    advice = (
        "more loading tasks at once: lower `scaling.data_cpus`, or give Ray more CPUs",
        "many small files, a slow disk: `pdetr3d pack`, then `data.packed=URI`",
        f"less to read: {change(run, 'lower', 'data.num_sweeps')}, {change(run, 'lower', 'data.image_size_px')}",
        f"another loader: {setting(run, 'data.loader', 'torch')} with more `scaling.loader_processes`",
    )
    return Result("problem", f"Training waits for data: {', '.join(bad)}.", tuple(seen), advice)


def _problem(history: History) -> str:
    """The fault of a stage's loss, in words; "" if there is none."""
    curve = history.curves.get("loss")
    steps, values = (curve.steps, np.array(curve.values)) if curve else ((0,), np.zeros(1))
    for name, part in history.curves.items():  # the losses on a mean teacher's labels set in later and are left out
        if name.startswith("unlabeled_") and len(part.values) == len(values):
            values = values - part.values
    jumps = np.flatnonzero(~(values[1:] <= SPIKE * np.minimum.accumulate(values)[:-1]))  # NaN, too
    if len(jumps):
        at = int(jumps[0])
        return f"loss {values[at + 1]:.3g} at step {steps[at + 1]}, {values[: at + 1].min():.3g} before"
    return f"FAILED after step {steps[-1]}; the job's output says why" if history.status == "FAILED" else ""
