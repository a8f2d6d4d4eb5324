"""The crop branch as a model of its own: one box per click from the points and the image around it, without BEV maps.

The teacher's crop branch is first trained as this model, with many clicks per step (``data/loading/crops.py``). With
``teacher.model=crop`` it is the whole teacher, without images: a baseline that shows the value of context and images.
"""

from __future__ import annotations

from torch import Tensor, nn

from pdetr3d.batch import Batch, TeacherOutput
from pdetr3d.config import Config
from pdetr3d.models.box_code import decode_click_box, join_frames
from pdetr3d.models.click_crops import ClickCrops, stage_frame, stage_start
from pdetr3d.models.point_crop import find_clicks
from pdetr3d.models.point_query import own_click, start_axes


class CropRegressor(nn.Module):
    """``forward(batch) -> TeacherOutput`` with the teacher's number of layers; query k belongs to click k.

    Args:
        config: ``teacher.channels`` is the width. prior_size_m: (C, 3) mean l, w, h per class [m].
    """

    def __init__(self, config: Config, prior_size_m: Tensor) -> None:
        super().__init__()
        c, self.stages = config.teacher.channels, config.teacher.decoder_layers
        self.crops = ClickCrops(c, len(prior_size_m), self.stages, config.teacher.has_pictures)
        self.quality_heads = nn.ModuleList(nn.Linear(c, 1) for _ in range(self.stages))
        self.start = config.teacher.heading_start
        self.prior_size_m: Tensor
        self.register_buffer("prior_size_m", prior_size_m.float())

    def forward(self, batch: Batch) -> TeacherOutput:
        click = batch.click
        clicks = self.crops.look(batch, find_clicks(*batch.crops, self.prior_size_m))
        axis = start_axes(clicks, self.start)
        boxes: list[Tensor] = []
        codes, qualities, frames = [], [], []
        for i, quality_head in enumerate(self.quality_heads):
            frame = stage_frame(i, click, boxes[-1] if boxes else None, self.training)
            shape, said = self.crops(i, clicks, frame)
            code = join_frames(stage_start(i, axis) + said, frame)
            boxes.append(decode_click_box(code, click, clicks.prior, frame))
            codes.append(code)
            qualities.append(quality_head(shape).float()[..., 0])
            frames.append(frame)
        return TeacherOutput(
            box=boxes,
            code=codes,
            quality=qualities,
            anchor=[click] * self.stages,
            frame=frames,
            logit=[],
            prior_size=clicks.prior,
            click=own_click(batch.click_label),
        )
