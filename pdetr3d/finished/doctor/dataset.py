"""Checks of the dataset: whether training has the data that it needs, and whether files changed since the run began."""

from __future__ import annotations

from pdetr3d.data.index.file_ledger import FileLedger
from pdetr3d.data.labels.summary import summarize
from pdetr3d.finished.doctor.result import Result, setting
from pdetr3d.finished.doctor.run import Run
from pdetr3d.schema import CAMERAS, DataError
from pdetr3d.words import NAMED, first

LEFT_OUT = 0.5  # allowed share of the classes' objects without a point; nuScenes has 0.05 to 0.1
STRAY = 0.1  # allowed share of the keyframes that belong to no split


def counts(run: Run, other: Run | None) -> Result:
    """Check that objects, boxes, images and splits are present."""
    splits = [run.config[f"data.{name}_split"] for name in ("train", "select", "val")]
    found = summarize(run.index, [split for split in splits if split], run.manifest, run.config["model.range_m"])
    seen = tuple(f"{what}: {text}" for what, text in found.rows())
    objects, frames = int(found.objects.sum()), sum(sum(roles.values()) for roles in found.frames.values())
    val = int(summarize(run.index, [run.config["data.val_split"]]).objects.sum())
    problems, advice = [], []
    if not objects or objects + found.no_points < sum(found.unknown.values()):
        problems.append("most annotations have unknown categories")
        advice.append(setting(run, "data.categories", "FILE") + ": lines such as `own_name: car`")
    if found.no_points > LEFT_OUT * (objects + found.no_points):
        problems.append("most objects have no LiDAR or radar point")
        advice.append("look at one: `pdetr3d inspect 0 --index " + f"{run.index.path}`; boxes must lie on points")
    if not found.boxes:
        problems.append("no box to learn from")
        advice.append(setting(run, "label.ratio", "0.1"))
    if not val:
        problems.append("no object in the val split: scores are 0")
        advice.append("choose another `data.val_split`")
    uses = run.config["teacher.fusion"] != "none" and run.config["teacher.model"] != "crop"
    if uses and found.images.sum() < len(CAMERAS) * frames:
        problems.append("images are missing, but the teacher uses them")
        advice.append(setting(run, "data.cameras", "FILE") + ": lines such as `own_channel: CAM_FRONT`")
    if found.stray_frames > STRAY * len(run.index):
        problems.append("many scenes are in no split")
        advice.append("name them in splits.json beside the tables")
    if not problems:
        return Result("ok", f"{frames} keyframes, {objects} objects kept, {found.no_points} without points")
    return Result("problem", f"The dataset: {'; '.join(problems)}.", seen, tuple(advice))


def files(run: Run, other: Run | None, deep: bool = False) -> Result:
    """Check that the dataset's files are those with which the run began.

    Args:
        deep: True reads every file again whose content's digest is known; False compares sizes and times.
    """
    ledger = FileLedger.open(run.index)
    if ledger is None:
        raise DataError("data/files.arrow is missing: an older version began this run, or it reads a pack")
    changed = ledger.changed(run.index.dataroot, deep)
    known = ledger.table.num_rows - ledger.table["digest"].null_count
    what = f"{ledger.table.num_rows} files under {run.index.dataroot}"
    if not changed:
        how = f"the content of {known} read again" if deep else "by size and time; --deep reads them again"
        return Result("ok", f"{what} are unchanged ({how})")
    advice = (
        "bring the files back (copy or unpack them again), then continue",
        "or begin anew on the files as they are: the same command with --fresh",
    )
    return Result("problem", f"{len(changed)} of {what} have changed.", tuple(first(changed, NAMED)), advice)
