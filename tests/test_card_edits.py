"""What people write into a card survives every generation of it; what was generated does not outlive its time."""

import pytest
import yaml
from huggingface_hub import ModelCard

from resnet_hub import ResNetForImageClassification, ResNetForSigns
from resnet_hub.card_edits import MAX_CARD_BYTES, merge_card


def card_of(training_record, accuracy: float) -> str:
    model = ResNetForSigns(layers=(1, 1, 1, 1), channels=(8, 8, 8, 8))
    training_record["results"][0]["accuracy"] = accuracy
    model.training_record = training_record
    return str(model.generate_model_card("me/hands"))


@pytest.fixture
def old(training_record) -> str:
    return card_of(training_record, 0.75)


@pytest.fixture
def new(training_record) -> str:
    return card_of(training_record, 0.85)


@pytest.fixture
def other() -> str:
    """As if the next model were another one, not trained here."""
    sizes = {"layers": (1, 1, 1, 1), "channels": (8, 8, 8, 8)}
    return str(ResNetForImageClassification("resnet101", label_names=list("012345"), **sizes).generate_model_card())


def metadata_of(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


def accuracies(card: str) -> list[float]:
    return [r.metric_value for r in ModelCard(card).data.eval_results if r.metric_type == "accuracy"]


def test_a_card_that_nobody_touched_becomes_the_new_one(old, new):
    assert merge_card(new, old) == new
    assert merge_card(old, old) == old


def test_text_added_anywhere_stays_where_it_is_and_results_are_replaced(old, new):
    edited = old.replace("## Use\n", "Shot by my sister.\n\n## Use\n").replace(
        "## Limits", "## Thanks\n\nTo her.\n\n## Limits"
    )
    edited += "\n## Ethics\n\n```\ncode\n\nwith a gap\n```\n"
    merged = merge_card(new, edited)
    order = [
        "sorts images",
        "Shot by my sister.\n\n## Use",
        "| 0.8500 |",
        "## Thanks\n\nTo her.\n\n## Limits",
        "## Ethics",
    ]
    places = [merged.index(text) for text in order]
    assert places == sorted(places)
    assert "```\ncode\n\nwith a gap\n```" in merged
    assert "0.7500 |" not in merged
    assert accuracies(merged) == [0.85]
    assert merge_card(new, merged) == merged  # and so for ever


def test_a_sentence_changed_within_generated_text_stays(old, new):
    edited = old.replace("It takes RGB images", "It likes RGB images").replace("# ResNet-50\n", "# Fingers!\n", 1)
    merged = merge_card(new, edited)
    assert "It likes RGB images" in merged
    assert "It takes RGB images" not in merged
    assert "# Fingers!\n" in merged
    assert "| 0.8500 |" in merged


def test_what_was_changed_on_both_sides_stands_there_twice_the_new_one_first(old, new):
    row = next(line for line in old.splitlines() if line.startswith("| signs | test"))
    merged = merge_card(new, old.replace(row, f"{row}\n| my phone | test | 7 | 0.5000 | 0.5000 | 1.0000 |"))
    assert merged.index("| 0.8500 |") < merged.index("my phone")


def test_what_was_taken_out_stays_out(old, new):
    start, end = old.index("## Limits"), old.index("<!-- Generated")
    merged = merge_card(new, old[:start] + old[end:])
    assert "## Limits" not in merged
    assert "It knows its classes" not in merged


def test_line_endings_and_spaces_of_a_browsers_editor_are_no_edits(old, new):
    assert merge_card(new, old.replace("\n", "\r\n")) == new
    assert merge_card(new, old.replace("\n\n", "  \n\n")) == new


def test_metadata_by_hand_stay_and_generated_ones_are_replaced(old, new, other):
    data = metadata_of(old)
    data["license"] = "mit"
    data["language"] = "en"
    data["tags"] = [*(tag for tag in data["tags"] if tag != "timm"), "hands"]
    data["model-index"][0]["results"].append(
        {
            "task": {"type": "image-classification"},
            "dataset": {"name": "my phone", "type": "me/phone", "split": "test"},
            "metrics": [{"type": "accuracy", "value": 0.5}],
        }
    )
    edited = f"---\n{yaml.safe_dump(data, sort_keys=False)}---\n" + old.split("---\n", 2)[2]
    merged = metadata_of(merge_card(new, edited))
    assert (merged["license"], merged["language"]) == ("mit", "en")
    assert "hands" in merged["tags"]
    assert "timm" not in merged["tags"]
    assert "resnet50" in merged["tags"]
    assert accuracies(merge_card(new, edited)) == [0.85, 0.5]
    assert metadata_of(merge_card(other, edited))["tags"].count("resnet101") == 1


def test_results_of_before_do_not_outlive_a_model_without_any(old, other):
    merged = merge_card(other, old)
    assert "model-index" not in metadata_of(merged)
    assert "0.7500" not in merged
    assert "resnet50" not in metadata_of(merged)["tags"]


def test_a_card_written_by_hand_alone_stays_whole(new):
    merged = merge_card(new, "---\nlicense: mit\n---\n# Mine\n\nAll of it.\n")
    assert merged.index("# Mine\n\nAll of it.") < merged.index("# ResNet-50")
    assert metadata_of(merged)["license"] == "mit"
    assert accuracies(merged) == [0.85]


@pytest.mark.parametrize(
    "metadata",
    [
        "a: &a [x]\nb: *a",
        "- a list",
        "a: [",
        "1: 2",
        "x: " + "[" * 5000 + "]" * 5000,
        "model-index: nonsense",
        "model-index: [1, {results: 3}]",
        "tags: {a: b}",
    ],
)
def test_metadata_that_are_none_or_hostile_cost_nothing_but_themselves(new, metadata):
    merged = merge_card(new, f"---\n{metadata}\n---\n\nBy hand.\n")
    assert "By hand." in merged
    assert accuracies(merged) == [0.85]


def test_saving_over_a_folder_keeps_its_cards_edits(tiny_model, tmp_path, training_record):
    tiny_model.training_record = training_record
    tiny_model.save_pretrained(tmp_path)
    card = tmp_path / "README.md"
    card.write_text(card.read_text().replace("## Limits", "A word by hand.\n\n## Limits"))
    training_record["results"][0]["accuracy"] = 0.85
    tiny_model.save_pretrained(tmp_path)
    assert "A word by hand.\n\n## Limits" in card.read_text()
    assert "| 0.8500 |" in card.read_text()
    assert "0.7500 |" not in card.read_text()


def test_a_link_or_a_flood_in_place_of_a_card_is_not_taken_over(tiny_model, tmp_path):
    (tmp_path / "id_rsa").write_text("-----BEGIN PRIVATE KEY-----")
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "README.md").symlink_to(tmp_path / "id_rsa")
    tiny_model.save_pretrained(folder)
    assert "PRIVATE KEY" not in (folder / "README.md").read_text()
    (folder / "README.md").write_text("x" * (MAX_CARD_BYTES + 1))
    tiny_model.save_pretrained(folder)
    assert "xxx" not in (folder / "README.md").read_text()


def test_a_model_that_is_loaded_and_saved_over_itself_has_the_same_card(tmp_path):
    model = ResNetForSigns(layers=(1, 1, 1, 1), channels=(8, 8, 8, 8))
    model.save_pretrained(tmp_path)
    first = (tmp_path / "README.md").read_text()
    ResNetForSigns.from_pretrained(tmp_path).save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == first
