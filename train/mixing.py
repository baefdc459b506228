"""Mixup and CutMix: two images become one, with the labels of both in the same shares.

Each image is mixed with its neighbour in the batch, shares drawn from its own (seed, epoch, row): an even batch per
process is mixed alike on any number of processes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from train.augmentation import Key


@dataclass(frozen=True)
class Mixing:
    """Mixup (Zhang et al. 2017, https://arxiv.org/abs/1710.09412) and CutMix (Yun et al. 2019,
    https://arxiv.org/abs/1905.04899).

    Args:
        seed: Of the run.
        mixup_alpha: The share of an image is drawn from Beta(alpha, alpha); 0 for no mixup.
        cutmix_alpha: The same for the area that stays. Where both are above 0, a coin decides for each image.
    """

    seed: int
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0

    def __call__(self, images: Tensor, labels: Tensor, keys: Sequence[Key]) -> tuple[Tensor, Tensor, Tensor]:
        """Mix a batch.

        Args:
            images: float (N, 3, H, W).
            labels: int64 (N,).
            keys: (epoch, row) of each.

        Returns:
            The mixed images, the second label of each (N,), and the share (N,) of the first, 0 to 1.
        """
        partners = torch.arange(len(images)) ^ 1  # 0 with 1, 2 with 3, ...
        partners.clamp_(max=len(images) - 1)  # the last of an odd batch stays itself
        mixed, shares = images.clone(), torch.ones(len(images))
        for i, key in enumerate(keys):
            rng = np.random.default_rng((self.seed, *key, 3))
            if self.cutmix_alpha > 0 and (self.mixup_alpha == 0 or rng.random() < 0.5):
                shares[i] = _paste(mixed[i], images[partners[i]], rng.beta(self.cutmix_alpha, self.cutmix_alpha), rng)
            else:
                shares[i] = share = float(rng.beta(self.mixup_alpha, self.mixup_alpha))
                torch.lerp(images[partners[i]], images[i], share, out=mixed[i])
        return mixed, labels[partners], shares


def _paste(image: Tensor, other: Tensor, share: float, rng: np.random.Generator) -> float:
    """Put a rectangle of ``other`` into ``image`` that leaves about ``share`` of it; the share that is left exactly."""
    height, width = image.shape[1:]
    rows, columns = (round(side * math.sqrt(1 - share)) for side in (height, width))
    # Its centre lies anywhere, so that parts of it may fall outside: as in the paper.
    y, x = rng.integers(height) - rows // 2, rng.integers(width) - columns // 2
    box = (slice(max(0, y), max(0, y + rows)), slice(max(0, x), max(0, x + columns)))
    image[:, *box] = other[:, *box]
    return 1 - image[0, *box].numel() / (height * width)
