"""Where a network looks: Grad-CAM heatmaps, and how they are laid over a picture."""

import matplotlib
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from resnet_hub.errors import ConfigurationError
from resnet_hub.hub import ResNetForImageClassification

#: From fine and simple (edges, skin) to coarse and telling (what the class is decided by).
STAGES = ("layer1", "layer2", "layer3", "layer4")
#: Of the two, the heatmap's share of a pixel where it is hottest.
OPACITY = 0.6


def default_stage(image_size: int) -> str:
    """The last stage that sees at least 7 x 7 places: with fewer a heatmap says little of where.

    Args:
        image_size: Side in px of the network's input. The stages reduce it by 4, 8, 16 and 32.
    """
    reductions = {"layer4": 32, "layer3": 16, "layer2": 8}
    return next((stage for stage, factor in reductions.items() if image_size >= 7 * factor), "layer1")


def grad_cam(
    model: ResNetForImageClassification, pixels: Tensor, class_index: int, stage: str | None = None
) -> np.ndarray:
    """How much each place of a stage's output speaks for a class.

    The channels of the stage, weighted by the mean gradient of the class's logit, summed, without what speaks against
    the class (Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391, equations 1 and 2).

    Args:
        model: In evaluation mode.
        pixels: One image as the network takes it, (1, 3, H, W), normalised.
        class_index: 0 to ``model.num_classes - 1``.
        stage: One of ``STAGES``; default: :func:`default_stage`.

    Returns:
        float32 (h, w), the stage's size, 0 to 1 with 1 at the hottest place; all 0 where nothing speaks for the class.

    Raises:
        ConfigurationError: no such stage or class.
    """
    stage = stage or default_stage(pixels.shape[-1])
    if stage not in STAGES:
        raise ConfigurationError(f"there is no stage {stage!r}: use one of {', '.join(STAGES)}")
    if not 0 <= class_index < model.num_classes:
        raise ConfigurationError(f"there is no class {class_index}: use 0 to {model.num_classes - 1}")
    before, after = STAGES[: STAGES.index(stage) + 1], STAGES[STAGES.index(stage) + 1 :]
    with torch.inference_mode(False), torch.no_grad():
        features = model.forward_stem(pixels)
        for name in before:
            features = getattr(model, name)(features)
    with torch.inference_mode(False), torch.enable_grad():
        x = features.requires_grad_()
        for name in after:
            x = getattr(model, name)(x)
        (gradient,) = torch.autograd.grad(model.forward_head(x)[0, class_index], features)
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    heat = (weights * features.detach()).sum(dim=1)[0].clamp(min=0).float()
    peak = heat.max()
    return (heat / peak if peak > 0 else heat).cpu().numpy()


def overlay(image: Image.Image, heatmap: np.ndarray) -> Image.Image:
    """The picture in gray under the heatmap in colour, dark blue for nothing and yellow for the hottest place.

    Args:
        image: RGB of any size; the whole of it is what the network saw.
        heatmap: Of :func:`grad_cam`, any size.
    """
    smooth = Image.fromarray(heatmap).resize(image.size, Image.Resampling.BICUBIC)
    colors = matplotlib.colormaps["inferno"](np.clip(np.asarray(smooth), 0, 1), bytes=True)[..., :3]
    return Image.blend(image.convert("L").convert("RGB"), Image.fromarray(colors), OPACITY)
