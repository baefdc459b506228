"""Whatever the source looks like, training sees train, validation and test with the columns image and label."""

import os
from collections import Counter
from pathlib import Path

import datasets
import pytest
from PIL import Image
from pyarrow.dataset import ParquetFileFormat, ParquetFragmentScanOptions

from resnet_hub import DatasetError
from resnet_hub.data import load_image_dataset, signs_is_available

NAMES = ["cat", "dog", "owl"]
SHARED = os.environ.get("RESNET_HUB_DATA")


def rows(
    num: int, image_column: str = "image", label_column: str = "label", label_type: object = None
) -> datasets.Dataset:
    """``num`` rows, each with an image of a colour of its own."""
    features = datasets.Features(
        {image_column: datasets.Image(), label_column: label_type or datasets.ClassLabel(names=NAMES)}
    )
    images = [Image.new("RGB", (8, 8), (i % 256, i // 256, 0)) for i in range(num)]
    return datasets.Dataset.from_dict({image_column: images, label_column: [i % 3 for i in range(num)]}, features)


def write_folder(folder: Path, **splits: datasets.Dataset) -> str:
    """A dataset folder as the Hub has it."""
    (folder / "data").mkdir(parents=True)
    for split, split_rows in splits.items():
        split_rows.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return str(folder)


@pytest.fixture
def no_data(monkeypatch):
    for variable in ("RESNET_HUB_DATA", "RESNET_HUB_SIGNS"):
        monkeypatch.delenv(variable, raising=False)


def identities(split: datasets.Dataset) -> list[tuple[int, ...]]:
    return [row["image"].getpixel((0, 0)) for row in split]


def test_columns_of_other_names_become_image_and_label(tmp_path):
    folder = write_folder(tmp_path / "d", train=rows(60, "img", "fine_label"), test=rows(9, "img", "fine_label"))
    loaded = load_image_dataset(folder)
    assert list(loaded) == ["train", "validation", "test"]
    for split in loaded.values():
        assert split.column_names == ["image", "label"]
        assert split.features["label"].names == NAMES
    assert len(loaded["test"]) == 9


def test_validation_is_cut_from_train_stratified_and_by_the_seed_alone(tmp_path):
    folder = write_folder(tmp_path / "d", train=rows(300), test=rows(9))
    first, again, other = (load_image_dataset(folder, split_fraction=0.2, seed=seed) for seed in (1, 1, 2))
    assert Counter(first["validation"]["label"]) == {0: 20, 1: 20, 2: 20}
    assert len(first["train"]) == 240
    assert not set(identities(first["train"])) & set(identities(first["validation"]))
    assert identities(first["validation"]) == identities(again["validation"])
    assert set(identities(first["validation"])) != set(identities(other["validation"]))


def test_splits_that_exist_are_kept_as_they_are(tmp_path):
    folder = write_folder(tmp_path / "d", train=rows(60), validation=rows(12), test=rows(9))
    assert {split: len(r) for split, r in load_image_dataset(folder).items()} == {
        "train": 60,
        "validation": 12,
        "test": 9,
    }


def test_a_dataset_of_train_alone_gives_three_disjoint_splits(tmp_path):
    loaded = load_image_dataset(write_folder(tmp_path / "d", train=rows(300)))
    parts = [set(identities(split)) for split in loaded.values()]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 300


def test_a_parquet_file_does_not_pile_up_in_memory_while_it_is_read(tmp_path, monkeypatch):
    """That it would shows with gigabytes alone, so what is looked at is the option that keeps it from that."""
    options = []

    def make_fragment_format(default_fragment_scan_options: ParquetFragmentScanOptions) -> ParquetFileFormat:
        options.append(default_fragment_scan_options)
        return ParquetFileFormat(default_fragment_scan_options=default_fragment_scan_options)

    monkeypatch.setattr("pyarrow.dataset.ParquetFileFormat", make_fragment_format)
    assert len(load_image_dataset(write_folder(tmp_path / "d", train=rows(60), test=rows(9)))["test"]) == 9
    assert options
    assert not any(option.pre_buffer for option in options)


def test_folders_of_save_to_disk_load(tmp_path):
    datasets.DatasetDict(train=rows(60), test=rows(9)).save_to_disk(tmp_path / "saved")
    assert len(load_image_dataset(str(tmp_path / "saved"))["test"]) == 9


def test_folders_of_images_by_class_load(tmp_path):
    for split, count in [("train", 20), ("test", 3)]:
        for name in NAMES:
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / split / name / f"{i}.png")
    loaded = load_image_dataset(str(tmp_path))
    assert loaded["train"].features["label"].names == NAMES
    assert len(loaded["test"]) == 9


@pytest.mark.parametrize("label_type", [datasets.Value("int64"), datasets.Value("string")])
def test_labels_that_are_plain_values_become_classes(tmp_path, label_type):
    folder = write_folder(tmp_path / "d", train=rows(60, label_type=label_type), test=rows(9, label_type=label_type))
    loaded = load_image_dataset(folder)
    assert loaded["train"].features["label"].names == ["0", "1", "2"]
    assert loaded["test"]["label"][:4] == [0, 1, 2, 0]


def test_columns_that_cannot_be_told_are_asked_for(tmp_path):
    both = (
        rows(60).add_column("fine", [0] * 60, feature=datasets.ClassLabel(names=["x"])).rename_column("label", "coarse")
    )
    folder = write_folder(tmp_path / "d", train=both)
    with pytest.raises(
        DatasetError, match=r"which column of .* is the label: it has image, coarse, fine; .*label_column"
    ):
        load_image_dataset(folder)
    assert load_image_dataset(folder, label_column="coarse")["train"].features["label"].names == NAMES


def test_a_dataset_without_images_is_refused(tmp_path):
    text = datasets.Dataset.from_dict({"image": ["a", "b"], "label": [0, 1]})
    with pytest.raises(DatasetError, match="does not hold images"):
        load_image_dataset(write_folder(tmp_path / "d", train=text))


def test_rows_without_a_class_are_neither_lost_nor_in_the_way_of_a_cut(tmp_path):
    """check_dataset reports them, which it can only where they are still there."""
    labelled = rows(60)
    unlabelled = datasets.Dataset.from_dict(
        {"image": [Image.new("RGB", (8, 8))] * 3, "label": [-1, None, -1]}, features=labelled.features
    )
    train = datasets.concatenate_datasets([unlabelled, labelled])
    loaded = load_image_dataset(write_folder(tmp_path / "d", train=train, test=rows(3)))
    assert loaded["train"]["label"][-3:] == [-1, None, -1]
    assert (len(loaded["train"]), len(loaded["validation"])) == (57, 6)
    assert -1 not in loaded["validation"]["label"][:]


def test_a_dataset_too_small_to_cut_says_so(tmp_path):
    message = "has no validation split, and is too small to cut 10% of every class off its 4 .*: add images, or bring"
    with pytest.raises(DatasetError, match=message):
        load_image_dataset(write_folder(tmp_path / "d", train=rows(4), test=rows(3)))


def test_the_share_that_is_named_where_another_is_too_small_is_enough(tmp_path):
    folder = write_folder(tmp_path / "d", train=rows(16))
    with pytest.raises(DatasetError, match=r"no test and no validation split, .* cut off 16% or .*--train_val_split"):
        load_image_dataset(folder)
    load_image_dataset(folder, split_fraction=0.16)


def test_a_class_that_cannot_be_cut_is_named(tmp_path):
    both = datasets.concatenate_datasets([rows(60).filter(lambda label: label != 2, input_columns="label"), rows(3)])
    with pytest.raises(DatasetError, match=r"off its 43 training images \(owl: too few images"):
        load_image_dataset(write_folder(tmp_path / "d", train=both))


def test_a_dataset_without_train_says_what_it_has(tmp_path):
    with pytest.raises(DatasetError, match="no split 'train', only test"):
        load_image_dataset(write_folder(tmp_path / "d", test=rows(9)))


@pytest.mark.parametrize("name", ["/no/such/folder", "./missing", "a/b/c"])
def test_a_folder_that_does_not_exist_is_not_looked_for_on_the_hub(name):
    with pytest.raises(DatasetError, match=r"there is no folder .*check the path"):
        load_image_dataset(name)


def test_a_csv_file_that_does_not_exist_is_called_a_file():
    for name in ("labels.csv", "./labels.csv", "/no/such/labels.csv"):
        with pytest.raises(DatasetError, match=f"there is no file {name}: check the path"):
            load_image_dataset(name)


def test_a_file_that_is_no_csv_is_not_called_missing(tmp_path):
    (tmp_path / "photo.png").write_bytes(b"")
    with pytest.raises(DatasetError, match="is a file, and no CSV: give the folder"):
        load_image_dataset(str(tmp_path / "photo.png"))


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"cannot be loaded .*check"):
        load_image_dataset(str(tmp_path))


def test_aliases_look_in_resnet_hub_data_first(tmp_path, monkeypatch, no_data):
    write_folder(tmp_path / "signs", train=rows(60), test=rows(9))
    write_folder(tmp_path / "cifar10", train=rows(90, "img"), test=rows(12, "img"))
    monkeypatch.setenv("RESNET_HUB_DATA", str(tmp_path))
    monkeypatch.setenv("RESNET_HUB_SIGNS", "someone/else")
    assert len(load_image_dataset("signs")["test"]) == 9
    assert len(load_image_dataset("cifar10")["test"]) == 12


def test_signs_is_found_through_resnet_hub_signs(tmp_path, monkeypatch, no_data):
    assert not signs_is_available()
    with pytest.raises(DatasetError, match=r"set RESNET_HUB_DATA .*or RESNET_HUB_SIGNS .*or use drawn-signs"):
        load_image_dataset("signs")
    monkeypatch.setenv("RESNET_HUB_SIGNS", write_folder(tmp_path / "mine", train=rows(60), test=rows(9)))
    assert signs_is_available()
    assert len(load_image_dataset("signs")["test"]) == 9


def test_drawn_signs_needs_nothing_and_shares_no_image_between_splits(no_data):
    loaded = load_image_dataset("drawn-signs")
    assert {split: len(r) for split, r in loaded.items()} == {"train": 1800, "validation": 300, "test": 300}
    assert loaded["train"].features["label"].names == ["0", "1", "2", "3", "4", "5"]
    raw = [r.cast_column("image", datasets.Image(decode=False))["image"] for r in loaded.values()]
    contents = [image["bytes"] for split in raw for image in split]
    assert len(set(contents)) == 2400


@pytest.mark.skipif(not SHARED or not (Path(SHARED) / "signs").is_dir(), reason="RESNET_HUB_DATA has no signs")
def test_real_signs_has_its_six_classes_in_equal_parts():
    loaded = load_image_dataset("signs")
    assert {split: len(r) for split, r in loaded.items()} == {"train": 972, "validation": 108, "test": 120}
    assert Counter(loaded["validation"]["label"]) == dict.fromkeys(range(6), 18)
    assert loaded["train"][0]["image"].size == (64, 64)


@pytest.mark.skipif(not SHARED or not (Path(SHARED) / "cifar10").is_dir(), reason="RESNET_HUB_DATA has no cifar10")
def test_real_cifar10_has_its_ten_classes_in_equal_parts():
    loaded = load_image_dataset("cifar10")
    assert {split: len(r) for split, r in loaded.items()} == {"train": 45_000, "validation": 5_000, "test": 10_000}
    assert loaded["train"].features["label"].names[:2] == ["airplane", "automobile"]
    assert Counter(loaded["validation"]["label"]) == dict.fromkeys(range(10), 500)


def test_a_dataset_folder_that_was_changed_is_read_again(tmp_path):
    """``datasets`` alone would not, where a README.md lists the files."""
    card = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/train-*\n---\n"
    lengths = []
    for place, num in [("a", 40), ("a", 60), ("b", 80)]:
        folder = tmp_path / place / "mine"
        (folder / "data").mkdir(parents=True, exist_ok=True)
        (folder / "README.md").write_text(card)
        rows(num).to_parquet(folder / "data" / "train-00000-of-00001.parquet")
        lengths.append(sum(len(rows) for rows in load_image_dataset(str(folder)).values()))
    assert lengths == [40, 60, 80]
