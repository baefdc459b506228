"""Networks of other libraries with nothing at its initial value, written as those libraries write them.

Each has the answers that the converted network must give: whatever is in the wrong place shows.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("KERAS_BACKEND", "torch")  # read when Keras is imported

import h5py
import keras
import numpy as np
import timm
import torch
import torchvision
from keras import layers as kl
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import ResNetConfig, ResNetForImageClassification

BLOCKS, CHANNELS = (1, 2, 1, 1), (8, 16, 16, 32)
NAMES = ("nil", "one", "two")


class Written(NamedTuple):
    """A source to convert, images (N, 3, H, W) and what its own library says of them: logits, or Keras' scores."""

    source: Path
    images: Tensor
    answers: Tensor


def randomized(model: nn.Module) -> nn.Module:
    """Away from the initial values, BatchNorm's statistics too, and so that answers depend on the image."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            tensor.fill_(7)
        elif tensor.ndim > 1:
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * (2 / tensor[0].numel()) ** 0.5)
        else:
            noise = torch.rand(tensor.shape, generator=generator)
            tensor.copy_(noise - 0.5 if name.endswith(("bias", "running_mean")) else noise + 0.5)
    return model.eval()


def some_images(size: int = 64) -> Tensor:
    """Four of different colours and noise, in 0..1."""
    generator = torch.Generator().manual_seed(1)
    return torch.rand(4, 3, 1, 1, generator=generator) * torch.rand(4, 3, size, size, generator=generator)


def logits(model: nn.Module, images: Tensor) -> Tensor:
    with torch.inference_mode():
        found = model(images)
    return found if isinstance(found, Tensor) else found.logits


# -- torchvision, timm, transformers -----------------------------------------------------------------------------------


def torchvision_state_dict(folder: Path) -> Written:
    model = torchvision.models.ResNet(torchvision.models.resnet.Bottleneck, list(BLOCKS), num_classes=3)
    randomized(model)
    save_file(model.state_dict(), folder / "resnet.safetensors")
    return Written(folder / "resnet.safetensors", some_images(), logits(model, some_images()))


def timm_folder(folder: Path, **config: Any) -> Written:
    sizes = {"layers": list(BLOCKS), "channels": list(CHANNELS)}
    model = randomized(timm.create_model("resnet50", num_classes=3, **sizes))
    save_timm(model, folder, {"label_names": NAMES} | config)
    return Written(folder, some_images(), logits(model, some_images()))


def save_timm(model: nn.Module, folder: Path, config: dict[str, Any] | None = None) -> None:
    timm.models.save_for_hf(model, folder, config, safe_serialization=True)


def transformers_folder(folder: Path, **config: Any) -> Written:
    options = {"depths": list(BLOCKS), "hidden_sizes": [4 * c for c in CHANNELS], "id2label": dict(enumerate(NAMES))}
    model = randomized(ResNetForImageClassification(ResNetConfig(**options | config)))
    model.save_pretrained(folder)
    processor = {
        "image_processor_type": "ConvNextImageProcessor",
        "crop_pct": 0.875,
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.2, 0.3, 0.4],
        "resample": 3,
        "size": {"shortest_edge": 96},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return Written(folder, some_images(), logits(model, some_images()))


# -- Keras -------------------------------------------------------------------------------------------------------------


def course_network(
    named: bool,
    blocks: Sequence[int] = BLOCKS,
    channels: Sequence[int] = CHANNELS,
    num_classes: int = 3,
    image_size: int = 64,
    **changes: Any,
) -> keras.Model:
    """The ResNet of the course's notebook, layer by layer; ``changes`` to its max-pool, epsilon or strides."""
    epsilon, stride_in_3x3 = changes.pop("epsilon", 1e-3), changes.pop("stride_in_3x3", False)

    def name(text: str) -> dict[str, str]:
        return {"name": text} if named else {}

    def conv_bn(x: Any, place: str, filters: int, size: int, stride: int = 1, padding: str = "valid") -> Any:
        x = kl.Conv2D(filters, size, strides=stride, padding=padding, **name(f"res{place}"))(x)
        return kl.BatchNormalization(axis=3, epsilon=epsilon, **name(f"bn{place}"))(x)

    image = kl.Input((image_size, image_size, 3))
    x = kl.ZeroPadding2D((3, 3))(image)
    x = kl.Conv2D(64, (7, 7), strides=(2, 2), **name("conv1"))(x)
    x = kl.BatchNormalization(axis=3, epsilon=epsilon, **name("bn_conv1"))(x)
    x = kl.Activation("relu")(x)
    x = kl.MaxPooling2D((3, 3), **{"strides": (2, 2)} | changes)(x)
    for stage, (count, filters) in enumerate(zip(blocks, channels, strict=True), start=2):
        for i in range(count):
            place, shortcut = f"{stage}{'abcdef'[i]}_branch", x
            stride = 2 if i == 0 and stage > 2 else 1
            first, second = (1, stride) if stride_in_3x3 else (stride, 1)
            x = kl.Activation("relu")(conv_bn(x, f"{place}2a", filters, 1, first))
            x = kl.Activation("relu")(conv_bn(x, f"{place}2b", filters, 3, second, padding="same"))
            x = conv_bn(x, f"{place}2c", 4 * filters, 1)
            if i == 0:
                shortcut = conv_bn(shortcut, f"{place}1", 4 * filters, 1, stride)
            x = kl.Activation("relu")(kl.Add()([x, shortcut]))
    x = kl.Flatten()(kl.AveragePooling2D((2, 2), name="avg_pool")(x))
    return keras.Model(image, kl.Dense(num_classes, activation="softmax", **name(f"fc{num_classes}"))(x))


