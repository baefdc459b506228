"""The course's ResNet-50 as Keras saves it, read without Keras: ``.h5`` (legacy or Keras 3) and ``.keras``.

Nothing in these files is run and nothing is trusted. HDF5 can point into other files and claim any size for a few
bytes, so links are refused, and shapes are compared with the network's before anything is read.
"""

import json
import math
import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from resnet_hub.checkpoint import MAX_JSON_BYTES
from resnet_hub.errors import CheckpointError

#: A ResNet-50 with the state of Adam has 280 MB; what is larger is not that.
MAX_FILE_BYTES = 2**30
#: Keras does not compress at all, and weights of any use can hardly be compressed.
MAX_EXPANSION = 4
#: Groups and datasets. A ResNet-50 with Adam has about 1,500.
MAX_OBJECTS = 20_000
MAX_DEPTH = 10
#: Numbers in all weights. A ResNet-50 has 24 million.
MAX_VALUES = 100_000_000
#: What HDF5 and zip say of damaged files is nearly anything.
DAMAGED = (OSError, RuntimeError, ValueError, KeyError, TypeError, zipfile.BadZipFile, EOFError, NotImplementedError)

#: Arrays of a layer, in the order in which Keras 3 numbers them, by how many there are.
ARRAYS = {
    1: ("kernel",),
    2: ("kernel", "bias"),
    4: ("gamma", "beta", "moving_mean", "moving_variance"),
}
#: What the course calls its layers where it names them; the letter is the block's.
NAMED = re.compile(r"(?:res|bn)(?P<stage>\d)(?P<block>[a-z])_branch(?P<branch>2a|2b|2c|1)|(?:bn_)?conv1")
#: What Keras calls them where nobody does. The number counts layers of a kind since the process began.
UNNAMED = re.compile(r"(?:conv2d|batch_normalization|dense)(?:_(?P<number>\d+))?")
BRANCHES = ("2a", "2b", "2c", "1")

#: Up to this side in px the last pool sees 2 x 2 px, of which a global pool or a padded one makes the same.
MAX_SIZE_OF_ANY_POOL = 68
#: Kinds of layers without settings that matter.
HARMLESS = {"InputLayer", "ZeroPadding2D", "Add", "Flatten", "Dropout", "ReLU"}


@dataclass(frozen=True)
class KerasNetwork:
    """What a file holds.

    Attributes:
        layers, channels: Blocks and bottleneck channels per stage.
        num_classes: Size of the softmax.
        image_size: Side in px, where the file says.
        is_described: Whether the file says how its layers work (strides, padding, ...), which has been checked then.
        shapes: Of every tensor of the state dict, as the model has them.
        read: The tensors, float32; only while the file is open.
    """

    layers: tuple[int, ...]
    channels: tuple[int, ...]
    num_classes: int
    image_size: int | None
    is_described: bool
    shapes: dict[str, tuple[int, ...]]
    read: Callable[[], dict[str, Tensor]]


class _OtherNetworkError(Exception):
    """The message says in which way."""


@contextmanager
def open_keras(file: Path) -> Iterator[KerasNetwork]:
    """The course's network in ``file``.

    Raises:
        CheckpointError: not there, too large, damaged, linked to other files, or another network.
    """
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise CheckpointError(
                f"{file} has more than {MAX_FILE_BYTES / 1e9:.1f} GB, no ResNet-50 has: check the path"
            )
        with _open_h5(file) as (content, description):
            layers = _read_layers(content)
            yield _network(layers, description)
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no file {file}: check the path") from error
    except _OtherNetworkError as error:
        raise CheckpointError(
            f"{file} is not the course's ResNet-50: {error}. Only that network is read from Keras; save another one's "
            "weights under torchvision's names as .safetensors"
        ) from error
    except DAMAGED as error:
        raise CheckpointError(f"{file} is damaged ({error}): download or save it again") from error


@contextmanager
def _open_h5(file: Path) -> Iterator[tuple[h5py.File, dict[str, Any] | None]]:
    """The HDF5 content, and the description of the model as parsed JSON or None."""
    if file.suffix != ".keras":
        with h5py.File(file, "r") as content:
            text = content.attrs.get("model_config")
            yield content, _parse(text) if text is not None else None
        return
    with zipfile.ZipFile(file) as archive, tempfile.TemporaryFile() as unpacked:
        sizes = {info.filename: info.file_size for info in archive.infolist()}
        expected = min(MAX_EXPANSION * file.stat().st_size, MAX_FILE_BYTES)
        for name, maximum in [("config.json", MAX_JSON_BYTES), ("model.weights.h5", expected)]:
            if name not in sizes:
                raise _OtherNetworkError(f"it has no {name}")
            if sizes[name] > maximum:
                raise _OtherNetworkError(f"its {name} would unpack to {sizes[name]:,} bytes")
        description = _parse(archive.read("config.json"))
        # Python's zipfile unpacks no more of a member than the size that it claims.
        with archive.open("model.weights.h5") as member:
            shutil.copyfileobj(member, unpacked)
        with h5py.File(unpacked, "r") as content:
            yield content, description


