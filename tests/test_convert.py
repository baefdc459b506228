"""What loads where: weights of other libraries here with their own answers, and checkpoints from here there.

The README's table is the list of these cases, with the bounds that are kept here.
"""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import test_interop
import timm
import torch
import torchvision
from loopback_hub import Computer, File, Repo
from other_libraries import (
    BLOCKS,
    CHANNELS,
    NAMES,
    Written,
    keras_file,
    logits,
    randomized,
    save_timm,
    some_images,
    timm_folder,
    torchvision_state_dict,
    transformers_folder,
)
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageClassification

from resnet_hub import CheckpointError, ConfigurationError, Predictor, ResNetForImageClassification, convert
from resnet_hub.convert import TORCHVISION_WEIGHTS

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")

#: By the README's line: how it is written, and the bound on the difference of logits or, of Keras, of scores.
WEIGHTS_IN: dict[str, tuple[Callable[[Path], Written], float]] = {
    "torchvision's state dict, `.safetensors`": (torchvision_state_dict, 0),
    "timm, folder or Hub id": (timm_folder, 0),
    "transformers `ResNetForImageClassification`, folder or Hub id": (transformers_folder, 0),
    "Keras, `.keras`": (lambda folder: keras_file(folder / "a.keras", named=True), 1e-5),
    "Keras, `.keras`, unnamed layers": (lambda folder: keras_file(folder / "a.keras", named=False), 1e-5),
    "Keras, `.h5` of the whole model": (lambda folder: keras_file(folder / "a.h5", named=True), 1e-5),
    "Keras, `.h5` of the whole model, unnamed layers": (lambda folder: keras_file(folder / "a.h5", named=False), 1e-5),
    "Keras 3, `.weights.h5`": (lambda folder: keras_file(folder / "a.weights.h5", named=True), 1e-5),
    "Keras 3, `.weights.h5`, unnamed layers": (lambda folder: keras_file(folder / "a.weights.h5", named=False), 1e-5),
    "Keras 2, `.h5`": (lambda folder: keras_file(folder / "ResNet50.legacy.h5", named=True), 1e-5),
    "Keras 2, `.h5`, unnamed layers": (lambda folder: keras_file(folder / "ResNet50.legacy.h5", named=False), 1e-5),
}


@pytest.mark.parametrize("case", WEIGHTS_IN)
def test_weights_of_other_libraries_give_their_own_answers(case, tmp_path):
    write, bound = WEIGHTS_IN[case]
    source, images, expected = write(tmp_path)
    assert expected.std(dim=0).max() > 5e-3  # a test of answers that hardly differ would show nothing
    model = convert.load(source)
    answers = logits(model, images)
    if case.startswith("Keras"):
        answers = answers.softmax(dim=1)
    assert (answers - expected).abs().max() <= bound
    model.save_pretrained(tmp_path / "ours")
    again = ResNetForImageClassification.from_pretrained(tmp_path / "ours")
    assert torch.equal(logits(again, images), logits(model, images))
    assert again.origin == model.origin


# -- the README's table ------------------------------------------------------------------------------------------------


def lines_of(table: str) -> dict[str, str]:
    """Last cell by first, of the README's table with that heading."""
    rows = README.split(f"| {table} |", 1)[1].split("\n\n")[0].splitlines()[2:]
    return {cells[1].strip(): cells[-2].strip() for cells in (row.split("|") for row in rows)}


def test_the_readmes_table_of_weights_in_is_what_is_tested_here():
    bounds = {0: "equal to the bit", 1e-5: "1e-5"}
    expected = {case: bounds[bound] for case, (_, bound) in WEIGHTS_IN.items()}
    names = {f"`{name}`": "equal to the bit" for name in ("ResNet50_Weights.IMAGENET1K_V2", "resnet50.a1_in1k")}
    assert lines_of("weights of") == expected | names


def test_the_readmes_table_of_weights_out_is_what_is_tested():
    *libraries, refused = lines_of("library")
    assert libraries == ["timm", "transformers", "torchvision"]
    assert refused == 'each of the three, of `variant="keras"`'
    for library in libraries:
        assert any(re.match(f"test_{library}_loads_the_.*_with_equal_logits", name) for name in vars(test_interop))
        assert f"test_{library}_refuses_a_keras_checkpoint" in globals()


