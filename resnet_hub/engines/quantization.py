"""Networks in int8: weights and what flows between layers in 256 steps, which processors multiply fastest.

How far the steps must reach NNCF reads off images like those that the network was trained on.
"""

import contextlib
import logging
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from resnet_hub.engines.openvino_engine import import_without_telemetry
from resnet_hub.errors import ConfigurationError
from resnet_hub.images import ImageSource, Preprocessing

#: What NNCF takes by default. More change little and take longer.
MAX_IMAGES = 300


def choose(count: int) -> Sequence[int]:
    """Which of ``count`` training images are looked at: all, or :data:`MAX_IMAGES` from first to last."""
    return range(count) if count <= MAX_IMAGES else np.linspace(0, count - 1, MAX_IMAGES).astype(int).tolist()


def training_pixels(preprocessing: Preprocessing, images: Sequence[ImageSource]) -> Tensor:
    """Those that are looked at, as the network takes them: (N, 3, image_size, image_size).

    Raises:
        ConfigurationError: there is none.
        ImageError: one cannot be decoded.
    """
    if not len(images):
        raise ConfigurationError("int8 is fitted to images of the training, and there is none: give some, or use fp32")
    return preprocessing([preprocessing.load(images[i]) for i in choose(len(images))])


def quantize(network: Any, pixels: Tensor) -> Any:
    """An ``openvino.Model`` in int8, with inputs and outputs as before.

    Args:
        network: ``openvino.Model`` in fp32; changed.
        pixels: Training images as ``network`` takes them, (N, 3, H, W), in whatever order.

    Raises:
        ConfigurationError: NNCF is not installed, or does not run here.
    """
    # It brings PyTorch's tools for compiling extensions along, which miss a GPU that nobody asked for.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    try:
        nncf = import_without_telemetry("nncf")
    except (ImportError, OSError) as error:
        raise ConfigurationError(
            f"int8 needs the package nncf, which cannot be used ({error}): pip install nncf"
        ) from error
    images = [image[None].contiguous().numpy() for image in pixels]
    # Its progress bars are no result: they go where those who wait see them.
    with contextlib.redirect_stdout(sys.stderr):
        return nncf.quantize(
            network, nncf.Dataset(images), preset=nncf.QuantizationPreset.MIXED, subset_size=len(images)
        )
