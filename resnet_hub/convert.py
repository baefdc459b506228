"""Networks from torchvision, timm, transformers and Keras, as ``ResNetForImageClassification`` with their own logits.

>>> model = load("timm/resnet50.a1_in1k")  # any of the sources that :func:`load` lists
>>> model.save_pretrained("runs/resnet50-imagenet")

What is read is safetensors, HDF5 and JSON. torchvision publishes pickles, which are never read: its names stand for the
safetensors copies of the same weights that timm publishes on the Hub.
"""

import logging
import re
import reprlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from resnet_hub import checkpoint
from resnet_hub.checkpoint import CHECKPOINT_FILES, CONFIG_NAME, WEIGHTS_NAME, Shape, locate_checkpoint, read_json
from resnet_hub.download import PICKLE_SUFFIXES
from resnet_hub.errors import CheckpointError, ConfigurationError
from resnet_hub.hub import (
    DEFAULT_PREPROCESSING,
    MAX_CHANNELS,
    MAX_CLASSES,
    MAX_IMAGE_SIZE,
    MAX_LAYERS_PER_STAGE,
    MAX_NAME,
    MAX_PIXEL,
    ResNetForImageClassification,
    arguments_from_config,
    checked_label_names,
)
from resnet_hub.modeling import CHANNELS, EXPANSION, LAYERS, STEM_CHANNELS
from resnet_hub.origin import Origin, name_of

#: timm's copies of torchvision's weights.
TORCHVISION_WEIGHTS = {
    f"ResNet{depth}_Weights.{version}": f"timm/resnet{depth}.{tag}"
    for depth in (50, 101, 152)
    for version, tag in [("IMAGENET1K_V1", "tv_in1k"), ("IMAGENET1K_V2", "tv2_in1k"), ("DEFAULT", "tv2_in1k")]
}
#: As in ``timm.create_model``: of weights in its own collection.
TIMM_NAME = re.compile(r"resnet(?:50|101|152)\.\w+", flags=re.ASCII)
KERAS_SUFFIXES = (".h5", ".hdf5", ".keras")
#: What transformers writes of preprocessing.
PREPROCESSOR_NAME = "preprocessor_config.json"
#: What ``config.json`` says where images are preprocessed as here.
OUR_PREPROCESSING = {"interpolation": "bilinear", "crop_pct": 1.0, "crop_mode": "squash"}
#: Pillow's numbers, which transformers writes.
RESAMPLINGS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}

logger = logging.getLogger(__name__)


def load(
    source: str | Path,
    *,
    label_names: Sequence[str] | None = None,
    new_head: bool = False,
    map_location: str | torch.device = "cpu",
    **hub: Any,
) -> ResNetForImageClassification:
    """The network of ``source`` in fp32 and evaluation mode, with the answers that its own library gets from it.

    Logits are bit-identical; to Keras' probabilities, computed by other kernels, the difference is below 1e-5.

    ============================================  ======================================================================
    source                                        what it is
    ============================================  ======================================================================
    folder or Hub id                              a checkpoint of this library, timm's or transformers' ResNet
    ``"resnet50.a1_in1k"``                        timm's name of weights in its collection
    ``"ResNet50_Weights.IMAGENET1K_V2"``          torchvision's name of weights
    file ``.safetensors``                         a state dict with torchvision's names
    file ``.h5``, ``.hdf5`` or ``.keras``         the course's network saved by Keras, :mod:`resnet_hub.keras_files`
    ============================================  ======================================================================

    What is not as it was at the source, preprocessing above all, is logged as a warning, and kept in ``model.origin``
    and with it in the checkpoint and its card.

    Args:
        source: See the table. A file or folder that exists wins.
        label_names: What its classes are called. A source that says so itself must agree.
        new_head: Replace the classifier by an untrained one for ``label_names``.
        map_location: Device of the loaded model.
        hub: ``revision``, ``cache_dir``, ``force_download``, ``token``, ``local_files_only``, as in
            :meth:`ResNetForImageClassification.from_pretrained`.

    Raises:
        CheckpointError: not found, not readable, or a network that is not one of these.
        ConfigurationError: ``label_names`` that do not fit.
    """
    if new_head and label_names is None:
        raise ConfigurationError("a new head needs the names of its classes: give label_names")
    model, is_converted = _read(source, hub)
    if label_names is not None:
        _name_classes(model, label_names, new_head, str(source))
    for note in model.origin.notes if is_converted else ():
        logger.warning("%s: %s.", source, note)
    return model.to(map_location).eval()


