"""Checkpoints as ONNX and OpenVINO IR: one network, for programs without PyTorch and without this library.

Both take ``pixels``, float32 (N, 3, side, side), N of any size, and give ``logits``, float32 (N, classes). In fp32 they
are equal to the checkpoint's within :data:`TOLERANCE`; OpenVINO IR may be in int8 too, which is faster and less exact.
What has to be done before and after stands in their metadata, see :func:`metadata`.
"""

import json
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
from torch import Tensor

from resnet_hub.checkpoint import finish_file, write_atomically
from resnet_hub.engines import quantization
from resnet_hub.errors import ConfigurationError
from resnet_hub.graph import fold_batch_norm, write_graph
from resnet_hub.hub import ResNetForImageClassification
from resnet_hub.images import ImageSource

#: Of the largest logit: BatchNorm folded into convolutions, and another order of sums.
TOLERANCE = 1e-4
#: Of January 2021, and all that is needed: most programs read it.
ONNX_OPSET, ONNX_IR_VERSION = 13, 8

SUFFIXES = {"onnx": ".onnx", "openvino": ".xml"}


def export_checkpoint(
    model: ResNetForImageClassification,
    format: Literal["onnx", "openvino"],
    output: str | Path | None = None,
    training_images: Sequence[ImageSource] | None = None,
) -> Path:
    """Write ``model`` in another format, all of it or nothing.

    Args:
        model: In evaluation mode, on the CPU; stays as it is.
        format: ``"onnx"``, or ``"openvino"`` for an ``.xml`` file with a ``.bin`` file beside it.
        output: The file; default: ``model.onnx`` or ``model.xml`` in the working directory.
        training_images: Write int8, fitted to some of them, rather than fp32; OpenVINO only.

    Returns:
        The file.

    Raises:
        ConfigurationError: no such format, its package is not installed, or the file cannot be written.
        ImageError: one of ``training_images`` cannot be decoded.
    """
    if format not in SUFFIXES:
        raise ConfigurationError(f"format must be one of {', '.join(SUFFIXES)}, got {format!r}")
    file = Path(output or f"model{SUFFIXES[format]}")
    if file.suffix != SUFFIXES[format]:
        raise ConfigurationError(f"{file} must end in {SUFFIXES[format]} for {format}: choose another name")
    pixels = None
    if training_images is not None:
        if format != "openvino":
            raise ConfigurationError("int8 is written as OpenVINO IR: choose the format openvino, or fp32")
        pixels = quantization.training_pixels(model.preprocessing, training_images)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if format == "onnx":
            _write_onnx(model, file)
        else:
            _write_openvino(model, file, pixels)
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be written ({error}): choose another file") from error
    return file


def metadata(model: ResNetForImageClassification) -> dict[str, str]:
    """What a program must know to use the exported network, as strings: JSON, but for the sentences.

    ``preprocessing`` and ``postprocessing`` say in words what the others say in numbers.
    """
    preprocessing = model.preprocessing
    side = model.image_size
    return {
        "architecture": model.architecture,
        "label_names": json.dumps(model.label_names, ensure_ascii=False),
        "image_size": json.dumps(side),
        "mean": json.dumps(preprocessing.mean),
        "std": json.dumps(preprocessing.std),
        "temperature": json.dumps(model.calibration.temperature if model.calibration else 1.0),
        "preprocessing": (
            f"RGB, the whole image resized to {side} x {side} px (bilinear with antialiasing, nothing cropped), values "
            "divided by 255, minus mean, divided by std, channels first"
        ),
        "postprocessing": "softmax of logits divided by temperature; label_names has the names in the classes' order",
        "exported_by": f"resnet_hub, torch {version('torch')}",
    }


# ---------------------------------------------------------------------------------------------------------------------
# OpenVINO


