"""Labelled images as people have them: class folders, CSV files, HDF5 files."""

import os
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from resnet_hub.data import load_image_dataset
from resnet_hub.errors import DatasetError

DATA = os.environ.get("RESNET_HUB_DATA")


def save(file: Path, gray: int) -> None:
    """An image that its gray level tells."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (gray, gray, gray)).save(file)


def content(rows) -> dict[int, str]:
    """Label name by gray level."""
    names = rows.features["label"].names
    return {row["image"].convert("L").getpixel((0, 0)): names[row["label"]] for row in rows}


def write_csv(folder: Path, name: str = "train.csv", header: str = "image_id,label", suffix: str = "") -> None:
    """40 images in ``folder/images``, cats up to gray level 19 and dogs above, and the CSV file that names them."""
    for gray in range(40):
        save(folder / "images" / f"id_{gray}.png", gray)
    lines = [header, *(f"id_{gray}{suffix},{'cat' if gray < 20 else 'dog'}" for gray in range(40))]
    (folder / name).write_text("\n".join(lines) + "\n")


CATS_AND_DOGS = {gray: "cat" if gray < 20 else "dog" for gray in range(40)}


def all_of(splits) -> dict[int, str]:
    return content(splits["train"]) | content(splits["validation"]) | content(splits["test"])


@pytest.mark.parametrize("splits", [(), ("train",), ("train", "test"), ("train", "val", "test")])
def test_class_folders_with_and_without_split_folders(tmp_path, splits):
    """``train/airplane/0001.png`` is how CIFAR-10-images lies on the disk."""
    for number, split in enumerate(splits or ("",)):
        for gray in range(40):
            save(tmp_path / "animals" / split / CATS_AND_DOGS[gray] / f"{gray:04d}.png", gray + 60 * number)
    loaded = load_image_dataset(str(tmp_path / "animals"))
    assert loaded["train"].features["label"].names == ["cat", "dog"]
    assert set(loaded) == {"train", "validation", "test"}
    assert {gray % 60: name for gray, name in all_of(loaded).items()} == CATS_AND_DOGS
    if len(splits) == 3:
        assert [len(loaded[split]) for split in ("train", "validation", "test")] == [40, 40, 40]


@pytest.mark.parametrize(
    "folders", [("Train", "Testing"), ("train_images", "test_images"), ("TRAINING", "valid"), ("train", "dev")]
)
def test_split_folders_have_many_names(tmp_path, folders):
    for number, folder in enumerate(folders):
        for gray in range(40):
            save(tmp_path / folder / CATS_AND_DOGS[gray] / f"{gray}.png", gray + 60 * number)
    loaded = load_image_dataset(str(tmp_path))
    assert loaded["train"].features["label"].names == ["cat", "dog"]
    other = "test" if folders[1].lower().startswith("test") else "validation"
    assert content(loaded[other]) == {gray + 60: name for gray, name in CATS_AND_DOGS.items()}


def test_a_class_may_be_called_as_a_split_is(tmp_path):
    for gray in range(40):
        save(tmp_path / ("train" if gray < 20 else "tram") / f"{gray}.png", gray)
    loaded = load_image_dataset(str(tmp_path))
    assert loaded["train"].features["label"].names == ["train", "tram"]
    assert all_of(loaded) == {gray: "train" if gray < 20 else "tram" for gray in range(40)}


def test_classes_that_only_one_split_has_are_numbered_alike_in_all(tmp_path):
    for split, names in [("train", "ac"), ("test", "abc")]:
        for name in names:
            for gray in range(20):
                save(tmp_path / split / name / f"{gray}.png", gray + 60 * ord(name) % 200)
    loaded = load_image_dataset(str(tmp_path))
    assert {rows.features["label"].names == ["a", "b", "c"] for rows in loaded.values()} == {True}
    assert sorted(set(loaded["train"]["label"])) == [0, 2]
    assert sorted(set(loaded["test"]["label"])) == [0, 1, 2]


def test_an_empty_class_folder_is_a_class_that_has_no_images(tmp_path):
    for gray in range(40):
        save(tmp_path / CATS_AND_DOGS[gray] / f"{gray}.png", gray)
    (tmp_path / "emu").mkdir()
    assert load_image_dataset(str(tmp_path))["train"].features["label"].names == ["cat", "dog", "emu"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["train/a/1.png", "train/b/2.png", "train/3.png"], r"3\.png lies in no class folder"),
        (["cat/1.png", "cat/2.png"], "has a single class, cat: give each class a folder"),
        (["val/a/1.png", "valid/a/1.png", "train/a/1.png"], "val and valid both name the split validation"),
    ],
)
def test_class_folders_that_make_no_sense_are_refused(tmp_path, files, message):
    for file in files:
        save(tmp_path / file, 1)
    with pytest.raises(DatasetError, match=message):
        load_image_dataset(str(tmp_path))


@pytest.mark.parametrize("suffix", ["", ".png"])
@pytest.mark.parametrize("as_file", [True, False])
def test_a_csv_file_names_images_by_id_or_file_name(tmp_path, suffix, as_file):
    write_csv(tmp_path, suffix=suffix)
    loaded = load_image_dataset(str(tmp_path / "train.csv" if as_file else tmp_path))
    assert all_of(loaded) == CATS_AND_DOGS
    assert [len(loaded[split]) for split in ("train", "validation", "test")] == [32, 4, 4]


def test_csv_files_of_several_splits_and_paths_below_the_folder(tmp_path):
    for gray in range(6):
        save(tmp_path / "a" / f"{gray}.png", gray)
    (tmp_path / "train.csv").write_text("file_name,class\na/0.png,x\na/1.png,y\n")
    (tmp_path / "val.csv").write_text("file_name,class\na/2.png,y\n")
    (tmp_path / "test.csv").write_text("file_name,class\na/3.png,x\na/4.png,y\na/5.png,y\n")
    loaded = load_image_dataset(str(tmp_path))
    assert content(loaded["train"]) == {0: "x", 1: "y"}
    assert content(loaded["validation"]) == {2: "y"}
    assert content(loaded["test"]) == {3: "x", 4: "y", 5: "y"}


def test_encoded_labels_are_numbers_in_their_order(tmp_path):
    for gray in range(88):
        save(tmp_path / f"{gray}.png", gray)
    lines = [f"{gray}.png,{gray // 8}" for gray in range(88)]
    (tmp_path / "train.csv").write_text("\n".join(["image,label", *lines]))
    loaded = load_image_dataset(str(tmp_path), split_fraction=0.25)
    assert loaded["train"].features["label"].names == [str(i) for i in range(11)]  # not "0", "1", "10", "2"
    assert all_of(loaded) == {gray: str(gray // 8) for gray in range(88)}


def test_columns_under_other_names_are_named(tmp_path):
    write_csv(tmp_path, header="photo,animal")
    with pytest.raises(DatasetError, match=r"which column of .*train.csv is the image: it has photo, animal; name it"):
        load_image_dataset(str(tmp_path))
    loaded = load_image_dataset(str(tmp_path), image_column="photo", label_column="animal")
    assert all_of(loaded) == CATS_AND_DOGS


def test_the_images_of_a_csv_file_may_lie_elsewhere(tmp_path):
    write_csv(tmp_path / "pictures")
    labels = tmp_path / "labels.csv"
    (tmp_path / "pictures" / "train.csv").rename(labels)
    assert all_of(load_image_dataset(str(labels), image_dir=tmp_path / "pictures")) == CATS_AND_DOGS
    with pytest.raises(DatasetError, match=r"no folder .*elsewhere with the images of .*labels.csv: check image_dir"):
        load_image_dataset(str(labels), image_dir=tmp_path / "elsewhere")
    with pytest.raises(DatasetError, match="image_dir is where a CSV file's images are"):
        load_image_dataset(str(tmp_path / "pictures"), image_dir=tmp_path)


@pytest.mark.parametrize("separator", [";", "\t"])
def test_spreadsheets_separate_by_other_characters(tmp_path, separator):
    write_csv(tmp_path)
    text = (tmp_path / "train.csv").read_text()
    (tmp_path / "train.csv").write_text("\ufeff" + text.replace(",", separator), encoding="utf-8")
    assert all_of(load_image_dataset(str(tmp_path))) == CATS_AND_DOGS


def test_an_id_that_train_and_test_both_have_means_the_image_of_its_split(tmp_path):
    for gray in range(20):
        save(tmp_path / "train" / f"{gray}.png", gray)
        save(tmp_path / "test" / f"{gray}.png", gray + 100)
    lines = ["id,label", *(f"{gray},{'ab'[gray % 2]}" for gray in range(20))]
    for split in ("train", "test"):
        (tmp_path / f"{split}.csv").write_text("\n".join(lines))
    loaded = load_image_dataset(str(tmp_path))
    assert set(content(loaded["test"])) == set(range(100, 120))
    assert set(content(loaded["train"]) | content(loaded["validation"])) == set(range(20))


def test_a_name_of_two_files_is_refused(tmp_path):
    write_csv(tmp_path)
    save(tmp_path / "more" / "id_7.png", 0)
    with pytest.raises(DatasetError, match=r"'id_7' is the name of .* and of .*: write paths"):
        load_image_dataset(str(tmp_path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,label\n", "has no rows"),
        (b"\xff\xfe\x00", "cannot be read as CSV in UTF-8"),
    ],
)
def test_a_csv_file_that_makes_no_sense_is_refused(tmp_path, text, message):
    write_csv(tmp_path)
    (tmp_path / "train.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DatasetError, match=message):
        load_image_dataset(str(tmp_path))


def write_h5(folder: Path, split: str, num: int, **changes) -> np.ndarray:
    pixels = np.random.default_rng(len(split)).integers(0, 256, (num, 12, 12, 3), dtype=np.uint8)
    arrays = {f"{split}_set_x": pixels, f"{split}_set_y": np.arange(num) % 3, "list_classes": np.arange(3)} | changes
    with h5py.File(folder / f"{split}_signs.h5", "w") as file:
        for name, array in arrays.items():
            if array is not None:
                file[name] = array
    return pixels


def test_hdf5_files_keep_every_pixel_and_label(tmp_path):
    train, test = write_h5(tmp_path, "train", 60), write_h5(tmp_path, "test", 9)
    loaded = load_image_dataset(str(tmp_path))
    assert loaded["test"].features["label"].names == ["0", "1", "2"]
    assert loaded["test"]["label"] == [i % 3 for i in range(9)]
    assert np.array_equal(np.stack([np.asarray(image) for image in loaded["test"]["image"]]), test)
    known = {image.tobytes() for image in train}
    assert all(np.asarray(image).tobytes() in known for image in loaded["train"]["image"])
    assert (len(loaded["train"]), len(loaded["validation"])) == (54, 6)


def test_an_hdf5_file_that_was_changed_is_read_again(tmp_path):
    write_h5(tmp_path, "train", 60)
    write_h5(tmp_path, "test", 9)
    assert len(load_image_dataset(str(tmp_path))["test"]) == 9
    write_h5(tmp_path, "test", 12)
    assert len(load_image_dataset(str(tmp_path))["test"]) == 12


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_set_y": None}, "cannot be read as HDF5"),
        ({"test_set_y": np.zeros(4, int)}, "must hold uint8 images"),
        ({"test_set_x": np.zeros((9, 12, 12))}, "must hold uint8 images"),
    ],
)
def test_other_hdf5_files_are_refused(tmp_path, changes, message):
    write_h5(tmp_path, "train", 60)
    write_h5(tmp_path, "test", 9, **changes)
    with pytest.raises(DatasetError, match=message):
        load_image_dataset(str(tmp_path))


@pytest.mark.skipif(not DATA or not Path(DATA, "signs_h5").is_dir(), reason="RESNET_HUB_DATA has no signs_h5")
def test_the_courses_files_are_signs():
    from_h5 = load_image_dataset(str(Path(DATA, "signs_h5")))
    from_folder = load_image_dataset("signs")
    for split in ("train", "validation"):  # the JPEG pixels of the folder; the test file is lossless
        assert from_h5[split]["label"] == from_folder[split]["label"]
        for first, second in zip(from_h5[split]["image"], from_folder[split]["image"], strict=True):
            assert np.array_equal(np.asarray(first), np.asarray(second.convert("RGB")))
    assert sorted(from_h5["test"]["label"]) == sorted(from_folder["test"]["label"])
