import pytest
import torch
import torchvision

from resnet_hub import ConvolutionalBlock, IdentityBlock, ResNet, ResNetForImageClassification, ResNetForSigns
from resnet_hub.errors import ConfigurationError
from resnet_hub.modeling import LAYERS


def randomized(model: torch.nn.Module) -> torch.nn.Module:
    """Every tensor away from its initial value, so that one in the wrong place shows."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            noise = torch.rand(tensor.shape, generator=generator)
            tensor.copy_(noise + 0.5 if "running_var" in name else tensor + 0.1 * (noise - 0.5))
    return model.eval()


@pytest.mark.parametrize("architecture", LAYERS)
def test_logits_equal_torchvision(architecture):
    theirs = randomized(getattr(torchvision.models, architecture)(num_classes=6))
    ours = ResNet(LAYERS[architecture], num_classes=6).eval()
    ours.load_state_dict(theirs.state_dict())
    for size in (64, 224):
        images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(size))
        with torch.inference_mode():
            assert (ours(images) - theirs(images)).abs().max() == 0


def test_resnet_for_signs_has_23520326_parameters():
    model = ResNetForSigns()
    assert sum(p.numel() for p in model.parameters()) == 23_520_326
    assert (model.label_names, model.image_size) == (["0", "1", "2", "3", "4", "5"], 64)


@pytest.mark.parametrize("size", [32, 33, 65, 96])
def test_any_input_size_from_32_px(size):
    model = ResNet((1, 1, 1, 1), num_classes=3, channels=(8, 8, 8, 8)).eval()
    assert model(torch.zeros(2, 3, size, size + 7)).shape == (2, 3)


@pytest.mark.parametrize("shape", [(1, 3, 31, 64), (1, 1, 64, 64), (3, 64, 64)])
def test_images_of_the_wrong_shape_are_refused_with_what_is_right(shape):
    model = ResNet((1, 1, 1, 1), num_classes=3, channels=(8, 8, 8, 8))
    with pytest.raises(ConfigurationError, match=r"\(N, 3, H, W\) with H and W of at least 32 px"):
        model(torch.zeros(shape))


def test_residual_branches_start_at_zero():
    block = ResNet(LAYERS["resnet50"], num_classes=6).layer1[1]
    assert isinstance(block, IdentityBlock)
    x = torch.rand(1, 256, 8, 8)
    assert torch.equal(block(x), x)


def test_each_stage_is_one_convolutional_block_and_identity_blocks():
    model = ResNet(LAYERS["resnet101"], num_classes=6)
    stages = (model.layer1, model.layer2, model.layer3, model.layer4)
    assert [len(stage) for stage in stages] == [3, 4, 23, 3]
    for stage in stages:
        assert isinstance(stage[0], ConvolutionalBlock)
        assert all(isinstance(block, IdentityBlock) for block in stage[1:])


def test_reset_classifier_replaces_head_and_names_together(tiny_model):
    tiny_model.training_record = {"history": []}
    tiny_model.reset_classifier(2, ["cat", "dog"])
    assert tiny_model(torch.zeros(1, 3, 64, 64)).shape == (1, 2)
    assert (tiny_model.num_classes, tiny_model.label_names, tiny_model.training_record) == (2, ["cat", "dog"], None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"architecture": "resnet18", "num_classes": 2}, "resnet50, resnet101, resnet152"),
        ({"num_classes": 2, "label_names": ["a", "b", "c"]}, "3 label_names"),
        ({"label_names": ["a", "a"]}, "distinct"),
        ({"num_classes": 0}, "at least 1"),
        ({"num_classes": 2, "image_size": 16}, "at least 32 px"),
        ({"num_classes": 2, "layers": (1, 0, 1, 1)}, "layers"),
        ({"num_classes": 2, "channels": (8, 8, 8)}, "channels"),
        ({"num_classes": 2, "std": (0, 1, 1)}, "std"),
        ({}, "num_classes or label_names"),
    ],
)
def test_arguments_that_cannot_work_are_refused(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        ResNetForImageClassification(**arguments)


def test_summary_lists_layers_shapes_parameters_and_connections():
    model = ResNetForSigns()
    model.fc.weight.requires_grad_(False)
    summary = model.summary()
    rows = {layer.name: layer for layer in summary.layers}
    assert (rows["conv1"].output_shape, rows["conv1"].num_parameters) == ((64, 32, 32), 9_408)
    assert rows["fc"].num_parameters == 12_294
    # The first addition joins the residual branch and the projection; the second the branch and what the first gave.
    assert rows["add"].connected_to == ("layer1.0.bn3", "layer1.0.downsample.1")
    assert rows["add_1"].connected_to == ("layer1.1.bn3", "layer1.0.relu:3")
    assert summary.num_parameters == 23_520_326
    assert summary.num_not_trainable == 12_288
    assert summary.num_statistics == 53_120
    assert "23,520,326" in str(summary)
    assert "layer4.2.conv3 (Conv2d)" in str(summary)


def test_summary_changes_nothing(tiny_model):
    before = {name: tensor.clone() for name, tensor in tiny_model.state_dict().items()}
    tiny_model.train().summary(image_size=96)
    assert tiny_model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in tiny_model.state_dict().items())
