"""Everything that a training run can be told, as one dataclass: command line over recipe file over defaults."""

import math
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import tyro
import yaml

from resnet_hub.errors import ConfigurationError


@dataclass(frozen=True)
class TrainingConfig:
    """Train a ResNet from scratch and leave a checkpoint folder.

    --config FILE.yaml reads options from a recipe: the command line wins over it, and it over the defaults below.
    """

    # -- data
    dataset_name: str | None = None
    """signs, cifar10, drawn-signs, a dataset folder or a Hub id. Default: signs where it is found, else drawn-signs."""
    extra_dataset_name: str | None = None
    """A second dataset with the same classes: its train split is added, its test split measured beside the first's."""
    image_column_name: str | None = None
    """Column with the images, where it cannot be told from the column types."""
    label_column_name: str | None = None
    """Column with the labels, where it cannot be told from the column types."""
    train_val_split: float = 0.1
    """Share of train (0 to 1) that becomes validation where the dataset has none."""
    split_seed: int = 0
    """Seed of that cut; apart from --seed, so that runs with other seeds are judged on the same images."""
    max_train_samples: int | None = None
    """Use only so many training images (for trials)."""
    max_eval_samples: int | None = None
    """Use only so many images of validation and test (for trials)."""

    # -- model
    model_name: Literal["resnet50", "resnet101", "resnet152"] = "resnet50"
    """Architecture."""
    image_size: int = 64
    """Side in px to which images are resized, at least 32."""
    layers: tuple[int, int, int, int] | None = None
    """Blocks per stage, where they differ from the architecture's (tiny networks for trials)."""
    channels: tuple[int, int, int, int] | None = None
    """Bottleneck channels per stage, where they differ from the architecture's."""

    # -- optimisation
    num_train_epochs: int = 40
    """Passes over the training images."""
    per_device_train_batch_size: int = 32
    """Images per step and process."""
    per_device_eval_batch_size: int = 128
    """Images per evaluation step and process."""
    learning_rate: float = 1e-3
    """Peak of the schedule: linear warm-up, then cosine to zero. AdamW."""
    warmup_ratio: float = 0.1
    """Share of all steps (0 to 1) in which the learning rate rises."""
    weight_decay: float = 0.05
    """AdamW's; norms and biases have none."""
    label_smoothing_factor: float = 0.1
    """0 to 1, exclusive."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm; 0 for no clipping."""

    # -- augmentation
    horizontal_flip: float = 0.5
    """Probability (0 to 1) that an image is mirrored."""
    rotation: float = 20.0
    """Degrees to either side."""
    scale: float = 0.2
    """Size changes by up to this factor: 0.2 means from 1/1.2 to 1.2."""
    translation: float = 0.1
    """Shift in either direction, as a share of the side."""
    color_jitter: float = 0.3
    """Brightness, contrast, saturation and the channels' balance change by up to this share."""

    # -- run
    output_dir: Path | None = None
    """The checkpoint folder to write. Default: runs/DATASET-MODEL, with a number where that exists."""
    overwrite_output_dir: bool = False
    """Allow --output_dir to replace a checkpoint."""
    save_dtype: Literal["float32", "float16"] = "float32"
    """Precision of the saved weights; float16 halves the file. Test results are those of the saved file."""
    seed: int = 42
    """Of the initial weights, the order of the images and their augmentation."""
    mixed_precision: Literal["auto", "no", "bf16"] = "auto"
    """auto: bf16 where this machine computes it fast."""
    dataloader_num_workers: int = 1
    """Processes that read and augment images beside the training process; 0 for none."""

    def __post_init__(self) -> None:
        for name, minimum in _MINIMA.items():
            value = getattr(self, name)
            if value is not None and not value >= minimum:
                raise ConfigurationError(f"--{name} must be at least {minimum}, got {value}")
        for name in _SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigurationError(f"--{name} must be from 0 to 1, got {getattr(self, name)}")
        for name in ("train_val_split", "label_smoothing_factor"):
            if getattr(self, name) == 1:
                raise ConfigurationError(f"--{name} must be below 1")
        if self.train_val_split == 0:
            raise ConfigurationError("--train_val_split must be above 0: validation chooses the best epoch")
        if not 0 < self.learning_rate < math.inf:
            raise ConfigurationError(f"--learning_rate must be above 0, got {self.learning_rate}")


