"""ResNet-50, -101 and -152 (He et al. 2015, https://arxiv.org/abs/1512.03385), written from scratch.

Plain PyTorch, nothing of Hugging Face. Module names are torchvision's, so a state dict loads in torchvision, timm and
here; given the same weights the logits are bit-identical.

``variant="keras"`` is the network of a well-known course in its place, whose weights give other answers in any other.

Shapes below are written ``(N, C, H, W)``: images, channels, height, width.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.fx
from torch import Tensor, nn

from resnet_hub.errors import ConfigurationError

#: Blocks per stage of each published architecture (table 1 of the paper).
LAYERS: dict[str, tuple[int, int, int, int]] = {
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
    "resnet152": (3, 8, 36, 3),
}
#: Bottleneck channels per stage; each stage puts out ``EXPANSION`` times as many.
CHANNELS = (64, 128, 256, 512)
EXPANSION = 4
STEM_CHANNELS = 64


@dataclass(frozen=True)
class Variant:
    """What differs between networks of the same layers. The defaults are torchvision's, timm's and transformers'.

    Attributes:
        stride_in_1x1: Where a block that shrinks the image does so: in its first 1x1 convolution, as in the paper, or
            in its 3x3 ("ResNet v1.5"). The 1x1 throws away three quarters of its input. Goyal et al. 2017,
            https://arxiv.org/abs/1706.02677, section 5.1.
        conv_bias: Convolutions have biases, which the BatchNorm after them makes superfluous.
        pool_padding: Around the map that the stem's max-pool reduces, in px.
        average_pool: Side of the window of the last pool, in px; None for the whole map.
        norm_eps, norm_momentum: Of BatchNorm; the momentum is the new batch's share, as PyTorch has it.
        min_image_size, max_image_size: Sides in px, both included, that leave one vector to the classifier.
    """

    stride_in_1x1: bool = False
    conv_bias: bool = False
    pool_padding: int = 1
    average_pool: int | None = None
    norm_eps: float = 1e-5
    norm_momentum: float = 0.1
    min_image_size: int = 32  # below, the last stage would see less than one pixel: the network reduces by 32
    max_image_size: int = sys.maxsize

    def conv(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> nn.Conv2d:
        """Padded so that only the stride makes the map smaller."""
        padding = kernel_size // 2
        return nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=self.conv_bias)

    def norm(self, channels: int) -> nn.BatchNorm2d:
        return nn.BatchNorm2d(channels, eps=self.norm_eps, momentum=self.norm_momentum)

    def last_pool(self) -> nn.Module:
        return nn.AdaptiveAvgPool2d((1, 1)) if self.average_pool is None else nn.AvgPool2d(self.average_pool)

    @property
    def image_sizes(self) -> str:
        """In words."""
        if self.max_image_size == sys.maxsize:
            return f"at least {self.min_image_size} px"
        return f"{self.min_image_size} to {self.max_image_size} px"

    def check_image_size(self, image_size: int) -> None:
        """Raise ``ConfigurationError`` for a side in px with which the network has no logits."""
        if not self.min_image_size <= image_size <= self.max_image_size:
            raise ConfigurationError(f"image_size must be {self.image_sizes}, got {image_size}")


TORCHVISION = Variant()
#: The ResNet-50 of the course "Convolutional Neural Networks" (deeplearning.ai), as its Keras notebook builds it; where
#: it says nothing, with Keras' defaults. Its last pool leaves 1 x 1 px of the 2 x 2 or 3 x 3 that images of these sizes
#: come to; of others the notebook would make a classifier of another shape.
KERAS = Variant(
    stride_in_1x1=True,
    conv_bias=True,
    pool_padding=0,
    average_pool=2,
    norm_eps=1e-3,
    norm_momentum=0.01,
    min_image_size=37,
    max_image_size=100,
)
VARIANTS = {"torchvision": TORCHVISION, "keras": KERAS}


class _Bottleneck(nn.Module):
    """The residual branch that both blocks share: 1x1 reduce, 3x3, 1x1 expand, each followed by BatchNorm."""

    def __init__(self, in_channels: int, channels: int, stride: int = 1, variant: Variant = TORCHVISION) -> None:
        super().__init__()
        out_channels = channels * EXPANSION
        first_stride, second_stride = (stride, 1) if variant.stride_in_1x1 else (1, stride)
        self.conv1 = variant.conv(in_channels, channels, kernel_size=1, stride=first_stride)
        self.bn1 = variant.norm(channels)
        self.conv2 = variant.conv(channels, channels, kernel_size=3, stride=second_stride)
        self.bn2 = variant.norm(channels)
        self.conv3 = variant.conv(channels, out_channels, kernel_size=1)
        self.bn3 = variant.norm(out_channels)
        self.relu = nn.ReLU(inplace=True)

    def residual(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) -> (N, 4 * channels, H / stride, W / stride), before the addition."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.bn3(self.conv3(x))


class IdentityBlock(_Bottleneck):
    """Bottleneck whose shortcut is its input: (N, 4 * channels, H, W) -> the same shape."""

    def __init__(self, channels: int, variant: Variant = TORCHVISION) -> None:
        super().__init__(channels * EXPANSION, channels, variant=variant)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.residual(x) + x)


class ConvolutionalBlock(_Bottleneck):
    """Bottleneck with a projection shortcut, where the shape changes.

    (N, in_channels, H, W) -> (N, 4 * channels, H / stride, W / stride).
    """

    def __init__(self, in_channels: int, channels: int, stride: int, variant: Variant = TORCHVISION) -> None:
        super().__init__(in_channels, channels, stride, variant)
        out_channels = channels * EXPANSION
        self.downsample = nn.Sequential(
            variant.conv(in_channels, out_channels, kernel_size=1, stride=stride), variant.norm(out_channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.residual(x) + self.downsample(x))


def make_stage(
    in_channels: int, channels: int, num_blocks: int, stride: int, variant: Variant = TORCHVISION
) -> nn.Sequential:
    """One stage: a block that changes the shape, then identity blocks.

    The first block is a projection only where there is a shape to change, as in torchvision; that matters for narrow
    networks whose first stage has as many channels as the stem.
    """
    out_channels = channels * EXPANSION
    changes_shape = stride != 1 or in_channels != out_channels
    first = (
        ConvolutionalBlock(in_channels, channels, stride, variant)
        if changes_shape
        else IdentityBlock(channels, variant)
    )
    return nn.Sequential(first, *(IdentityBlock(channels, variant) for _ in range(num_blocks - 1)))


@torch.fx.wrap  # keeps these comparisons of sizes out of symbolic traces, which know no sizes
def check_images(images: Tensor, variant: str) -> None:
    """Raise ``ConfigurationError`` unless ``images`` is (N, 3, H, W) with sides that the variant takes."""
    sizes = VARIANTS[variant]
    sides = images.shape[2:]
    if (
        images.ndim != 4
        or images.shape[1] != 3
        or min(sides) < sizes.min_image_size
        or max(sides) > sizes.max_image_size
    ):
        raise ConfigurationError(
            f"the network takes images of shape (N, 3, H, W) with H and W of {sizes.image_sizes}, got "
            f"{tuple(images.shape)}: convert to RGB, add the batch dimension or resize the images"
        )


class ResNet(nn.Module):
    """Stem, four stages of bottleneck blocks, global average pool and a linear classifier.

    Args:
        layers: Blocks per stage, four numbers of at least 1. See ``LAYERS``.
        num_classes: Size of the logits, at least 1.
        channels: Bottleneck channels per stage, four numbers; smaller ones make tiny networks for tests.
        variant: One of ``VARIANTS``.
    """

    def __init__(
        self,
        layers: Sequence[int],
        num_classes: int,
        channels: Sequence[int] = CHANNELS,
        variant: str = "torchvision",
    ) -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise ConfigurationError(f"variant {variant!r} is unknown: use one of {', '.join(VARIANTS)}")
        if len(layers) != 4 or min(layers) < 1:
            raise ConfigurationError(f"layers must be four numbers of at least 1, got {tuple(layers)}")
        if len(channels) != 4 or min(channels) < 1:
            raise ConfigurationError(f"channels must be four numbers of at least 1, got {tuple(channels)}")
        if num_classes < 1:
            raise ConfigurationError(f"num_classes must be at least 1, got {num_classes}")
        self.num_classes = num_classes
        self.num_features = channels[3] * EXPANSION
        self.variant = variant
        v = VARIANTS[variant]

        self.conv1 = v.conv(3, STEM_CHANNELS, kernel_size=7, stride=2)
        self.bn1 = v.norm(STEM_CHANNELS)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=v.pool_padding)
        self.layer1 = make_stage(STEM_CHANNELS, channels[0], layers[0], stride=1, variant=v)
        self.layer2 = make_stage(channels[0] * EXPANSION, channels[1], layers[1], stride=2, variant=v)
        self.layer3 = make_stage(channels[1] * EXPANSION, channels[2], layers[2], stride=2, variant=v)
        self.layer4 = make_stage(channels[2] * EXPANSION, channels[3], layers[3], stride=2, variant=v)
        self.avgpool = v.last_pool()
        self.fc = nn.Linear(self.num_features, num_classes)
        self.init_weights()

    def init_weights(self) -> None:
        """Kaiming-normal convolutions (He et al. 2015, https://arxiv.org/abs/1502.01852), residual branches at zero.

        Zero in the last BatchNorm scale of each block means that every residual branch starts at zero, which makes the
        deep network easy to train at first. Goyal et al. 2017, https://arxiv.org/abs/1706.02677, section 5.1.
        """
        if self.conv1.weight.is_meta:
            return  # weights follow from a file, and random numbers on meta cost the import of torch's compiler (2 s)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, _Bottleneck):
                nn.init.zeros_(module.bn3.weight)

    def get_classifier(self) -> nn.Linear:
        return self.fc

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the classifier by a fresh one for ``num_classes`` classes, on the same device."""
        if num_classes < 1:
            raise ConfigurationError(f"num_classes must be at least 1, got {num_classes}")
        weight = self.fc.weight
        self.fc = nn.Linear(self.num_features, num_classes, device=weight.device, dtype=weight.dtype)
        self.num_classes = num_classes

    def forward_stem(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 64, H / 4, W / 4), rounded up. H and W are at least 32 px."""
        check_images(images, self.variant)
        x = self.relu(self.bn1(self.conv1(images)))  # (N, 64, H / 2, W / 2)
        return self.maxpool(x)

    def forward_features(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, num_features, H / 32, W / 32), rounded up. H and W are at least 32 px."""
        x = self.forward_stem(images)  # (N, 64, H / 4, W / 4)
        x = self.layer1(x)
        x = self.layer2(x)  # H / 8
        x = self.layer3(x)  # H / 16
        return self.layer4(x)  # H / 32

    def forward_head(self, features: Tensor) -> Tensor:
        """(N, num_features, h, w) -> logits (N, num_classes)."""
        return self.fc(torch.flatten(self.avgpool(features), 1))

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (N, 3, H, W) -> logits (N, num_classes)."""
        return self.forward_head(self.forward_features(images))
