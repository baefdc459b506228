"""--init_from: other weights to start from, and what becomes of their classifier."""

import pytest
import torch
import torchvision
from other_libraries import BLOCKS, CHANNELS, NAMES, keras_file, logits, timm_folder, transformers_folder
from safetensors.torch import save_file
from training_runs import QUICK

from resnet_hub import ResNetForImageClassification, convert
from resnet_hub.errors import CheckpointError, ConfigurationError
from train.initialization import load_initial_weights

SIZES = {"layers": QUICK["layers"], "channels": QUICK["channels"]}


def model_for(*label_names: str, seed: int) -> ResNetForImageClassification:
    torch.manual_seed(seed)
    model = ResNetForImageClassification(label_names=label_names, image_size=32, **SIZES)
    with torch.no_grad():
        for buffer in model.buffers():
            buffer.copy_(torch.randint(1, 9, buffer.shape))
    return model


def start_from(model: ResNetForImageClassification, source: str) -> str:
    return load_initial_weights(model, convert.read(source), source)


def equal(first: ResNetForImageClassification, second: ResNetForImageClassification) -> set[str]:
    others = second.state_dict()
    return {name for name, value in first.state_dict().items() if torch.equal(value, others[name])}


def test_the_classifier_comes_along_where_the_classes_are_the_same(tmp_path):
    source, model = model_for("a", "b", seed=1), model_for("a", "b", seed=2)
    source.save_pretrained(tmp_path / "source")
    said = start_from(model, str(tmp_path / "source"))
    assert equal(model, source) == set(model.state_dict())
    assert "with its classifier" in said


@pytest.mark.parametrize("names", [("b", "a"), ("a", "b", "c")])
def test_other_classes_get_a_new_classifier_and_that_is_said(tmp_path, names):
    source, model = model_for("a", "b", seed=1), model_for(*names, seed=2)
    fresh = model.fc.weight.clone()
    source.save_pretrained(tmp_path / "source")
    said = start_from(model, str(tmp_path / "source"))
    body = {name for name in model.state_dict() if not name.startswith("fc.")}
    assert equal(model, source) & body == body
    assert torch.equal(model.fc.weight, fresh)
    assert f"a new classifier for {len(names)} classes" in said


def test_a_file_of_torchvisions_weights_will_do(tmp_path):
    """Its state dict under its names; nobody knows what its classes are called, so the classifier is new."""
    torch.manual_seed(0)
    source = torchvision.models.resnet50(num_classes=6)
    save_file(source.state_dict(), tmp_path / "resnet50.safetensors")
    model = ResNetForImageClassification(num_classes=6)
    start_from(model, str(tmp_path / "resnet50.safetensors"))
    assert torch.equal(model.layer4[2].conv3.weight, source.layer4[2].conv3.weight)
    assert not torch.equal(model.fc.weight, source.fc.weight)


def test_weights_of_another_network_are_refused(tmp_path):
    torch.manual_seed(0)
    deeper = ResNetForImageClassification(num_classes=2, layers=(1, 1, 1, 2), channels=(8, 8, 8, 8))
    deeper.save_pretrained(tmp_path / "a")
    with pytest.raises(ConfigurationError, match=r"another network's, \d+ tensors differ .*choose --model_name"):
        start_from(model_for("a", "b", seed=1), str(tmp_path / "a"))


def test_weights_that_are_not_there_are_named_before_the_images_are_looked_at(train_here, tmp_path, monkeypatch):
    monkeypatch.setattr("train.data.check_dataset", lambda *_, **__: pytest.fail("looked at the images"))
    with pytest.raises(CheckpointError, match=r"has no none\.safetensors"):
        train_here(tmp_path / "run", init_from=str(tmp_path / "none.safetensors"))


@pytest.mark.parametrize("write", [timm_folder, transformers_folder])
def test_timms_and_transformers_weights_come_with_their_classifier(tmp_path, write):
    written = write(tmp_path)
    model = ResNetForImageClassification(label_names=NAMES, image_size=64, layers=BLOCKS, channels=CHANNELS)
    assert "with its classifier" in start_from(model, str(written.source))
    assert torch.equal(logits(model.eval(), written.images), written.answers)


def test_kerass_weights_go_into_its_own_network_alone(tmp_path):
    source = str(keras_file(tmp_path / "a.h5", named=True).source)
    sizes = {"layers": BLOCKS, "channels": CHANNELS}
    with pytest.raises(ConfigurationError, match="choose --model_variant keras"):
        start_from(ResNetForImageClassification(num_classes=3, **sizes), source)
    model = ResNetForImageClassification(num_classes=3, variant="keras", **sizes)
    said = start_from(model, source)
    assert "a new classifier for 3 classes, for the source does not name its own" in said
    assert torch.equal(model.conv1.bias, convert.read(source).conv1.bias)
