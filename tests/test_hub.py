"""Checkpoint folders: what is saved is what is loaded, and what cannot be trusted is refused."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

from resnet_hub import CheckpointError, ResNetForImageClassification, ResNetForSigns, checkpoint


def logits(model: torch.nn.Module) -> torch.Tensor:
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return model.eval()(images)


@pytest.fixture
def folder(tiny_checkpoint, tmp_path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))


def edit_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def test_a_saved_model_loads_equal(tmp_path):
    model = ResNetForImageClassification(
        "resnet101",
        label_names=["cat", "dog"],
        image_size=96,
        mean=(0.1, 0.2, 0.3),
        std=(1, 2, 3),
        layers=(1, 2, 1, 1),
        channels=(16, 8, 8, 8),
    )
    logits(model.train())  # also the BatchNorm statistics
    model.save_pretrained(tmp_path)
    loaded = ResNetForImageClassification.from_pretrained(tmp_path)
    assert torch.equal(logits(loaded), logits(model))
    assert loaded.to_config() == model.to_config()
    assert (loaded.architecture, loaded.layers, loaded.label_names) == ("resnet101", (1, 2, 1, 1), ["cat", "dog"])
    assert loaded.preprocessing == model.preprocessing
    assert not loaded.training


def test_either_class_loads_any_folder(tmp_path, tiny_checkpoint):
    ResNetForImageClassification(num_classes=3, layers=(1, 1, 1, 1), channels=(8, 8, 8, 8)).save_pretrained(tmp_path)
    assert ResNetForSigns.from_pretrained(tmp_path).num_classes == 3
    assert ResNetForImageClassification.from_pretrained(str(tiny_checkpoint)).num_classes == 6


@pytest.mark.parametrize(("dtype", "expected"), [(None, torch.float32), (torch.float16, torch.float16)])
def test_precision_of_the_file_is_chosen_and_loading_is_always_fp32(tiny_model, tmp_path, dtype, expected):
    tiny_model.save_pretrained(tmp_path, dtype=dtype)
    weights = load_file(tmp_path / "model.safetensors")
    assert weights["conv1.weight"].dtype == expected
    assert weights["bn1.num_batches_tracked"].dtype == torch.int64
    assert ResNetForSigns.from_pretrained(tmp_path).conv1.weight.dtype == torch.float32


def test_half_precision_models_save_cleanly(tiny_model, tmp_path):
    expected = tiny_model.half().float().state_dict()
    tiny_model.half().save_pretrained(tmp_path)
    assert load_file(tmp_path / "model.safetensors")["fc.weight"].dtype == torch.float16
    loaded = ResNetForSigns.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(loaded[key], expected[key]) for key in expected)


def test_compiled_models_save_cleanly(tiny_model, tmp_path):
    expected = list(tiny_model.state_dict())
    tiny_model.layer1 = torch.compile(tiny_model.layer1)
    torch.compile(tiny_model).save_pretrained(tmp_path)
    assert sorted(load_file(tmp_path / "model.safetensors")) == sorted(expected)
    ResNetForSigns.from_pretrained(tmp_path)


def test_map_location_moves_the_model(tiny_checkpoint):
    model = ResNetForSigns.from_pretrained(tiny_checkpoint, map_location="meta")
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"meta"}


def test_the_training_record_travels_with_the_model(tiny_model, tmp_path, training_record):
    tiny_model.training_record = training_record
    tiny_model.save_pretrained(tmp_path / "a")
    ResNetForSigns.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
    assert json.loads((tmp_path / "b" / "training.json").read_text()) == training_record


def test_the_card_gives_the_results_as_model_index(tiny_model, tmp_path, training_record):
    tiny_model.training_record = training_record
    tiny_model.save_pretrained(tmp_path, model_card_kwargs={"repo_id": "me/hands"})
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.model_name == "hands"
    found = {(r.dataset_name, r.dataset_split, r.metric_type): r.metric_value for r in card.data.eval_results}
    assert found["signs", "test", "accuracy"] == 0.75
    assert found["signs", "test", "f1"] == 0.7333
    assert "| **1** | 1 | 2 | 0 | 0 | 0 | 0 |" in card.text  # the confusion matrix
    assert 'from_pretrained("me/hands")' in card.text


def test_hostile_names_cannot_break_out_of_the_card(training_record, pictures):
    names = ["a|b](https://evil.example)\\", "<script>alert(1)</script>\n# Heading"]
    model = ResNetForImageClassification(label_names=names, layers=(1, 1, 1, 1), channels=(8, 8, 8, 8))
    training_record["results"][0]["confusion_matrix"] = [[1, 0], [1, 2]]
    training_record["results"][0]["dataset"] = "evil\n---\n<img src=x>"
    model.training_record, model.pictures = training_record, pictures
    text = model.generate_model_card().text
    assert "<script>" not in text
    assert "<img" not in text
    assert "\n# Heading" not in text
    assert sorted(re.findall(r"!\[[^]]*\]\(([^)]*)\)", text)) == sorted(pictures)  # and no image from elsewhere


def test_pictures_travel_with_the_model_and_the_card_shows_them_in_words_too(
    tiny_model, tmp_path, training_record, pictures
):
    tiny_model.training_record, tiny_model.pictures = training_record, pictures
    tiny_model.save_pretrained(tmp_path / "a")
    ResNetForSigns.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
    assert {name: (tmp_path / "b" / name).read_bytes() for name in pictures} == pictures
    shown = dict(re.findall(r"^!\[(.*)\]\((.*)\)$", (tmp_path / "b" / "README.md").read_text(), flags=re.MULTILINE))
    assert sorted(shown.values()) == sorted(pictures)
    words = {name: alt for alt, name in shown.items()}
    assert "In epoch 1: loss 0.5000 in training and 0.5000 on validation" in words["curves.png"]
    assert words["confusion_matrix.png"] == (
        "Confusion matrix, signs test: 3 of 4 images right. Most frequent mistakes: 1 taken for 0: 1"
    )


def test_the_card_shows_only_pictures_that_there_are(tiny_model, tmp_path, training_record, pictures):
    tiny_model.training_record = training_record
    tiny_model.pictures = {"curves.png": pictures["curves.png"]}
    text = tiny_model.generate_model_card().text
    assert re.findall(r"!\[.*\]\((.*)\)", text) == ["curves.png"]
    assert "<details>" not in text  # the confusion matrix as a table, in full view


def test_beside_its_picture_the_table_of_the_confusion_matrix_is_folded(tiny_model, training_record, pictures):
    training_record["results"].append(training_record["results"][0] | {"dataset": "drawn-signs"})
    tiny_model.training_record, tiny_model.pictures = training_record, pictures
    before, folded = tiny_model.generate_model_card().text.split("<details>")
    table = "| **1** | 1 | 2 | 0 | 0 | 0 | 0 |"
    assert table not in before
    folded, after = folded.split("</details>")
    assert "signs test, as a table</summary>\n\n| true" in folded
    assert table in folded
    assert table in after  # of the second dataset there is no picture


def test_nothing_of_an_older_checkpoint_stays_when_another_is_saved_over_it(
    tiny_model, tmp_path, training_record, pictures
):
    tiny_model.training_record, tiny_model.pictures = training_record, pictures
    tiny_model.save_pretrained(tmp_path)
    ResNetForSigns(layers=(1, 1, 1, 1), channels=(8, 8, 8, 8)).save_pretrained(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"model.safetensors", "config.json", "README.md"}
    assert ".png" not in (tmp_path / "README.md").read_text()


def test_a_new_classifier_has_no_record_and_no_pictures(tiny_model, training_record, pictures):
    tiny_model.training_record, tiny_model.pictures = training_record, pictures
    tiny_model.reset_classifier(2)
    assert (tiny_model.training_record, tiny_model.pictures) == (None, {})


def test_of_a_strangers_folder_only_pictures_travel(folder, tmp_path, pictures, caplog):
    (tmp_path / "id_rsa").write_text("-----BEGIN PRIVATE KEY-----")
    (folder / "curves.png").symlink_to(tmp_path / "id_rsa")
    (folder / "mistakes.png").mkdir()
    (folder / "holiday.png").write_bytes(pictures["curves.png"])
    (folder / "train_samples.png").write_bytes(pictures["train_samples.png"] + bytes(checkpoint.MAX_PICTURE_BYTES))
    (folder / "test_samples.png").write_bytes(pictures["test_samples.png"])
    model = ResNetForSigns.from_pretrained(folder)
    assert model.pictures == {"test_samples.png": pictures["test_samples.png"]}
    assert re.findall(r"(\w+.png) is no PNG of at most 4 MB and is left out", caplog.text) == [
        "curves.png",
        "train_samples.png",
    ]


def told(**changes) -> dict[str, torch.Tensor]:
    """Predictions of six classes for four images."""
    tensors = {
        "labels": torch.tensor([0, 1, 2, 5]),
        "predictions": torch.tensor([0, 1, 3, 5]),
        "scores": torch.tensor([0.9, 0.8, 0.7, 1.0]),
        "is_unfamiliar": torch.tensor([False, False, True, False]),
    }
    return {name: value for name, value in (tensors | changes).items() if value is not None}


def test_predictions_travel_with_the_model_and_go_with_its_classifier(tiny_model, tmp_path):
    tiny_model.test_predictions = told()
    tiny_model.save_pretrained(tmp_path / "m")
    loaded = ResNetForSigns.from_pretrained(tmp_path / "m")
    assert {name: value.tolist() for name, value in loaded.test_predictions.items()} == {
        name: value.tolist() for name, value in told().items()
    }
    loaded.reset_classifier(6)
    loaded.save_pretrained(tmp_path / "m")
    assert not (tmp_path / "m" / "predictions.safetensors").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"scores": None},
        {"labels": torch.tensor([0, 1, 2, 6])},
        {"predictions": torch.tensor([0, 1, 2, -1])},
        {"scores": torch.tensor([0.0, 0.0, 0.0, float("nan")])},
        {"scores": torch.zeros(3)},
        {"labels": torch.zeros(4)},
        {"more": torch.zeros(4)},
    ],
)
def test_predictions_that_cannot_be_this_models_are_left_out(tiny_model, tmp_path, caplog, changes):
    tiny_model.save_pretrained(tmp_path / "m")
    save_file(told(**changes), tmp_path / "m" / "predictions.safetensors")
    assert ResNetForSigns.from_pretrained(tmp_path / "m").test_predictions is None
    assert "does not hold predictions of this model" in caplog.text


def test_damaged_predictions_do_not_keep_a_model_from_loading(tiny_model, tmp_path, caplog):
    tiny_model.save_pretrained(tmp_path / "m")
    (tmp_path / "m" / "predictions.safetensors").write_bytes(b"no")
    assert ResNetForSigns.from_pretrained(tmp_path / "m").test_predictions is None
    assert "is damaged" in caplog.text


def test_pictures_have_fixed_names(tiny_model, tmp_path):
    tiny_model.pictures = {"../curves.png": b""}
    with pytest.raises(CheckpointError, match=r"\.\./curves.png.*use curves.png, confusion_matrix.png"):
        tiny_model.save_pretrained(tmp_path / "checkpoint")
    assert list(tmp_path.iterdir()) == []


def test_files_are_readable_by_others_as_the_umask_allows(tiny_checkpoint):
    modes = {oct(file.stat().st_mode & 0o777) for file in tiny_checkpoint.iterdir()}
    umask = os.umask(0)
    os.umask(umask)
    assert modes == {oct(0o666 & ~umask)}


def test_a_failed_save_leaves_the_old_checkpoint_whole(folder, tiny_model, monkeypatch):
    before = {file.name: file.read_bytes() for file in folder.iterdir()}

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_json", full_disk)
    with pytest.raises(CheckpointError, match=r"No space left on device.*unchanged"):
        tiny_model.save_pretrained(folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert [entry.name for entry in folder.parent.iterdir()] == [folder.name]  # nothing half-written stays


def test_saving_keeps_other_files_in_the_folder(folder, tiny_model):
    (folder / "notes.txt").write_text("mine")
    tiny_model.save_pretrained(folder)
    assert (folder / "notes.txt").read_text() == "mine"


# -- loading is strict ------------------------------------------------------------------------------------------------


def damage_missing_config(folder):
    (folder / "config.json").unlink()


def damage_config_is_no_json(folder):
    (folder / "config.json").write_text("{")


def damage_config_is_a_list(folder):
    (folder / "config.json").write_text("[]")


def damage_unknown_architecture(folder):
    edit_config(folder, architecture="vit_base")


def damage_transformers_config(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "resnet", "num_labels": 6}))


def damage_huge_network(folder):
    edit_config(folder, model_args={"layers": [1, 1, 1, 10**9], "channels": [8, 16, 32, 64]})


def damage_other_model_args(folder):
    edit_config(folder, model_args={"layers": [1, 1, 1, 1], "stem_type": "deep"})


def damage_too_few_names(folder):
    edit_config(folder, label_names=["a", "b"])


def damage_other_preprocessing(folder):
    config = json.loads((folder / "config.json").read_text())
    edit_config(folder, pretrained_cfg=config["pretrained_cfg"] | {"crop_mode": "center"})


def damage_missing_weights(folder):
    (folder / "model.safetensors").unlink()


def damage_pickle_only(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def damage_truncated(folder):
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def damage_garbage(folder):
    (folder / "model.safetensors").write_bytes(b"\xff" * 1000)


def damage_missing_key(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["layer2.0.conv1.weight"]
    save_file(weights, folder / "model.safetensors")


def damage_extra_key(folder):
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {"head.weight": torch.zeros(1)}, folder / "model.safetensors")


def damage_wrong_shape(folder):
    edit_config(folder, num_classes=7, label_names=None)


@pytest.mark.parametrize(
    ("damage", "file", "message"),
    [
        (damage_missing_config, "", "has no config.json.*check the path"),
        (damage_config_is_no_json, "config.json", "not valid JSON.*restore"),
        (damage_config_is_a_list, "config.json", "must hold a JSON object"),
        (damage_unknown_architecture, "config.json", "'vit_base' is unknown.*resnet50, resnet101, resnet152"),
        (damage_transformers_config, "config.json", "architecture None is unknown"),
        (damage_huge_network, "config.json", "layers must be four numbers from 1 to"),
        (damage_other_model_args, "config.json", "only layers and channels can differ"),
        (damage_too_few_names, "config.json", "one name per class"),
        (damage_other_preprocessing, "config.json", "crop_mode 'center' is not supported"),
        (damage_missing_weights, "", "has no model.safetensors.*check the path"),
        (damage_pickle_only, "", "pickle.*pytorch_model.bin.*convert it"),
        (damage_truncated, "model.safetensors", "is damaged.*again"),
        (damage_garbage, "model.safetensors", "is damaged.*again"),
        (damage_missing_key, "model.safetensors", r"1 missing \(layer2.0.conv1.weight\).*config.json"),
        (damage_extra_key, "model.safetensors", r"1 unexpected \(head.weight\)"),
        (damage_wrong_shape, "model.safetensors", r"fc.weight is \(6, 256\) and should be \(7, 256\)"),
    ],
)
def test_a_damaged_folder_is_refused_naming_file_and_next_step(folder, damage, file, message):
    damage(folder)
    with pytest.raises(CheckpointError, match=message) as raised:
        ResNetForSigns.from_pretrained(folder)
    assert str(folder / file) in str(raised.value)


@pytest.mark.parametrize("name", ["/no/such/folder", "./missing", "tests/missing", "a/b/c"])
def test_a_folder_that_does_not_exist_is_not_taken_for_a_hub_id(name):
    with pytest.raises(CheckpointError, match=f"no folder {name.removeprefix('./')}.*check the path"):
        ResNetForSigns.from_pretrained(name)


def test_a_hub_id_that_is_not_cached_offline_says_what_to_do(tmp_path):
    with pytest.raises(CheckpointError, match=r"'someone/hands' is not in the cache.*or give a checkpoint folder"):
        ResNetForSigns.from_pretrained("someone/hands", cache_dir=tmp_path, local_files_only=True)


def test_a_cached_hub_id_loads_offline(tiny_checkpoint, tmp_path):
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = tmp_path / "models--someone--hands"
    shutil.copytree(tiny_checkpoint, repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    loaded = ResNetForSigns.from_pretrained("someone/hands", cache_dir=tmp_path, local_files_only=True)
    assert torch.equal(logits(loaded), logits(ResNetForSigns.from_pretrained(tiny_checkpoint)))
