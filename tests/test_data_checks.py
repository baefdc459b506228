"""What is wrong with a dataset is found before the first step, with split, row and file."""

import io
import os
from pathlib import Path

import datasets
import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from resnet_hub import data_checks
from resnet_hub.data import load_image_dataset
from resnet_hub.data_checks import check_dataset
from resnet_hub.errors import DatasetError

DATA = os.environ.get("RESNET_HUB_DATA")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """A cache of its own for every test."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    return folder


def picture(seed: int, size: int = 48) -> Image.Image:
    """Soft discs of random colours: unlike any other, and without edges that photos do not have."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (size, size), tuple(rng.integers(0, 256, 3).tolist()))
    for x, y, radius, *color in rng.integers(0, 256, (6, 6)).tolist():
        x, y, radius = x * size // 256, y * size // 256, 4 + radius * size // 1024
        ImageDraw.Draw(image).ellipse((x - radius, y - radius, x + radius, y + radius), fill=tuple(color))
    return image.filter(ImageFilter.GaussianBlur(size / 32))


def encoded(image: Image.Image, kind: str = "PNG", **options) -> dict:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return {"bytes": stream.getvalue(), "path": None}


def splits_of(names: tuple[str, ...] = ("a", "b"), **images: list) -> DatasetDict:
    """Splits of images (or cells) whose labels are 0, 1, 0, 1, ..."""
    features = Features(image=datasets.Image(), label=ClassLabel(names=list(names)))
    splits = {}
    for split in ("train", "validation", "test"):
        cells = [encoded(cell) if isinstance(cell, Image.Image) else cell for cell in images.get(split, [])]
        columns = {"image": cells, "label": [i % 2 for i in range(len(cells))]}
        splits[split] = Dataset.from_dict(columns, features)
    return DatasetDict(splits)


TRAIN = [picture(seed) for seed in range(8)]


def test_a_dataset_in_order_passes_unchanged_and_without_a_word():
    splits = splits_of(train=TRAIN, validation=[picture(20), picture(21)], test=[picture(30), picture(31)])
    checked, report = check_dataset(splits)
    assert {split: len(rows) for split, rows in checked.items()} == {"train": 8, "validation": 2, "test": 2}
    assert report.lines() == []


