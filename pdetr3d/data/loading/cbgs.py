"""CBGS: class-balanced grouping and sampling (Zhu et al. 2019; method.md 5.7) of whole samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pdetr3d.class_list import ClassList
from pdetr3d.data.draws import keyed_rng
from pdetr3d.data.loading.record_list import pick
from pdetr3d.schema import SampleRecord


def class_balanced(records: Sequence[SampleRecord], seed: int, classes: ClassList) -> Sequence[SampleRecord]:
    """Draw D samples with equal shares for all classes; D is the sum over classes of the samples that hold the class.

    Of each class that occurs, D / (number of classes that occur) samples are drawn with replacement from those that
    hold it. Only ``record.boxes`` counts: human boxes of box-labeled samples and accepted pseudo labels. The result
    depends only on the records' order and the seed. It is grouped by class: the plan of an epoch permutes it.

    Args:
        records: of the train split; samples without boxes are never drawn.
        seed: ``run.seed``. classes: the classes of the labels.

    Returns:
        Records, many of them several times; ``records`` itself when no sample has a box.
    """
    holds = np.array([np.isin(np.arange(len(classes)), record.boxes.label) for record in records])
    counts = holds.reshape(-1, len(classes)).sum(0)
    present = np.nonzero(counts)[0]
    if len(present) == 0:
        return records
    share = int(counts.sum()) // len(present)
    rngs = {label: keyed_rng(seed, 0, classes.names[label], "cbgs") for label in present}
    drawn = [rng.choice(np.nonzero(holds[:, label])[0], share) for label, rng in rngs.items()]
    return pick(records, np.concatenate(drawn))
