"""Everything that a training run can be told, as one dataclass: command line over recipe file over defaults."""

import math
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import tyro
import yaml

from resnet_hub.errors import ConfigurationError
from resnet_hub.modeling import VARIANTS
from train.optimization import OptimizerName, ScheduleName
from train.selection import Monitor
from train.states import find_states, read_values


@dataclass(frozen=True)
class TrainingConfig:
    """Train a ResNet from scratch and leave a checkpoint folder.

    --config FILE.yaml reads options from a recipe: the command line wins over it, and it over the defaults below.
    """

    # -- data
    dataset_name: str | None = None
    """signs, cifar10, drawn-signs, a folder of images or a dataset, a CSV file, or a Hub id. Default: signs where it is
    found, else drawn-signs."""
    extra_dataset_name: str | None = None
    """A second dataset with the same classes: its train split is added, its test split measured beside the first's."""
    image_column_name: str | None = None
    """Column with the images, where it cannot be told from the column types."""
    label_column_name: str | None = None
    """Column with the labels, where it cannot be told from the column types."""
    image_dir: str | None = None
    """Where the images of a CSV file are, if not in its own folder."""
    train_val_split: float = 0.1
    """Share of train (0 to 1) that becomes validation where the dataset has none, and test likewise."""
    split_seed: int = 0
    """Seed of these cuts; apart from --seed, so that runs with other seeds are judged on the same images."""
    skip_corrupt: bool = False
    """Go on without images that cannot be read and rows without a class, rather than refuse."""
    max_train_samples: int | None = None
    """Use only so many training images (for trials)."""
    max_extra_train_samples: int | None = None
    """Use only so many training images of the second dataset."""
    max_eval_samples: int | None = None
    """Use only so many images of validation and test (for trials)."""

    # -- model
    model_name: Literal["resnet50", "resnet101", "resnet152"] = "resnet50"
    """Architecture."""
    model_variant: Literal["torchvision", "keras"] = "torchvision"
    """keras: the network of a course, a resnet50 for 37 to 100 px as Keras has it; loads in this library alone."""
    image_size: int = 64
    """Side in px to which images are resized, at least 32."""
    layers: tuple[int, int, int, int] | None = None
    """Blocks per stage, where they differ from the architecture's (tiny networks for trials)."""
    channels: tuple[int, int, int, int] | None = None
    """Bottleneck channels per stage, where they differ from the architecture's."""

    init_from: str | None = None
    """Start from these weights: anything that `resnet-hub convert` takes, of this library, torchvision, timm, ..."""
    freeze: Literal["none", "stem", "layer1", "layer2", "layer3", "layer4"] = "none"
    """Everything from the image up to this stage does not learn."""
    body_learning_rate_ratio: float = 1.0
    """Learning rate of all but the classifier, as a share of --learning_rate: below 1 for fine-tuning."""

    # -- optimisation
    num_train_epochs: int = 40
    """Passes over the training images."""
    per_device_train_batch_size: int = 32
    """Images per process that pass the network together. An epoch leaves out those that fill no batch."""
    gradient_accumulation_steps: int = 1
    """Such batches per update of the weights."""
    per_device_eval_batch_size: int = 128
    """Images per evaluation step and process."""
    optim: OptimizerName = "adamw"
    """adam's weight decay is an L2 penalty; sgd is with Nesterov's momentum."""
    momentum: float = 0.9
    """Of sgd, 0 to 1."""
    learning_rate: float = 1e-3
    """The schedule's highest rate."""
    lr_scheduler_type: ScheduleName = "cosine"
    """After the warm-up, cosine and linear fall to zero, step falls every --lr_step_epochs, constant stays. one_cycle
    rises and falls along cosines."""
    warmup_ratio: float = 0.1
    """Share of all steps (0 to 1) in which the learning rate rises."""
    lr_step_epochs: int = 30
    """Of step: epochs from one fall to the next."""
    lr_step_gamma: float = 0.1
    """Of step: each fall multiplies the rate by this."""
    weight_decay: float = 0.05
    """Of kernels and matrices; norms and biases have none."""
    label_smoothing_factor: float = 0.1
    """0 to 1, exclusive."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm; 0 for no clipping."""
    ema_decay: float = 0.0
    """Above 0 (0 to 1, exclusive): an average of the weights with this decay is what is validated and kept."""

    # -- selection
    monitor: Monitor = "accuracy"
    """Metric on validation that says which epoch is best: loss is better when low, the others when high."""
    save_top_k: int = 1
    """Above 1, or -1 for all: also keep the checkpoint folders of the best k epochs, in top_k/."""
    early_stopping_patience: int = 0
    """Stop after so many epochs without improvement of --monitor; 0 for never."""
    early_stopping_min_delta: float = 0.0
    """What counts as an improvement: more than this."""
    train_on_validation: bool = False
    """Train on the validation images too, once a recipe is chosen. The last epoch is kept, for want of a choice."""
    calibration_from: str | None = None
    """With --train_on_validation: the checkpoint of the run that chose the recipe, whose calibration is taken over."""

    # -- augmentation
    augmentation_strength: float = 1.0
    """Multiplies every option of augmentation, from horizontal_flip on: 0 for none."""
    augmentation_warmup_ratio: float = 0.0
    """Share of the epochs (0 to 1) over which the strength rises from 0: easy images first."""
    horizontal_flip: float = 0.5
    """Probability (0 to 1) that an image is mirrored."""
    rotation: float = 20.0
    """Degrees to either side."""
    scale: tuple[float, float] = (0.8, 1.2)
    """Smallest and largest factor of the object's size."""
    aspect_ratio: float = 0.0
    """Width to height changes by up to this factor: 0.8 means from 1/1.8 to 1.8, as cameras' formats differ."""
    translation: float = 0.1
    """Shift in either direction, as a share of the side."""
    background_replacement: float = 0.0
    """Probability (0 to 1) that an object before a plain wall is cut out by colour and put before something else."""
    color_jitter: float = 0.3
    """Brightness, contrast and saturation change by up to this factor: 0.3 means from 1/1.3 to 1.3."""
    color_temperature: float = 0.1
    """Light from cold to warm: red gains and blue loses up to this share, or the reverse."""
    blur: float = 0.0
    """Largest standard deviation of a Gaussian blur, in px."""
    noise: float = 0.0
    """Largest standard deviation of sensor noise, as a share of the value range."""
    random_erasing: float = 0.0
    """Probability (0 to 1) that a rectangle of 2 to 20 % of the area is erased."""
    mixup_alpha: float = 0.0
    """Above 0: images are blended in pairs, shares drawn from Beta(alpha, alpha). Not changed by the strength."""
    cutmix_alpha: float = 0.0
    """Above 0: a rectangle of one image is pasted into another, areas drawn from Beta(alpha, alpha). Likewise."""
    measure_variants: bool = False
    """At the end, measure also on images as other cameras show them: mirrored, dim, noisy, from farther away, ..."""
    measure_backgrounds: bool | None = None
    """With --measure_variants: also before other backgrounds, for objects before a plain wall, cut out by colour.
    Default: where --background_replacement is above 0."""

    # -- run
    output_dir: Path | None = None
    """The checkpoint folder to write. Default: runs/DATASET-MODEL, with a number where that exists."""
    overwrite_output_dir: bool = False
    """Allow --output_dir to replace a checkpoint."""
    resume_from_checkpoint: str | None = None
    """A run's folder: go on where it stopped, with its options. auto: from --output_dir where it holds an unfinished
    run of these options, else start anew."""
    save_strategy: Literal["epoch", "steps", "no"] = "epoch"
    """When to save the state to go on from, apart from SIGTERM and Ctrl-C, which always save it."""
    save_steps: int = 500
    """Of steps: updates of the weights from one save to the next."""
    save_total_limit: int = 1
    """So many of the newest states are kept until the run is finished."""
    save_dtype: Literal["float32", "float16"] = "float32"
    """Precision of the saved weights; float16 halves the file. Test results are those of the saved file."""
    seed: int = 42
    """Of the initial weights, the order of the images and their augmentation."""
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    """auto: bf16 where this machine computes it fast."""
    torch_compile: bool = False
    """Compile the network, which takes a minute at the start. Meant for GPUs; on the CPU where it was tried, a step
    took as long as before."""
    deterministic: bool = False
    """Let GPUs, too, compute the same every time, at the price of some speed."""
    detect_anomaly: bool = False
    """Name the operation that a NaN comes from; slow, for looking into it."""
    report_to: Literal["none", "tensorboard", "trackio", "wandb"] = "none"
    """Where else to log metrics."""
    push_to_hub: bool = False
    """Push the checkpoint to the Hub, with the token of the environment or of `hf auth login`."""
    hub_model_id: str | None = None
    """With --push_to_hub: where, such as me/my-model; made where it does not exist."""
    hub_private_repo: bool = False
    """Make it a private one, where it is made."""
    hub_strategy: Literal["end", "every_save"] = "end"
    """every_save: also each time a better epoch is saved, beside the training."""
    sample_pictures: bool = True
    """Put pictures of training and test images and of mistakes into the folder; False where images may not be shown."""
    dataloader_num_workers: int = 1
    """Processes that read and augment images beside the training process; 0 for none."""

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(type(self)).items():
            if get_origin(kind) is Literal and getattr(self, name) not in get_args(kind):
                raise ConfigurationError(
                    f"--{name} must be one of {', '.join(get_args(kind))}, got {getattr(self, name)!r}"
                )
        for name, minimum in _MINIMA.items():
            value = getattr(self, name)
            if value is not None and not minimum <= value < math.inf:
                raise ConfigurationError(f"--{name} must be at least {minimum}, got {value}")
        if self.model_variant == "keras" and self.model_name != "resnet50":
            raise ConfigurationError(f"--model_variant keras is a resnet50: leave out --model_name {self.model_name}")
        VARIANTS[self.model_variant].check_image_size(self.image_size)
        for name in _SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigurationError(f"--{name} must be from 0 to 1, got {getattr(self, name)}")
        for name in ("train_val_split", "label_smoothing_factor", "ema_decay", "momentum"):
            if getattr(self, name) == 1:
                raise ConfigurationError(f"--{name} must be below 1")
        for name in ("learning_rate", "body_learning_rate_ratio", "lr_step_gamma"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigurationError(f"--{name} must be above 0, got {getattr(self, name)}")
        if self.train_val_split == 0:
            raise ConfigurationError(
                "--train_val_split must be above 0: validation chooses the best epoch. To train on every image once "
                "that is settled, add --train_on_validation True"
            )
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ConfigurationError(f"--scale must be two factors above 0, the smaller one first, got {self.scale}")
        if self.save_top_k < 1 and self.save_top_k != -1:
            raise ConfigurationError(f"--save_top_k must be at least 1, or -1 for all, got {self.save_top_k}")
        if self.push_to_hub != (self.hub_model_id is not None):
            raise ConfigurationError(
                "--push_to_hub and --hub_model_id belong together: the one says that, the other where to, such as "
                "--push_to_hub --hub_model_id me/my-model"
            )
        if self.freeze != "none" and not self.init_from:
            raise ConfigurationError("--freeze keeps weights as they are, and new ones are random: add --init_from")
        if self.train_on_validation and (self.early_stopping_patience or self.save_top_k != 1):
            raise ConfigurationError(
                "--train_on_validation leaves nothing to choose epochs by: leave out --early_stopping_patience and "
                "--save_top_k"
            )
        if self.measure_backgrounds and not self.measure_variants:
            raise ConfigurationError("--measure_backgrounds is one of the variants: add --measure_variants True")
        if self.calibration_from and not self.train_on_validation:
            raise ConfigurationError(
                "--calibration_from is for --train_on_validation: other runs are calibrated on their validation images"
            )

    @property
    def measures_backgrounds(self) -> bool:
        """What ``measure_backgrounds`` comes to."""
        return self.background_replacement > 0 if self.measure_backgrounds is None else self.measure_backgrounds


_MINIMA = {
    "max_train_samples": 1,
    "max_extra_train_samples": 1,
    "max_eval_samples": 1,
    "image_size": 32,
    "num_train_epochs": 1,
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "per_device_eval_batch_size": 1,
    "lr_step_epochs": 1,
    "weight_decay": 0,
    "max_grad_norm": 0,
    "early_stopping_patience": 0,
    "early_stopping_min_delta": 0,
    "augmentation_strength": 0,
    "rotation": 0,
    "aspect_ratio": 0,
    "color_jitter": 0,
    "color_temperature": 0,
    "blur": 0,
    "noise": 0,
    "mixup_alpha": 0,
    "cutmix_alpha": 0,
    "save_steps": 1,
    "save_total_limit": 1,
    "seed": 0,
    "split_seed": 0,
    "dataloader_num_workers": 0,
}
_SHARES = (
    "train_val_split",
    "momentum",
    "warmup_ratio",
    "label_smoothing_factor",
    "ema_decay",
    "augmentation_warmup_ratio",
    "horizontal_flip",
    "translation",
    "background_replacement",
    "random_erasing",
)

#: What says where and how a run happens, not what comes out of it: left out of the recipe that is recorded.
_NOT_RECIPE = (
    "image_dir",
    "output_dir",
    "overwrite_output_dir",
    "resume_from_checkpoint",
    "save_strategy",
    "save_steps",
    "save_total_limit",
    "save_top_k",
    "detect_anomaly",
    "report_to",
    "push_to_hub",
    "hub_model_id",
    "hub_private_repo",
    "hub_strategy",
    "sample_pictures",
    "dataloader_num_workers",
)


def recipe_of(config: TrainingConfig) -> dict[str, Any]:
    """What must be known to train the same again."""
    return {key: value for key, value in asdict(config).items() if key not in _NOT_RECIPE and value is not None}


def options_of(config: TrainingConfig) -> dict[str, Any]:
    """Every option as JSON holds it, for a state from which a run goes on."""
    return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(config).items()}