def test_corrupt_images_are_refused_together_and_left_out_on_request(tmp_path):
    truncated = encoded(TRAIN[0], "JPEG")
    truncated["bytes"] = truncated["bytes"][: len(truncated["bytes"]) // 2]
    (tmp_path / "text.jpg").write_text("no image")
    splits = splits_of(
        train=[*TRAIN, truncated, {"bytes": None, "path": str(tmp_path / "text.jpg")}],
        validation=[picture(20)],
        test=[{"bytes": b"", "path": "gone.png"}, picture(30)],
    )
    with pytest.raises(DatasetError) as error:
        check_dataset(splits)
    text = str(error.value)
    assert text.startswith("3 images cannot be read:")
    assert "train, row 8: the image is damaged" in text
    assert f"train, row 9 ({tmp_path / 'text.jpg'}): this is no image" in text
    assert "test, row 0 (gone.png)" in text
    assert "--skip_corrupt True" in text

    checked, report = check_dataset(splits, skip_corrupt=True)
    assert {split: len(rows) for split, rows in checked.items()} == {"train": 8, "validation": 1, "test": 1}
    assert [(finding.split, finding.row) for finding in report.corrupt] == [("train", 8), ("train", 9), ("test", 0)]


def test_only_the_first_of_many_are_shown():
    splits = splits_of(train=TRAIN, test=[{"bytes": b"no", "path": None}] * 25)
    with pytest.raises(DatasetError, match=r"25 images cannot be read:\n(  test, row \d: .*\n){10}.* 15 more"):
        check_dataset(splits)


def test_training_images_of_two_classes_are_named():
    cells = [encoded(image) for image in TRAIN]
    for row in (3, 6):  # of rows 0 and 4: one under another label, one under its own
        cells[row] = {"bytes": cells[0 if row == 3 else 4]["bytes"], "path": f"copy{row}.png"}
    splits = splits_of(train=cells, test=[picture(30)])
    _, report = check_dataset(splits)
    assert [str(finding) for finding in report.contradictions] == [
        "train, row 3 (copy3.png): is labelled b, and a as train, row 0"
    ]
    assert report.lines()[0] == "1 image has two labels, of which one is wrong: correct it, or remove the image:"
    assert check_dataset(splits)[1] == report  # as it is remembered


def test_a_test_image_that_stands_in_train_under_another_label_is_named_with_both():
    splits = splits_of(train=TRAIN, validation=[TRAIN[4], TRAIN[2]], test=[picture(30), picture(31), TRAIN[5]])
    _, report = check_dataset(splits)
    assert [str(finding) for finding in report.contradictions] == [
        "validation, row 1: is labelled b, and a as train, row 2",
        "test, row 2: is labelled a, and b as train, row 5",
    ]
    assert len(report.duplicates) == 3  # they count as such, too


def test_a_csv_row_without_a_label_is_named_whatever_splits_are_cut_off(tmp_path):
    lines = ["image,label"]
    for i in range(24):
        picture(i).save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png,{'' if i == 5 else 'ab'[i % 2]}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    splits = load_image_dataset(str(tmp_path / "labels.csv"))
    with pytest.raises(DatasetError, match=r"1 row has no label .*\n  train, row \d+ \(.*/5.png\): no label"):
        check_dataset(splits)
    assert sum(len(rows) for rows in check_dataset(splits, skip_corrupt=True)[0].values()) == 23


def test_labels_are_compared_between_validation_and_test_too():
    """The cut of a dataset that has neither may put both copies there."""
    splits = splits_of(train=TRAIN, validation=[picture(20)], test=[picture(30), picture(20)])
    _, report = check_dataset(splits)
    assert [str(finding) for finding in report.contradictions] == [
        "test, row 1: is labelled b, and a as validation, row 0"
    ]


def test_rows_without_a_class_contradict_no_other():
    splits = splits_of(train=[*TRAIN, TRAIN[0]])
    labels = [0, 1, 0, 1, 0, 1, 0, 1, -1]
    splits["train"] = splits["train"].remove_columns("label").add_column("label", labels, feature=ClassLabel(2))
    _, report = check_dataset(splits, skip_corrupt=True)
    assert len(report.bad_labels) == 1
    assert report.contradictions == []


def test_test_images_that_stand_in_train_are_named():
    splits = splits_of(train=TRAIN, validation=[picture(20), TRAIN[5]], test=[picture(30), TRAIN[3], TRAIN[2]])
    _, report = check_dataset(splits)
    assert [str(finding) for finding in report.duplicates] == [
        "validation, row 1: is train, row 5",
        "test, row 1: is train, row 3",
        "test, row 2: is train, row 2",
    ]
    assert report.contradictions == []
    assert "3 validation or test images stand in train too, so results say too much" in report.lines()[0]


@pytest.mark.parametrize(
    "copy",
    [
        lambda image: encoded(image, "JPEG", quality=60),
        lambda image: encoded(image.resize((64, 64), Image.Resampling.BICUBIC)),
        lambda image: encoded(image.resize((30, 30), Image.Resampling.LANCZOS), "WEBP", quality=80),
        lambda image: encoded(ImageEnhance.Brightness(image).enhance(0.93)),
    ],
    ids=["compressed", "larger", "smaller and compressed", "darker"],
)
def test_copies_that_were_saved_again_are_near_duplicates(copy):
    splits = splits_of(train=TRAIN, test=[picture(30), copy(TRAIN[6])])
    _, report = check_dataset(splits)
    assert report.duplicates == []
    assert [str(finding) for finding in report.near_duplicates] == ["test, row 1: is nearly train, row 6"]


def test_pictures_that_look_alike_are_no_duplicates():
    """The same scene with one disc more, as two photos of one hand differ in a finger."""
    changed = TRAIN[0].copy()
    ImageDraw.Draw(changed).ellipse((14, 14, 34, 34), fill=(250, 250, 250))
    _, report = check_dataset(splits_of(train=TRAIN, test=[changed]))
    assert report.near_duplicates == []


def test_rows_without_a_class_are_refused_and_left_out_on_request(tmp_path):
    TRAIN[0].save(tmp_path / "cat.png")
    features = Features(image=datasets.Image(), label=ClassLabel(names=["a", "b"]))
    cells = [encoded(TRAIN[1]), {"bytes": None, "path": str(tmp_path / "cat.png")}, encoded(TRAIN[2])]
    splits = splits_of(train=TRAIN)
    splits["test"] = Dataset.from_dict({"image": cells, "label": [1, -1, None]}, features)
    with pytest.raises(DatasetError) as error:
        check_dataset(splits)
    assert str(error.value).startswith("2 rows have no label that is one of the classes:")
    assert f"test, row 1 ({tmp_path / 'cat.png'}): no label, or one that train does not have" in str(error.value)
    checked, _ = check_dataset(splits, skip_corrupt=True)
    assert checked["test"]["label"][:] == [1]
    assert len(checked["train"]) == 8


def test_classes_without_images_are_named():
    splits = splits_of(("a", "b", "c"), train=TRAIN, validation=[picture(20), picture(21)], test=[picture(30)])
    _, report = check_dataset(splits)
    assert report.empty_classes == {"train": ["c"], "validation": ["c"], "test": ["b", "c"]}
    assert "1 class has no image in train, so it cannot be learned: c" in report.lines()
    assert "2 classes have no image in test: b, c" in report.lines()


def test_a_class_whose_only_image_is_left_out_is_empty():
    splits = splits_of(train=[TRAIN[0], {"bytes": b"no", "path": None}])
    _, report = check_dataset(splits, skip_corrupt=True)
    assert report.empty_classes["train"] == ["b"]


def test_what_is_published_names_no_folders(tmp_path):
    TRAIN[2].save(tmp_path / "copy.png")
    splits = splits_of(train=TRAIN, test=[{"bytes": None, "path": str(tmp_path / "copy.png")}])
    _, report = check_dataset(splits)
    assert str(tmp_path) in report.lines()[0] + report.lines()[1]
    assert "test, row 0 (copy.png): is train, row 2" in report.without_folders().lines()[1]
    assert str(tmp_path) not in "".join(report.without_folders().lines())


def test_white_walls_are_not_all_the_same_picture():
    rng = np.random.default_rng(0)
    walls = [Image.fromarray(rng.integers(250, 256, (48, 48, 3), dtype=np.uint8)) for _ in range(4)]
    _, report = check_dataset(splits_of(train=walls[:2], test=walls[2:]))
    assert report.near_duplicates == []


def test_a_split_too_large_to_compare_is_named(monkeypatch):
    monkeypatch.setattr(data_checks, "MAX_COMPARISONS", 10)
    _, report = check_dataset(
        splits_of(train=TRAIN, validation=[picture(20)], test=[TRAIN[0], encoded(TRAIN[1], "JPEG")])
    )
    assert report.not_compared == ["test"]
    assert len(report.duplicates) == 1
    assert "near duplicates of test were not looked for: it is too large" in report.lines()


def test_images_that_become_rgb_are_counted_by_kind():
    image = TRAIN[0]
    sixteen_bit = Image.fromarray(np.arange(48 * 48, dtype=np.uint16).reshape(48, 48))
    cells = [image, image.convert("L"), image.convert("RGBA"), image.convert("P"), sixteen_bit, picture(9).convert("L")]
    _, report = check_dataset(splits_of(train=cells))
    assert report.converted == {"gray": 2, "transparent": 1, "of a palette": 1, "of more than 8 bit": 1}
    assert "2 images are gray and converted to RGB" in report.lines()


def test_a_second_look_at_the_same_data_costs_nothing(monkeypatch):
    splits = splits_of(train=TRAIN, test=[TRAIN[1]])
    _, first = check_dataset(splits)
    monkeypatch.setattr(data_checks, "open_image", lambda source: pytest.fail("looked again"))
    _, second = check_dataset(splits)
    assert second == first


def test_a_file_that_was_replaced_is_looked_at_again(tmp_path):
    for i, image in enumerate(TRAIN):
        image.save(tmp_path / f"{i}.png")
    splits = splits_of(train=[{"bytes": None, "path": str(tmp_path / f"{i}.png")} for i in range(8)])
    check_dataset(splits)
    (tmp_path / "3.png").write_text("no image any more")
    with pytest.raises(DatasetError, match=r"train, row 3 .*this is no image"):
        check_dataset(splits)


def test_a_cache_that_cannot_be_written_does_no_harm(cache):
    cache.write_text("a file where a folder should be")
    _, report = check_dataset(splits_of(train=TRAIN, test=[TRAIN[1]]))
    assert len(report.duplicates) == 1


@pytest.mark.skipif(not DATA or not Path(DATA, "signs").is_dir(), reason="RESNET_HUB_DATA has no signs")
def test_signs_has_test_photos_that_stand_in_train():
    _, report = check_dataset(load_image_dataset("signs"))
    assert report.corrupt == []
    tests = [finding for finding in report.duplicates if finding.split == "test"]
    assert len(tests) == 11
    # A hand looks like the next one, but few are the same scene: shots in a row, as their file names tell.
    assert [finding.split for finding in report.near_duplicates] == ["validation", "test", "test"]
