"""Random changes of training images: where the object is, how the light falls. One draw per (seed, epoch, row)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

#: ITU-R BT.601 luma, what Pillow's and torchvision's gray conversion uses.
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Augmentation:
    """Changes a batch of images, each by what its own (seed, epoch, row) draws.

    Args:
        seed: Of the run.
        horizontal_flip: Probability that an image is mirrored.
        rotation: Degrees to either side.
        scale: Size changes by a factor from 1 / (1 + scale) to 1 + scale.
        translation: Shift in either direction, as a share of the side.
        color_jitter: Brightness, contrast, saturation and each channel's gain change by a factor of 1 +- this.
    """

    seed: int
    horizontal_flip: float = 0.5
    rotation: float = 20.0
    scale: float = 0.2
    translation: float = 0.1
    color_jitter: float = 0.3

    def __call__(self, pixels: Tensor, keys: Sequence[tuple[int, int]]) -> Tensor:
        """uint8 (N, H, W, 3) and the (epoch, row) of each -> the same, changed."""
        # One row of uniform numbers per sample, always as many: adding a draw at the end changes no earlier one.
        draws = np.stack([np.random.default_rng((self.seed, epoch, row)).random(12) for epoch, row in keys])
        uniform = torch.from_numpy(draws).float().to(pixels.device)
        images = pixels.permute(0, 3, 1, 2).float()
        images = self._move(images, uniform[:, :5])
        images = self._recolor(images, uniform[:, 5:])
        return images.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1)

    def _move(self, images: Tensor, uniform: Tensor) -> Tensor:
        """Mirror, rotate, scale and shift in one bilinear resampling; the border's colour continues outwards."""
        flip = torch.where(uniform[:, 0] < self.horizontal_flip, -1.0, 1.0)
        angle = _around_zero(uniform[:, 1]) * math.radians(self.rotation)
        zoom = torch.exp(_around_zero(uniform[:, 2]) * math.log1p(self.scale))
        shift = _around_zero(uniform[:, 3:5]) * (2 * self.translation)  # the side is 2 in the grid's coordinates
        cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
        # The grid says where each output pixel is read, hence the inverse of the change: divided by the zoom.
        matrix = torch.stack(
            [torch.stack([flip * cos, -flip * sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)], 1
        )
        grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)

    def _recolor(self, images: Tensor, uniform: Tensor) -> Tensor:
        """Light and camera: overall gain, warm or cold (a gain per channel), contrast and saturation."""
        factors = 1 + _around_zero(uniform)[:, :, None, None, None] * self.color_jitter
        brightness, contrast, saturation = factors[:, 0], factors[:, 1], factors[:, 2]
        # A third of the jitter: the channels' balance changes colour more visibly than the others do.
        gains = 1 + (factors[:, 3:6, 0] - 1) / 3
        images = images * brightness * gains
        gray = (images * torch.tensor(LUMA, device=images.device)[:, None, None]).sum(1, keepdim=True)
        images = gray + (images - gray) * saturation
        mean = gray.mean(dim=(2, 3), keepdim=True)
        return mean + (images - mean) * contrast


def _around_zero(uniform: Tensor) -> Tensor:
    """From 0..1 to -1..1."""
    return uniform * 2 - 1
