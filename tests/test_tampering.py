"""Files of strangers: what lies about sizes, nests without end or carries HTML is refused or made harmless."""

import json
import re
import resource
import shutil
import struct
from pathlib import Path

import pytest
from safetensors.torch import save_file

from resnet_hub import CheckpointError, ResNetForImageClassification, ResNetForSigns, checkpoint
from resnet_hub.checkpoint import read_training_record, write_json
from resnet_hub.demo.answers import verdict
from resnet_hub.demo.classify import model_facts
from resnet_hub.predictor import Answer

SHIPPED = Path(__file__).resolve().parents[1] / "models" / "signs-resnet50"
EVIL = "<img src=x onerror=alert(1)>[me](https://evil.example) www.evil.example \x1b[31m\u202e|`\n# Heading"


@pytest.fixture
def folder(tiny_checkpoint, tmp_path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))


@pytest.fixture
def little_memory():
    """Refusals must not take more than 300 MB beyond what is in use."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    (used,) = re.findall(r"VmSize:\s+(\d+) kB", Path("/proc/self/status").read_text())
    resource.setrlimit(resource.RLIMIT_AS, (int(used) * 1024 + 300_000_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is limited by what /proc says")


def write_weights(file: Path, header: dict | bytes, length: int | None = None, data: bytes = bytes(64)) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)


def tensor(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


@needs_proc
@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize(
    ("header", "length"),
    [
        ({"conv1.weight": tensor([1 << 40], 0, 64)}, None),
        ({"conv1.weight": tensor([1 << 62, 1 << 62], 0, 64)}, None),
        ({"conv1.weight": tensor([16], 0, 1 << 40)}, None),
        ({"conv1.weight": tensor([16], 64, 0)}, None),
        ({"conv1.weight": tensor([-16], 0, 64)}, None),
        ({"a": tensor([16], 0, 64), "b": tensor([16], 0, 64)}, None),
        ({"conv1.weight": tensor([16], 0, 64)}, 1 << 60),
        ({"conv1.weight": tensor([16], 0, 64)}, 5),
        (b"[" * 100_000, None),
        (b"", 0),
    ],
)
def test_a_header_that_lies_about_sizes_is_refused(folder, header, length):
    write_weights(folder / "model.safetensors", header, length)
    with pytest.raises(CheckpointError, match=r"model.safetensors is damaged|does not fit its config.json"):
        ResNetForSigns.from_pretrained(folder)


def test_gigabytes_of_tensors_that_the_network_lacks_are_refused_unread(folder):
    size = 8 << 30
    write_weights(folder / "model.safetensors", {"x" * 10_000: tensor([size // 4], 0, size)}, data=b"")
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(8 + struct.unpack("<Q", file.read(8))[0] + size)  # sparse: it takes no room on the disk
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match=r"does not fit its config\.json") as raised:
        ResNetForSigns.from_pretrained(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB
    assert len(str(raised.value)) < 2000


def test_weights_of_another_type_are_refused(folder, tiny_model):
    weights = {name: value.long() for name, value in tiny_model.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"of another type \(conv1.weight is I64"):
        ResNetForSigns.from_pretrained(folder)


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


@needs_proc
@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize(
    "changes",
    [
        {"model_args": {"layers": [64, 64, 64, 64], "channels": [4096, 4096, 4096, 4096]}},
        {"model_args": {"layers": [1, 1, 1, 10**9], "channels": [8, 16, 32, 64]}},
        {"model_args": {"layers": [1, 1, 1, 10**400], "channels": [8, 16, 32, 64]}},
        {"num_classes": 10**9, "label_names": None},
        {"num_classes": 100_000, "label_names": None},
        {"num_classes": True},
        {"label_names": [{}] * 6},
        {"label_names": ["x" * 10_000_000, *"12345"]},
        {"architecture": "x" * 10_000_000},
        {"architecture": ["resnet50"]},
        {"pretrained_cfg": json.loads(nested(500))},
        {"model_args": json.loads(nested(500))},
    ],
)
def test_a_config_of_huge_or_wrong_values_is_refused_in_few_words(folder, changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(CheckpointError) as raised:
        ResNetForSigns.from_pretrained(folder)
    assert len(str(raised.value)) < 2000


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e400", "1" + 400 * "0", "-5000"])
@pytest.mark.parametrize("name", ["mean", "std"])
def test_a_preprocessing_that_makes_no_numbers_is_refused(folder, name, value):
    text = (folder / "config.json").read_text()
    text = re.sub(rf'"{name}": \[[^]]*\]', f'"{name}": [{value}, {value}, {value}]', text)
    (folder / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=name):
        ResNetForSigns.from_pretrained(folder)


@pytest.mark.parametrize("content", [nested(100_000), '{"architecture": ' + nested(100_000) + "}", "\xff", ""])
def test_a_config_that_cannot_be_parsed_is_refused(folder, content):
    (folder / "config.json").write_text(content, encoding="latin-1")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        ResNetForSigns.from_pretrained(folder)


def test_a_file_far_too_large_is_not_parsed(folder, monkeypatch):
    monkeypatch.setattr(checkpoint, "MAX_JSON_BYTES", 1000)
    (folder / "training.json").write_text(" " * 1001)
    (folder / "config.json").write_text(" " * 1001)
    for read in (lambda: ResNetForSigns.from_pretrained(folder), lambda: read_training_record(folder)):
        with pytest.raises(CheckpointError, match="more than 1,000 bytes"):
            read()


# -- training.json -----------------------------------------------------------------------------------------------------


def test_real_records_pass_unchanged(tmp_path, training_record):
    assert read_training_record(SHIPPED, 6) == json.loads((SHIPPED / "training.json").read_text())
    write_json(tmp_path / "training.json", training_record)
    assert read_training_record(tmp_path, 6) == training_record
    later = training_record | {"of a later version": {"temperature": 1.25, "bins": [1, 2, 3]}}
    write_json(tmp_path / "training.json", later)
    assert read_training_record(tmp_path, 6) == later


def changed(record: dict, path: str, value: object) -> dict:
    *parents, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    place = record
    for key in parents:
        place = place[key]
    place[last] = value
    return record


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("history", []),
        ("history", {"0": {}}),
        ("history", "<script>"),
        ("history.0.train", None),
        ("history.0.seconds", "2"),
        ("history.0.seconds", True),
        ("history.0.data_wait", -1),
        ("history.0.learning_rate", float("nan")),
        ("history.0.learning_rate", float("inf")),
        ("history.0.epoch", 10**400),
        ("history.0.epoch", 1.5),
        ("best_epoch", 7),
        ("results", {}),
        ("results.0.accuracy", 2),
        ("results.0.accuracy", "<b>1</b>"),
        ("results.0.num_images", -1),
        ("results.0.dataset", ["signs"]),
        ("results.0.dataset", "x" * 100_000),
        ("results.0.confusion_matrix", [[1, 2]]),
        ("results.0.confusion_matrix", [[1]]),
        ("results.0.confusion_matrix", [["<b>"] * 6] * 6),
        ("results.0.confusion_matrix", None),
        ("datasets", [{"name": "signs"}]),
        ("recipe", [1]),
        ("recipe.deep", json.loads(nested(400))),
        ("recipe.many", list(range(100_000))),
        ("versions.torch", {}),
        ("hardware", "x"),
        ("commit", 5),
        ("extra", json.loads(nested(400))),
    ],
)
def test_a_record_of_wrong_types_or_sizes_is_refused_by_name(folder, training_record, path, value):
    (folder / "training.json").write_text(json.dumps(changed(training_record, path, value)))
    with pytest.raises(CheckpointError, match=r"training\.json is no training record") as raised:
        ResNetForSigns.from_pretrained(folder)
    assert path.split(".")[0] in str(raised.value)
    assert "remove it to go without" in str(raised.value)
    assert len(str(raised.value)) < 1000


@pytest.mark.parametrize("key", ["recipe", "datasets", "versions", "hardware", "history", "best_epoch", "results"])
def test_a_record_with_a_part_missing_is_refused_by_name(folder, training_record, key):
    del training_record[key]
    (folder / "training.json").write_text(json.dumps(training_record))
    with pytest.raises(CheckpointError, match=f"{key} must be there"):
        ResNetForSigns.from_pretrained(folder)


# -- names -------------------------------------------------------------------------------------------------------------


def test_names_with_html_links_and_control_characters_are_shown_and_do_nothing(tmp_path, training_record, pictures):
    names = [EVIL, *"12345"]
    model = ResNetForImageClassification(label_names=names, layers=(1, 1, 1, 1), channels=(8, 8, 8, 8))
    result = training_record["results"][0]
    for record in (result, training_record["datasets"][0]):
        record["name" if "name" in record else "dataset"] = EVIL
    training_record["datasets"][0]["description"] = result["split"] = EVIL
    training_record["results"].append(result | {"split": "test", "variant": EVIL})
    training_record["recipe"][EVIL] = training_record["hardware"][EVIL] = training_record["versions"][EVIL] = EVIL
    model.training_record, model.pictures = training_record, pictures
    model.save_pretrained(tmp_path)
    loaded = ResNetForImageClassification.from_pretrained(tmp_path)
    assert loaded.label_names == names
    text = loaded.generate_model_card().text
    doubtful = Answer([{"label": EVIL, "score": 0.5}, {"label": "1", "score": 0.4}], None)
    page = model_facts(loaded) + verdict(doubtful, 0.1)
    result["split"] = "test"
    page += model_facts(loaded)
    for shown in (text, page):
        assert "evil.example" in shown
        for harm in ("<img", "](https", "https://evil", "www.evil", "\x1b", "\u202e", "\n# Heading"):
            assert harm not in shown


def test_a_hundred_thousand_classes_make_a_short_card(tmp_path):
    names = [f"class {i}" for i in range(100_000)]
    model = ResNetForImageClassification(label_names=names, layers=(1, 1, 1, 1), channels=(8, 8, 8, 1))
    assert len(str(model.generate_model_card())) < 10_000