# -- names of collections, from a Hub ----------------------------------------------------------------------------------


def converted(source: str, images: torch.Tensor) -> tuple[torch.Tensor, dict]:
    """What happens on the computer that asks the Hub."""
    model = convert.load(source)
    return logits(model, images), model.to_config()


@pytest.fixture
def reader(hub, tmp_path):
    computer = Computer(hub.url, None, tmp_path / "reader")
    yield computer
    computer.stop()


def serve(hub, repo_id: str, folder: Path) -> None:
    hub.repos[repo_id] = Repo()
    files = {file.name: File(file.read_bytes(), file.suffix == ".safetensors") for file in folder.iterdir()}
    hub.repos[repo_id].commit("main", "weights", files)


def test_hub_ids_and_timms_names(hub, reader, tmp_path):
    for repo_id, write in [("timm/resnet50.a1_in1k", timm_folder), ("them/resnet", transformers_folder)]:
        folder = tmp_path / repo_id
        folder.mkdir(parents=True)
        written = write(folder)
        serve(hub, repo_id, folder)
        for name in {repo_id, repo_id.removeprefix("timm/")}:
            answers, config = reader.run(converted, name, written.images)
            assert torch.equal(answers, written.answers)
            assert config["origin"]["source"] == repo_id
            assert config["label_names"] == list(NAMES)
    assert config["pretrained_cfg"]["input_size"] == [3, 96, 96]  # of transformers' other file


def test_a_name_of_torchvision_is_its_weights_with_its_labels_and_preprocessing(tmp_path, monkeypatch):
    """The download alone is left out, for its 100 MB; that of other weights is tested above."""
    theirs = randomized(torchvision.models.resnet50())
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    asked = []
    monkeypatch.setattr(convert, "locate_checkpoint", lambda source, **_: asked.append(source) or tmp_path)
    model = convert.load("ResNet50_Weights.IMAGENET1K_V2")
    assert asked == ["timm/resnet50.tv2_in1k"]
    assert torch.equal(logits(model, some_images()), logits(theirs, some_images()))
    assert model.label_names[:3] == ["tench", "goldfish", "great white shark"]
    assert model.image_size == 224  # and not timm's 176
    assert "the middle 224 of the 232 px of the shorter side" in model.origin.notes[0]


@pytest.mark.parametrize("name", TORCHVISION_WEIGHTS)
def test_names_of_torchvision_stand_for_timms_copies_of_the_same_files(name):
    copy = TORCHVISION_WEIGHTS[name].removeprefix("timm/")
    assert timm.get_pretrained_cfg(copy).url == torchvision.models.get_weight(name).url


# -- labels and heads --------------------------------------------------------------------------------------------------


def test_label_names_come_along(tmp_path):
    assert convert.load(timm_folder(tmp_path / "timm").source).label_names == list(NAMES)
    assert convert.load(transformers_folder(tmp_path / "transformers").source).label_names == list(NAMES)


def test_names_that_occur_twice_get_their_number(tmp_path):
    source = transformers_folder(tmp_path, id2label={0: "crane", 1: "dog", 2: "crane"}).source
    assert convert.load(source).label_names == ["crane (0)", "dog", "crane (2)"]


def test_timms_imagenet_weights_have_imagenets_names(tmp_path):
    sizes = {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]}
    save_timm(timm.create_model("resnet50", **sizes), tmp_path)  # with the tag a1_in1k, as by default
    model = convert.load(tmp_path)
    assert (model.label_names[0], model.label_names[999]) == ("tench", "toilet tissue")


def test_classes_without_names_can_be_named_and_keep_their_classifier(tmp_path):
    written = torchvision_state_dict(tmp_path)
    model = convert.load(written.source, label_names=NAMES)
    assert model.label_names == list(NAMES)
    assert torch.equal(logits(model, written.images), written.answers)


