"""Converts CenterPoint checkpoints of mmdetection3d (from 1.0) and OpenPCDet to weights of our student.

Besides names, these differences are converted exactly: the order of a sparse kernel's axes; convolutions with a bias
before a norm; another epsilon of a norm; points that are not scaled (ours are: ``models/pillars.py``); the row of
zeros in their padded pillars (``model.pad_pillars``). Their heading is sine and cosine of the yaw: it becomes our
direction, which ``student.heading=direction`` decodes. Our axis has no counterpart in their models. Frames and codes
are the same (``geometry/center_code.py``). Legend: C channels.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pdetr3d.config import Config, override
from pdetr3d.data.storage.files import new_folder
from pdetr3d.geometry.center_code import CODE
from pdetr3d.models.norm import EPS
from pdetr3d.models.pillars import DT_UNIT_S
from pdetr3d.models.student import Student
from pdetr3d.schema import DataError
from pdetr3d.training import checkpoint
from pdetr3d.words import some

WRAPPERS = ("state_dict", "model_state", "model")  # keys under which the frameworks store a checkpoint's weights
HEAD_EPS = 1e-5  # epsilon of the norms in both frameworks' heads; all other norms have our epsilon
FRAMEWORKS = {"pts_bbox_head.": "mmdetection3d", "dense_head.": "OpenPCDet"}  # prefix of weights' names -> framework
# Our branch -> theirs. The heading is (sin, cos) in mmdetection3d, and (cos, sin) in OpenPCDet as in our direction.
BRANCHES = {
    "mmdetection3d": {"offset": "reg", "height": "height", "size": "dim", "direction": "rot", "velocity": "vel"},
    "OpenPCDet": {"offset": "center", "height": "center_z", "size": "dim", "direction": "rot", "velocity": "vel"},
}


@dataclass(frozen=True)
class Layer:
    """A convolution and its norm by the names of the modules; ``kind``: layout of their weight (``_fitted``)."""

    ours: str
    our_norm: str
    theirs: str
    their_norm: str
    kind: str = "same"
    eps: float = EPS


@dataclass
class Converted:
    """A converted checkpoint.

    Attributes:
        framework: "mmdetection3d" or "OpenPCDet". state: the student's state dict. mapped: their name -> ours.
        kept: our weights without counterpart, which keep their initial values. unused: their weights without one.
    """

    framework: str
    state: dict[str, Tensor]
    mapped: dict[str, str] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)


def import_centerpoint(file: Path, config: Config, out: Path, partial: bool = False) -> Converted:
    """Write the new folder ``out``: checkpoint.pt, and import.json, which lists the converted weights.

    Args:
        file: a checkpoint of mmdetection3d or OpenPCDet.
        config: of the student that the weights must fit; the keys of ``fitting`` are set here.
        partial: True also imports a checkpoint that lacks parts of the student, which keep their initial weights.

    Raises:
        DataError: for a file that is no such checkpoint, for weights of other shapes, when ``out`` exists, and, without
            ``partial``, when weights are missing.
    """
    found = read_weights(file)
    config = override(config, fitting(found, config))
    torch.manual_seed(config.run.seed)
    student = Student(config)
    made = convert(found, student, config, file)
    missing = [name for name in made.kept if ".axis." not in name]
    if missing and not partial:
        raise DataError(
            f"{file} ({made.framework}) has nothing for {len(missing)} weights of the student: {some(missing)}. It "
            f"has {len(made.unused)} others: {some(made.unused)}. Choose keys that describe its model, or take what "
            "fits with --partial and train the student"
        )
    student.load_state_dict(made.state)
    with new_folder(out) as folder:
        checkpoint.save(folder, student.eval(), None, 0, config.to_json())
        facts = {name: getattr(made, name) for name in ("framework", "mapped", "kept", "unused")}
        (folder / "import.json").write_text(json.dumps({"file": file.name, **facts}, indent=1))
    return made


def read_weights(file: Path) -> dict[str, Tensor]:
    """Read the weights of a checkpoint: name -> float tensor, without wrappers and the prefix ``module.``.

    Raises:
        DataError: as ``checkpoint.read_weights_only``, and when the file holds no state dict.
    """
    state = checkpoint.read_weights_only(file, "checkpoint", "name the .pth file of a trained CenterPoint")
    for wrapper in WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
            break
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise DataError(f"{file} holds no state dict (name -> tensor)")
    found = {name.removeprefix("module."): value.float() for name, value in state.items()}
    return {name: value for name, value in found.items() if not name.endswith(("num_batches_tracked", "global_step"))}


def framework_of(found: Mapping[str, Tensor], file: Path) -> str:
    """The framework of a checkpoint, "mmdetection3d" or "OpenPCDet", by the names of its weights.

    Raises:
        DataError: when the names are of neither.
    """
    for prefix, name in FRAMEWORKS.items():
        if any(key.startswith(prefix) for key in found):
            return name
    raise DataError(
        f"{file} is no CenterPoint of mmdetection3d or OpenPCDet: no weight begins with {' or '.join(FRAMEWORKS)}; it "
        f"has {some(sorted(found))}"
    )


def fitting(found: Mapping[str, Tensor], config: Config) -> list[str]:
    """The config overrides with which our student computes the same as their model."""
    padded = config.model.lidar == "pillar" and any(name.endswith("pfn_layers.0.linear.weight") for name in found)
    return ["student.heading=direction", f"model.pad_pillars={str(padded).lower()}"]


def convert(found: Mapping[str, Tensor], student: Student, config: Config, file: Path) -> Converted:
    """Convert weights (from ``read_weights``) for a freshly built student of this config; ``file``: for messages.

    Raises:
        DataError: for another framework, ``model.norm=group``, or weights of other shapes.
    """
    if config.model.norm == "group":
        raise DataError("model.norm=group: theirs are batch norms; set model.norm=batch (or sync, frozen)")
    state = {name: value.clone() for name, value in student.state_dict().items()}
    converter = _Converter(found, Converted(framework_of(found, file), state), config)
    converter.run()
    if converter.wrong:
        raise DataError(
            f"{file}: {len(converter.wrong)} weights have another shape: {some(converter.wrong)}. Set the model.* and "
            "student.* keys (channels, layers, strides, tasks) to those of its own config"
        )
    return converter.made


class _Converter:
    """Copies their weights into ``made.state``, part by part; ``wrong`` lists weights of other shapes."""

    def __init__(self, found: Mapping[str, Tensor], made: Converted, config: Config) -> None:
        self.found, self.made, self.config = found, made, config
        self.mm = made.framework == "mmdetection3d"
        self.done: set[str] = set()  # names of our weights that were set
        self.wrong: list[str] = []

    def run(self) -> None:
        if self.config.model.lidar == "pillar":
            self._pillars()
        for layer in self._layers():
            self._layer(layer)
        for task in range(len(self.config.tasks)):
            self._task(task)
        whole = [name for name in self.made.state if not name.endswith("num_batches_tracked")]
        self.made.kept = [name for name in whole if name not in self.done and "regressions" not in name]
        self.made.kept += [name for name in whole if ".outputs.axis." in name]  # and the axis's channels of ``hidden``
        self.made.unused = sorted(self.found.keys() - self.made.mapped.keys())

    def _layers(self) -> Iterator[Layer]:
        model = self.config.model
        if model.lidar == "voxel":
            yield from _sparse_layers(self.mm, len(model.voxel_channels))
        for stage, layers in enumerate(model.backbone_layers):
            for place in range(layers + 1):
                # OpenPCDet has a separate padding layer before the first convolution.
                first = 3 * place + (0 if self.mm else 1)
                theirs = f"{'pts_backbone' if self.mm else 'backbone_2d'}.blocks.{stage}"
                ours = f"backbone.stages.{stage}.{place}"
                yield Layer(f"{ours}.0", f"{ours}.1", f"{theirs}.{first}", f"{theirs}.{first + 1}")
        for stage, stride in enumerate(self.config.student.neck_strides):
            theirs = f"{'pts_neck' if self.mm else 'backbone_2d'}.deblocks.{stage}"
            # At stride 1 mmdetection3d has a convolution; OpenPCDet and our student have a transposed one.
            kind = "transposed" if self.mm and stride == 1 else "same"
            yield Layer(f"neck.blocks.{stage}.0", f"neck.blocks.{stage}.1", f"{theirs}.0", f"{theirs}.1", kind)
        shared = ("pts_bbox_head.shared_conv.conv", "pts_bbox_head.shared_conv.bn")
        names = shared if self.mm else ("dense_head.shared_conv.0", "dense_head.shared_conv.1")
        yield Layer("head.shared.0", "head.shared.1", *names, eps=HEAD_EPS)

    def _branch(self, task: int, name: str) -> tuple[str, str, str]:
        """The names of a branch's hidden convolution, its norm, and its last convolution in their model."""
        if self.mm:
            theirs = f"pts_bbox_head.task_heads.{task}.{name}"
            return f"{theirs}.0.conv", f"{theirs}.0.bn", f"{theirs}.1"
        theirs = f"dense_head.heads_list.{task}.{name}"
        return f"{theirs}.0.0", f"{theirs}.0.1", f"{theirs}.1"

    def _task(self, task: int) -> None:
        conv, norm, last = self._branch(task, "heatmap" if self.mm else "hm")
        ours = f"head.heatmaps.{task}"
        self._layer(Layer(f"{ours}.0.0", f"{ours}.0.1", conv, norm, eps=HEAD_EPS))
        for end in ("weight", "bias"):
            self._put(f"{ours}.1.{end}", self._take(f"{last}.{end}", f"{ours}.1.{end}"))
        ours, channels = f"head.regressions.{task}", self.config.student.head_channels
        for place, name in enumerate(CODE):
            if name not in BRANCHES[self.made.framework]:
                continue
            conv, norm, last = self._branch(task, BRANCHES[self.made.framework][name])
            rows = slice(place * channels, (place + 1) * channels)
            self._layer(Layer(f"{ours}.hidden", f"{ours}.norm", conv, norm, eps=HEAD_EPS), rows)
            turned = [1, 0] if name == "direction" and self.mm else slice(None)
            for end in ("weight", "bias"):
                value = self._take(f"{last}.{end}", f"{ours}.outputs.{name}.{end}")
                self._put(f"{ours}.outputs.{name}.{end}", None if value is None else value[turned])

    def _layer(self, layer: Layer, rows: slice = slice(None)) -> None:
        weight = self._take(f"{layer.theirs}.weight", f"{layer.ours}.weight")
        bias = self._take(f"{layer.theirs}.bias", f"{layer.our_norm}.running_mean")
        if weight is not None:
            target = self.made.state[f"{layer.ours}.weight"]
            self._put(f"{layer.ours}.weight", self._scaled(layer, _fitted(weight, target, layer.kind)), rows)
        self._norm(layer, bias, rows)

    def _scaled(self, layer: Layer, weight: Tensor) -> Tensor:
        """Undo our scaling of points (``pillars.scale_points``) in the weight of the first sparse convolution."""
        if layer.ours != "voxels.encoder.input" or weight.shape[3] != 5:
            return weight
        return weight * self._units()[:, None]

    def _units(self) -> Tensor:
        """The values of our units of x, y, z, intensity and age in their units."""
        x0, y0, _, x1, y1, _ = self.config.model.range_m
        return torch.tensor([max(x1, -x0), max(y1, -y0), 1.0, 255.0, DT_UNIT_S])

    def _norm(self, layer: Layer, shift: Tensor | None, rows: slice = slice(None)) -> None:
        """Convert a norm; ``shift`` (C,): the bias that their layer, but not ours, adds before the norm."""
        parts = {
            name: self._take(f"{layer.their_norm}.{name}", f"{layer.our_norm}.{name}")
            for name in ("weight", "bias", "running_mean", "running_var")
        }
        weight, mean, var = parts["weight"], parts["running_mean"], parts["running_var"]
        if weight is not None and var is not None:
            parts["weight"] = weight * ((var + EPS) / (var + layer.eps)).sqrt()
        if mean is not None and shift is not None:
            parts["running_mean"] = mean - shift
        for name, value in parts.items():
            self._put(f"{layer.our_norm}.{name}", value, rows)

    def _pillars(self) -> None:
        theirs = f"{'pts_voxel_encoder' if self.mm else 'vfe'}.pfn_layers"
        if f"{theirs}.1.linear.weight" in self.found or f"{theirs}.1.0.weight" in self.found:
            return  # a pillar encoder of two layers cannot be converted: ours has one
        dynamic = f"{theirs}.0.0.weight" in self.found
        names = (f"{theirs}.0.0", f"{theirs}.0.1") if dynamic else (f"{theirs}.0.linear", f"{theirs}.0.norm")
        layer = Layer("pillars.linear", "pillars.norm", *names)
        weight = self._take(f"{layer.theirs}.weight", f"{layer.ours}.weight")
        if weight is None:
            return
        if weight.dim() != 2 or weight.shape[1] not in (10, 11):
            self.wrong.append(f"{layer.theirs}.weight {tuple(weight.shape)}: 10 or 11 features of a point")
            return
        model = self.config.model
        # Their features: x, y, z, intensity, age, offset to the mean (3), offset to the center (2, or 3 with z).
        units = torch.cat([self._units(), torch.full((5,), model.pillar_m)])
        ours, shift = weight[:, :10] * units, torch.zeros(len(weight))
        if weight.shape[1] == 11:
            ours[:, 2] += weight[:, 10]
            shift = -weight[:, 10] * (model.range_m[2] + model.range_m[5]) / 2
        self._put(f"{layer.ours}.weight", ours)
        if model.pad_pillars:
            self._put("pillars.padding", self._zero_row(layer))
        self._norm(layer, shift)

    def _zero_row(self, layer: Layer) -> Tensor | None:
        """The output (C,) of their encoder for a point of zeros."""
        names = ("weight", "bias", "running_mean", "running_var")
        parts = [self.found.get(f"{layer.their_norm}.{name}") for name in names]
        if any(part is None for part in parts):
            return None
        weight, bias, mean, var = (part for part in parts if part is not None)
        return torch.relu(bias - mean * weight / (var + layer.eps).sqrt())

    def _take(self, theirs: str, ours: str) -> Tensor | None:
        if theirs not in self.found:
            return None
        self.made.mapped[theirs] = ours
        return self.found[theirs]

    def _put(self, ours: str, value: Tensor | None, rows: slice = slice(None)) -> None:
        if value is None:
            return
        target = self.made.state[ours][rows]
        if value.shape != target.shape:
            self.wrong.append(f"{ours} {tuple(target.shape)} here, {tuple(value.shape)} there")
            return
        target.copy_(value)
        self.done.add(ours)


