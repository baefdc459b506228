"""train/prepare_dataset.py: any source becomes a dataset folder that loads back as it was."""

import subprocess
import sys

import numpy as np
import pytest
from datasets import load_dataset
from huggingface_hub import DatasetCard
from PIL import Image
from training_runs import NAMES, SCRIPT, SPLITS, environment

from resnet_hub.data import load_image_dataset
from resnet_hub.errors import ConfigurationError, DatasetError
from train import prepare_dataset
from train.prepare_dataset import PreparationConfig, main


def pixels_of(rows) -> list[bytes]:
    return [np.asarray(image).tobytes() for image in rows["image"]]


def test_it_loads_back_as_it_was(colors, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare_dataset, "IMAGES_PER_FILE", 50)
    main(PreparationConfig(str(colors), output_dir=tmp_path / "out"))
    before, after = load_image_dataset(str(colors)), load_image_dataset(str(tmp_path / "out"))
    for split, num in SPLITS.items():
        assert len(after[split]) == num
        assert after[split].features == before[split].features
        assert after[split]["label"] == before[split]["label"]
        assert pixels_of(after[split]) == pixels_of(before[split])
    assert len(list((tmp_path / "out" / "data").glob("train-*-of-00003.parquet"))) == 3
    assert {split: len(rows) for split, rows in load_dataset(str(tmp_path / "out")).items()} == SPLITS


def test_images_in_files_of_their_own_come_along(tmp_path, capsys):
    for i in range(60):
        file = tmp_path / "source" / ("cat" if i % 2 else "dog") / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (i, i, i)).save(file)
    main(PreparationConfig(str(tmp_path / "source"), output_dir=tmp_path / "out", train_val_split=0.2))
    assert "10 for validation and 12 for test, by split_seed 0; 38 stay" in capsys.readouterr().out
    (tmp_path / "source").rename(tmp_path / "elsewhere")
    loaded = load_image_dataset(str(tmp_path / "out"))
    assert [len(loaded[split]) for split in ("train", "validation", "test")] == [38, 10, 12]
    for rows in loaded.values():
        for row in rows:
            assert rows.features["label"].int2str(row["label"]) == (
                "cat" if row["image"].getpixel((0, 0))[0] % 2 else "dog"
            )


def test_the_card_tells_classes_counts_and_what_was_found(colors, tmp_path):
    main(PreparationConfig(str(colors), output_dir=tmp_path / "my-colors"))
    card = DatasetCard.load(tmp_path / "my-colors" / "README.md")
    assert card.data.task_categories == ["image-classification"]
    assert card.data.size_categories == "n<1K"
    for i, name in enumerate(NAMES):
        counts = [sum(1 for n in range(num) if n % 3 == i) for num in SPLITS.values()]
        assert f"| {name} | {counts[0]} | {counts[1]} | {counts[2]} |" in card.text
    assert "--dataset_name my-colors" in card.text
    assert "Nothing is out of order." in card.text


def test_nothing_half_written_stays(colors, tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError("no space left on device")

    monkeypatch.setattr(prepare_dataset, "dataset_card", fail)
    with pytest.raises(DatasetError, match=r"no space left on device.*make room"):
        main(PreparationConfig(str(colors), output_dir=tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_work_is_refused_before_any_work(tmp_path):
    for options, message in [
        ({}, "either --output_dir or --push_to_hub"),
        ({"output_dir": tmp_path, "push_to_hub": "me/x"}, "either --output_dir or --push_to_hub"),
        ({"output_dir": tmp_path}, "exists: choose another --output_dir"),
        ({"output_dir": tmp_path / "new", "train_val_split": 1.0}, "--train_val_split must be above 0 and below 1"),
    ]:
        with pytest.raises(ConfigurationError, match=message):
            PreparationConfig("signs", **options)


def test_as_a_command_it_ends_with_one_line_on_errors(tmp_path):
    script = SCRIPT.with_name("prepare_dataset.py")
    command = [sys.executable, script, tmp_path / "none", "--output_dir", tmp_path / "out"]
    result = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.startswith("error: there is no folder")
    assert len(result.stderr.splitlines()) == 1