def parse_config(arguments: list[str] | None = None) -> TrainingConfig:
    """The configuration from the command line and the recipe that it names with ``--config``.

    With ``--resume_from_checkpoint FOLDER`` the options of the run in that folder stand in for a recipe.

    Exits with 2 and a message on an option that does not exist or does not parse, as any command does.

    Raises:
        ConfigurationError: a recipe that cannot be read, or a value out of range.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    file, arguments = _take_option("--config", arguments)
    defaults = read_recipe(Path(file)) if file is not None else {}
    arguments = _spell_out_flags(arguments)
    folder, _ = _take_option("--resume_from_checkpoint", arguments)
    if folder not in (None, "auto") and file is None:
        defaults = _options_of_run(Path(folder))
    return tyro.cli(
        TrainingConfig,
        args=arguments,
        default=TrainingConfig(**defaults),
        config=(tyro.conf.FlagConversionOff, tyro.conf.AvoidSubcommands),
        use_underscores=True,
    )


def _spell_out_flags(arguments: list[str]) -> list[str]:
    """``--push_to_hub`` for ``--push_to_hub True``, as transformers' scripts take it, and so for any truth value."""
    flags = {f"--{field.name}" for field in fields(TrainingConfig) if isinstance(field.default, bool)}
    spelled = []
    for i, argument in enumerate(arguments):
        is_bare = argument in flags and all(following.startswith("--") for following in arguments[i + 1 : i + 2])
        spelled += [argument, "True"] if is_bare else [argument]
    return spelled