def _parse(text: Any) -> dict[str, Any]:
    if not isinstance(text, (str, bytes)) or len(text) > MAX_JSON_BYTES:
        raise _OtherNetworkError("its description is no text, or far too long")
    try:
        description = json.loads(text)
    except RecursionError as error:
        raise ValueError("a description nested without end") from error
    if not isinstance(description, dict):
        raise _OtherNetworkError("its description is none of a model")
    return description


# ---------------------------------------------------------------------------------------------------------------------
# Layers and their arrays


@dataclass(frozen=True)
class _Layer:
    """Arrays by Keras' names for them. ``is_numbered``: the name is a place in the file, not the layer's own."""

    name: str
    arrays: dict[str, h5py.Dataset]
    is_numbered: bool

    def shape(self, array: str) -> tuple[int, ...]:
        return self.arrays[array].shape


def _read_layers(content: h5py.File) -> list[_Layer]:
    """All layers that have arrays. Nothing but names and shapes is read."""
    found: dict[tuple[str, ...], dict[str, h5py.Dataset]] = {}
    for path, dataset in _walk(content):
        found.setdefault(path[:-1], {})[path[-1]] = dataset
    layers = [_layer(path, arrays, content) for path, arrays in found.items()]
    if len({layer.name for layer in layers}) < len(layers):
        raise _OtherNetworkError("two layers have the same name")
    if sum(math.prod(array.shape) for layer in layers for array in layer.arrays.values()) > MAX_VALUES:
        raise _OtherNetworkError(f"it has more than {MAX_VALUES:,} numbers")
    return layers


def _walk(
    group: h5py.Group, path: tuple[str, ...] = (), seen: Iterator[int] | None = None
) -> Iterator[tuple[tuple[str, ...], h5py.Dataset]]:
    """Every dataset below ``group`` but the optimizer's, with its path."""
    seen = iter(range(MAX_OBJECTS)) if seen is None else seen
    for name in group:
        if not path and name in ("optimizer", "optimizer_weights"):
            continue
        if next(seen, None) is None or len(path) == MAX_DEPTH:
            raise _OtherNetworkError("it has far too many parts")
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise _OtherNetworkError("it links to other places, which is not followed")
        child = group[name]
        if isinstance(child, h5py.Group):
            yield from _walk(child, (*path, name), seen)
        elif isinstance(child, h5py.Dataset):
            if child.external or child.is_virtual:
                raise _OtherNetworkError("its numbers lie in other files, which are not read")
            if child.dtype.kind == "f" and child.shape:
                yield (*path, name), child


def _layer(path: tuple[str, ...], arrays: dict[str, h5py.Dataset], root: h5py.Group) -> _Layer:
    """Keras 3: ``layers/conv2d_3/vars/0``, the layer's name beside it in newer files. Before: ``conv1/.../kernel:0``,
    below ``model_weights`` in files of whole models.
    """
    if path[-1:] == ("vars",) and len(path) > 1:
        name = root["/".join(path)].attrs.get("name")
        names = ARRAYS.get(len(arrays), ())
        if sorted(arrays, key=str) != [str(i) for i in range(len(names))]:
            raise _OtherNetworkError(f"layer {path[-2][:100]} has {len(arrays)} arrays")
        arrays = {array: arrays[str(i)] for i, array in enumerate(names)}
        return _Layer(name if isinstance(name, str) else path[-2], arrays, not isinstance(name, str))
    path = path[1:] if path[:1] == ("model_weights",) else path
    if not path:
        raise _OtherNetworkError(f"it holds {', '.join(sorted(arrays)[:3])[:100]} and no layers")
    return _Layer(path[0], {name.removesuffix(":0"): array for name, array in arrays.items()}, False)


# ---------------------------------------------------------------------------------------------------------------------
# From layers to the network


