"""A network as the few operations that it comes down to: what the summary, engines and exports are made of.

Written out by hand rather than by a tracer or an exporter: it takes milliseconds and not seconds, needs nothing that is
not there, and what comes out has the layers and the names of the network that went in. A tracer would also change how
PyTorch calls modules, for all threads of the process and for as long as it takes.
"""

import copy
import operator
from typing import Any, Protocol

import numpy as np
import torch.fx
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from resnet_hub.errors import ConfigurationError
from resnet_hub.modeling import ConvolutionalBlock, ResNet


class GraphWriter(Protocol):
    """A format that networks are written in. ``x`` is what an earlier call gave; arrays are float32."""

    def convolution(
        self, name: str, x: Any, weight: np.ndarray, bias: np.ndarray, stride: tuple[int, int], padding: tuple[int, int]
    ) -> Any:
        """(N, C, H, W) with ``weight`` (O, C, h, w) and ``bias`` (O,) -> (N, O, H', W')."""

    def relu(self, name: str, x: Any) -> Any: ...

    def max_pool(self, name: str, x: Any, kernel: int, stride: int, padding: int) -> Any: ...

    def average_pool(self, name: str, x: Any, kernel: int) -> Any:
        """(N, C, H, W) -> (N, C, H // kernel, W // kernel)."""

    def global_mean(self, name: str, x: Any) -> Any:
        """(N, C, H, W) -> (N, C)."""

    def add(self, name: str, x: Any, y: Any) -> Any: ...

    def linear(self, name: str, x: Any, weight: np.ndarray, bias: np.ndarray) -> Any:
        """(N, C) with ``weight`` (O, C) and ``bias`` (O,) -> (N, O)."""


def graph_of(model: ResNet) -> torch.fx.GraphModule:
    """What ``model.forward`` does, operation by operation; its modules are the model's own."""
    graph = torch.fx.Graph()
    x = graph.placeholder("images")
    for name in ("conv1", "bn1", "relu", "maxpool"):
        x = graph.call_module(name, (x,))
    for stage in ("layer1", "layer2", "layer3", "layer4"):
        for name, block in model.get_submodule(stage).named_children():
            x = _add_block(graph, f"{stage}.{name}", isinstance(block, ConvolutionalBlock), x)
    x = graph.call_module("avgpool", (x,))
    x = graph.call_function(torch.flatten, (x, 1))
    graph.output(graph.call_module("fc", (x,)))
    return torch.fx.GraphModule(model, graph)


def _add_block(graph: torch.fx.Graph, block: str, has_projection: bool, x: torch.fx.Node) -> torch.fx.Node:
    residual, shortcut = x, x
    for name in ("conv1", "bn1", "relu", "conv2", "bn2", "relu", "conv3", "bn3"):
        residual = graph.call_module(f"{block}.{name}", (residual,))
    for name in ("downsample.0", "downsample.1") if has_projection else ():
        shortcut = graph.call_module(f"{block}.{name}", (shortcut,))
    return graph.call_module(f"{block}.relu", (graph.call_function(operator.add, (residual, shortcut)),))


def fold_batch_norm(model: ResNet) -> torch.fx.GraphModule:
    """A copy of ``model`` in which each BatchNorm is part of the convolution before it.

    In evaluation BatchNorm is a scale and a shift per channel, and so is a convolution's output: the product of the two
    is one convolution with a bias. Logits are those of ``model`` up to rounding.

    Args:
        model: In evaluation mode, on the CPU; stays as it is.
    """
    folded = graph_of(model)
    for node in list(folded.graph.nodes):
        if node.op != "call_module":
            continue
        module = model.get_submodule(node.target)
        if isinstance(module, nn.BatchNorm2d):
            convolution = node.args[0]
            folded.set_submodule(convolution.target, fuse_conv_bn_eval(model.get_submodule(convolution.target), module))
            node.replace_all_uses_with(convolution)
            folded.graph.erase_node(node)
        elif not isinstance(module, nn.Conv2d):
            folded.set_submodule(node.target, copy.deepcopy(module))
    folded.recompile()
    folded.delete_all_unused_submodules()
    return folded.eval()


def write_graph(folded: torch.fx.GraphModule, writer: GraphWriter, images: Any) -> Any:
    """Write a network of :func:`fold_batch_norm` with ``writer``, layer by layer.

    Args:
        images: The input (N, 3, H, W), as the writer has it.

    Returns:
        The logits (N, classes), as the writer has them.

    Raises:
        ConfigurationError: a layer that ``writer`` has no word for.
    """
    modules = dict(folded.named_modules())
    values: dict[torch.fx.Node, Any] = {}
    for node in folded.graph.nodes:
        inputs = [values[argument] for argument in node.args if argument in values]
        if node.op == "placeholder":
            values[node] = images
        elif node.op == "output":
            return inputs[0]
        elif node.op == "call_module":
            values[node] = _write_module(writer, node.target, modules[node.target], inputs[0])
        elif node.target is torch.flatten:
            values[node] = inputs[0]  # the mean before it has left nothing to flatten
        else:
            values[node] = writer.add(node.name, *inputs)
    raise AssertionError("a graph ends with its output")


def _write_module(writer: GraphWriter, name: str, module: nn.Module, x: Any) -> Any:
    match module:
        case nn.Conv2d(groups=1, dilation=(1, 1), padding_mode="zeros"):
            weight, bias = _array(module.weight), _array(module.bias)
            return writer.convolution(name, x, weight, bias, module.stride, module.padding)
        case nn.ReLU():
            return writer.relu(name, x)
        case nn.MaxPool2d(dilation=1, ceil_mode=False):
            return writer.max_pool(name, x, module.kernel_size, module.stride, module.padding)
        case nn.AvgPool2d(padding=0, ceil_mode=False) if module.kernel_size == module.stride:
            # One place is left, which the mean does not change, and the classifier wants to be rid of.
            return writer.global_mean(name, writer.average_pool(f"{name}.places", x, module.kernel_size))
        case nn.AdaptiveAvgPool2d(output_size=(1, 1)):
            return writer.global_mean(name, x)
        case nn.Linear():
            return writer.linear(name, x, _array(module.weight), _array(module.bias))
    raise ConfigurationError(f"layer {name} ({module}) cannot be exported: use the torch backend")


def _array(parameter: nn.Parameter) -> np.ndarray:
    return parameter.detach().float().contiguous().numpy()
