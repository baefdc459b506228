"""Pushing to and loading from a Hub, by the real client: only the Hub at the other end is a stand-in.

Each client is a :class:`loopback_hub.Computer`, on which the functions of the next section run.
"""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from loopback_hub import Computer, File, LoopbackHub

from resnet_hub import CheckpointError, ResNetForSigns
from resnet_hub.checkpoint import TrainingRecord
from resnet_hub.data import load_image_dataset
from resnet_hub.errors import PushError
from train.prepare_dataset import PreparationConfig, main

Logits = list[list[float]]

# -- what clients do ---------------------------------------------------------------------------------------------------


def logits(model: ResNetForSigns) -> Logits:
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return model.eval()(images).tolist()


def push(
    repo_id: str,
    seed: int = 0,
    training_record: TrainingRecord | None = None,
    pictures: dict[str, bytes] | None = None,
    **kwargs: Any,
) -> Logits:
    torch.manual_seed(seed)
    model = ResNetForSigns(layers=(1, 1, 1, 1), channels=(8, 16, 32, 64))
    model.train()(torch.randn(8, 3, 64, 64))  # BatchNorm statistics away from their initial values
    model.training_record = training_record
    model.pictures = pictures or {}
    model.push_to_hub(repo_id, **kwargs)
    return logits(model)


def load(repo_id: str, **kwargs: Any) -> Logits:
    return logits(ResNetForSigns.from_pretrained(repo_id, **kwargs))


def timm_logits(repo_id: str) -> Logits:
    import timm

    return logits(timm.create_model(f"hf-hub:{repo_id}", pretrained=True))


def transformers_logits(repo_id: str) -> Logits:
    from transformers import AutoModelForImageClassification

    model = AutoModelForImageClassification.from_pretrained(repo_id).eval()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return model(images).logits.tolist()


def push_a_copy(repo_id: str, copy_id: str) -> None:
    ResNetForSigns.from_pretrained(repo_id).push_to_hub(copy_id)


def create_empty(repo_id: str) -> None:
    HfApi().create_repo(repo_id)


def prepare_and_push(source: str, repo_id: str, private: bool = False) -> None:
    main(PreparationConfig(source, push_to_hub=repo_id, private=private))


def pixels_by_split(name: str) -> dict[str, list[tuple[bytes, int]]]:
    return {
        split: [(np.asarray(row["image"]).tobytes(), row["label"]) for row in rows]
        for split, rows in load_image_dataset(name).items()
    }


# -- where they run ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hub() -> Iterator[LoopbackHub]:
    with LoopbackHub(tokens={"hf_me": "me", "hf_stranger": "stranger"}).running() as hub:
        yield hub


@pytest.fixture(scope="module")
def author(hub, tmp_path_factory) -> Iterator[Computer]:
    computer = Computer(hub.url, "hf_me", tmp_path_factory.mktemp("author"))
    yield computer
    computer.stop()


@pytest.fixture
def reader(hub, tmp_path) -> Iterator[Computer]:
    computer = Computer(hub.url, "hf_stranger", tmp_path / "reader")
    yield computer
    computer.stop()


class Pushed(NamedTuple):
    commit: str
    files: dict[str, File]
    logits: Logits
    requests: list[str]


@pytest.fixture
def pushed(hub, author, training_record) -> Iterator[Pushed]:
    """``me/hands``, pushed for the first time."""
    hub.requests.clear()
    expected = author.run(push, "me/hands", training_record=training_record)
    commit = hub.repos["me/hands"].branches["main"]
    yield Pushed(commit.sha, commit.files, expected, list(hub.requests))
    hub.repos.pop("me/hands", None)


# -- what is promised --------------------------------------------------------------------------------------------------


def test_a_push_uploads_weights_config_record_and_card(pushed, training_record):
    assert set(pushed.files) == {".gitattributes", "model.safetensors", "config.json", "training.json", "README.md"}
    weights = pushed.files["model.safetensors"]
    assert [path for path, file in pushed.files.items() if file.lfs] == ["model.safetensors"]
    assert f"PUT /lfs/{weights.oid}" in pushed.requests
    assert json.loads(pushed.files["config.json"].content)["num_classes"] == 6
    assert json.loads(pushed.files["training.json"].content) == training_record