def _network(layers: list[_Layer], description: dict[str, Any] | None) -> KerasNetwork:
    convolutions = _in_order([x for x in layers if set(x.arrays) == {"kernel", "bias"} and len(x.shape("kernel")) == 4])
    norms = _in_order([layer for layer in layers if set(layer.arrays) == set(ARRAYS[4])])
    dense = [x for x in layers if set(x.arrays) == {"kernel", "bias"} and len(x.shape("kernel")) == 2]
    if len(dense) != 1 or len(norms) != len(convolutions) or len(layers) != len(dense) + 2 * len(norms):
        others = len(layers) - len(convolutions) - len(norms) - len(dense)
        raise _OtherNetworkError(
            f"it has {len(convolutions)} convolutions with biases, {len(norms)} batch normalisations, {len(dense)} "
            f"dense layers and {others} others"
        )
    names, blocks, channels = _structure([layer.shape("kernel") for layer in convolutions])
    image_size = None
    if description is not None:
        image_size = _check_description(description, convolutions, norms, dense[0], names)
    tensors: dict[str, tuple[h5py.Dataset, tuple[int, ...]]] = {}  # with the order of the axes here
    for (conv_name, norm_name), conv, norm in zip(names, convolutions, norms, strict=True):
        tensors[f"{conv_name}.weight"] = (conv.arrays["kernel"], (3, 2, 0, 1))  # (H, W, in, out) -> (out, in, H, W)
        tensors[f"{conv_name}.bias"] = (conv.arrays["bias"], (0,))
        tensors[f"{norm_name}.weight"] = (norm.arrays["gamma"], (0,))
        tensors[f"{norm_name}.bias"] = (norm.arrays["beta"], (0,))
        tensors[f"{norm_name}.running_mean"] = (norm.arrays["moving_mean"], (0,))
        tensors[f"{norm_name}.running_var"] = (norm.arrays["moving_variance"], (0,))
    tensors["fc.weight"] = (dense[0].arrays["kernel"], (1, 0))
    tensors["fc.bias"] = (dense[0].arrays["bias"], (0,))
    for array, axes in tensors.values():
        if array.ndim != len(axes):
            raise _OtherNetworkError(f"{array.name[:200]} has the shape {array.shape}")

    def read() -> dict[str, Tensor]:
        return {name: _tensor(array, axes) for name, (array, axes) in tensors.items()}

    return KerasNetwork(
        layers=blocks,
        channels=channels,
        num_classes=dense[0].shape("kernel")[1],
        image_size=image_size,
        is_described=description is not None,
        shapes={name: tuple(array.shape[axis] for axis in axes) for name, (array, axes) in tensors.items()},
        read=read,
    )


def _tensor(array: h5py.Dataset, axes: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array[()].astype(np.float32).transpose(axes)))


def _in_order(layers: list[_Layer]) -> list[_Layer]:
    """As the notebook builds them; with it goes 2a, 2b, 2c and, in a convolutional block, the shortcut last."""

    def place(layer: _Layer) -> tuple[int, str, int]:
        match = NAMED.fullmatch(layer.name)
        if match["stage"] is None:
            return 0, "", 0
        return int(match["stage"]), match["block"], BRANCHES.index(match["branch"])

    if all(NAMED.fullmatch(layer.name) for layer in layers):
        return sorted(layers, key=place)
    strangers = [layer.name for layer in layers if not UNNAMED.fullmatch(layer.name)]
    if any("_block" in name for name in strangers):
        raise _OtherNetworkError("it is keras.applications' ResNet, which has another epsilon and another max-pool")
    if strangers:
        raise _OtherNetworkError(f"{strangers[0][:100]} is the name of none of its layers")
    return sorted(layers, key=lambda layer: int(UNNAMED.fullmatch(layer.name)["number"] or 0))


def _structure(
    kernels: Sequence[tuple[int, ...]],
) -> tuple[list[tuple[str, str]], tuple[int, ...], tuple[int, ...]]:
    """What the convolutions in order are: names here of each and its BatchNorm; blocks and channels per stage.

    A block is 1x1, 3x3, 1x1. What stands between it and the next block's 1x1 and 3x3 is its shortcut, and that begins a
    stage.
    """
    if not kernels or kernels[0][:2] != (7, 7):
        raise _OtherNetworkError("its first convolution is not 7 x 7")
    sides = [kernel[0] for kernel in kernels]
    names, blocks, channels = [("conv1", "bn1")], [], []
    i = 1
    while i < len(kernels):
        if sides[i : i + 3] != [1, 3, 1]:
            raise _OtherNetworkError(f"convolutions {i + 1} to {i + 3} are no bottleneck of 1 x 1, 3 x 3 and 1 x 1")
        has_shortcut = sides[i + 3 : i + 4] == [1] and sides[i + 4 : i + 5] != [3]
        if has_shortcut:
            blocks.append(0)
            channels.append(kernels[i][3])
        if not 1 <= len(blocks) <= 4:
            raise _OtherNetworkError("its stages are not four, each beginning with a convolutional block")
        block = f"layer{len(blocks)}.{blocks[-1]}"
        blocks[-1] += 1
        names += [(f"{block}.conv{k}", f"{block}.bn{k}") for k in (1, 2, 3)]
        names += [(f"{block}.downsample.0", f"{block}.downsample.1")] if has_shortcut else []
        i += 4 if has_shortcut else 3
    if len(blocks) != 4:
        raise _OtherNetworkError(f"it has {len(blocks)} stages, not four")
    return names, tuple(blocks), tuple(channels)


