"""How far a network's answers can be trusted: probabilities that mean what they say, and images that it does not know.

Both are fitted on validation images, which the network has not learned from, and stored in ``config.json``.
"""

from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from resnet_hub.errors import ConfigurationError

#: On a validation set without a mistake the likelihood only grows as the temperature falls, and with it certainty that
#: nothing justifies: hence bounds.
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.5, 5.0
#: Share of the validation images that is called familiar. Of hands in other light, before other walls, some lie beyond
#: the bound; of CIFAR-10's images nine in ten do (the model card has the figures).
FAMILIAR_SHARE = 0.99


@dataclass(frozen=True)
class Calibration:
    """A temperature for probabilities and a bound on the energy of images like those of the training.

    Attributes:
        temperature: Divides the logits before the softmax (Guo et al. 2017, https://arxiv.org/abs/1706.04599).
        max_energy: An image with more is unlike the training images (Liu et al. 2020,
            https://arxiv.org/abs/2010.03759).
        dataset, split, num_images: What it was fitted on.

    Raises:
        ConfigurationError: a value that cannot be.
    """

    temperature: float
    max_energy: float
    dataset: str
    split: str
    num_images: int

    def __post_init__(self) -> None:
        if not MIN_TEMPERATURE <= self.temperature <= MAX_TEMPERATURE:
            raise ConfigurationError(
                f"temperature must be {MIN_TEMPERATURE} to {MAX_TEMPERATURE}, got {self.temperature}"
            )
        if not np.isfinite(self.max_energy):
            raise ConfigurationError(f"max_energy must be a finite number, got {self.max_energy}")

    def is_unfamiliar(self, logits: Tensor) -> Tensor:
        """Logits (N, C) -> bool (N,), true for images unlike those of the training."""
        return energy(logits) > self.max_energy

    def to_config(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_config(cls, config: Any) -> Self:
        """From ``config.json``, whose every value is untrusted. Raises ``ConfigurationError``."""
        kinds = {"temperature": (int, float), "max_energy": (int, float), "dataset": str, "split": str}
        kinds["num_images"] = int
        if not (
            isinstance(config, dict)
            and config.keys() == kinds.keys()
            and all(
                isinstance(config[name], kind) and not isinstance(config[name], bool) for name, kind in kinds.items()
            )
        ):
            raise ConfigurationError(f"calibration must have the numbers and names {', '.join(kinds)}")
        return cls(**config)


def probabilities(logits: Tensor, calibration: Calibration | None) -> Tensor:
    """Logits (N, C) -> float32 (N, C) that sum to 1; with the temperature where there is one."""
    return (logits.float() / (calibration.temperature if calibration else 1.0)).softmax(dim=1)


def energy(logits: Tensor) -> Tensor:
    """Logits (N, C) -> float32 (N,): low where at least one class speaks up, high where none does.

    The free energy ``-log(sum(exp(logits)))`` of Liu et al. 2020, equation 4, at temperature 1. It is read from the
    logits alone, so every backend has it.
    """
    return -logits.float().logsumexp(dim=1)


def fit_calibration(logits: Tensor, labels: Tensor, dataset: str, split: str) -> Calibration:
    """Fit to images that the network has not learned from.

    Args:
        logits: (N, C), at least one.
        labels: Class indices (N,).
        dataset, split: What the images are, for the record.
    """
    logits = logits.double()
    bound = torch.quantile(energy(logits), FAMILIAR_SHARE).item()
    return Calibration(_best_temperature(logits, labels), bound, dataset, split, len(labels))


def _best_temperature(logits: Tensor, labels: Tensor) -> float:
    """Of the lowest cross-entropy, which is convex in 1 / temperature, so thirds lead to its minimum."""

    def loss(inverse: float) -> float:
        return torch.nn.functional.cross_entropy(logits * inverse, labels).item()

    low, high = 1 / MAX_TEMPERATURE, 1 / MIN_TEMPERATURE
    while high - low > 1e-6:
        third = (high - low) / 3
        if loss(low + third) < loss(high - third):
            high -= third
        else:
            low += third
    return 2 / (low + high)
