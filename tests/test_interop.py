"""One checkpoint folder, four libraries: equal logits, and equal preprocessing before them."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file
from torchvision import transforms
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

from resnet_hub import Predictor, ResNetForSigns


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (90, 130, 3), dtype=np.uint8)
    return Image.fromarray(noise)


@pytest.fixture(scope="module")
def full_checkpoint(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    model = ResNetForSigns().train()
    model(torch.randn(8, 3, 64, 64))  # BatchNorm statistics away from their initial values
    folder = tmp_path_factory.mktemp("full")
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["full", "tiny"])
def folder(request, full_checkpoint, tiny_checkpoint) -> Path:
    return full_checkpoint if request.param == "full" else tiny_checkpoint


@pytest.fixture(scope="module")
def images(photo, folder) -> torch.Tensor:
    return ResNetForSigns.from_pretrained(folder).preprocessing([photo])


@pytest.fixture(scope="module")
def expected(images, folder) -> torch.Tensor:
    with torch.inference_mode():
        return ResNetForSigns.from_pretrained(folder)(images)


@torch.inference_mode()
def test_timm_loads_the_folder_with_equal_logits(folder, images, expected):
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert torch.equal(model(images), expected)


@torch.inference_mode()
def test_transformers_loads_the_folder_with_equal_logits(folder, images, expected):
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    assert torch.equal(model(images).logits, expected)
    assert model.config.id2label == {i: str(i) for i in range(6)}


@torch.inference_mode()
def test_torchvision_loads_the_weights_with_equal_logits(full_checkpoint):  # it has no narrow networks
    model = torchvision.models.resnet50(num_classes=6).eval()
    model.load_state_dict(load_file(full_checkpoint / "model.safetensors"))
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    assert torch.equal(model(images), ResNetForSigns.from_pretrained(full_checkpoint)(images))


def test_preprocessing_equals_torchvision_timm_and_transformers(folder, photo, images):
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    reference = transforms.Compose(
        [transforms.Resize((64, 64)), transforms.ToTensor(), transforms.Normalize(mean, std)]
    )
    assert torch.equal(images[0], reference(photo))
    model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    theirs = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    assert torch.equal(images[0], theirs(photo))
    processor = AutoImageProcessor.from_pretrained(folder)
    assert torch.equal(images, processor(photo, return_tensors="pt")["pixel_values"])


def test_predictor_answers_as_the_transformers_pipeline(folder, photo):
    theirs = pipeline("image-classification", model=str(folder))(photo, top_k=6)
    ours = Predictor(folder)(photo, top_k=6)
    assert [p["label"] for p in ours] == [p["label"] for p in theirs]
    assert [p["score"] for p in ours] == pytest.approx([p["score"] for p in theirs], abs=1e-6)
