"""The table that ``model.summary()`` prints: layer, output shape, parameters, connected to."""

from dataclasses import dataclass

import torch
import torch.fx
from torch import nn
from torch.fx.passes.shape_prop import ShapeProp

from resnet_hub.graph import graph_of
from resnet_hub.modeling import VARIANTS, ResNet


@dataclass(frozen=True)
class LayerSummary:
    """One row: a layer's name, its kind, output shape without the batch, parameter count and the rows it reads."""

    name: str
    kind: str
    output_shape: tuple[int, ...]
    num_parameters: int
    connected_to: tuple[str, ...]


@dataclass(frozen=True)
class ModelSummary:
    """All rows with totals; ``print()`` it for the table.

    ``num_parameters`` counts what ``model.parameters()`` counts. BatchNorm's running means and variances are state but
    not parameters, so they stand apart in ``num_statistics``. Keras counts them among its non-trainable parameters;
    the table's last line is Keras' count.
    """

    layers: tuple[LayerSummary, ...]
    num_parameters: int
    num_trainable: int
    num_statistics: int

    @property
    def num_not_trainable(self) -> int:
        return self.num_parameters - self.num_trainable

    def __str__(self) -> str:
        header = ("Layer", "Output shape", "Parameters", "Connected to")
        rows = [
            (
                f"{layer.name} ({layer.kind})",
                " x ".join(map(str, layer.output_shape)),
                f"{layer.num_parameters:,}",
                ", ".join(layer.connected_to),
            )
            for layer in self.layers
        ]
        widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
        rule = "-" * (sum(widths) + 2 * (len(widths) - 1))

        def line(row: tuple[str, ...]) -> str:
            name, shape, count, source = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            return f"{name}  {shape}  {count.strip().rjust(widths[2])}  {source}".rstrip()

        return "\n".join(
            [
                line(header),
                rule,
                *map(line, rows),
                rule,
                f"Parameters: {self.num_parameters:,}",
                f"Trainable: {self.num_trainable:,}",
                f"Not trainable: {self.num_not_trainable:,}",
                f"BatchNorm statistics (not parameters): {self.num_statistics:,}",
                f"As Keras counts, with the statistics: {self.num_parameters + self.num_statistics:,}, trainable "
                f"{self.num_trainable:,}, not trainable {self.num_not_trainable + self.num_statistics:,}",
            ]
        )


def summarize(model: ResNet, image_size: int) -> ModelSummary:
    """Follow one (1, 3, ``image_size``, ``image_size``) image through ``model`` and list every layer that it passes.

    Nothing of the model changes.

    Raises:
        ConfigurationError: the network does not take images of ``image_size``.
    """
    VARIANTS[model.variant].check_image_size(image_size)  # the graph has no word for that
    graph = graph_of(model)
    parameter = next(model.parameters())
    image = torch.zeros(1, 3, image_size, image_size, dtype=parameter.dtype, device=parameter.device)
    was_training = model.training
    model.eval()  # otherwise BatchNorm would learn from the blank image
    try:
        with torch.no_grad():
            ShapeProp(graph).propagate(image)
    finally:
        model.train(was_training)

    modules = dict(graph.named_modules())
    layers = []
    for node in graph.graph.nodes:
        if node.op == "output" or "tensor_meta" not in node.meta:
            continue
        module = modules[node.target] if node.op == "call_module" else None
        layers.append(
            LayerSummary(
                name=_node_name(node),
                kind=_node_kind(node, module),
                output_shape=tuple(node.meta["tensor_meta"].shape[1:]),
                num_parameters=sum(p.numel() for p in module.parameters()) if module is not None else 0,
                connected_to=tuple(_node_name(source) for source in node.all_input_nodes),
            )
        )
    return ModelSummary(
        layers=tuple(layers),
        num_parameters=sum(p.numel() for p in model.parameters()),
        num_trainable=sum(p.numel() for p in model.parameters() if p.requires_grad),
        num_statistics=sum(b.numel() for name, b in model.named_buffers() if "running_" in name),
    )


def _node_name(node: torch.fx.Node) -> str:
    """Modules keep their name in the model (a ReLU used three times gets a number); operations get the graph's name."""
    if node.op != "call_module":
        return node.name
    position = [n for n in node.graph.nodes if n.op == "call_module" and n.target == node.target].index(node)
    return f"{node.target}:{position + 1}" if position else str(node.target)


def _node_kind(node: torch.fx.Node, module: nn.Module | None) -> str:
    if module is not None:
        return type(module).__name__
    return "image" if node.op == "placeholder" else getattr(node.target, "__name__", str(node.target)).strip("_")