_MINIMA = {
    "max_train_samples": 1,
    "max_eval_samples": 1,
    "image_size": 32,
    "num_train_epochs": 1,
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "weight_decay": 0,
    "max_grad_norm": 0,
    "rotation": 0,
    "scale": 0,
    "seed": 0,
    "split_seed": 0,
    "dataloader_num_workers": 0,
}
_SHARES = (
    "train_val_split",
    "warmup_ratio",
    "label_smoothing_factor",
    "horizontal_flip",
    "translation",
    "color_jitter",
)

#: What says where and how a run happens, not what comes out of it: left out of the recipe that is recorded.
_NOT_RECIPE = ("output_dir", "overwrite_output_dir", "dataloader_num_workers")


def recipe_of(config: TrainingConfig) -> dict[str, Any]:
    """What must be known to train the same again."""
    return {key: value for key, value in asdict(config).items() if key not in _NOT_RECIPE and value is not None}


def parse_config(arguments: list[str] | None = None) -> TrainingConfig:
    """The configuration from the command line and the recipe that it names with ``--config``.

    Exits with 2 and a message on an option that does not exist or does not parse, as any command does.

    Raises:
        ConfigurationError: a recipe that cannot be read, or a value out of range.
    """
    recipe, arguments = _take_recipe(list(sys.argv[1:] if arguments is None else arguments))
    return tyro.cli(
        TrainingConfig,
        args=arguments,
        default=TrainingConfig(**recipe),
        config=(tyro.conf.FlagConversionOff, tyro.conf.AvoidSubcommands),
        use_underscores=True,
    )


def _take_recipe(arguments: list[str]) -> tuple[dict[str, Any], list[str]]:
    """The content of the recipe file, and the arguments without ``--config``."""
    for i, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if option == "--config":
            if not equals and i + 1 == len(arguments):
                raise ConfigurationError("--config needs a file: --config train/recipes/signs.yaml")
            file = value if equals else arguments[i + 1]
            return read_recipe(Path(file)), arguments[:i] + arguments[i + (1 if equals else 2) :]
    return {}, arguments


def read_recipe(file: Path) -> dict[str, Any]:
    """Options by name from a YAML file. Raises ``ConfigurationError`` where it is not one."""
    try:
        recipe = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise ConfigurationError(f"the recipe {file} cannot be read ({error.strerror}): check the path") from error
    except yaml.YAMLError as error:
        raise ConfigurationError(f"the recipe {file} is not valid YAML: {error}") from error
    if not isinstance(recipe, dict):
        raise ConfigurationError(f"the recipe {file} must hold 'option: value' lines")
    unknown = sorted(set(map(str, recipe)) - {field.name for field in fields(TrainingConfig)})
    if unknown:
        raise ConfigurationError(
            f"the recipe {file} has unknown options {', '.join(unknown)}: see --help for all names"
        )
    wrong = [key for key, value in recipe.items() if not _fits(key, value)]
    if wrong:
        raise ConfigurationError(f"the recipe {file} has a value of the wrong type for {', '.join(wrong)}")
    return {key: tuple(value) if isinstance(value, list) else value for key, value in recipe.items()}


def _fits(name: str, value: Any) -> bool:
    """YAML's types are looser than the dataclass's: ``1e-3`` is text to it, ``yes`` a boolean."""
    default = getattr(TrainingConfig, name)
    if isinstance(default, bool):
        return isinstance(value, bool)
    if isinstance(default, (int, float)):
        return type(value) in ((int, float) if isinstance(default, float) else (int,))
    if isinstance(default, str):
        return isinstance(value, str)
    return True
