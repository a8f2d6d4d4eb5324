"""Features of the picture of each click: a square from the camera image that sees the click best, and a small CNN.

The square stands upright and across the viewing ray, and is about as wide as the clicked class is long, so that an
object fills it at any distance. Lamps, windows and faces show the direction of an object also when its LiDAR points are
few, or alike at both ends.

Legend: B samples, V views, K clicks, C channels, H x W pixels, S = PICTURE_PX.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pdetr3d.batch import Batch, hashed_uniform
from pdetr3d.geometry.camera import MIN_DEPTH_M
from pdetr3d.geometry.crops import SIDE_FACTOR
from pdetr3d.geometry.tensors import homogeneous, inside, pixel_of, project
from pdetr3d.models.box_code import viewing_direction
from pdetr3d.models.image_backbone import RGB_MEAN, RGB_STD

PICTURE_PX = 32  # width and height of a picture
FEATURES = 4 * 64  # four quarters of a picture, 64 channels
LEVELS = 4  # of the image pyramid that pictures are sampled from: pixels averaged over 1, 2, 4, 8
JITTER = 0.3  # training noise: of the contrast, and of each color's brightness in standard deviations of pixels
DROPOUT = 0.3  # dropout of the network's features, against overfitting to few clicks
UNSEEN = 0.1  # share of pictures that training leaves out, as if a camera had failed


class PictureCrop(nn.Module):
    """``forward(batch, click, prior, label) -> (B, K, C)``, >= 0; zero for a click that no camera sees.

    Args:
        channels: C. classes: number of classes.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        blocks = [_block(3, 16, 2), _block(16, 32, 2), _block(32, 32, 1), _block(32, 64, 2), _block(64, 64, 1)]
        # A maximum per quarter of the picture: a lamp is found anywhere in its quarter.
        self.network = nn.Sequential(*blocks, nn.AdaptiveMaxPool2d(2), nn.Flatten())
        self.embedding = nn.Embedding(classes, channels)
        self.join = nn.Sequential(
            nn.Linear(FEATURES + channels, 2 * channels),
            nn.LayerNorm(2 * channels),
            nn.ReLU(),
            nn.Linear(2 * channels, channels),
            nn.LayerNorm(channels),
            nn.ReLU(),
        )
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(RGB_MEAN), persistent=False)
        self.register_buffer("std", torch.tensor(RGB_STD), persistent=False)

    def forward(self, batch: Batch, click: Tensor, prior: Tensor, label: Tensor) -> Tensor:
        """The features of the clicks' pictures.

        Args:
            batch: with images. click: (B, K, 3) [m]. prior: (B, K, 3) mean l, w, h [m] of the clicks' classes. label:
                (B, K) classes.
        """
        if batch.images.shape[1] == 0:
            return click.new_zeros(*label.shape, self.embedding.embedding_dim)
        pixels = ((batch.images.float() - self.mean) / self.std).flatten(0, 1)
        side = SIDE_FACTOR * prior.norm(dim=-1)
        picture, seen = take_pictures(pixels, batch.lidar2img, batch.camera_valid, click.float(), side)
        if self.training:
            drawn = hashed_uniform(click, 2 + FEATURES)  # a hash of the click is the same on every worker
            light, color, kept = drawn[..., 0, :], drawn[..., 1, :], drawn[..., 2:, 0] > 2 * DROPOUT - 1
            picture = picture * (1 + JITTER * light[..., :1, None, None]) + JITTER * color[..., None, None]
            seen = seen & (light[..., 1] > 2 * UNSEEN - 1)
        found = self.network(picture.flatten(0, 1)).unflatten(0, label.shape)
        if self.training:
            found = found * kept / (1 - DROPOUT)
        return self.join(torch.cat([found, self.embedding(label).to(found.dtype)], -1)) * seen[..., None]


def best_view(lidar2img: Tensor, valid: Tensor, click: Tensor, size_px: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The view in whose image each click is nearest to the middle column.

    Args:
        lidar2img: (B, V, 4, 4). valid: (B, V) bool. click: (B, K, 3) [m]. size_px: width, height of the images.

    Returns:
        (B, K) int64 numbers of views, and (B, K) bool: whether any view sees the click.
    """
    (uv, depth), size = project(lidar2img, click), click.new_tensor(size_px)
    visible = (depth >= MIN_DEPTH_M) & inside(uv, size) & valid[:, :, None]
    off = torch.where(visible, (uv[..., 0] / size[0] - 0.5).abs(), torch.inf)
    nearest, view = off.min(1)
    return view, nearest.isfinite()


def take_pictures(
    pixels: Tensor, lidar2img: Tensor, valid: Tensor, click: Tensor, side_m: Tensor
) -> tuple[Tensor, Tensor]:
    """Sample a picture of each click: a square that stands at the click across the viewing ray.

    Its columns go from left to right as seen from the sensor; pictures of a mirrored sample are mirrored. Pixels
    outside the image are 0.

    Args:
        pixels: (B * V, H, W, 3). lidar2img: (B, V, 4, 4). valid: (B, V) bool. click: (B, K, 3) [m]. side_m: (B, K)
            sides of the squares [m].

    Returns:
        (B, K, 3, S, S) pictures, and (B, K) bool: whether a camera sees the click.
    """
    (b, v), k, (height, width) = lidar2img.shape[:2], click.shape[1], pixels.shape[1:3]
    view, seen = best_view(lidar2img, valid, click, (width, height))
    matrix = lidar2img.gather(1, view[..., None, None].expand(-1, -1, 4, 4))  # (B, K, 4, 4)
    ahead = viewing_direction(click)
    right = torch.stack([ahead[..., 1], -ahead[..., 0], torch.zeros_like(side_m)], -1)
    step = (torch.arange(PICTURE_PX, device=click.device) + 0.5) / PICTURE_PX - 0.5
    place = (
        click[..., None, None, :] + (side_m[..., None] * step)[..., None, :, None] * right[..., None, None, :]
    ).repeat(1, 1, PICTURE_PX, 1, 1)
    place[..., 2] -= (side_m[..., None] * step)[..., :, None]
    uv = pixel_of(homogeneous(matrix[:, :, None, None], place))  # (B, K, S, S, 2)
    across = (uv[:, :, PICTURE_PX // 2, -1] - uv[:, :, PICTURE_PX // 2, 0]).norm(dim=-1) / (PICTURE_PX - 1)
    level = across.clamp(min=1.0).log2().round().clamp(max=LEVELS - 1).long()
    xy = 2 * uv / uv.new_tensor((width, height)) - 1
    image = view + v * torch.arange(b, device=view.device)[:, None]
    depth = (2 * image + 1).to(xy.dtype) / (b * v) - 1  # images are the slices of a volume: one call samples from all
    grid = torch.cat([xy, depth[..., None, None, None].expand(*xy.shape[:-1], 1)], -1)
    pictures = pixels.new_zeros(b, k, 3, PICTURE_PX, PICTURE_PX)
    pyramid = pixels.permute(0, 3, 1, 2)
    for n in range(LEVELS):
        chosen = seen & (level == n)
        if chosen.any():
            volume = pyramid.transpose(0, 1)[None]
            found = F.grid_sample(volume, grid[chosen][None], padding_mode="zeros", align_corners=False)
            pictures[chosen] = found[0].transpose(0, 1)
        if n < LEVELS - 1:
            pyramid = F.avg_pool2d(pyramid, 2, ceil_mode=True)
    return pictures, seen


def _block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Convolution, group norm, ReLU. Group norm normalizes each picture on its own."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.GroupNorm(4, outputs), nn.ReLU())