@pytest.mark.parametrize("label_names", [("one", "nil", "two"), ("nil", "one")])
def test_a_classifier_of_other_classes_is_replaced_on_request_only(tmp_path, label_names):
    source = timm_folder(tmp_path).source
    with pytest.raises(ConfigurationError, match=r"knows the classes nil, one, two, not .*ask for a new classifier"):
        convert.load(source, label_names=label_names)
    kept = convert.load(source, label_names=NAMES)
    model = convert.load(source, label_names=label_names, new_head=True)
    assert model.label_names == list(label_names)
    assert model.fc.weight.shape[0] == len(label_names)
    assert torch.equal(model.layer4[0].conv1.weight, kept.layer4[0].conv1.weight)
    assert model.origin.notes[-1] == "its classifier is new and has not been trained"


def test_placeholders_of_transformers_are_no_names(tmp_path):
    source = transformers_folder(tmp_path, id2label={i: f"LABEL_{i}" for i in range(3)}).source
    assert not convert.load(source).origin.has_label_names
    assert convert.load(source, label_names=NAMES).label_names == list(NAMES)


def test_the_wrong_number_of_names_is_refused(tmp_path):
    source = torchvision_state_dict(tmp_path).source
    with pytest.raises(ConfigurationError, match="knows 3 classes, not a, b"):
        convert.load(source, label_names=("a", "b"))
    with pytest.raises(ConfigurationError, match="give label_names"):
        convert.load(source, new_head=True)


# -- preprocessing -----------------------------------------------------------------------------------------------------


def test_what_differs_in_preprocessing_is_said_and_stays_with_the_checkpoint(tmp_path, caplog):
    model = convert.load(timm_folder(tmp_path / "timm").source)
    note = "timm shows this network the middle 95.0% of the image ('center'), resized with 'bicubic' interpolation"
    assert note in caplog.text
    model.save_pretrained(tmp_path / "ours")
    config = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert config["origin"]["source"] == "timm"  # its name, not where it lay
    assert note in config["origin"]["notes"][0]
    card = (tmp_path / "ours" / "README.md").read_text()
    assert "the middle 95.0% of the image" in card
    assert "license" not in card.split("---")[1]


def test_size_mean_and_deviation_are_the_sources(tmp_path):
    preprocessing = convert.load(transformers_folder(tmp_path).source).preprocessing
    assert (preprocessing.image_size, preprocessing.mean, preprocessing.std) == (96, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


def test_a_checkpoint_that_was_converted_says_it_no_more(tmp_path, caplog):
    convert.load(timm_folder(tmp_path / "timm").source).save_pretrained(tmp_path / "ours")
    caplog.clear()
    assert convert.load(tmp_path / "ours").origin.library == "timm"
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"do_rescale": False}, "rescale_factor 1 cannot be had here"),
        ({"rescale_factor": 1 / 127.5}, "rescale_factor 0.0078"),
        ({"size": {"height": 10**9}}, "size {'height': 1000000000}"),
        ({"image_std": [0, 1, 1]}, "std must be above 0"),
    ],
)
def test_a_preprocessing_that_cannot_be_had_is_refused(tmp_path, change, reason):
    file = transformers_folder(tmp_path).source / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(CheckpointError, match=re.escape(reason)):
        convert.load(tmp_path)


@pytest.mark.parametrize(
    "origin", [None, [], {"source": "x"}, {"source": "x", "library": "x", "has_label_names": True, "notes": ["x"] * 99}]
)
def test_an_origin_that_is_none_is_refused(tiny_checkpoint, tmp_path, origin):
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"origin": origin}))
    with pytest.raises(CheckpointError, match="origin"):
        ResNetForImageClassification.from_pretrained(folder)


def test_a_predictor_takes_any_source(tmp_path, caplog):
    predictor = Predictor(transformers_folder(tmp_path).source)
    answer = predictor(Image.new("RGB", (120, 80), "red"), top_k=1)
    assert answer[0]["label"] in NAMES
    assert "bicubic" in caplog.text


# -- what is refused ---------------------------------------------------------------------------------------------------


