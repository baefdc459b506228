"""Weights to start from, where a run does not start from random ones."""

from pathlib import Path

from torch import Tensor

from resnet_hub import ResNetForImageClassification
from resnet_hub.checkpoint import CONFIG_NAME, WEIGHTS_NAME, locate_checkpoint, read_json, read_weights
from resnet_hub.errors import ConfigurationError

CLASSIFIER = ("fc.weight", "fc.bias")


def load_initial_weights(model: ResNetForImageClassification, source: str) -> str:
    """Replace the weights of ``model`` by those of ``source``.

    The classifier comes along where the label names are the same, else it stays the fresh one.

    Args:
        model: With the architecture of the weights, and the classes to be trained.
        source: A checkpoint folder, a Hub id (ours or timm's), or a ``.safetensors`` file with torchvision's names.

    Returns:
        What became of the classifier, to be told.

    Raises:
        CheckpointError: not found, or damaged.
        ConfigurationError: weights of another network.
    """
    if source.endswith(".safetensors"):
        file, label_names = Path(source), None
    else:
        folder = locate_checkpoint(source)
        file, label_names = folder / WEIGHTS_NAME, read_json(folder, CONFIG_NAME).get("label_names")
    weights = read_weights(file)
    if label_names == model.label_names:
        classifier = "its classifier: the classes are the same"
    else:
        for name in CLASSIFIER:
            weights[name] = model.state_dict()[name]
        classifier = f"a new classifier for {model.num_classes} classes"
    _check_same_network(model.state_dict(), weights, source)
    model.load_state_dict(weights)
    return f"initial weights from {source}, with {classifier}"


def _check_same_network(expected: dict[str, Tensor], weights: dict[str, Tensor], source: str) -> None:
    wrong = sorted(expected.keys() ^ weights.keys()) or [
        name for name, value in expected.items() if weights[name].shape != value.shape
    ]
    if wrong:
        raise ConfigurationError(
            f"the weights of {source} are another network's, {len(wrong)} tensors differ ({', '.join(wrong[:3])}): "
            "choose --model_name to match, or other weights"
        )
