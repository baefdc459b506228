"""What computes the logits: PyTorch or OpenVINO, in fp32, bf16 or int8, chosen for the machine."""

import importlib.util
import logging
from collections.abc import Callable
from typing import Literal, Protocol

import torch
from torch import Tensor

from resnet_hub.calibration import probabilities
from resnet_hub.errors import ConfigurationError
from resnet_hub.graph import fold_batch_norm
from resnet_hub.hardware import computes_bf16_fast, count_cores
from resnet_hub.hub import ResNetForImageClassification

logger = logging.getLogger(__name__)

Backend = Literal["auto", "torch", "openvino"]
Precision = Literal["auto", "fp32", "bf16", "int8"]

#: Two classes whose probabilities differ by less than this, computed in that precision, may come in the other order in
#: fp32. Measured in bf16 on 4,240 pairs of network and image, the widest gap that turned was 0.0075; in int8, of 3,192
#: pairs with a network well trained, none turned, and of 4,000 with networks of a few epochs two did beyond this.
CLOSE_CALLS = {"bf16": 0.02, "int8": 0.2}


class Engine(Protocol):
    """A network ready to run; one thread at a time may call it."""

    name: str
    precision: str

    def __call__(self, pixels: Tensor) -> Tensor:
        """float32 (N, 3, image_size, image_size) on the CPU -> float32 logits (N, classes) on the CPU."""


class TorchEngine:
    """PyTorch with BatchNorm folded into the convolutions and channels last in memory.

    Args:
        threads: On CPUs, that compute; None leaves it to PyTorch. It has one number for the whole process.
    """

    name = "torch"

    def __init__(
        self, model: ResNetForImageClassification, precision: str, device: torch.device, threads: int | None
    ) -> None:
        if threads is not None and device.type == "cpu":
            torch.set_num_threads(threads)
        self.precision = precision
        self._device = device
        self._dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
        self._network = fold_batch_norm(model).to(device, self._dtype, memory_format=torch.channels_last)

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Tensor:
        pixels = pixels.to(self._device, self._dtype, memory_format=torch.channels_last, non_blocking=True)
        return self._network(pixels).float().cpu()


class CheckedEngine:
    """Computes fast in bf16 or int8, and in fp32 again what these cannot decide.

    Those are close calls, and images that are unlike those of the training, whose logits no rounding was meant for. So
    the best class is the one that fp32 finds, and its probability, of bf16, off by no more than 0.02.

    Args:
        model: Whose calibration says what is unfamiliar.
        fast: In bf16 or int8.
        make_exact: Makes the engine in fp32, when it is needed first.
    """

    def __init__(self, model: ResNetForImageClassification, fast: Engine, make_exact: Callable[[], Engine]) -> None:
        self.name = fast.name
        self.precision = fast.precision
        self._model = model
        self._fast = fast
        self._make_exact = make_exact
        self._exact: Engine | None = None

    def __call__(self, pixels: Tensor) -> Tensor:
        logits = self._fast(pixels)
        doubtful = self._is_doubtful(logits)
        if doubtful.any():
            if self._exact is None:
                self._exact = self._make_exact()
            logits[doubtful] = self._exact(pixels[doubtful])
        return logits

    def _is_doubtful(self, logits: Tensor) -> Tensor:
        """bool (N,)."""
        calibration = self._model.calibration
        scores = probabilities(logits, calibration)
        best, second = scores.topk(2, dim=1).values.T if scores.shape[1] > 1 else (scores[:, 0], 0)
        doubtful = best - second < CLOSE_CALLS[self.precision]
        return doubtful | calibration.is_unfamiliar(logits) if calibration else doubtful


def make_engine(
    model: ResNetForImageClassification,
    backend: Backend = "auto",
    precision: Precision = "auto",
    device: torch.device | None = None,
    threads: int | None = None,
    training_pixels: Tensor | None = None,
) -> Engine:
    """The fastest engine for ``model`` on this machine, within what is asked for.

    Args:
        model: In evaluation mode; stays as it is.
        backend: ``"auto"`` is PyTorch on GPUs, and on CPUs OpenVINO where it is installed.
        precision: ``"auto"`` is bf16 where ``device`` has it in hardware. What bf16 or int8 cannot decide is computed
            in fp32.
        device: Default: the CPU.
        threads: That compute on the CPU; default: one for each core that this process may use. PyTorch knows only one
            number for the whole process, which is set.
        training_pixels: Some images of the training, (N, 3, image_size, image_size); int8 needs them.

    Raises:
        ConfigurationError: ``backend`` or ``precision`` is none of these, or cannot be had here.
    """
    device = device or torch.device("cpu")
    for name, value, choices in [
        ("backend", backend, ("auto", "torch", "openvino")),
        ("precision", precision, ("auto", "fp32", "bf16", "int8")),
    ]:
        if value not in choices:
            raise ConfigurationError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
    if threads is not None and threads < 1:
        raise ConfigurationError(f"threads must be at least 1, got {threads}")
    if backend == "openvino" and device.type != "cpu":
        raise ConfigurationError(f"OpenVINO computes on the CPU, not on {device}: choose the torch backend")
    if precision == "int8":
        backend = _for_int8(backend, device, training_pixels)
    if precision == "auto":
        precision = "bf16" if device.type in ("cpu", "cuda") and computes_bf16_fast(device.type) else "fp32"
    if backend == "auto":
        backend = "openvino" if device.type == "cpu" and importlib.util.find_spec("openvino") else "torch"
        try:
            return _make(model, backend, precision, device, threads)
        except ConfigurationError as error:
            logger.warning("%s; PyTorch computes instead.", error)
            backend = "torch"
    return _make(model, backend, precision, device, threads, training_pixels)


def _for_int8(backend: str, device: torch.device, training_pixels: Tensor | None) -> str:
    """The backend that computes in int8. Raises ``ConfigurationError`` where there is none, or no images."""
    if backend == "torch" or device.type != "cpu":
        raise ConfigurationError("int8 is computed by OpenVINO on the CPU: choose its backend, or another precision")
    if training_pixels is None or not len(training_pixels):
        raise ConfigurationError(
            "int8 is fitted to images of the training: give some (training_images), or choose another precision"
        )
    return "openvino"


def _make(
    model: ResNetForImageClassification,
    backend: str,
    precision: str,
    device: torch.device,
    threads: int | None,
    training_pixels: Tensor | None = None,
) -> Engine:
    def make(precision: str, training_pixels: Tensor | None = None) -> Engine:
        if backend == "torch":
            return TorchEngine(model, precision, device, threads)
        from resnet_hub.engines.openvino_engine import OpenVINOEngine  # imports OpenVINO, which not everybody has

        return OpenVINOEngine(model, precision, threads or count_cores(), training_pixels)

    if precision in CLOSE_CALLS:
        return CheckedEngine(model, make(precision, training_pixels), lambda: make("fp32"))
    return make(precision)