def check_refused(folder: Path, change: dict[str, Any], reason: str) -> None:
    """With ``change`` in its ``config.json``."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(CheckpointError, match=reason):
        convert.load(folder)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"downsample_in_bottleneck": True}, "stride in the first 1x1 convolution .* give other answers"),
        ({"layer_type": "basic"}, "layer_type 'basic' makes another network"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' makes another network"),
        ({"downsample_in_first_stage": True}, "downsample_in_first_stage True"),
        ({"embedding_size": 32}, "embedding_size 32"),
        ({"depths": [1, 1, 1], "hidden_sizes": [32, 64, 64]}, "depths must be four numbers"),
    ],
)
def test_networks_of_transformers_that_give_other_answers_here_are_refused(tmp_path, change, reason):
    check_refused(transformers_folder(tmp_path).source, change, reason)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"architecture": "resnet50d"}, "architecture 'resnet50d' is unknown"),
        ({"global_pool": "max"}, "global_pool 'max' makes another network"),
        ({"model_args": {"stem_type": "deep"}}, "describe another network"),
        ({"num_classes": 0}, "num_classes must be 1"),
        ({"pretrained_cfg": None}, "is neither timm's nor transformers' nor"),
        ({"model_type": "vit"}, "model_type 'vit' is another network"),
        ({"architecture": "resnet101", "model_args": {}}, "holds another network's weights"),
    ],
)
def test_networks_of_timm_that_are_others_are_refused(tmp_path, change, reason):
    check_refused(timm_folder(tmp_path).source, change, reason)


@pytest.mark.parametrize("name", ["resnet18", "resnext50_32x4d", "wide_resnet50_2"])
def test_state_dicts_of_other_networks_are_refused(tmp_path, name):
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in getattr(torchvision.models, name)().state_dict().items()}
    save_file({key: torch.zeros(shape) for key, shape in shapes.items()}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"holds (no state dict of|another network's weights)"):
        convert.load(tmp_path / "a.safetensors")


@pytest.mark.parametrize("name", ["resnet50-0676ba61.pth", "pytorch_model.bin", "model.pt"])
def test_pickles_are_never_read(tmp_path, name):
    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")
    with pytest.raises(CheckpointError, match=r"is a pickle, which can run code .*convert it with safetensors"):
        convert.load(tmp_path / name)
    assert [file.name for file in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["a.safetensors", "a.h5", "a.keras", "no/such/folder/at/all"])
def test_what_is_not_there_is_named(tmp_path, name):
    with pytest.raises(CheckpointError, match=re.escape(name.split("/")[-1])):
        convert.load(tmp_path / name)


# -- and out again: variant="keras" ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keras_checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("keras")
    sizes = {"layers": BLOCKS, "channels": CHANNELS}
    randomized(ResNetForImageClassification(num_classes=3, variant="keras", **sizes)).save_pretrained(folder)
    return folder


def test_a_keras_checkpoint_says_that_it_loads_only_here(keras_checkpoint):
    config = json.loads((keras_checkpoint / "config.json").read_text())
    assert (config["architecture"], config["loads_only_in"]) == ("resnet50_keras", "resnet_hub")
    card = (keras_checkpoint / "README.md").read_text()
    assert "It loads in resnet_hub alone." in card
    assert "import timm" not in card
    model = ResNetForImageClassification.from_pretrained(keras_checkpoint)
    assert (model.variant, model.image_size, model.preprocessing.std) == ("keras", 64, (1, 1, 1))


def test_timm_refuses_a_keras_checkpoint(keras_checkpoint):
    with pytest.raises(RuntimeError, match="Unknown model"):
        timm.create_model(f"local-dir:{keras_checkpoint}", pretrained=True)


def test_transformers_refuses_a_keras_checkpoint(keras_checkpoint):
    with pytest.raises(ImportError, match="'resnet50_keras' is not supported"):
        AutoModelForImageClassification.from_pretrained(keras_checkpoint)


def test_torchvision_refuses_a_keras_checkpoint(keras_checkpoint):
    network = torchvision.models.ResNet(torchvision.models.resnet.Bottleneck, list(BLOCKS), num_classes=3)
    with pytest.raises(RuntimeError, match=r"Unexpected key.*conv1\.bias"):
        network.load_state_dict(load_file(keras_checkpoint / "model.safetensors"))
