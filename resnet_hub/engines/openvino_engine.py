"""OpenVINO runs networks on CPUs several times faster than PyTorch does, with bf16 where the processor has it."""

import ctypes
import hashlib
import importlib
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resnet_hub.engines import compile_cache
from resnet_hub.errors import ConfigurationError
from resnet_hub.graph import fold_batch_norm, write_graph
from resnet_hub.hub import ResNetForImageClassification
from resnet_hub.imports import without_packages

logger = logging.getLogger(__name__)

#: In which OpenVINO does what is not done in int8, too.
PRECISIONS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}


def import_openvino() -> ModuleType:
    """The ``openvino`` package. Raises ``ConfigurationError`` where it is not installed, or does not run."""
    try:
        return import_without_telemetry("openvino")
    except (ImportError, OSError) as error:
        raise ConfigurationError(
            f"OpenVINO cannot be used here ({error}): pip install openvino, or choose the torch backend"
        ) from error


def import_without_telemetry(name: str) -> ModuleType:
    """A package of OpenVINO's, without its reports of each import and conversion to its makers.

    It sends them wherever it finds ``openvino_telemetry``, which comes with it, and without asking; where that package
    is not found it has a stand-in that sends nothing.

    Raises:
        ImportError, OSError: it is not installed, or does not run here.
    """
    with without_packages("openvino_telemetry"):
        return importlib.import_module(name)


class SignalStack(ctypes.Structure):
    """``stack_t`` of Linux."""

    _fields_ = [("pointer", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]


@contextmanager
def own_signal_stack() -> Iterator[None]:
    """Signal handlers of this thread run on the stack that they ran on before.

    OpenVINO 2026.4 gives the thread that loads it another one, and frees that together with its last network, but does
    not take it back: with the next signal, a SIGTERM say, the process would crash in place of handling it.
    """
    if sys.platform != "linux":
        yield
        return
    libc, before = ctypes.CDLL(None), SignalStack()
    libc.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        libc.sigaltstack(ctypes.byref(before), None)


class OpenVINOEngine:
    """A network compiled for this CPU; one thread at a time may call it.

    Args:
        model: In evaluation mode; stays as it is.
        precision: ``"fp32"``, ``"bf16"`` or ``"int8"``.
        threads: That compute one pass.
        training_pixels: (N, 3, image_size, image_size), for int8; see :mod:`resnet_hub.engines.quantization`.

    Raises:
        ConfigurationError: OpenVINO or what it needs for int8 cannot be had here.
    """

    name = "openvino"

    def __init__(
        self,
        model: ResNetForImageClassification,
        precision: str,
        threads: int,
        training_pixels: Tensor | None = None,
    ) -> None:
        self.precision = precision
        with own_signal_stack():
            self._request, self._content = self._compiled(model, precision, threads, training_pixels)

    @staticmethod
    def _compiled(
        model: ResNetForImageClassification, precision: str, threads: int, training_pixels: Tensor | None
    ) -> tuple[Any, Any | None]:
        """What runs the network, and the memory that must outlive it, where that came from the cache."""
        openvino = import_openvino()
        core = openvino.Core()
        config = {
            "INFERENCE_PRECISION_HINT": PRECISIONS[precision],
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
        }
        processor = core.get_property("CPU", "FULL_DEVICE_NAME")
        images = None if training_pixels is None else hashlib.sha256(training_pixels.contiguous().numpy()).hexdigest()
        key = compile_cache.cache_key(model, model.image_size, openvino.get_version(), processor, precision, images)
        compiled, content = _read(openvino, core, key, config)
        if compiled is None:
            compiled = core.compile_model(openvino_model(model, training_pixels), "CPU", config)
            compile_cache.keep(key, compiled.export_model().getvalue())
        return compiled.create_infer_request(), content

    def __call__(self, pixels: Tensor) -> Tensor:
        """float32 (N, 3, image_size, image_size) -> logits (N, classes)."""
        results = self._request.infer([pixels.contiguous().numpy()], share_inputs=True)
        return torch.from_numpy(results[0])


def _read(openvino: ModuleType, core: Any, key: str, config: dict[str, Any]) -> tuple[Any | None, Any | None]:
    """The compiled network that the cache has, and the memory that must outlive it; None of each where it has none."""
    content = compile_cache.read(key)
    if content is None:
        return None, None
    tensor = openvino.Tensor(content, shared_memory=True)
    try:
        return core.import_model(tensor, "CPU", config), tensor
    except RuntimeError as error:
        logger.info("A compiled network cannot be read again and is compiled anew: %s", error)
        compile_cache.discard(key)
        return None, None


def openvino_model(model: ResNetForImageClassification, training_pixels: Tensor | None = None) -> Any:
    """``openvino.Model`` from ``pixels`` (N, 3, image_size, image_size) to ``logits`` (N, classes), both fp32.

    Args:
        training_pixels: Quantises it to int8.
    """
    openvino = import_openvino()
    writer = _Writer(openvino.opset13)
    side = model.image_size
    pixels = openvino.opset13.parameter([-1, 3, side, side], np.float32, name="pixels")
    pixels.output(0).set_names({"pixels"})
    logits = write_graph(fold_batch_norm(model), writer, pixels)
    logits.output(0).set_names({"logits"})
    network = openvino.Model([logits], [pixels], model.architecture)
    if training_pixels is None:
        return network
    from resnet_hub.engines.quantization import quantize

    return quantize(network, training_pixels)


class _Writer:
    """Of :class:`resnet_hub.graph.GraphWriter`."""

    def __init__(self, opset: ModuleType) -> None:
        self._opset = opset

    def convolution(self, name, x, weight, bias, stride, padding):
        # Constants are made here and not by the operation, which would take them number by number.
        weight, bias = self._opset.constant(weight), self._opset.constant(bias.reshape(1, -1, 1, 1))
        product = self._opset.convolution(x, weight, stride, padding, padding, [1, 1], name=name)
        return self._opset.add(product, bias, name=f"{name}.bias")

    def relu(self, name, x):
        return self._opset.relu(x)

    def max_pool(self, name, x, kernel, stride, padding):
        pairs = [[stride] * 2, [1, 1], [padding] * 2, [padding] * 2, [kernel] * 2]
        pooled = self._opset.max_pool(x, *pairs, "floor", name=name)
        return pooled.output(0)

    def average_pool(self, name, x, kernel):
        return self._opset.avg_pool(x, [kernel] * 2, [0, 0], [0, 0], [kernel] * 2, True, "floor", name=name)

    def global_mean(self, name, x):
        return self._opset.reduce_mean(x, np.array([2, 3]), False, name=name)

    def add(self, name, x, y):
        return self._opset.add(x, y, name=name)

    def linear(self, name, x, weight, bias):
        weight, bias = self._opset.constant(weight), self._opset.constant(bias.reshape(1, -1))
        product = self._opset.matmul(x, weight, False, True, name=name)
        return self._opset.add(product, bias, name=f"{name}.bias")
