"""mmcv's ResNet as an image backbone. It is imported only when used: mmcv.cnn imports mmengine's runner (1 s)."""

from __future__ import annotations

from mmcv.cnn import ResNet
from torch import Tensor

from pdetr3d.models.recompute import run_stage


class ImageResNet(ResNet):
    """mmcv's ResNet without deformable convolutions. Strides are in the 3x3 convolutions, as in torchvision's weights.

    Args:
        depth: 18 or 50. used: numbers of the stages that are returned. frozen_stages: if above 0, the stem and so many
            stages do not learn. norm_frozen: batch norms use their stored statistics and do not learn.
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
        self.train()  # mmcv's ``train`` freezes parameters; this must happen before the optimizer and DDP see them

    def train(self, mode: bool = True) -> ImageResNet:
        super().train(mode)  # mmcv's method returns None
        return self

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        x, outputs = self.maxpool(self.relu(self.bn1(self.conv1(images)))), []
        for number, name in enumerate(self.res_layers):
            x = run_stage(getattr(self, name), x, self.recompute)
            if number in self.out_indices:
                outputs.append(x)
        return tuple(outputs)