def read(source: str | Path, **hub: Any) -> ResNetForImageClassification:
    """As :func:`load`, on the CPU and without a word: ``model.origin`` has what is to be told."""
    return _read(source, hub)[0].eval()


def _read(source: str | Path, hub: dict[str, Any]) -> tuple[ResNetForImageClassification, bool]:
    """The network, and whether it had to be converted; by what ``source`` looks like, and a folder by its config."""
    name, suffix = str(source), Path(source).suffix.lower()
    if not Path(source).is_dir():
        if name in TORCHVISION_WEIGHTS:
            return _from_torchvision_name(name, hub), True
        if suffix in PICKLE_SUFFIXES:
            raise CheckpointError(
                f"{source} is a pickle, which can run code when it is read, so it is never loaded: where you trust it, "
                "convert it with safetensors.torch.save_file(torch.load(FILE, weights_only=True), "
                "'weights.safetensors')"
            )
        if suffix == ".safetensors":
            return _from_state_dict(Path(source)), True
        if suffix in KERAS_SUFFIXES:
            return _from_keras(Path(source)), True
        if TIMM_NAME.fullmatch(name):
            source = f"timm/{name}"
    folder = locate_checkpoint(source, names=(*CHECKPOINT_FILES, PREPROCESSOR_NAME), **hub)
    config = read_json(folder, CONFIG_NAME)
    if "model_type" in config:
        return _from_transformers(folder, config, name_of(source)), True
    if _is_ours(config):
        return ResNetForImageClassification.from_pretrained(folder), False
    return _from_timm(folder, config, name_of(source)), True


def _name_classes(model: ResNetForImageClassification, label_names: Sequence[str], new_head: bool, source: str) -> None:
    """Never silently: a classifier is kept where its classes are these, and replaced where that was asked for."""
    if new_head:
        origin = model.origin or Origin(name_of(source), "resnet_hub")
        model.reset_classifier(len(label_names), label_names)
        model.origin = replace(origin, has_label_names=True).with_note("its classifier is new and has not been trained")
        return
    is_nameless = model.origin is not None and not model.origin.has_label_names
    if is_nameless and len(label_names) == model.num_classes:
        model.label_names = checked_label_names(label_names, model.num_classes)
        model.origin = replace(model.origin, has_label_names=True)
    elif list(label_names) != model.label_names:
        known = f"{model.num_classes} classes" if is_nameless else f"the classes {', '.join(model.label_names[:10])}"
        raise ConfigurationError(
            f"{source} knows {known}, not {', '.join(label_names[:10])}: leave the names (label_names) out, or ask for "
            "a new classifier (new_head)"
        )


# ---------------------------------------------------------------------------------------------------------------------
# Sources


def _is_ours(config: dict[str, Any]) -> bool:
    """Or as good as: nothing of it is left to be told."""
    preprocessing = config.get("pretrained_cfg")
    return (
        isinstance(preprocessing, dict)
        and OUR_PREPROCESSING.items() <= preprocessing.items()
        and config.get("label_names") is not None
    )


def _from_timm(folder: Path, config: dict[str, Any], source: str) -> ResNetForImageClassification:
    """timm's ``config.json`` is ours but for the preprocessing."""
    preprocessing = config.get("pretrained_cfg")
    if not isinstance(preprocessing, dict):
        raise CheckpointError(
            f"{folder / CONFIG_NAME} is neither timm's nor transformers' nor this library's: check the path"
        )
    label_names = config.get("label_names") or preprocessing.get("label_names")
    if label_names is None and config.get("num_classes") == 1000 and str(preprocessing.get("tag")).endswith("in1k"):
        label_names = _imagenet_names()
    as_ours = {"pretrained_cfg": preprocessing | OUR_PREPROCESSING, "label_names": label_names}
    arguments = arguments_from_config(config | as_ours, folder / CONFIG_NAME)
    if arguments["label_names"] is not None:
        arguments["label_names"] = _distinct(arguments["label_names"])
    show = reprlib.repr
    note = _preprocessing_note(
        "timm",
        f"{_share(preprocessing.get('crop_pct'))} of the image ({show(preprocessing.get('crop_mode', 'center'))})",
        show(preprocessing.get("interpolation")),
        arguments["image_size"],
    )
    origin = Origin(source, "timm", label_names is not None, (note,))
    return _filled(arguments, folder / WEIGHTS_NAME, origin)