def test_the_card_on_the_hub_loads_its_own_repo_and_carries_the_results(pushed):
    card = ModelCard(pushed.files["README.md"].content.decode())
    assert 'from_pretrained("me/hands")' in card.text
    assert card.data.model_name == "hands"
    found = {(r.dataset_name, r.dataset_split, r.metric_type): r.metric_value for r in card.data.eval_results}
    assert found == {("signs", "test", "accuracy"): 0.75, ("signs", "test", "f1"): 0.7333}
    assert "model-index" in card.data.to_dict()


def test_a_pushed_model_loads_elsewhere_by_branch_and_by_commit_and_then_without_the_hub(pushed, hub, reader):
    assert reader.run(load, "me/hands") == pushed.logits
    assert reader.run(load, "me/hands", revision="main", force_download=True) == pushed.logits
    assert reader.run(load, "me/hands", revision=pushed.commit, force_download=True) == pushed.logits
    assert hub.requests.count(f"GET /me/hands/resolve/{pushed.commit}/model.safetensors") == 3
    del hub.repos["me/hands"]
    hub.requests.clear()
    assert reader.run(load, "me/hands", local_files_only=True) == pushed.logits
    assert reader.run(load, "me/hands", revision=pushed.commit, local_files_only=True) == pushed.logits
    assert hub.requests == []


def test_pushing_again_adds_a_commit_and_the_older_one_still_loads(pushed, hub, author, training_record):
    newer = author.run(push, "me/hands", seed=1, training_record=training_record)
    assert newer != pushed.logits
    assert [commit.title for commit in hub.repos["me/hands"].commits] == [
        "initial commit",
        "Push model with resnet_hub",
        "Push model with resnet_hub",
    ]
    assert author.run(load, "me/hands") == newer
    assert author.run(load, "me/hands", revision=pushed.commit) == pushed.logits


def test_pushing_an_unchanged_model_adds_nothing(pushed, hub, author, training_record):
    assert author.run(push, "me/hands", training_record=training_record) == pushed.logits
    assert hub.repos["me/hands"].branches["main"].sha == pushed.commit


def test_pictures_are_pushed_and_travel_on_from_hub_to_hub(hub, author, training_record, pictures):
    author.run(push, "me/shown", training_record=training_record, pictures=pictures)
    author.run(push_a_copy, "me/shown", "me/copy")
    files = hub.repos["me/copy"].branches["main"].files
    assert {name: files[name].content for name in pictures} == pictures
    assert b"](confusion_matrix.png)" in files["README.md"].content


def test_a_push_removes_record_and_pictures_of_the_model_that_it_replaces(hub, author, training_record, pictures):
    author.run(push, "me/replaced", training_record=training_record, pictures=pictures)
    author.run(push, "me/replaced", seed=1)
    repo = hub.repos["me/replaced"]
    assert set(repo.branches["main"].files) == {".gitattributes", "model.safetensors", "config.json", "README.md"}
    assert len(repo.commits) == 3  # with one commit


def test_what_a_push_was_told_to_ignore_stays_on_the_hub(pushed, hub, author, training_record):
    author.run(push, "me/hands", seed=1, training_record=training_record, ignore_patterns="*.safetensors")
    files = hub.repos["me/hands"].branches["main"].files
    assert files["model.safetensors"] == pushed.files["model.safetensors"]


@pytest.fixture(scope="module")
def odd_repos(author) -> None:
    """Repositories that are not what ``from_pretrained`` hopes for."""
    author.run(push, "me/public")
    author.run(push, "me/secret", private=True)
    author.run(push, "me/bare", ignore_patterns="*.safetensors")
    author.run(create_empty, "me/empty")


@pytest.mark.usefixtures("odd_repos")
def test_a_private_repo_loads_for_its_owner(author):
    assert author.run(load, "me/secret") == author.run(load, "me/public")