def _write_openvino(model: ResNetForImageClassification, file: Path, training_pixels: Tensor | None) -> None:
    from resnet_hub.engines.openvino_engine import import_openvino, openvino_model

    openvino = import_openvino()
    network = openvino_model(model, training_pixels)
    precision = {"precision": "fp32" if training_pixels is None else "int8"}
    for name, value in (metadata(model) | precision).items():
        network.set_rt_info(value, ["model_info", name])
    # Both files appear together, the weights first: whoever finds the .xml finds what it needs.
    with tempfile.TemporaryDirectory(prefix=f".{file.stem}-", suffix=".tmp", dir=file.parent) as staging:
        openvino.save_model(network, Path(staging, file.name), compress_to_fp16=False)
        for suffix in (".bin", ".xml"):
            written = Path(staging, file.name).with_suffix(suffix)
            finish_file(written)
            written.replace(file.with_suffix(suffix))


# ---------------------------------------------------------------------------------------------------------------------
# ONNX


def _write_onnx(model: ResNetForImageClassification, file: Path) -> None:
    content = onnx_model(model).SerializeToString()
    with write_atomically(file) as temporary:
        temporary.write_bytes(content)


def onnx_model(model: ResNetForImageClassification) -> Any:
    """The ``onnx.ModelProto``, checked. Raises ``ConfigurationError`` where ``onnx`` is not installed."""
    try:
        import onnx
    except ImportError as error:
        raise ConfigurationError("exporting to ONNX needs the package onnx: pip install onnx") from error
    helper = onnx.helper
    writer = _OnnxWriter(onnx)
    logits = write_graph(fold_batch_norm(model), writer, "pixels")
    writer.node("Identity", [logits], "logits")
    side, fp32 = model.image_size, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        writer.nodes,
        model.architecture,
        [helper.make_tensor_value_info("pixels", fp32, ["N", 3, side, side])],
        [helper.make_tensor_value_info("logits", fp32, ["N", model.num_classes])],
        writer.constants,
    )
    network = helper.make_model(
        graph,
        producer_name="resnet_hub",
        ir_version=ONNX_IR_VERSION,
        opset_imports=[helper.make_operatorsetid("", ONNX_OPSET)],
    )
    helper.set_model_props(network, metadata(model))
    onnx.checker.check_model(network, full_check=True)
    return network


class _OnnxWriter:
    """Of :class:`resnet_hub.graph.GraphWriter`: values are names."""

    def __init__(self, onnx: ModuleType) -> None:
        self._onnx = onnx
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def node(self, operation: str, inputs: list[str], name: str, **attributes: Any) -> str:
        self.nodes.append(self._onnx.helper.make_node(operation, inputs, [name], name=name, **attributes))
        return name

    def _constant(self, name: str, values: np.ndarray) -> str:
        self.constants.append(self._onnx.numpy_helper.from_array(values, name))
        return name

    def convolution(self, name, x, weight, bias, stride, padding):
        inputs = [x, self._constant(f"{name}.weight", weight), self._constant(f"{name}.bias", bias)]
        kernel = list(weight.shape[2:])
        return self.node("Conv", inputs, name, kernel_shape=kernel, strides=list(stride), pads=[*padding, *padding])

    def relu(self, name, x):
        return self.node("Relu", [x], f"{x}.relu")  # one module serves several places: its own name would not be unique

    def max_pool(self, name, x, kernel, stride, padding):
        sizes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [padding] * 4}
        return self.node("MaxPool", [x], name, **sizes)

    def average_pool(self, name, x, kernel):
        return self.node("AveragePool", [x], name, kernel_shape=[kernel] * 2, strides=[kernel] * 2)

    def global_mean(self, name, x):
        return self.node("Flatten", [self.node("GlobalAveragePool", [x], name)], f"{name}.flat", axis=1)

    def add(self, name, x, y):
        return self.node("Add", [x, y], name)

    def linear(self, name, x, weight, bias):
        inputs = [x, self._constant(f"{name}.weight", weight), self._constant(f"{name}.bias", bias)]
        return self.node("Gemm", inputs, name, transB=1)
