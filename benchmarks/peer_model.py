"""Times mmdetection3d's CenterPoint; ``bench_peer`` starts this program with the Python of ``tools/peer.sh``.

``python -m benchmarks.peer_model SAMPLE.npz`` builds the model of mmdetection3d's own config (pillars of 0.2 m, SECOND,
SECONDFPN). It then answers each line of stdin, "train" or "infer", with the seconds of such a step on the sample
(``answering``). "train" covers voxels, losses, backward, gradient clipping and AdamW; "infer" covers voxels, decoding
and NMS. It imports nothing of pdetr3d.
"""

from __future__ import annotations

import sys
from pathlib import Path

import mmcv
import numpy as np
import torch

from benchmarks.answering import answer

mmcv.__version__ = "2.1.0"  # mmdet and mmdet3d refuse later ones; see tools/peer.sh
import mmdet3d  # noqa: E402
from mmdet3d.registry import MODELS  # noqa: E402
from mmdet3d.structures import Det3DDataSample, LiDARInstance3DBoxes  # noqa: E402
from mmdet3d.utils import register_all_modules  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.structures import InstanceData  # noqa: E402

CONFIG = "centerpoint/centerpoint_pillar02_second_secfpn_head-circlenms_8xb4-cyclic-20e_nus-3d.py"
CENTER = (0.5, 0.5, 0.5)  # of the boxes in SAMPLE.npz, in shares of their sides


def main(sample: Path) -> None:
    """Answer the lines of stdin."""
    torch.set_num_threads(2)
    register_all_modules()
    config = Config.fromfile(str(Path(mmdet3d.__file__).parent / ".mim/configs" / CONFIG))
    model = MODELS.build(config.model)
    model.init_weights()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, weight_decay=0.01)
    with np.load(sample) as found:
        points = torch.from_numpy(found["points"])
        boxes = LiDARInstance3DBoxes(torch.from_numpy(found["boxes"]), box_dim=9, origin=CENTER)
        labels = torch.from_numpy(found["labels"])
    truth = Det3DDataSample(metainfo={"box_type_3d": LiDARInstance3DBoxes})
    truth.gt_instances_3d = InstanceData(bboxes_3d=boxes, labels_3d=labels)

    def data() -> dict[str, object]:
        return {"inputs": {"points": [points.clone()]}, "data_samples": [truth.clone()]}

    def train() -> None:
        model.train()
        ready = model.data_preprocessor(data(), True)
        losses = model(**ready, mode="loss")
        loss, _ = model.parse_losses(losses)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 35)
        optimizer.step()

    @torch.no_grad()
    def infer() -> None:
        model.eval()
        ready = model.data_preprocessor(data(), False)
        model(**ready, mode="predict")

    answer({"train": train, "infer": infer}, sum(parameter.numel() for parameter in model.parameters()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