def _fitted(weight: Tensor, target: Tensor, kind: str) -> Tensor:
    """A weight in our layout. "transposed": inputs and outputs are exchanged. "sparse": mmcv's layout is ours, (kz, ky,
    kx, in, out); spconv 2's, (out, kz, ky, kx, in), is permuted."""
    if kind == "transposed":
        return weight.transpose(0, 1)
    if kind == "sparse" and weight.shape != target.shape and weight.dim() == 5:
        return weight.permute(1, 2, 3, 4, 0)
    return weight


def _sparse_layers(mm: bool, stages: int) -> Iterator[Layer]:
    """The layers of ``models/sparse_encoder.py``; ``mm``: of mmdetection3d. ``stages``: their number."""
    theirs, ours = "pts_middle_encoder" if mm else "backbone_3d", "voxels.encoder"
    for name, of in (("input", "conv_input"), ("output", "conv_out")):
        yield Layer(f"{ours}.{name}", f"{ours}.{name}.norm", f"{theirs}.{of}.0", f"{theirs}.{of}.1", "sparse")
    for stage in range(stages):
        # OpenPCDet's stages begin with the strided convolution, mmdetection3d's end with it.
        place = f"{theirs}.encoder_layers.encoder_layer{stage + 1}" if mm else f"{theirs}.conv{stage + 1}"
        first = 0 if mm or stage == 0 else 1
        for block in range(2):
            for number, half in enumerate(("first", "second"), 1):
                mine, other = f"{ours}.blocks.{stage}.{block}.{half}", f"{place}.{first + block}"
                yield Layer(mine, f"{mine}.norm", f"{other}.conv{number}", f"{other}.bn{number}", "sparse")
        if stage < stages - 1:
            down = f"{place}.2" if mm else f"{theirs}.conv{stage + 2}.0"
            mine = f"{ours}.downs.{stage}"
            yield Layer(mine, f"{mine}.norm", f"{down}.0", f"{down}.1", "sparse")


def summary(made: Converted) -> dict[str, Any]:
    """The rows of the command's final message."""
    return {
        "of": made.framework,
        "mapped": f"{len(made.mapped)} weights (import.json lists them)",
        "not in the file": some(made.kept),
        "not used": some(made.unused),
    }
