"""Checkpoint folders: what is saved is what is loaded, and what cannot be trusted is refused."""

import json
import os
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


def test_hostile_names_cannot_break_out_of_the_card(tmp_path, training_record):
    names = ["a|b", "<script>alert(1)</script>\n# Heading"]
    model = ResNetForImageClassification(label_names=names, layers=(1, 1, 1, 1), channels=(8, 8, 8, 8))
    training_record["results"][0]["confusion_matrix"] = [[1, 0], [1, 2]]
    training_record["results"][0]["dataset"] = "evil\n---\n<img src=x>"
    model.training_record = training_record
    text = model.generate_model_card().text
    assert "<script>" not in text
    assert "<img" not in text
    assert "\n# Heading" not in text


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
