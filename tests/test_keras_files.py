"""The course's Keras network: the same numbers as Keras, and nothing that is another network or would do harm."""

import contextlib
import json
import re
import resource
import shutil
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from other_libraries import BLOCKS, CHANNELS, course_network, keras_file, logits, scores, some_images

from resnet_hub import CheckpointError, ConfigurationError, ResNetForImageClassification, convert
from resnet_hub.modeling import LAYERS

FULL = {"blocks": LAYERS["resnet50"], "channels": (64, 128, 256, 512), "num_classes": 6}


def test_the_courses_network_has_its_parameters_and_its_scores(tmp_path):
    source, images, expected = keras_file(tmp_path / "ResNet50.h5", named=True, **FULL)
    assert expected.std(dim=0).max() > 0.03  # the scores depend on the image
    model = convert.load(source)
    assert (logits(model, images).softmax(dim=1) - expected).abs().max() < 1e-5
    assert (model.architecture, model.layers) == ("resnet50", (3, 4, 6, 3))


def test_what_a_notebook_saves_after_training_has_the_optimizer_in_it(tmp_path):
    network, images = course_network(named=False), some_images()
    network.compile(optimizer="adam", loss="categorical_crossentropy", metrics=["accuracy"])
    network.fit(images.permute(0, 2, 3, 1).numpy(), np.eye(3)[[0, 1, 2, 0]], verbose=0)
    network.save(tmp_path / "a.keras")
    network.save(tmp_path / "a.h5")
    network.save_weights(tmp_path / "a.weights.h5")
    for file in sorted(tmp_path.iterdir()):
        found = logits(convert.load(file), images).softmax(dim=1)
        assert (found - scores(network, images)).abs().max() < 1e-5


def test_its_summary_counts_as_keras_does():
    model = ResNetForImageClassification(num_classes=6, variant="keras")
    summary = model.summary()
    assert "with the statistics: 23,600,006, trainable 23,546,886, not trainable 53,120" in str(summary)
    assert {layer.name: layer.num_parameters for layer in summary.layers}["fc"] == 12_294


def test_those_are_the_counts_of_keras():
    network = course_network(named=True, **FULL)
    assert network.count_params() == 23_600_006
    assert sum(np.prod(weight.shape) for weight in network.trainable_weights) == 23_546_886
    assert network.get_layer("fc6").count_params() == 12_294


@pytest.mark.parametrize("image_size", [37, 68, 69, 100])
def test_every_image_size_that_leaves_the_classifier_as_it_is(tmp_path, image_size):
    source, images, expected = keras_file(tmp_path / "a.keras", named=True, image_size=image_size)
    model = convert.load(source)
    assert model.image_size == image_size
    assert (logits(model, images).softmax(dim=1) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("image_size", [36, 101])
def test_other_image_sizes_are_refused(image_size):
    model = ResNetForImageClassification(num_classes=2, variant="keras", layers=BLOCKS, channels=CHANNELS)
    with pytest.raises(ConfigurationError, match="37 to 100 px"):
        model(torch.zeros(1, 3, image_size, image_size))
    with pytest.raises(ConfigurationError, match="37 to 100 px"):
        ResNetForImageClassification(num_classes=2, variant="keras", image_size=image_size)


@pytest.mark.parametrize("architecture", ["resnet101", "resnet152"])
def test_there_is_no_deeper_one(architecture):
    with pytest.raises(ConfigurationError, match=f"no keras variant of {architecture}"):
        ResNetForImageClassification(architecture, num_classes=2, variant="keras")


def test_files_of_the_first_keras_3_know_layers_by_their_places_alone(tmp_path):
    """Names beside the arrays came later."""
    source, images, expected = keras_file(tmp_path / "a.keras", named=False)
    with zipfile.ZipFile(source) as archive:
        (tmp_path / "inside").mkdir()
        archive.extractall(tmp_path / "inside")
    with h5py.File(tmp_path / "inside" / "model.weights.h5", "a") as content:
        for layer in content["layers"].values():
            del layer["vars"].attrs["name"]
    repack(tmp_path / "inside", source)
    assert (logits(convert.load(source), images).softmax(dim=1) - expected).abs().max() < 1e-5


def repack(folder: Path, file: Path, compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(file, "w", compression) as archive:
        for member in folder.iterdir():
            archive.write(member, member.name)


# -- other networks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"epsilon": 1e-5}, r"epsilon of bn_conv1 is 1e-05 and should be 0\.001"),
        ({"padding": "same"}, "padding of MaxPooling2D is same and should be valid"),
        ({"stride_in_3x3": True}, r"strides of res3a_branch2a is \[1, 1\] and should be \[2, 2\]"),
    ],
)
def test_networks_with_the_same_weights_and_other_answers_are_refused(tmp_path, suffix, change, reason):
    source = keras_file(tmp_path / f"a{suffix}", named=True, **change).source
    with pytest.raises(CheckpointError, match=f"is not the course's ResNet-50: {reason}"):
        convert.load(source)


