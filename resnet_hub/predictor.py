"""From images to labels with scores, in the format of transformers' image-classification pipeline."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypedDict

import torch

from resnet_hub import convert
from resnet_hub.calibration import probabilities
from resnet_hub.errors import ConfigurationError
from resnet_hub.hub import ResNetForImageClassification
from resnet_hub.images import ImageSource, open_image


class Prediction(TypedDict):
    """One class with its probability, 0..1: softmax of the logits, calibrated where the checkpoint is."""

    label: str
    score: float


class Answer(NamedTuple):
    """What a model says of one image.

    Attributes:
        predictions: Best first.
        is_unfamiliar: Whether the image is unlike those of the training; None of a checkpoint without calibration.
    """

    predictions: list[Prediction]
    is_unfamiliar: bool | None


class Predictor:
    """Classifies images with a checkpoint that is read once.

    >>> predictor = Predictor("models/signs-resnet50")
    >>> predictor("hand.jpg", top_k=2)
    [{'label': '4', 'score': 0.97}, {'label': '5', 'score': 0.02}]

    Args:
        model: A loaded model, a checkpoint folder or a Hub id, or anything else that
            :func:`resnet_hub.convert.load` takes.
        device: Where to compute; default CUDA where there is one, else the CPU.

    Raises:
        CheckpointError: the checkpoint cannot be loaded.
    """

    def __init__(
        self, model: ResNetForImageClassification | str | Path, device: str | torch.device | None = None
    ) -> None:
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if not isinstance(model, ResNetForImageClassification):
            model = convert.load(model)
        self.model = model.to(self.device, memory_format=torch.channels_last).eval()

    @property
    def label_names(self) -> list[str]:
        return self.model.label_names

    def __call__(
        self, images: ImageSource | Sequence[ImageSource], top_k: int = 5, batch_size: int = 32
    ) -> list[Prediction] | list[list[Prediction]]:
        """The ``top_k`` best classes of one image, best first; for a list (or tuple) of images, a list of such lists.

        Args:
            images: Anything that :func:`resnet_hub.images.open_image` reads, or a list of such.
            top_k: How many classes; all where there are fewer.
            batch_size: Images per pass through the network.

        Raises:
            ImageError: an image cannot be decoded.
            ConfigurationError: ``top_k`` or ``batch_size`` below 1.
        """
        if not isinstance(images, (list, tuple)):
            return self.answer([images], top_k)[0].predictions
        return [answer.predictions for answer in self.answer(images, top_k, batch_size)]

    def answer(self, images: Sequence[ImageSource], top_k: int = 5, batch_size: int = 32) -> list[Answer]:
        """As calling it with a list, and whether each image is unlike those of the training."""
        if top_k < 1 or batch_size < 1:
            raise ConfigurationError(f"top_k and batch_size must be at least 1, got {top_k} and {batch_size}")
        batches = (images[start : start + batch_size] for start in range(0, len(images), batch_size))
        return [answer for batch in batches for answer in self._answer_batch(batch, top_k)]

    @torch.inference_mode()
    def _answer_batch(self, images: Sequence[ImageSource], top_k: int) -> list[Answer]:
        pixels = self.model.preprocessing([open_image(image) for image in images])
        logits = self.model(pixels.to(self.device)).cpu()
        calibration = self.model.calibration
        is_unfamiliar = calibration.is_unfamiliar(logits).tolist() if calibration else [None] * len(images)
        scores, classes = probabilities(logits, calibration).topk(min(top_k, self.model.num_classes), dim=1)
        return [
            Answer([Prediction(label=self.label_names[c], score=s) for s, c in zip(*row, strict=True)], unfamiliar)
            for *row, unfamiliar in zip(scores.tolist(), classes.tolist(), is_unfamiliar, strict=True)
        ]
