"""ResNets that know their labels and their preprocessing, saved to and loaded from the Hugging Face Hub."""

import reprlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from huggingface_hub import ModelCard, PyTorchModelHubMixin
from safetensors.torch import save_file
from torch import Tensor

from resnet_hub import checkpoint
from resnet_hub.calibration import Calibration
from resnet_hub.card import model_card
from resnet_hub.card_edits import merge_card, read_card
from resnet_hub.checkpoint import (
    CARD_NAME,
    CONFIG_NAME,
    PICTURE_NAMES,
    PREDICTIONS_NAME,
    TRAINING_NAME,
    WEIGHTS_NAME,
    TrainingRecord,
)
from resnet_hub.errors import CheckpointError, ConfigurationError
from resnet_hub.images import Preprocessing
from resnet_hub.modeling import CHANNELS, LAYERS, VARIANTS, ResNet
from resnet_hub.origin import Origin
from resnet_hub.summary import ModelSummary, summarize
from resnet_hub.upload import push_checkpoint

#: Far above any published ResNet, far below what would exhaust the memory of the machine that reads a hostile config.
MAX_LAYERS_PER_STAGE = 64
MAX_CHANNELS = 4096
MAX_CLASSES = 100_000
MAX_IMAGE_SIZE = 4096
MAX_NAME = 1000
#: Of means and deviations, where pixels are counted from 0 to 1.
MAX_PIXEL = 1000