def test_weights_alone_cannot_show_it_and_that_is_said(tmp_path):
    model = convert.load(keras_file(tmp_path / "a.weights.h5", named=True).source)
    assert (
        "the file has weights alone: strides, padding and image size are taken to be the course's" in model.origin.notes
    )


@pytest.mark.parametrize(
    ("layers", "reason"),
    [
        ({}, "0 convolutions"),
        ({"conv1": "conv", "fc6": "dense"}, "1 convolutions with biases, 0 batch"),
        (
            {"conv1_conv": "conv", "conv2_block1_1_conv": "conv", "bn": "norm", "bn2": "norm", "fc": "dense"},
            "applications",
        ),
        ({"block1_conv1": "conv", "bn": "norm", "fc": "dense"}, "block1_conv1 is the name of none of its layers"),
    ],
)
def test_networks_of_other_kinds_are_refused(tmp_path, layers, reason):
    arrays = {
        "conv": {"kernel:0": np.zeros((7, 7, 3, 64), "f4"), "bias:0": np.zeros(64, "f4")},
        "dense": {"kernel:0": np.zeros((8, 2), "f4"), "bias:0": np.zeros(2, "f4")},
        "norm": {f"{name}:0": np.zeros(64, "f4") for name in ("gamma", "beta", "moving_mean", "moving_variance")},
    }
    with h5py.File(tmp_path / "a.h5", "w") as content:
        for layer, kind in layers.items():
            for name, value in arrays[kind].items():
                content[f"{layer}/{layer}/{name}"] = value
    with pytest.raises(CheckpointError, match=reason):
        convert.load(tmp_path / "a.h5")


def test_a_file_of_images_is_refused(tmp_path):
    with h5py.File(tmp_path / "train_signs.h5", "w") as content:
        content["train_set_x"] = np.zeros((2, 64, 64, 3), "u1")
        content["scores"] = np.zeros(3, "f4")
    with pytest.raises(CheckpointError, match="it holds scores and no layers"):
        convert.load(tmp_path / "train_signs.h5")


# -- damage and harm ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("keras")
    for name in ("a.legacy.h5", "a.keras", "a.weights.h5"):
        keras_file(folder / name, named=True)
    return folder


@pytest.fixture
def files(originals, tmp_path) -> Path:
    """Copies to damage."""
    return Path(shutil.copytree(originals, tmp_path / "files"))


@pytest.mark.parametrize("name", ["a.legacy.h5", "a.keras", "a.weights.h5"])
@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99])
def test_truncated_files_are_refused(files, name, share):
    content = (files / name).read_bytes()
    (files / name).write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match=r"is damaged .*download or save it again"):
        convert.load(files / name)


@pytest.mark.parametrize("name", ["a.legacy.h5", "a.keras", "a.weights.h5"])
def test_overwritten_bytes_end_in_an_error_or_in_numbers(files, name):
    content = (files / name).read_bytes()
    generator = np.random.default_rng(0)
    for _ in range(20):
        damaged = bytearray(content)
        for place in generator.integers(0, 20_000, 10):
            damaged[place] = generator.integers(0, 256)
        (files / name).write_bytes(damaged)
        with contextlib.suppress(CheckpointError):
            convert.load(files / name)


