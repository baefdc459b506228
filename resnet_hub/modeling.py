"""ResNet-50, -101 and -152 (He et al. 2015, https://arxiv.org/abs/1512.03385), written from scratch.

Plain PyTorch, nothing of Hugging Face. Module names are torchvision's, so a state dict loads in torchvision, timm and
here; given the same weights the logits are bit-identical.

Shapes below are written ``(N, C, H, W)``: images, channels, height, width.
"""

from collections.abc import Sequence

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
#: Below this side the last stage would see less than one pixel: the network reduces by 32.
MIN_IMAGE_SIZE = 32


class _Bottleneck(nn.Module):
    """The residual branch that both blocks share: 1x1 reduce, 3x3, 1x1 expand, each followed by BatchNorm.

    The stride sits in the 3x3 convolution and not in the first 1x1 as in the paper ("ResNet v1.5"): the 1x1 would
    throw away three quarters of its input. Goyal et al. 2017, https://arxiv.org/abs/1706.02677, section 5.1.
    """

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        out_channels = channels * EXPANSION
        self.conv1 = nn.Conv2d(in_channels, channels, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, out_channels, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)

    def residual(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) -> (N, 4 * channels, H / stride, W / stride), before the addition."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.bn3(self.conv3(x))


class IdentityBlock(_Bottleneck):
    """Bottleneck whose shortcut is its input: (N, 4 * channels, H, W) -> the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels * EXPANSION, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.residual(x) + x)


class ConvolutionalBlock(_Bottleneck):
    """Bottleneck with a projection shortcut, where the shape changes.

    (N, in_channels, H, W) -> (N, 4 * channels, H / stride, W / stride).
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__(in_channels, channels, stride)
        self.downsample = nn.Sequential(
            nn.Conv2d(in_channels, channels * EXPANSION, kernel_size=1, stride=stride, bias=False),
            nn.BatchNorm2d(channels * EXPANSION),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.residual(x) + self.downsample(x))


def make_stage(in_channels: int, channels: int, num_blocks: int, stride: int) -> nn.Sequential:
    """One stage: a block that changes the shape, then identity blocks.

    The first block is a projection only where there is a shape to change, as in torchvision; that matters for narrow
    networks whose first stage has as many channels as the stem.
    """
    out_channels = channels * EXPANSION
    changes_shape = stride != 1 or in_channels != out_channels
    first = ConvolutionalBlock(in_channels, channels, stride) if changes_shape else IdentityBlock(channels)
    return nn.Sequential(first, *(IdentityBlock(channels) for _ in range(num_blocks - 1)))


@torch.fx.wrap  # keeps these comparisons of sizes out of symbolic traces, which know no sizes
def check_images(images: Tensor) -> None:
    """Raise ``ConfigurationError`` unless ``images`` is (N, 3, H, W) with sides of at least 32 px."""
    if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[2:]) < MIN_IMAGE_SIZE:
        raise ConfigurationError(
            f"the network takes images of shape (N, 3, H, W) with H and W of at least {MIN_IMAGE_SIZE} px, got "
            f"{tuple(images.shape)}: convert to RGB, add the batch dimension or resize the images up"
        )


class ResNet(nn.Module):
    """Stem, four stages of bottleneck blocks, global average pool and a linear classifier.

    Args:
        layers: Blocks per stage, four numbers of at least 1. See ``LAYERS``.
        num_classes: Size of the logits, at least 1.
        channels: Bottleneck channels per stage, four numbers; smaller ones make tiny networks for tests.
    """

    def __init__(self, layers: Sequence[int], num_classes: int, channels: Sequence[int] = CHANNELS) -> None:
        super().__init__()
        if len(layers) != 4 or min(layers) < 1:
            raise ConfigurationError(f"layers must be four numbers of at least 1, got {tuple(layers)}")
        if len(channels) != 4 or min(channels) < 1:
            raise ConfigurationError(f"channels must be four numbers of at least 1, got {tuple(channels)}")
        if num_classes < 1:
            raise ConfigurationError(f"num_classes must be at least 1, got {num_classes}")
        self.num_classes = num_classes
        self.num_features = channels[3] * EXPANSION

        self.conv1 = nn.Conv2d(3, STEM_CHANNELS, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM_CHANNELS)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.layer1 = make_stage(STEM_CHANNELS, channels[0], layers[0], stride=1)
        self.layer2 = make_stage(channels[0] * EXPANSION, channels[1], layers[1], stride=2)
        self.layer3 = make_stage(channels[1] * EXPANSION, channels[2], layers[2], stride=2)
        self.layer4 = make_stage(channels[2] * EXPANSION, channels[3], layers[3], stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
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
        check_images(images)
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
