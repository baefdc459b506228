"""Metrics for TensorBoard, Trackio or Weights & Biases, through Accelerate's trackers."""

from importlib.util import find_spec
from pathlib import Path

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS

from resnet_hub.errors import ConfigurationError
from train.config import TrainingConfig, recipe_of


def start_tracking(accelerator: Accelerator, config: TrainingConfig, output_dir: Path) -> None:
    """Let ``accelerator.log`` write to what ``config.report_to`` names; TensorBoard's files go to ``output_dir``.

    Raises:
        ConfigurationError: the package is not installed.
    """
    name = config.report_to
    if name == "none":
        return
    if find_spec(name) is None:
        raise ConfigurationError(f"--report_to {name} needs the package {name}: pip install {name}")
    tracker_class = LOGGER_TYPE_TO_CLASS[name]
    where = {"logging_dir": output_dir} if tracker_class.requires_logging_directory else {}
    accelerator.log_with = [tracker_class(name if where else output_dir.name, **where)]
    recipe = {
        key: value if isinstance(value, (int, float, str)) else str(value) for key, value in recipe_of(config).items()
    }
    accelerator.init_trackers(output_dir.name, recipe)