#: What each variant's images are unless something else is said. The course divides pixels by 255 and does no more.
DEFAULT_PREPROCESSING = {
    "torchvision": Preprocessing(224),
    "keras": Preprocessing(64, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
}
#: What ``config.json`` calls an architecture. timm and transformers look the name up in timm: one that is not there is
#: refused by both, where weights under a known name would be loaded into a network that they do not belong to.
CONFIG_NAMES = {name: (name, "torchvision") for name in LAYERS} | {"resnet50_keras": ("resnet50", "keras")}


class ResNetForImageClassification(ResNet, PyTorchModelHubMixin):
    """A ResNet with label names and preprocessing, that saves to and loads from checkpoint folders and the Hub.

    Args:
        architecture: ``"resnet50"``, ``"resnet101"`` or ``"resnet152"``.
        num_classes: Number of classes; may be left out where ``label_names`` is given.
        label_names: One distinct name per class; ``"0"``, ``"1"``, ... where left out.
        image_size: Side in px to which images are resized, at least 32; default 224. The knob for small images.
        mean, std: Normalisation per channel, of pixel values in 0..1; default ImageNet's.
        layers, channels: Blocks and bottleneck channels per stage, where they differ from the architecture's own (tiny
            networks for tests).
        variant: ``"keras"`` is the network of a course as Keras builds it (:data:`resnet_hub.modeling.KERAS`), for
            images of 37 to 100 px, default 64, with mean 0 and deviation 1. Only ``"resnet50"``, and its checkpoints
            load only here: no other library has that network.

    Attributes:
        preprocessing: What turns images into the network's input.
        origin: Where its weights were converted from (:mod:`resnet_hub.convert`), or None.
        training_record: How it was trained and what it measured (``training.json``), or None.
        calibration: Temperature and bound of familiarity, fitted on validation images, or None.
        test_predictions: What it says of its test images, see ``checkpoint.read_predictions``, or None.
        pictures: Of that training, as encoded PNG by file name (``checkpoint.PICTURE_NAMES``); those that there are.

    Raises:
        ConfigurationError: an argument with a value that cannot work.
    """

    def __init__(
        self,
        architecture: str = "resnet50",
        num_classes: int | None = None,
        label_names: Sequence[str] | None = None,
        image_size: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        layers: Sequence[int] | None = None,
        channels: Sequence[int] = CHANNELS,
        variant: str = "torchvision",
    ) -> None:
        if architecture not in LAYERS:
            raise ConfigurationError(f"architecture {architecture!r} is unknown: use one of {', '.join(LAYERS)}")
        if num_classes is None and label_names is None:
            raise ConfigurationError("say how many classes there are: give num_classes or label_names")
        num_classes = len(label_names) if num_classes is None else num_classes
        layers = tuple(LAYERS[architecture] if layers is None else layers)
        super().__init__(layers, num_classes, tuple(channels), variant)
        if (architecture, variant) not in CONFIG_NAMES.values():
            raise ConfigurationError(f"there is no {variant} variant of {architecture}, only of resnet50: use that")
        self.architecture = architecture
        self.layers = layers
        self.channels = tuple(channels)
        self.label_names = checked_label_names(label_names, num_classes)
        default = DEFAULT_PREPROCESSING[variant]
        self.preprocessing = Preprocessing(
            default.image_size if image_size is None else image_size,
            default.mean if mean is None else tuple(mean),
            default.std if std is None else tuple(std),
        )
        VARIANTS[variant].check_image_size(self.image_size)
        self.origin: Origin | None = None
        self.training_record: TrainingRecord | None = None
        self.calibration: Calibration | None = None
        self.test_predictions: dict[str, Tensor] | None = None
        self.pictures: dict[str, bytes] = {}

    @property
    def image_size(self) -> int:
        return self.preprocessing.image_size

    def reset_classifier(self, num_classes: int, label_names: Sequence[str] | None = None) -> None:
        """A fresh classifier for other classes. What tells of the old one's training no longer applies and goes."""
        label_names = checked_label_names(label_names, num_classes)
        super().reset_classifier(num_classes)
        self.label_names = label_names
        self.training_record = None
        self.calibration = None
        self.test_predictions = None
        self.pictures = {}

    def summary(self, image_size: int | None = None) -> ModelSummary:
        """Layers with output shapes, parameters and connections, at ``image_size`` px (default: the model's own)."""
        return summarize(self, image_size or self.image_size)

    # -- saving --------------------------------------------------------------------------------------------------------

    def to_config(self) -> dict[str, Any]:
        """``config.json``: timm's layout, from which timm and transformers build the same network and preprocessing.

        That of ``variant="keras"`` has an architecture that they do not know, and says so.
        """
        names = {network: name for name, network in CONFIG_NAMES.items()}
        config: dict[str, Any] = {
            "architecture": names[self.architecture, self.variant],
            "num_classes": self.num_classes,
            "num_features": self.num_features,
            "global_pool": "avg",
            "label_names": self.label_names,
            "pretrained_cfg": {
                "input_size": [3, self.image_size, self.image_size],
                "fixed_input_size": False,
                "interpolation": "bilinear",
                "crop_pct": 1.0,
                "crop_mode": "squash",
                "mean": list(self.preprocessing.mean),
                "std": list(self.preprocessing.std),
                "num_classes": self.num_classes,
                "first_conv": "conv1",
                "classifier": "fc",
            },
        }
        # timm fails on an empty or null "model_args", so it stands only where it says something.
        if self.layers != LAYERS[self.architecture] or self.channels != CHANNELS:
            config["model_args"] = {"layers": list(self.layers), "channels": list(self.channels)}
        if self.variant != "torchvision":
            config["loads_only_in"] = "resnet_hub"
        if self.origin is not None:
            config["origin"] = self.origin.to_config()
        if self.calibration is not None:
            config["calibration"] = self.calibration.to_config()  # the other libraries pass over what they do not know
        return config

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        dtype: torch.dtype | None = None,
        repo_id: str | None = None,
        push_to_hub: bool = False,
        model_card_kwargs: dict[str, Any] | None = None,
        config: dict[str, Any] | None = None,
        **push_to_hub_kwargs: Any,
    ) -> str | None:
        """Write the checkpoint folder: weights, config, model card and, where there are, training record and pictures.

        All or nothing: a save that fails leaves the folder as it was, and one that succeeds leaves nothing of another
        checkpoint; but what was written by hand into its card stays.

        Args:
            save_directory: The folder; made where it does not exist. Files that are no checkpoint's stay.
            dtype: Precision of the saved weights, such as ``torch.float16``; default: the model's own.
            repo_id: On the Hub, with ``push_to_hub``; default: the folder's name.
            push_to_hub: Upload it too.
            model_card_kwargs: For :meth:`generate_model_card`.
            config: Taken for the mixin's sake and not used: the model's own is the only one that can be true.
            push_to_hub_kwargs: For :func:`resnet_hub.upload.push_checkpoint`.

        Returns:
            The URL of the commit where ``push_to_hub`` is true, else None.

        Raises:
            CheckpointError: the folder cannot be written, or ``pictures`` has other names than ``PICTURE_NAMES``.
            PushError: the Hub did not take it; the folder is saved.
        """
        unknown = sorted(self.pictures.keys() - set(PICTURE_NAMES))
        if unknown:
            raise CheckpointError(f"pictures {unknown} have no place in a checkpoint: use {', '.join(PICTURE_NAMES)}")
        save_directory = Path(save_directory)
        folder_name = save_directory.resolve().name
        card_kwargs = {"repo_id": repo_id or f"user/{folder_name}"} | (model_card_kwargs or {})
        with checkpoint.staged_folder(save_directory) as staging:
            weights = checkpoint.exportable_state_dict(self, dtype)
            save_file(weights, staging / WEIGHTS_NAME, metadata={"format": "pt"})
            checkpoint.write_json(staging / CONFIG_NAME, self.to_config())
            if self.training_record is not None:
                checkpoint.write_json(staging / TRAINING_NAME, self.training_record)
            if self.test_predictions is not None:
                save_file(self.test_predictions, staging / PREDICTIONS_NAME)
            for name, png in self.pictures.items():
                (staging / name).write_bytes(png)
            card, old_card = str(self.generate_model_card(**card_kwargs)), read_card(save_directory / CARD_NAME)
            card = card if old_card is None else merge_card(card, old_card)
            (staging / CARD_NAME).write_text(card, encoding="utf-8")
        if not push_to_hub:
            return None
        return push_checkpoint(save_directory, repo_id or folder_name, **push_to_hub_kwargs)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        dtype: torch.dtype | None = None,
        model_card_kwargs: dict[str, Any] | None = None,
        config: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> str:
        """Save the checkpoint folder and upload it, in one commit; what was written by hand into the card there stays.

        Args:
            repo_id: Such as ``"me/my-model"``; made where it does not exist.
            dtype: As of :meth:`save_pretrained`.
            model_card_kwargs: Taken for the mixin's sake, as is ``config``: the card is that of ``repo_id``.
            kwargs: ``private``, ``token``, ``branch``, ``create_pr``, ``commit_message``, ``allow_patterns``,
                ``ignore_patterns``, ``delete_patterns``, of :func:`resnet_hub.upload.push_checkpoint`.

        Returns:
            The URL of the commit.

        Raises:
            PushError: the Hub did not take it; the message says what to do.
        """
        with tempfile.TemporaryDirectory() as directory:
            folder = Path(directory, "model")
            self.save_pretrained(folder, dtype=dtype, repo_id=repo_id)
            return push_checkpoint(folder, repo_id, **kwargs)

    def generate_model_card(self, repo_id: str = "user/model") -> ModelCard:
        """The card of this model: what it is, how to use it in four libraries, what it was trained on, its results."""
        return model_card(self.to_config(), self.training_record, repo_id, self.pictures.keys())

    # -- loading -------------------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        token: str | bool | None = None,
        local_files_only: bool = False,
        map_location: str | torch.device = "cpu",
    ) -> Self:
        """Load a checkpoint folder or a Hub repository, in fp32 and evaluation mode.

        Strict: every tensor of the network comes from the file and every tensor of the file is used.

        Args:
            pretrained_model_name_or_path: Folder, or Hub id such as ``"user/model"``. An existing folder wins.
            revision: Branch, tag or commit on the Hub.
            cache_dir, force_download, token, local_files_only: As in ``huggingface_hub``.
            map_location: Device of the loaded model.

        Raises:
            CheckpointError: not found, not readable, or not a checkpoint of this family; the message says what to do.
        """
        folder = checkpoint.locate_checkpoint(
            pretrained_model_name_or_path,
            revision=revision,
            cache_dir=cache_dir,
            force_download=force_download,
            token=token,
            local_files_only=local_files_only,
        )
        config = checkpoint.read_json(folder, CONFIG_NAME)
        arguments = arguments_from_config(config, folder / CONFIG_NAME)
        # On the meta device nothing is allocated or initialised: every tensor comes from the file in the next line.
        try:
            with torch.device("meta"):
                model = cls(**arguments)
            if "calibration" in config:
                model.calibration = Calibration.from_config(config["calibration"])
            if "origin" in config:
                model.origin = Origin.from_config(config["origin"])
        except ConfigurationError as error:
            raise CheckpointError(f"{folder / CONFIG_NAME}: {error}") from error
        checkpoint.load_weights(model, folder)
        model.training_record = checkpoint.read_training_record(folder, model.num_classes)
        model.test_predictions = checkpoint.read_predictions(folder, model.num_classes)
        model.pictures = checkpoint.read_pictures(folder)
        return model.to(map_location).eval()


