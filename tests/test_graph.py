"""The graph of a network is what the network does, and making it disturbs nobody."""

import threading

import pytest
import torch

from resnet_hub import ResNetForImageClassification
from resnet_hub.graph import fold_batch_norm, graph_of
from resnet_hub.modeling import check_images


def operations(graph: torch.fx.Graph) -> list[tuple[str, str, list[int]]]:
    """Kind, target and the numbers of the operations that are read, of each."""
    nodes = [node for node in graph.nodes if node.target is not check_images]
    return [
        (node.op, getattr(node.target, "__name__", str(node.target)), [nodes.index(n) for n in node.all_input_nodes])
        for node in nodes
    ]


@pytest.mark.parametrize(
    "options",
    [
        {"architecture": "resnet50"},
        {"architecture": "resnet101"},
        {"architecture": "resnet152"},
        {"variant": "keras", "image_size": 64},
        {"layers": (1, 2, 1, 1), "channels": (16, 8, 8, 8)},  # no projection in the first stage
    ],
)
def test_it_is_what_a_trace_of_the_code_finds(options):
    with torch.device("meta"):
        model = ResNetForImageClassification(num_classes=3, **options)
    assert operations(graph_of(model).graph) == operations(torch.fx.symbolic_trace(model).graph)


def test_networks_run_while_graphs_are_made(tiny_model):
    """As on the page, where one visitor's model is loaded while another's picture is read."""
    tiny_model.eval()
    images = torch.zeros(1, 3, 64, 64)
    errors, is_over = [], threading.Event()

    def run() -> None:
        while not is_over.is_set():
            try:
                tiny_model(images)
            except Exception as error:
                errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        fold_batch_norm(tiny_model)
        tiny_model.summary()
    is_over.set()
    for thread in threads:
        thread.join()
    assert errors == []
