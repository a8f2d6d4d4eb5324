"""Refuses datasets without objects, clicks, boxes or cameras, unless ``data.allow_empty`` names what may be missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pdetr3d.config import EmptyName
from pdetr3d.schema import DataError

# Name -> (the complaint when the count is 0, the advice).
RULES: dict[EmptyName, tuple[str, str]] = {
    "objects": (
        "no object of the classes in use with a LiDAR or radar point in range",
        "name your categories in a YAML file (lines such as `my_car: car`) and set data.categories to it",
    ),
    "clicks": (
        "no click",
        "clicks are drawn in objects, or imported: pdetr3d label --import",
    ),
    "boxes": (
        "no box in the box-labeled samples, so that no teacher can learn",
        "raise label.ratio, or take other scenes: label.seed, label.balance=true",
    ),
    "cameras": (
        "no image, but the teacher uses cameras",
        "name your channels in a YAML file (lines such as `front: CAM_FRONT`) and set data.cameras to it, or set "
        "teacher.fusion=none",
    ),
    "val_objects": (
        "no object with points in data.val_split, so that every score would be 0",
        "choose another data.val_split",
    ),
}


def refuse_empty(
    counts: Mapping[EmptyName, int], allowed: Sequence[EmptyName], where: str, seen: Sequence[str] = ()
) -> None:
    """Raise DataError when a count is 0 and ``data.allow_empty`` does not name it.

    Args:
        counts: name -> count. allowed: ``data.allow_empty``. where: the file or folder at fault. seen: lines about
            data that was found but left out.

    Raises:
        DataError: names all missing kinds, the fix for each, and the key that allows them to be missing.
    """
    none = [name for name, count in counts.items() if not count and name not in allowed]
    if not none:
        return
    lines = [f"\n  {RULES[name][0]}; {RULES[name][1]}" for name in none]
    found = [f"\n  found: {line}" for line in seen]
    raise DataError(
        f"{where} has{''.join(lines)}{''.join(found)}\nWhere that is meant so: data.allow_empty=[{','.join(none)}]"
    )
