"""Heatmaps say where the evidence for a class lies."""

import numpy as np
import pytest
import torch
from PIL import Image

from resnet_hub import ConfigurationError, ResNetForImageClassification
from resnet_hub.explain import STAGES, default_stage, grad_cam, overlay


@pytest.fixture(scope="module")
def model() -> ResNetForImageClassification:
    torch.manual_seed(0)
    model = ResNetForImageClassification(num_classes=3, image_size=64, layers=(1, 1, 1, 1), channels=(8, 8, 8, 8))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    return model.eval()


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    return torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("stage", "side"), list(zip(STAGES, (16, 8, 4, 2), strict=True)))
def test_heatmaps_are_the_papers(model, pixels, stage, side):
    """Against equations 1 and 2, with gradients as a hook on the plain forward pass sees them."""
    seen = {}
    hook = getattr(model, stage).register_forward_hook(lambda _, __, output: seen.update(features=output))
    logits = model(pixels)
    hook.remove()
    (gradient,) = torch.autograd.grad(logits[0, 1], seen["features"])
    alpha = gradient[0].mean(dim=(1, 2))
    expected = torch.relu(torch.einsum("c,chw->hw", alpha, seen["features"][0])).detach().numpy()

    heatmap = grad_cam(model, pixels, 1, stage)
    assert heatmap.shape == (side, side)
    assert heatmap.max() == 1
    assert heatmap == pytest.approx(expected / expected.max(), abs=1e-5)


def test_another_class_has_another_heatmap(model, pixels):
    assert not np.allclose(grad_cam(model, pixels, 0, "layer2"), grad_cam(model, pixels, 2, "layer2"))


def test_nothing_for_the_class_is_an_empty_heatmap(model, pixels):
    silent = ResNetForImageClassification(num_classes=2, image_size=64, layers=(1, 1, 1, 1), channels=(8, 8, 8, 8))
    torch.nn.init.zeros_(silent.fc.weight)
    assert grad_cam(silent.eval(), pixels, 0, "layer4").tolist() == [[0, 0], [0, 0]]


def test_explaining_leaves_the_model_as_it_was(model, pixels):
    before = model(pixels)
    with torch.inference_mode():
        grad_cam(model, pixels.clone(), 0)
    assert torch.equal(model(pixels), before)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_default_stage_is_the_last_that_tells_where():
    assert [default_stage(side) for side in (32, 64, 112, 224)] == ["layer1", "layer2", "layer3", "layer4"]


@pytest.mark.parametrize(("class_index", "stage"), [(3, "layer2"), (-1, "layer2"), (0, "layer5")])
def test_what_is_not_there_is_refused(model, pixels, class_index, stage):
    with pytest.raises(ConfigurationError, match=r"there is no (class|stage) .*: use"):
        grad_cam(model, pixels, class_index, stage)


def test_an_overlay_is_brightest_where_it_is_hottest():
    heatmap = np.zeros((4, 4), np.float32)
    heatmap[0, 3] = 1
    laid_over = overlay(Image.new("RGB", (80, 40), "gray"), heatmap)
    assert laid_over.size == (80, 40)
    pixels = np.asarray(laid_over).astype(int).sum(axis=2)
    assert pixels[2, 77] > 1.5 * pixels[37, 2]