class ResNetForSigns(ResNetForImageClassification):
    """:class:`ResNetForImageClassification` with the defaults of SIGNS: hands showing 0 to 5, 64 px, ResNet-50."""

    def __init__(
        self,
        architecture: str = "resnet50",
        num_classes: int | None = None,
        label_names: Sequence[str] | None = None,
        image_size: int = 64,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        layers: Sequence[int] | None = None,
        channels: Sequence[int] = CHANNELS,
        variant: str = "torchvision",
    ) -> None:
        if num_classes is None and label_names is None:
            num_classes = 6
        super().__init__(architecture, num_classes, label_names, image_size, mean, std, layers, channels, variant)


def checked_label_names(label_names: Sequence[str] | None, num_classes: int) -> list[str]:
    """As a list; ``"0"``, ``"1"``, ... where there are none. Raises ``ConfigurationError``."""
    names = [str(i) for i in range(num_classes)] if label_names is None else list(label_names)
    if len(names) != num_classes:
        raise ConfigurationError(f"{num_classes} classes but {len(names)} label_names: give one name per class")
    if not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
        raise ConfigurationError(f"label_names must be distinct strings, got {names[:10]}")
    return names


#: Raises, with the problem in words, where a condition does not hold.
Require = Callable[[bool, str], None]


