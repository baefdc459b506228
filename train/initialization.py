"""Weights to start from, where a run does not start from random ones."""

from torch import Tensor

from resnet_hub import ResNetForImageClassification
from resnet_hub.errors import ConfigurationError

CLASSIFIER = ("fc.weight", "fc.bias")


def load_initial_weights(model: ResNetForImageClassification, other: ResNetForImageClassification, source: str) -> str:
    """Replace the weights of ``model`` by those of ``other``.

    The classifier comes along where the source says what its classes are called and they are the same, else it stays
    the fresh one.

    Args:
        model: With the architecture of the weights, and the classes to be trained.
        other: As :func:`resnet_hub.convert.read` gives it.
        source: What it was read from, for messages.

    Returns:
        What became of the classifier, to be told.

    Raises:
        ConfigurationError: weights of another network.
    """
    if other.variant != model.variant:
        raise ConfigurationError(
            f"the weights of {source} are another network's: choose --model_variant {other.variant}, or other weights"
        )
    weights = other.state_dict()
    has_label_names = other.origin is None or other.origin.has_label_names
    if has_label_names and other.label_names == model.label_names:
        classifier = "its classifier: the classes are the same"
    else:
        for name in CLASSIFIER:
            weights[name] = model.state_dict()[name]
        why = "" if has_label_names else ", for the source does not name its own"
        classifier = f"a new classifier for {model.num_classes} classes{why}"
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
