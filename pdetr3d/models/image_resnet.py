"""mmcv's ResNet as an image backbone. Imported where a teacher has one: mmcv.cnn brings mmengine's runner (1 s)"""

from __future__ import annotations

from mmcv.cnn import ResNet
from torch import Tensor

from pdetr3d.models.recompute import run_stage


class ImageResNet(ResNet):
    """mmcv's ResNet (without deformable convolutions; strides in the 3x3, as torchvision's weights expect).

    Args:
        depth: 18 or 50. used: numbers of the stages that are returned. frozen_stages: 0, or n: the stem and n stages
            learn nothing. norm_frozen: batch norms use their stored statistics and learn nothing.
        recompute: drop the stages' activations (``models/recompute.py``).
    """

    def __init__(
        self, depth: int, used: range, *, frozen_stages: int, norm_frozen: bool, recompute: bool = False
    ) -> None:
        super().__init__(
            depth,
            out_indices=tuple(used),
            frozen_stages=frozen_stages or -1,
            bn_eval=norm_frozen,
            bn_frozen=norm_frozen,
        )
        self.recompute = recompute
        self.train()  # mmcv freezes here: the optimizer and DDP must see it before the first step

    def train(self, mode: bool = True) -> ImageResNet:
        super().train(mode)  # mmcv's returns nothing
        return self

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        x, outputs = self.maxpool(self.relu(self.bn1(self.conv1(images)))), []
        for number, name in enumerate(self.res_layers):
            x = run_stage(getattr(self, name), x, self.recompute)
            if number in self.out_indices:
                outputs.append(x)
        return tuple(outputs)