@pytest.mark.usefixtures("odd_repos")
@pytest.mark.parametrize(
    ("repo_id", "options", "message"),
    [
        ("me/typo", {}, "'me/typo' does not exist, or is private: check the id.*or run `hf auth login`"),
        ("me/typo", {"token": False}, "'me/typo' does not exist, or is private: check the id.*or run `hf auth login`"),
        ("me/public", {"revision": "typo"}, "revision 'typo' does not exist: give an existing branch, tag or commit"),
        ("me/public", {"revision": 40 * "0"}, "revision '0+' does not exist: give an existing branch, tag or commit"),
        ("me/secret", {"token": "hf_stranger"}, "'me/secret' does not exist, or is private.*run `hf auth login`"),
        ("me/secret", {"token": False}, "'me/secret' does not exist, or is private.*run `hf auth login`"),
        ("me/secret", {"token": "hf_expired"}, "refuses the access token.*run `hf auth login`.*HF_TOKEN"),
        ("me/public", {"token": "hf_expired"}, "refuses the access token.*run `hf auth login`.*HF_TOKEN"),
        ("me/bare", {}, "'me/bare' has no model.safetensors.*check the id.*push the model again"),
        ("me/empty", {}, "'me/empty' has no config.json.*check the id.*push the model again"),
    ],
)
def test_what_cannot_be_loaded_says_what_to_do(author, tmp_path, repo_id, options, message):
    with pytest.raises(CheckpointError, match=message):
        author.run(load, repo_id, cache_dir=tmp_path, **options)


def test_a_card_edited_on_the_hub_keeps_its_edits_when_results_are_pushed_again(hub, pushed, author, training_record):
    repo = hub.repos["me/hands"]
    card = pushed.files["README.md"].content.decode()
    edited = card.replace("license: apache-2.0", "license: mit\nlanguage: en").replace(
        "## Limits", "By hand.\n\n## Limits"
    )
    repo.commit("main", "Update README.md", pushed.files | {"README.md": File(edited.encode())})
    training_record["results"][0]["accuracy"] = 0.85
    author.run(push, "me/hands", seed=1, training_record=training_record)
    merged = ModelCard(repo.branches["main"].files["README.md"].content.decode())
    assert "By hand.\n\n## Limits" in merged.text
    assert (merged.data.license, merged.data.language) == ("mit", "en")
    assert [r.metric_value for r in merged.data.eval_results] == [0.85, 0.7333]
    assert "0.7500 |" not in merged.text
    commits = len(repo.commits)
    author.run(push, "me/hands", seed=1, training_record=training_record)
    assert len(repo.commits) == commits  # there is nothing left to change


def test_timm_and_transformers_load_it_from_the_hub_with_equal_logits(pushed, reader):
    assert reader.run(timm_logits, "me/hands") == pushed.logits
    assert reader.run(timm_logits, f"me/hands@{pushed.commit}") == pushed.logits
    assert reader.run(transformers_logits, "me/hands") == pushed.logits


def test_a_private_model_loads_in_timm_and_transformers_for_its_owner(hub, author):
    expected = author.run(push, "me/hidden", private=True)
    assert author.run(timm_logits, "me/hidden") == author.run(transformers_logits, "me/hidden") == expected


# -- datasets ----------------------------------------------------------------------------------------------------------


def test_a_prepared_dataset_loads_back_from_the_hub(hub, author, reader, colors):
    author.run(prepare_and_push, str(colors), "me/colors")
    files = hub.repos["datasets/me/colors"].branches["main"].files
    assert {path for path in files if path.startswith("data/")} == {
        f"data/{split}-00000-of-00001.parquet" for split in ("train", "validation", "test")
    }
    assert b"--dataset_name me/colors" in files["README.md"].content
    assert reader.run(pixels_by_split, "me/colors") == pixels_by_split(str(colors))


def test_a_dataset_that_is_pushed_again_replaces_its_files(hub, author, colors, tmp_path):
    hub.repos.pop("datasets/me/again", None)
    author.run(prepare_and_push, str(colors), "me/again", private=True)
    repo = hub.repos["datasets/me/again"]
    assert repo.private
    repo.commit(
        "main", "another version", repo.branches["main"].files | {"data/train-00001-of-00002.parquet": File(b"")}
    )
    author.run(prepare_and_push, str(colors), "me/again")
    assert "data/train-00001-of-00002.parquet" not in repo.branches["main"].files


def test_a_dataset_that_may_not_be_pushed_there_is_one_clear_error(author, colors):
    for repo_id, message in [("stranger/colors", "may not be written to with this"), ("no id/at all", "is no Hub id")]:
        with pytest.raises(PushError, match=message):
            author.run(prepare_and_push, str(colors), repo_id)
