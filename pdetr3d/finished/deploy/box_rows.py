"""Converts boxes to rows of a table, the format of deployed students, prediction files and tables of boxes."""

from __future__ import annotations

import pandas as pd

from pdetr3d.class_list import ClassList
from pdetr3d.schema import BOX_COLUMNS, Boxes3D

NUMBERS = [*BOX_COLUMNS, "vx", "vy"]
COLUMNS = ["sample", *NUMBERS, "class", "score"]
DTYPES = dict.fromkeys(COLUMNS, "float64") | {"sample": "object", "class": "object"}


def to_frame(boxes: Boxes3D, name: str, classes: ClassList) -> pd.DataFrame:
    """Boxes of the sample ``name`` as rows of COLUMNS: x .. h [m], yaw [rad], vx and vy [m/s] (NaN: unknown)."""
    frame = pd.DataFrame(boxes.rows, columns=list(BOX_COLUMNS)).assign(sample=name, score=boxes.score)
    frame["vx"], frame["vy"] = boxes.velocity_m_s.T
    frame["class"] = [classes.names[label] for label in boxes.label]
    return frame[COLUMNS].astype(DTYPES)


def join_frames(frames: list[pd.DataFrame]) -> pd.DataFrame:
    """Concatenate the rows of several samples; without samples the table has the same columns and no rows."""
    return pd.concat([pd.DataFrame(columns=COLUMNS).astype(DTYPES), *frames], ignore_index=True)