def _from_torchvision_name(name: str, hub: dict[str, Any]) -> ResNetForImageClassification:
    """Weights from timm's copy; what they are for from torchvision itself."""
    from torchvision.models import get_weight  # takes a second, and few need it

    folder = locate_checkpoint(TORCHVISION_WEIGHTS[name], **hub)
    weights = get_weight(name)
    transform = weights.transforms()
    arguments = {
        "architecture": name.partition("_")[0].lower(),
        "label_names": list(weights.meta["categories"]),
        "image_size": transform.crop_size[0],
        "mean": transform.mean,
        "std": transform.std,
    }
    region = f"the middle {transform.crop_size[0]} of the {transform.resize_size[0]} px of the shorter side"
    note = _preprocessing_note("torchvision", region, transform.interpolation.value, arguments["image_size"])
    return _filled(arguments, folder / WEIGHTS_NAME, Origin(name, "torchvision", notes=(note,)))


def _from_state_dict(file: Path) -> ResNetForImageClassification:
    """All that a state dict says: sizes. Labels and preprocessing are defaults then."""
    shapes = checkpoint.read_shapes(file)
    arguments = _sizes_of(shapes, file)
    image_size = DEFAULT_PREPROCESSING[arguments["variant"]].image_size
    note = f"the file does not say how images are preprocessed; taken are {image_size} px and "
    note += "pixels from 0 to 1" if arguments["variant"] == "keras" else "ImageNet's mean and deviation"
    return _filled(arguments, file, Origin(file.name, "torchvision", has_label_names=False, notes=(note,)))


def _sizes_of(shapes: dict[str, Shape], file: Path) -> dict[str, Any]:
    blocks = [re.fullmatch(r"layer([1-4])\.\d+\.conv3\.weight", name) for name in shapes]
    layers = Counter(match[1] for match in blocks if match)
    try:
        sizes = {
            "layers": tuple(layers[stage] for stage in "1234"),
            "channels": tuple(shapes[f"layer{stage}.0.conv1.weight"][0][0] for stage in "1234"),
            "num_classes": shapes["fc.weight"][0][0],
        }
        if 0 in sizes["layers"]:
            raise KeyError("conv3")
    except (KeyError, IndexError) as error:
        raise CheckpointError(
            f"{file} holds no state dict of torchvision's resnet50, resnet101 or resnet152: give the folder with its "
            "config.json where it is another library's"
        ) from error
    return _checked_sizes(sizes, file) | {"variant": "keras" if "conv1.bias" in shapes else "torchvision"}


def _checked_sizes(sizes: dict[str, Any], file: Path) -> dict[str, Any]:
    """With the architecture that has them. A stranger's file may say anything."""
    layers, channels, num_classes = sizes["layers"], sizes["channels"], sizes["num_classes"]
    if (
        max(layers) > MAX_LAYERS_PER_STAGE
        or not 1 <= min(channels) <= max(channels) <= MAX_CHANNELS
        or not 1 <= num_classes <= MAX_CLASSES
    ):
        raise CheckpointError(
            f"{file} has {layers} blocks, {channels} channels and {num_classes} classes, which no ResNet here has: "
            "check the path"
        )
    return sizes | {"architecture": next((name for name, blocks in LAYERS.items() if blocks == layers), "resnet50")}


def _from_keras(file: Path) -> ResNetForImageClassification:
    from resnet_hub.keras_files import open_keras  # HDF5 takes its time to load, and few need it

    with open_keras(file) as network:
        arguments = {
            "architecture": "resnet50",
            "variant": "keras",
            "num_classes": network.num_classes,
            "layers": network.layers,
            "channels": network.channels,
            "image_size": network.image_size,
        }
        _checked_sizes(arguments, file)
        notes = [
            "pixels are taken from 0 to 1 as in the course, and images resized bilinearly, where Keras' load_img takes "
            "the nearest pixel"
        ]
        if not network.is_described:
            notes.append("the file has weights alone: strides, padding and image size are taken to be the course's")
        model = _empty(arguments, file)
        shapes = {name: (shape, "float") for name, shape in network.shapes.items()}
        _fill(model, shapes, network.read, file)
    model.origin = Origin(file.name, "Keras", has_label_names=False, notes=tuple(notes))
    return model


