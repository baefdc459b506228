"""Imports that cost seconds are made only where they are needed."""

import subprocess
import sys

import pytest

from resnet_hub.imports import without_packages


@pytest.mark.parametrize(
    ("module", "not_needed"),
    [
        ("train.train", {"transformers", "scipy", "timm", "matplotlib", "openvino", "gradio", "torch._dynamo"}),
        ("train.evaluate", {"transformers", "scipy", "timm", "openvino", "gradio", "torch._dynamo"}),
        ("resnet_hub.cli", {"transformers", "scipy", "timm", "matplotlib", "gradio", "datasets", "accelerate"}),
    ],
)
def test_a_start_does_not_wait_for_packages_that_it_may_not_need(module, not_needed):
    code = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert module in loaded
    assert not not_needed & set(loaded)


def test_packages_are_hidden_and_come_back():
    import json.tool  # what is loaded already stays what it is

    with without_packages("json", "colorsys"):
        for name in ("json", "colorsys"):
            with pytest.raises(ImportError):
                __import__(name)
    import colorsys

    assert sys.modules["json"] is json
    assert colorsys.rgb_to_hsv(0, 0, 0) == (0, 0, 0)