def test_a_zip_bomb_is_not_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", "{}")
        with archive.open("model.weights.h5", "w") as member:
            for _ in range(300):
                member.write(bytes(2**20))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match=r"model\.weights\.h5 would unpack to 314,572,800 bytes"):
        convert.load(tmp_path / "bomb.keras")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def test_arrays_that_claim_sizes_are_not_read(files):
    """HDF5 stores nothing of an array that was never written, and unpacks it to zeros."""
    name = "res2a_branch2a/res2a_branch2a/kernel:0"
    with h5py.File(files / "a.legacy.h5", "a") as content:
        del content[name]
        content.create_dataset(name, (1, 1, 64, 2**40), "f4", chunks=(1, 1, 64, 2**10))
    with pytest.raises(CheckpointError, match="more than 100,000,000 numbers"):
        convert.load(files / "a.legacy.h5")


@pytest.mark.parametrize("kind", ["external", "soft", "virtual", "raw"])
def test_nothing_is_read_through_links(files, kind):
    """The file could point to a private one of this machine, which the next push would publish."""
    name, secret = "conv1/conv1/bias:0", files / "secret.h5"
    with h5py.File(secret, "w") as content:
        content["bias"] = np.ones(64, "f4")
    with h5py.File(files / "a.legacy.h5", "a") as content:
        del content[name]
        if kind == "external":
            content[name] = h5py.ExternalLink(str(secret), "bias")
        elif kind == "soft":
            content[name] = h5py.SoftLink("/bn_conv1/bn_conv1/beta:0")
        elif kind == "virtual":
            layout = h5py.VirtualLayout((64,), "f4")
            layout[:] = h5py.VirtualSource(str(secret), "bias", (64,))
            content.create_virtual_dataset(name, layout)
        else:
            content.create_dataset(name, (64,), "f4", external=[(str(secret), 0, 256)])
    with pytest.raises(CheckpointError, match=r"links to other places|lie in other files"):
        convert.load(files / "a.legacy.h5")


def test_a_file_with_no_end_of_groups_is_refused(files):
    with h5py.File(files / "a.legacy.h5", "a") as content:
        content["loop/again"] = content["/"]  # a group within itself
    with pytest.raises(CheckpointError, match="far too many parts"):
        convert.load(files / "a.legacy.h5")


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("res4a_branch1/res4a_branch1/kernel:0", (1, 1, 64, 63)),
        ("fc3/fc3/kernel:0", (127, 3)),
        ("bn_conv1/bn_conv1/gamma:0", (64, 1)),
    ],
)
def test_arrays_of_another_shape_are_named(files, name, shape):
    with h5py.File(files / "a.legacy.h5", "a") as content:
        del content[name]
        content[name] = np.zeros(shape, "f4")
    with pytest.raises(CheckpointError, match=r"of another shape|has the shape"):
        convert.load(files / "a.legacy.h5")


def test_a_missing_layer_is_noticed(files):
    with h5py.File(files / "a.legacy.h5", "a") as content:
        del content["res3b_branch2c"]
    with pytest.raises(CheckpointError, match="19 convolutions with biases, 20 batch"):
        convert.load(files / "a.legacy.h5")


@pytest.mark.parametrize("description", ["{}", "[]", "null", '{"config": {"layers": [1]}}', "[" * 100_000, "\xff", ""])
def test_a_description_that_is_none_is_refused(files, description, tmp_path):
    with zipfile.ZipFile(files / "a.keras") as archive:
        archive.extractall(tmp_path / "inside")
    (tmp_path / "inside" / "config.json").write_text(description, encoding="latin-1")
    repack(tmp_path / "inside", files / "a.keras")
    with pytest.raises(CheckpointError, match=r"a\.keras is (damaged|not the course's)"):
        convert.load(files / "a.keras")


def test_layers_that_change_the_pixels_are_refused(files, tmp_path):
    with zipfile.ZipFile(files / "a.keras") as archive:
        archive.extractall(tmp_path / "inside")
    text = (tmp_path / "inside" / "config.json").read_text()
    text = re.sub(r'"class_name": "Flatten"', '"class_name": "Rescaling"', text)
    (tmp_path / "inside" / "config.json").write_text(json.dumps(json.loads(text)))
    repack(tmp_path / "inside", files / "a.keras")
    with pytest.raises(CheckpointError, match="it has a layer Rescaling"):
        convert.load(files / "a.keras")