def _from_transformers(folder: Path, config: dict[str, Any], source: str) -> ResNetForImageClassification:
    file = folder / CONFIG_NAME

    def require(setting: str, default: Any, *values: Any, why: str) -> None:
        found = config.get(setting, default)
        if found not in values:
            raise CheckpointError(f"{file}: {setting} {reprlib.repr(found)} {why}")

    require(
        "model_type", None, "resnet", why="is another network: ResNets of transformers are loaded, of type 'resnet'"
    )
    other = "makes another network, that no library but transformers has: use it there"
    require("layer_type", "bottleneck", "bottleneck", why=f"{other}, or a ResNet with bottlenecks")
    require("hidden_act", "relu", "relu", why=other)
    require("downsample_in_first_stage", False, False, why=other)
    require("embedding_size", STEM_CHANNELS, STEM_CHANNELS, why=other)
    require("num_channels", 3, 3, why="is not RGB: use it in transformers")
    require(
        "downsample_in_bottleneck",
        False,
        False,
        why="has the stride in the first 1x1 convolution of a block; with the stride in the 3x3, as here, the same "
        "weights give other answers: use it in transformers, or weights with downsample_in_bottleneck=False",
    )
    depths, widths = config.get("depths", [3, 4, 6, 3]), config.get("hidden_sizes", [EXPANSION * c for c in CHANNELS])
    for name, numbers in [("depths", depths), ("hidden_sizes", widths)]:
        if not (isinstance(numbers, list) and len(numbers) == 4 and all(type(n) is int and n >= 1 for n in numbers)):
            raise CheckpointError(f"{file}: {name} must be four numbers of at least 1, not {reprlib.repr(numbers)}")
    label_names = _label_names_of(config, file)
    sizes = {
        "layers": tuple(depths),
        "channels": tuple(width // EXPANSION for width in widths),
        "num_classes": len(label_names),
    }
    preprocessing, note = _transformers_preprocessing(folder)
    arguments = _checked_sizes(sizes, file) | {"label_names": label_names} | preprocessing
    has_label_names = label_names != [f"LABEL_{i}" for i in range(len(label_names))]
    origin = Origin(source, "transformers", has_label_names, (note,))
    return _filled(arguments, folder / WEIGHTS_NAME, origin, _transformers_name)


def _label_names_of(config: dict[str, Any], file: Path) -> list[str]:
    """``id2label``, in the order of its numbers. transformers leaves it out where there are two nameless classes."""
    names = config.get("id2label", {"0": "LABEL_0", "1": "LABEL_1"})
    keys = [str(i) for i in range(len(names))] if isinstance(names, dict) else []
    if (
        not keys
        or set(keys) != set(names)
        or not all(isinstance(name, str) and len(name) <= MAX_NAME for name in names.values())
    ):
        raise CheckpointError(f"{file}: id2label must name the classes 0, 1, ..., not {reprlib.repr(names)}")
    return _distinct([names[key] for key in keys])


def _transformers_preprocessing(folder: Path) -> tuple[dict[str, Any], str]:
    """Constructor's arguments and what they leave out, from ``preprocessor_config.json``."""
    if not (folder / PREPROCESSOR_NAME).is_file():
        note = f"there is no {PREPROCESSOR_NAME}; taken are 224 px and ImageNet's mean and deviation"
        return {}, note
    config = read_json(folder, PREPROCESSOR_NAME)
    size, crop = (config.get(name) for name in ("size", "crop_size"))
    side = _side(crop if config.get("do_center_crop") and crop is not None else size)
    scale = config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) else 1
    if side is None or type(scale) is not float or not abs(scale * 255 - 1) < 1e-6:
        raise CheckpointError(
            f"{folder / PREPROCESSOR_NAME}: size {reprlib.repr(size)} or rescale_factor {reprlib.repr(scale)} cannot "
            "be had here: correct the file, or remove it to take 224 px and ImageNet's mean and deviation"
        )
    arguments: dict[str, Any] = {"image_size": side}
    if config.get("do_normalize", True):
        for ours, theirs in [("mean", "image_mean"), ("std", "image_std")]:
            values = config.get(theirs)
            if isinstance(values, list) and len(values) == 3 and all(_is_pixel(v) for v in values):
                arguments[ours] = tuple(values)
    else:
        arguments |= {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    region = f"{_share(config.get('crop_pct'))} of the image" if "crop_pct" in config else "the middle or all of it"
    resample = config.get("resample", 2)
    interpolation = RESAMPLINGS.get(resample, "another way") if isinstance(resample, int) else "another way"
    return arguments, _preprocessing_note("transformers", region, interpolation, side)


def _is_pixel(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < MAX_PIXEL


def _side(size: Any) -> int | None:
    """Of the square that the network sees, in px, from any of the forms that transformers has for it."""
    if isinstance(size, dict):
        size = size.get("shortest_edge", size.get("height"))
    return size if type(size) is int and 1 <= size <= MAX_IMAGE_SIZE else None


def _transformers_name(name: str) -> str:
    """``resnet.encoder.stages.0.layers.1.layer.2.normalization.bias`` -> ``layer1.1.bn3.bias``."""
    if name.startswith("classifier.1."):
        return name.replace("classifier.1", "fc", 1)
    match = _TRANSFORMERS_NAME.fullmatch(name)
    if not match:
        return name  # to be refused by name
    is_convolution = match["kind"] == "convolution"
    if match["stage"] is None:
        return f"{'conv1' if is_convolution else 'bn1'}.{match['rest']}"
    block = f"layer{int(match['stage']) + 1}.{match['block']}"
    if match["place"] == "shortcut":
        return f"{block}.downsample.{0 if is_convolution else 1}.{match['rest']}"
    return f"{block}.{'conv' if is_convolution else 'bn'}{int(match['layer']) + 1}.{match['rest']}"


_TRANSFORMERS_NAME = re.compile(
    r"resnet\.(?:embedder\.embedder|encoder\.stages\.(?P<stage>\d{1,3})\.layers\.(?P<block>\d{1,3})"
    r"\.(?P<place>shortcut|layer\.(?P<layer>\d)))\.(?P<kind>convolution|normalization)\.(?P<rest>\w+)",
    flags=re.ASCII,
)


# ---------------------------------------------------------------------------------------------------------------------
# What they share


def _filled(
    arguments: dict[str, Any], file: Path, origin: Origin, rename: Callable[[str], str] = str
) -> ResNetForImageClassification:
    """The model with the weights of a ``.safetensors`` file whose names become ours by ``rename``."""
    model = _empty(arguments, file)
    shapes = {rename(name): shape for name, shape in checkpoint.read_shapes(file).items()}

    def read() -> dict[str, Tensor]:
        return {rename(name): tensor for name, tensor in checkpoint.read_weights(file).items()}

    _fill(model, shapes, read, file)
    model.origin = origin
    return model


def _empty(arguments: dict[str, Any], file: Path) -> ResNetForImageClassification:
    try:
        with torch.device("meta"):
            return ResNetForImageClassification(**arguments)
    except ConfigurationError as error:
        raise CheckpointError(f"{file}: {error}") from error


def _fill(
    model: ResNetForImageClassification, shapes: dict[str, Shape], read: Callable[[], dict[str, Tensor]], file: Path
) -> None:
    """BatchNorm's counters of batches, which Keras and old files lack, start at 0: nothing here depends on them."""
    counters = {
        name: torch.tensor(0)
        for name in model.state_dict()
        if name.endswith(".num_batches_tracked") and name not in shapes
    }
    found = shapes | dict.fromkeys(counters, ((), "I64"))
    checkpoint.check_weights(
        model, found, f"{file} holds another network's weights", "check that it is a ResNet-50, -101 or -152"
    )
    model.load_state_dict(read() | counters, strict=True, assign=True)


def _imagenet_names() -> list[str]:
    from torchvision.models import ResNet50_Weights

    return list(ResNet50_Weights.IMAGENET1K_V1.meta["categories"])


def _distinct(names: list[str]) -> list[str]:
    """Of ImageNet's classes two are called "crane": names that occur twice get their number."""
    counts = Counter(names)
    return [f"{name} ({i})" if counts[name] > 1 else name for i, name in enumerate(names)]


def _share(crop_pct: Any) -> str:
    return f"the middle {crop_pct:.1%}" if type(crop_pct) in (int, float) and 0 < crop_pct <= 1 else "the middle"


def _preprocessing_note(library: str, region: str, interpolation: str, image_size: int) -> str:
    return (
        f"{library} shows this network {region}, resized with {interpolation} interpolation; here it sees the whole "
        f"image squashed to {image_size} x {image_size} px bilinearly, so answers differ a little on the same photo"
    )
