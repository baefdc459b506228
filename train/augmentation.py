"""Random changes of training images: where the object is, what is behind it, light and camera.

One draw per (seed, epoch, row), so that neither processes nor workers nor a resumed run see other images.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from train.backgrounds import cut_out, random_backgrounds, replace_background

#: ITU-R BT.601 luma, what Pillow's and torchvision's gray conversion uses.
LUMA = (0.299, 0.587, 0.114)

#: (epoch, row): says everything about a sample.
Key = tuple[int, int]

#: Uniform numbers per sample, always as many: switching one change on moves no other's draw.
NUM_DRAWS = 20


@dataclass(frozen=True)
class Augmentation:
    """Changes a batch of images, each by what its own (seed, epoch, row) draws.

    Args:
        seed: Of the run.
        horizontal_flip: Probability that an image is mirrored.
        rotation: Degrees to either side.
        scale: Smallest and largest factor of the object's size.
        aspect_ratio: Width to height changes by a factor from 1 / (1 + this) to 1 + this.
        translation: Shift in either direction, as a share of the side.
        background_replacement: Probability that what is behind the object is replaced. For images whose object stands
            before a plain wall of another colour, see :func:`train.backgrounds.cut_out`.
        color_jitter: Brightness, contrast and saturation change by a factor from 1 / (1 + this) to 1 + this.
        color_temperature: Light from cold to warm: red gains and blue loses up to this share, or the reverse.
        blur: Largest standard deviation in px of a Gaussian blur.
        noise: Largest standard deviation of the sensor's noise, as a share of the value range.
        random_erasing: Probability that a rectangle of 2 to 20 % of the area becomes one random colour
            (Zhong et al. 2017, https://arxiv.org/abs/1708.04896).
        strength: Multiplies all of the above: 0 is no augmentation, 1 as given.
        warmup_epochs: The strength rises from 0 over so many epochs: on easy images a network learns what to look at.
    """

    seed: int
    horizontal_flip: float = 0.5
    rotation: float = 20.0
    scale: tuple[float, float] = (0.8, 1.2)
    aspect_ratio: float = 0.0
    translation: float = 0.1
    background_replacement: float = 0.0
    color_jitter: float = 0.3
    color_temperature: float = 0.1
    blur: float = 0.0
    noise: float = 0.0
    random_erasing: float = 0.0
    strength: float = 1.0
    warmup_epochs: int = 0

    def __call__(self, pixels: Tensor, keys: Sequence[Key]) -> Tensor:
        """uint8 (N, H, W, 3) and the (epoch, row) of each, all of one epoch -> the same, changed."""
        epoch = keys[0][0]
        if epoch < self.warmup_epochs:
            risen = self.strength * epoch / self.warmup_epochs
            return replace(self, strength=risen, warmup_epochs=0)(pixels, keys)
        if self.strength == 0:
            return pixels
        draws = np.stack([np.random.default_rng((self.seed, *key)).random(NUM_DRAWS) for key in keys])
        uniform = torch.from_numpy(draws).float()
        images = pixels.permute(0, 3, 1, 2).float()
        images = self._move(images, uniform[:, 0:6], uniform[:, 6], keys)
        images = self._recolor(images, uniform[:, 7:12])
        images = self._photograph(images, uniform[:, 12:14], keys)
        images = self._erase(images, uniform[:, 14:20], keys)
        return images.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1)

    def _move(self, images: Tensor, uniform: Tensor, replacement: Tensor, keys: Sequence[Key]) -> Tensor:
        """Mirror, rotate, scale, stretch and shift in one bilinear resampling; then perhaps another background.

        The border's colour continues outwards.
        """
        chosen = (replacement < self.background_replacement * self.strength).nonzero().flatten()
        layers = images
        if len(chosen):
            # The cut-out travels with the image as a fourth channel, so that its edge is resampled only once.
            coverage = torch.ones_like(images[:, :1])
            coverage[chosen] = cut_out(images[chosen])
            layers = torch.cat([images, coverage], dim=1)
        layers = F.grid_sample(
            layers, self._grid(layers, uniform), mode="bilinear", padding_mode="border", align_corners=False
        )
        if not len(chosen):
            return layers
        images, coverage = layers[:, :3], layers[:, 3:]
        backgrounds = random_backgrounds(
            [np.random.default_rng((self.seed, *keys[i], 1)) for i in chosen.tolist()], tuple(images.shape[2:])
        )
        images = images.contiguous()
        images[chosen] = replace_background(images[chosen], coverage[chosen], backgrounds)
        return images

    def _grid(self, images: Tensor, uniform: Tensor) -> Tensor:
        """Where each output pixel is read, hence the inverse of the change: divided by the zoom."""
        flip = torch.where(uniform[:, 0] < min(1.0, self.horizontal_flip * self.strength), -1.0, 1.0)
        angle = _around_zero(uniform[:, 1]) * math.radians(self.rotation) * self.strength
        smallest, largest = (math.log(factor) for factor in self.scale)
        zoom = torch.exp((smallest + uniform[:, 2] * (largest - smallest)) * self.strength)
        stretch = torch.exp(_around_zero(uniform[:, 3]) * math.log1p(self.aspect_ratio) * self.strength / 2)
        width, height = zoom * stretch, zoom / stretch
        shift = _around_zero(uniform[:, 4:6]) * (2 * self.translation * self.strength)  # the side is 2 in the grid
        cos, sin = torch.cos(angle), torch.sin(angle)
        # Rotated as the hand turns, stretched as the camera's picture is squashed: in this order.
        matrix = torch.stack(
            [
                torch.stack([flip * cos / width, -flip * sin / height, shift[:, 0]], 1),
                torch.stack([sin / width, cos / height, shift[:, 1]], 1),
            ],
            1,
        )
        return F.affine_grid(matrix, list(images.shape), align_corners=False)

    def _recolor(self, images: Tensor, uniform: Tensor) -> Tensor:
        """Light: brightness, warm or cold, and a tint; then contrast and saturation."""
        uniform = _around_zero(uniform)[:, :, None, None, None] * self.strength
        brightness, contrast, saturation = torch.exp(uniform[:, 0:3] * math.log1p(self.color_jitter)).unbind(1)
        warmth = uniform[:, 3] * math.log1p(self.color_temperature)
        tint = uniform[:, 4] * math.log1p(self.color_temperature) / 3  # light varies along warm to cold, less across
        images = images * (brightness * torch.exp(torch.cat([warmth, tint, -warmth], dim=1)))
        gray = (images * torch.tensor(LUMA)[:, None, None]).sum(1, keepdim=True)
        images = gray + (images - gray) * saturation
        mean = gray.mean(dim=(2, 3), keepdim=True)
        return (mean + (images - mean) * contrast).clamp_(0, 255)  # as a sensor clips, before it adds its noise

    def _photograph(self, images: Tensor, uniform: Tensor, keys: Sequence[Key]) -> Tensor:
        """Blur and sensor noise, of any strength up to the largest."""
        if self.blur > 0:
            images = _gaussian_blur(images, uniform[:, 0] * self.blur * self.strength)
        if self.noise > 0:
            size = tuple(images.shape[1:])
            draws = [np.random.default_rng((self.seed, *key, 2)).standard_normal(size, np.float32) for key in keys]
            deviation = uniform[:, 1] * (255 * self.noise * self.strength)
            images = images + torch.from_numpy(np.stack(draws)) * deviation[:, None, None, None]
        return images

    def _erase(self, images: Tensor, uniform: Tensor, keys: Sequence[Key]) -> Tensor:
        chosen = (uniform[:, 0] < self.random_erasing * self.strength).nonzero().flatten().tolist()
        if chosen:
            images = images.clone()
        side_h, side_w = images.shape[2:]
        for i in chosen:
            area, aspect, top, left, gray = uniform[i, 1:].tolist()
            area, aspect = 0.02 + 0.18 * area, math.exp((2 * aspect - 1) * math.log(3))
            height = min(side_h, round(side_h * math.sqrt(area * aspect)))
            width = min(side_w, round(side_w * math.sqrt(area / aspect)))
            y, x = round(top * (side_h - height)), round(left * (side_w - width))
            images[i, :, y : y + height, x : x + width] = 255 * gray
        return images


def _around_zero(uniform: Tensor) -> Tensor:
    """From 0..1 to -1..1."""
    return uniform * 2 - 1


def _gaussian_blur(images: Tensor, deviations: Tensor) -> Tensor:
    """Each image (N, C, H, W) with its own standard deviation (N,) in px."""
    num, channels = images.shape[:2]
    radius = math.ceil(3 * float(deviations.max()))
    if radius == 0:
        return images
    offsets = torch.arange(-radius, radius + 1)
    kernels = torch.exp(-(offsets**2) / (2 * deviations.clamp_min(1e-2)[:, None] ** 2))
    kernels = (kernels / kernels.sum(1, keepdim=True)).repeat_interleave(channels, dim=0)  # one per image and channel
    flat = images.reshape(1, num * channels, *images.shape[2:])
    flat = F.pad(flat, (radius,) * 4, mode="replicate")
    flat = F.conv2d(flat, kernels[:, None, None, :], groups=num * channels)
    flat = F.conv2d(flat, kernels[:, None, :, None], groups=num * channels)
    return flat.view_as(images)