def randomize_keras(model: keras.Model) -> keras.Model:
    generator = np.random.default_rng(0)
    for weight in model.weights:
        if len(weight.shape) > 1:
            value = generator.normal(0, (2 / np.prod(weight.shape[:-1])) ** 0.5, weight.shape)
            value *= 0.2 if len(weight.shape) == 2 else 1  # no score near 0 or 1, where nothing makes a difference
        elif weight.name in ("gamma", "moving_variance"):
            value = generator.uniform(0.5, 1, weight.shape)  # with more, 16 blocks add up to scores of 0 and 1
        else:
            value = generator.uniform(-0.1, 0.1, weight.shape)  # with more, all images get the same scores
        weight.assign(value)
    return model


def scores(model: keras.Model, images: Tensor) -> Tensor:
    return torch.from_numpy(model.predict(images.permute(0, 2, 3, 1).numpy(), verbose=0))


def keras_file(file: Path, named: bool, **options: Any) -> Written:
    """In the format that the suffix stands for; ``.legacy.h5`` for that of Keras 2."""
    course_network(not named, blocks=(1, 1, 1, 1))  # so that numbers of nameless layers do not begin at 0
    model = randomize_keras(course_network(named, **options))
    images = some_images(model.input_shape[1])
    if file.name.endswith(".legacy.h5"):
        write_legacy(model, file)
    elif file.name.endswith(".weights.h5"):
        model.save_weights(file)
    else:
        model.save(file)
    return Written(file, images, scores(model, images))


def write_legacy(model: keras.Model, file: Path) -> None:
    """As Keras 2 wrote ``model.save_weights("ResNet50.h5")`` on TensorFlow."""
    with h5py.File(file, "w") as content:
        content.attrs["backend"], content.attrs["keras_version"] = b"tensorflow", b"2.1.6"
        content.attrs["layer_names"] = [layer.name.encode() for layer in model.layers]
        for layer in model.layers:
            group = content.create_group(layer.name)
            names = [f"{layer.name}/{weight.name}:0" for weight in layer.weights]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, weight in zip(names, layer.weights, strict=True):
                group[name] = keras.ops.convert_to_numpy(weight)