# ---------------------------------------------------------------------------------------------------------------------
# What shapes do not show


def _check_description(
    description: dict[str, Any],
    convolutions: list[_Layer],
    norms: list[_Layer],
    dense: _Layer,
    names: list[tuple[str, str]],
) -> int | None:
    """Raise unless strides, padding and the rest are the course's; the side of the images in px, where it is said."""
    configs = _layer_configs(description)
    kinds = [kind for kind, _ in configs]
    known = HARMLESS | {"Conv2D", "BatchNormalization", "Dense", "Activation", "MaxPooling2D"}
    pools = {"AveragePooling2D", "GlobalAveragePooling2D"}
    for kind in kinds:
        if kind not in known | pools:
            raise _OtherNetworkError(f"it has a layer {kind[:100]}")
    if kinds.count("MaxPooling2D") != 1 or sum(kind in pools for kind in kinds) != 1:
        raise _OtherNetworkError("it has not one max-pool and one average pool")

    for (name, _), layer in zip(names, convolutions, strict=True):
        stage_shrinks = re.fullmatch(r"layer[234]\.0\.(?:conv1|downsample\.0)", name)
        stride = 2 if name == "conv1" or stage_shrinks else 1
        config = _config_of(layer, "Conv2D", configs)
        _require(config, layer.name, "strides", [stride, stride])
        _require(config, layer.name, "dilation_rate", [1, 1])
        _require(config, layer.name, "activation", "linear")
        if not name.endswith((".conv1", ".conv3", ".0")):  # around 1 x 1 there is nothing to pad
            _require(config, layer.name, "padding", "valid" if name == "conv1" else "same")
    for layer in norms:
        _require(_config_of(layer, "BatchNormalization", configs), layer.name, "epsilon", 1e-3)
    activation = _config_of(dense, "Dense", configs).get("activation")
    if activation not in ("softmax", "linear"):
        raise _OtherNetworkError(f"its last activation is {str(activation)[:100]}, not softmax")

    sizes = [config.get("batch_shape", config.get("batch_input_shape")) for kind, config in configs]
    size = next((size[1] for size in sizes if isinstance(size, list) and len(size) == 4), None)
    for kind, config in configs:
        if kind == "ZeroPadding2D":
            _require(config, kind, "padding", [[3, 3], [3, 3]])
        elif kind == "MaxPooling2D":
            _require(config, kind, "pool_size", [3, 3])
            _require(config, kind, "strides", [2, 2])
            _require(config, kind, "padding", "valid")
        elif kind == "AveragePooling2D":
            _require(config, kind, "pool_size", [2, 2])
            _require(config, kind, "strides", [2, 2])
        elif kind == "Activation" and config.get("activation") not in ("relu", "softmax", "linear"):
            raise _OtherNetworkError(f"it has an activation {str(config.get('activation'))[:100]}")
    if not isinstance(size, int):
        return None
    if size > MAX_SIZE_OF_ANY_POOL and not any(
        kind in pools and config.get("padding") == "valid" for kind, config in configs
    ):
        raise _OtherNetworkError(f"at {size} px its last pool is not the course's")
    return size


def _layer_configs(description: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Kind and settings of each layer, in the model's order."""
    try:
        layers = description["config"]["layers"]
        configs = [(layer["class_name"], layer["config"]) for layer in layers]
    except (KeyError, TypeError) as error:
        raise _OtherNetworkError("its description lists no layers") from error
    if not all(isinstance(kind, str) and isinstance(config, dict) for kind, config in configs):
        raise _OtherNetworkError("its description is none of layers")
    return configs


def _config_of(layer: _Layer, kind: str, configs: list[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """By name; by place among those of its kind where the file has places for names."""
    of_kind = [config for found, config in configs if found == kind]
    if layer.is_numbered:
        number = int(UNNAMED.fullmatch(layer.name)["number"] or 0)
        found = of_kind[number : number + 1]
    else:
        found = [config for config in of_kind if config.get("name") == layer.name]
    if len(found) != 1:
        raise _OtherNetworkError(f"its description has no {kind} for {layer.name[:100]}")
    return found[0]


def _require(config: dict[str, Any], layer: str, setting: str, value: Any) -> None:
    found = config.get(setting)
    if found != value:
        raise _OtherNetworkError(f"{setting} of {layer[:100]} is {str(found)[:100]} and should be {value}")
