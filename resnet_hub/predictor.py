"""From images to labels with scores, in the format of transformers' image-classification pipeline."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from numbers import Integral
from pathlib import Path
from typing import NamedTuple, TypedDict

import torch
from PIL import Image
from torch import Tensor

from resnet_hub import convert
from resnet_hub.calibration import probabilities
from resnet_hub.engines import Backend, Precision, make_engine, quantization
from resnet_hub.engines.batching import MAX_BATCH, SharedBatches
from resnet_hub.errors import ConfigurationError
from resnet_hub.hardware import count_cores, usable_device
from resnet_hub.hub import ResNetForImageClassification
from resnet_hub.images import ImageSource


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

    Threads may share it: what they ask for at the same time goes through the network together.

    Args:
        model: A loaded model, a checkpoint folder or a Hub id, or anything else that
            :func:`resnet_hub.convert.load` takes. Its weights are read now; later changes are not seen.
        backend: ``"torch"``, ``"openvino"``, or ``"auto"``: OpenVINO on CPUs where it is installed, else PyTorch.
        device: Where to compute; default CUDA where there is one, else the CPU.
        precision: ``"fp32"``, ``"bf16"``, ``"int8"``, or ``"auto"``: bf16 where the machine has it in hardware. Close
            calls are decided in fp32 then, so that the best class is fp32's, and scores of bf16 are within 0.02.
        threads: That decode images, and as many compute; default: one for each core of this process. With PyTorch, this
            sets those of the whole process.
        training_images: For int8, and for it alone, which is fitted to some of them; a dataset's column will do.

    Attributes:
        model: On ``device``.
        engine: What computes the logits; ``engine.name`` and ``engine.precision`` say how.
        readers: Threads that decode images.

    Raises:
        CheckpointError: the checkpoint cannot be loaded.
        ConfigurationError: a value that cannot be had on this machine.
        ImageError: one of ``training_images`` cannot be decoded.
    """

    def __init__(
        self,
        model: ResNetForImageClassification | str | Path,
        *,
        backend: Backend = "auto",
        device: str | torch.device | None = None,
        precision: Precision = "auto",
        threads: int | None = None,
        training_images: Sequence[ImageSource] | None = None,
    ) -> None:
        if training_images is not None and (precision != "int8" or isinstance(training_images, (str, Path))):
            raise ConfigurationError("training_images are a list of images, and go together with precision='int8'")
        if device is None:
            device = "cuda" if torch.cuda.is_available() and backend != "openvino" else "cpu"
        self.device = usable_device(device)
        if not isinstance(model, ResNetForImageClassification):
            model = convert.load(model)
        self.model = model.to(self.device, memory_format=torch.channels_last).eval()
        self.readers = ThreadPoolExecutor(threads or count_cores(), "reader")
        self._room_to_read = threading.BoundedSemaphore(threads or count_cores())
        pixels = None
        if training_images is not None:
            pixels = quantization.training_pixels(self.model.preprocessing, training_images)
        self.engine = make_engine(self.model, backend, precision, self.device, threads, pixels)
        self._logits = SharedBatches(self.engine)

    @property
    def label_names(self) -> list[str]:
        return self.model.label_names

    def __call__(
        self, images: ImageSource | Sequence[ImageSource], top_k: int = 5, batch_size: int = MAX_BATCH
    ) -> list[Prediction] | list[list[Prediction]]:
        """The ``top_k`` best classes of one image, best first; for a list (or tuple) of images, a list of such lists.

        Args:
            images: Anything that :func:`resnet_hub.images.open_image` reads, or a list of such.
            top_k: How many classes; all where there are fewer.
            batch_size: Images per pass through the network.

        Raises:
            ImageError: an image cannot be decoded.
            ConfigurationError: ``top_k`` or ``batch_size`` is not an integer of at least 1.
        """
        if not isinstance(images, (list, tuple)):
            return self.answer([images], top_k)[0].predictions
        return [answer.predictions for answer in self.answer(images, top_k, batch_size)]

    def answer(self, images: Sequence[ImageSource], top_k: int = 5, batch_size: int = MAX_BATCH) -> list[Answer]:
        """As calling it with a list, and whether each image is unlike those of the training."""
        for name, value in [("top_k", top_k), ("batch_size", batch_size)]:
            if not isinstance(value, Integral) or value < 1:
                raise ConfigurationError(f"{name} must be an integer of at least 1, got {value!r}")
        batches = (images[start : start + batch_size] for start in range(0, len(images), batch_size))
        return [answer for batch in batches for answer in self._answer_batch(batch, top_k)]

    def load(self, image: ImageSource) -> Image.Image:
        """``image`` as the network sees it: decoded, RGB, ``image_size`` x ``image_size``.

        However many threads ask, only so many as the predictor has decode at a time: pictures of many megapixels take
        as many megabytes, until they are small.

        Raises:
            ImageError: it cannot be decoded.
        """
        with self._room_to_read:
            return self.model.preprocessing.load(image)

    @torch.inference_mode()
    def _answer_batch(self, images: Sequence[ImageSource], top_k: int) -> list[Answer]:
        logits = self._logits(self.pixels(images))
        calibration = self.model.calibration
        is_unfamiliar = calibration.is_unfamiliar(logits).tolist() if calibration else [None] * len(images)
        scores, classes = probabilities(logits, calibration).topk(min(top_k, self.model.num_classes), dim=1)
        return [
            Answer([Prediction(label=self.label_names[c], score=s) for s, c in zip(*row, strict=True)], unfamiliar)
            for *row, unfamiliar in zip(scores.tolist(), classes.tolist(), is_unfamiliar, strict=True)
        ]

    def pixels(self, images: Sequence[ImageSource]) -> Tensor:
        """Normalised, (N, 3, image_size, image_size)."""
        load = self.readers.map if len(images) > 1 else map
        return self.model.preprocessing(list(load(self.load, images)))
