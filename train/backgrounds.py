"""Cut an object out of its plain background by colour, and put it before another one.

SIGNS is photographed against one light wall. A network that has only seen that wall reads a hand before a bookshelf
badly, so training shows it the same hands before anything.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

#: Side of the grids of random colours that are blown up and added into a background, in cells.
OCTAVES = (2, 4, 8, 16, 32)


def cut_out(images: Tensor) -> Tensor:
    """How much of each pixel belongs to the object: 0 for the wall, 1 for a hand, between at its edge.

    The wall is the usual colour of the border (the lower edge apart, where the arm enters). Skin differs from it in
    hue - redder, less blue - while the hand's shadow differs only in brightness, which is not looked at. Where the two
    part is found for each image on its own (Otsu 1979, https://doi.org/10.1109/TSMC.1979.4310076).

    Args:
        images: float (N, 3, H, W), 0 to 255, of objects that are redder than the wall behind them.

    Returns:
        float (N, 1, H, W), 0 to 1; all 1 where the background is not plain, so that nothing can be cut out.
    """
    log = torch.log(images.clamp_min(8))  # noise in the dark has any hue
    # Ratios of channels: the same in light and shade.
    hue = torch.stack([log[:, 0] - log[:, 1], log[:, 2] - log[:, 1]], dim=1)
    hue = F.avg_pool2d(hue, 3, stride=1, padding=1, count_include_pad=False)
    upper = hue[:, :, : hue.shape[2] * 5 // 8]
    border = torch.cat([hue[:, :, :3].flatten(2), upper[..., :2].flatten(2), upper[..., -2:].flatten(2)], dim=2)
    wall = border.median(dim=2, keepdim=True).values
    # Over SIGNS this is 0.001 to 0.054; over hands drawn before anything but a wall, mostly above 0.1.
    is_plain = (border - wall).abs().sum(dim=1).quantile(0.6, dim=1) < 0.08
    difference = hue - wall[..., None]
    distance = (difference[:, 0].clamp_min(0) + (-difference[:, 1]).clamp_min(0)).flatten(1)
    distance = (distance / distance.quantile(0.98, dim=1, keepdim=True).clamp_min(0.05)).clamp_max(1)
    # A little below the threshold, for fingertips are paler than palms.
    edge = 0.8 * _otsu_threshold(distance)
    coverage = torch.sigmoid((distance - edge[:, None]) / 0.06).view_as(images[:, :1])
    return torch.where(is_plain[:, None, None, None], coverage, 1.0)


def _otsu_threshold(values: Tensor, num_bins: int = 64) -> Tensor:
    """(N, P) in 0..1 -> (N,): the value that parts each row into two groups of the largest variance between them."""
    bins = (values * (num_bins - 1)).long()
    counts = torch.zeros(len(values), num_bins).scatter_add_(1, bins, torch.ones_like(values))
    below = counts.cumsum(1)
    sum_below = (counts * torch.arange(num_bins)).cumsum(1)
    total, sum_total = below[:, -1:], sum_below[:, -1:]
    between = (sum_total * below - total * sum_below) ** 2 / (below * (total - below)).clamp_min(1)
    return (between.argmax(dim=1) + 1) / (num_bins - 1)


def replace_background(images: Tensor, coverage: Tensor, backgrounds: Tensor) -> Tensor:
    """Each object before its new background.

    Args:
        images: float (N, 3, H, W), 0 to 255.
        coverage: float (N, 1, H, W), see :func:`cut_out`.
        backgrounds: float (N, 3, H, W), 0 to 255.
    """
    return images * coverage + backgrounds * (1 - coverage)


def random_backgrounds(generators: Sequence[np.random.Generator], size: tuple[int, int]) -> Tensor:
    """What may be behind a hand: walls of any colour, soft light, stripes, tiles, clutter, and all of it mixed.

    Random colours on grids from coarse to fine, blown up softly or with hard edges, turned and added to a wall: with a
    weight of its own for every grid, so that many are calm and some are wild.

    Args:
        generators: One per background; says all of it.
        size: Height and width in px.

    Returns:
        float (N, 3, H, W), 0 to 255.
    """
    cells = sum(side * side for side in OCTAVES)
    draws = torch.from_numpy(np.stack([g.random(12 + 2 * len(OCTAVES) + 3 * cells, np.float32) for g in generators]))
    wall, rest = draws[:, :3], draws[:, 3:12]
    weights, hard = draws[:, 12:].split(len(OCTAVES), dim=1)[:2]
    grids = draws[:, 12 + 2 * len(OCTAVES) :].view(len(draws), 3, cells).split([s * s for s in OCTAVES], dim=2)
    contrast, colorfulness, angle, zoom, stripes, frequency, phase, slope, wall_colorfulness = rest.unbind(1)

    grid = _turned_grid(math.pi * angle, 0.5 + zoom, size)
    # Cubed, most weights are small: one or two grids set the tone of a background.
    weights = weights**3
    texture = torch.zeros(len(draws), 3, *size)
    for i, (side, cell_colors) in enumerate(zip(OCTAVES, grids, strict=True)):
        colors = cell_colors.reshape(-1, 3, side, side) * 2 - 1
        gray = colors.mean(dim=1, keepdim=True)
        colors = gray + (colors - gray) * colorfulness[:, None, None, None]
        soft = F.grid_sample(colors, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
        tiled = F.grid_sample(colors, grid, mode="nearest", padding_mode="reflection", align_corners=False)
        pick = (hard[:, i] < 0.5)[:, None, None, None]
        texture += weights[:, i, None, None, None] * torch.where(pick, tiled, soft)
    # Blinds, shelves, curtains: parallel lines in every fourth.
    waves = torch.sin(2 * math.pi * ((1 + 9 * frequency)[:, None, None] * grid[..., 0] + phase[:, None, None]))
    texture += torch.where(stripes < 0.25, 0.5, 0.0)[:, None, None, None] * waves.sign()[:, None]
    light = 0.3 * (slope - 0.5)[:, None, None] * grid[..., 1]
    gray = wall.mean(dim=1, keepdim=True)
    wall = gray + (wall - gray) * wall_colorfulness[:, None]
    walls = wall[:, :, None, None] + light[:, None]
    return (walls + contrast[:, None, None, None] * texture).clamp(0, 1) * 255


def _turned_grid(angle: Tensor, zoom: Tensor, size: tuple[int, int]) -> Tensor:
    """Sampling positions (N, H, W, 2) turned by ``angle`` (N,) radians and scaled by ``zoom`` (N,)."""
    cos, sin, zero = torch.cos(angle) * zoom, torch.sin(angle) * zoom, torch.zeros_like(angle)
    matrix = torch.stack([torch.stack([cos, -sin, zero], 1), torch.stack([sin, cos, zero], 1)], 1)
    return F.affine_grid(matrix, [len(angle), 3, *size], align_corners=False)