def _take_option(option: str, arguments: list[str]) -> tuple[str | None, list[str]]:
    """The value of ``option``, None where it is not given, and the arguments without it."""
    for i, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name == option:
            if not equals and i + 1 == len(arguments):
                raise ConfigurationError(f"{option} needs a value: see --help")
            value = value if equals else arguments[i + 1]
            return value, arguments[:i] + arguments[i + (1 if equals else 2) :]
    return None, arguments


def _options_of_run(folder: Path) -> dict[str, Any]:
    """What an unfinished run was told; nothing for a folder without one, which is reported where it is resumed."""
    states = find_states(folder)
    if not states:
        return {}
    try:
        options = read_values(states[-1])["options"]
    except (OSError, ValueError, KeyError) as error:
        raise ConfigurationError(
            f"{states[-1]} cannot be read ({error}): remove it to go on from the state before, or start anew"
        ) from error
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    return options | {"output_dir": folder}


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
    kind = get_type_hints(TrainingConfig)[name]
    if isinstance(kind, UnionType):  # of something and None
        kind = next(part for part in get_args(kind) if part is not NoneType)
    if get_origin(kind) is tuple:
        numbers = get_args(kind)
        return isinstance(value, list) and len(value) == len(numbers) and all(type(v) in (int, float) for v in value)
    if kind is float:
        return type(value) in (int, float)
    return type(value) is (kind if kind in (bool, int) else str)