def arguments_from_config(config: dict[str, Any], file: Path) -> dict[str, Any]:
    """The constructor's arguments from a ``config.json``, whose every value is untrusted.

    Raises:
        CheckpointError: values out of bounds, or a network or preprocessing that is not the one implemented here.
    """

    def require(condition: bool, problem: str) -> None:
        if not condition:
            raise CheckpointError(f"{file}: {problem}")

    architecture = config.get("architecture")
    require(
        isinstance(architecture, str) and architecture in CONFIG_NAMES,
        f"architecture {_show(architecture)} is unknown: this library loads {', '.join(CONFIG_NAMES)} in timm's config "
        "layout (and resnet_hub.convert a few others)",
    )
    pool = config.get("global_pool", "avg")
    require(pool == "avg", f"global_pool {_show(pool)} makes another network: only 'avg' is supported")
    num_classes = config.get("num_classes")
    require(_is_count(num_classes, MAX_CLASSES), f"num_classes must be 1 to {MAX_CLASSES}, not {_show(num_classes)}")
    label_names = config.get("label_names")
    require(
        label_names is None
        or (isinstance(label_names, list) and all(isinstance(n, str) and len(n) <= MAX_NAME for n in label_names)),
        f"label_names must be a list of strings of at most {MAX_NAME} characters",
    )
    name, variant = CONFIG_NAMES[architecture]
    return {
        "architecture": name,
        "variant": variant,
        "num_classes": num_classes,
        "label_names": label_names,
        **_shape_arguments(config, num_classes, require),
        **_preprocessing_arguments(config, require),
    }


def _shape_arguments(config: dict[str, Any], num_classes: int, require: Require) -> dict[str, list[int]]:
    """``layers`` and ``channels``, where they are not the architecture's own."""
    model_args = config.get("model_args", {})
    restated = {"num_classes": num_classes, "in_chans": 3, "global_pool": "avg"}  # as timm writes them
    if isinstance(model_args, dict):
        model_args = {k: v for k, v in model_args.items() if k not in restated or v != restated[k]}
    require(
        isinstance(model_args, dict) and set(model_args) <= {"layers", "channels"},
        f"model_args {_show(model_args)} describe another network: only layers and channels can differ",
    )
    for name, maximum in [("layers", MAX_LAYERS_PER_STAGE), ("channels", MAX_CHANNELS)]:
        numbers = model_args.get(name, [1, 1, 1, 1])
        require(
            isinstance(numbers, list) and len(numbers) == 4 and all(_is_count(n, maximum) for n in numbers),
            f"{name} must be four numbers from 1 to {maximum}, not {_show(numbers)}",
        )
    return model_args


def _preprocessing_arguments(config: dict[str, Any], require: Require) -> dict[str, Any]:
    """``image_size``, ``mean`` and ``std``."""
    preprocessing = config.get("pretrained_cfg")
    require(isinstance(preprocessing, dict), "pretrained_cfg is missing, so the preprocessing is unknown")
    size = preprocessing.get("input_size")
    require(
        isinstance(size, list) and len(size) == 3 and size[0] == 3 and size[1] == size[2],
        f"input_size must be [3, side, side], not {_show(size)}",
    )
    require(
        _is_count(size[1], MAX_IMAGE_SIZE), f"the image side must be 1 to {MAX_IMAGE_SIZE} px, not {_show(size[1])}"
    )
    for name, only in [("interpolation", "bilinear"), ("crop_pct", 1.0), ("crop_mode", "squash")]:
        found = preprocessing.get(name)
        require(
            found == only,
            f"{name} {_show(found)} is not supported, images would be seen differently: use {only!r}, or "
            "resnet_hub.convert.load, which says what differs",
        )
    for name in ("mean", "std"):
        values = preprocessing.get(name)
        require(
            isinstance(values, list)
            and len(values) == 3
            and all(type(v) in (int, float) and abs(v) < MAX_PIXEL for v in values),
            f"{name} must be three numbers below {MAX_PIXEL}, not {_show(values)}",
        )
    return {"image_size": size[1], "mean": preprocessing["mean"], "std": preprocessing["std"]}


def _is_count(value: Any, maximum: int) -> bool:
    return type(value) is int and 1 <= value <= maximum


def _show(value: Any) -> str:
    """Short, whatever the value."""
    return reprlib.repr(value)
