"""Times mmdetection3d's loading of LiDAR and six images; ``bench_peer`` starts it with the Python of ``tools/peer.sh``.

``python -m benchmarks.peer_loading KEYFRAME.json PROCESSES`` loads one keyframe again and again by torch's DataLoader.
Its transforms are mmdetection3d's own for points, images, resizing, rotation, range and packing. It prints the
samples/s. KEYFRAME.json has the keys of mmdetection3d's info files, and "size_px" of the images. The program imports
nothing of pdetr3d.
"""

from __future__ import annotations

import copy
import json
import sys
import time
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
import torch

mmcv.__version__ = "2.1.0"  # mmdet and mmdet3d refuse later ones; see tools/peer.sh
from mmdet3d.utils import register_all_modules  # noqa: E402
from mmengine.dataset import Compose, pseudo_collate  # noqa: E402

RANGE_M = [-51.2, -51.2, -5.0, 51.2, 51.2, 3.0]
BATCH, SECONDS = 2, 10.0  # as bench_loaders: the first seconds are not counted


class Keyframe(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """The keyframe, a million times."""

    def __init__(self, file: Path) -> None:
        info = json.loads(file.read_text())
        for one in info["images"].values():
            one |= {key: np.array(one[key]) for key in ("cam2img", "lidar2cam")}
        size = tuple(info.pop("size_px"))
        resize = {"type": "Resize", "scale": size, "keep_ratio": False}
        self.info = info
        self.transforms = Compose(
            [
                {"type": "LoadPointsFromFile", "coord_type": "LIDAR", "load_dim": 5, "use_dim": 5},
                {"type": "LoadPointsFromMultiSweeps", "sweeps_num": 9, "use_dim": 5},
                {"type": "LoadMultiViewImageFromFiles", "to_float32": True, "num_views": 6, "color_type": "color"},
                {"type": "MultiViewWrapper", "transforms": [resize]},
                {"type": "GlobalRotScaleTrans", "rot_range": [-0.39, 0.39], "scale_ratio_range": [0.95, 1.05]},
                {"type": "PointsRangeFilter", "point_cloud_range": RANGE_M},
                {"type": "Pack3DDetInputs", "keys": ["points", "img"]},
            ]
        )

    def __len__(self) -> int:
        return 1_000_000

    def __getitem__(self, place: int) -> Any:
        return self.transforms(copy.deepcopy(self.info))


def main(file: Path, processes: int) -> None:
    """Print the samples/s."""
    torch.set_num_threads(1)
    register_all_modules()
    batches = iter(torch.utils.data.DataLoader(Keyframe(file), BATCH, num_workers=processes, collate_fn=pseudo_collate))
    next(batches)
    for count in (False, True):
        begin = time.perf_counter()
        end, loaded = begin + SECONDS, 0
        while time.perf_counter() < end:
            next(batches)
            loaded += BATCH
        if count:
            print(loaded / (time.perf_counter() - begin), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
