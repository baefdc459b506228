"""train/train.py as users start it: from data to a checkpoint folder, with python, torchrun and accelerate launch."""

import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file
from training_runs import NAMES, SCRIPT, TORCHRUN, launch, options_of, record_of, write_colors

from resnet_hub import Predictor, ResNetForImageClassification
from resnet_hub.data import load_image_dataset
from train.batches import Collate, EvaluationBatches, make_loader
from train.engine import evaluate
from train.environment import count_cores


@pytest.fixture(scope="module")
def run(colors, tmp_path_factory) -> tuple[Path, str]:
    """The checkpoint folder and the output of a plain run, started elsewhere than in the checkout."""
    cwd = tmp_path_factory.mktemp("elsewhere")
    result = launch(sys.executable, SCRIPT, *options_of(dataset_name=colors), cwd=cwd)
    return cwd / "runs" / "colors-resnet50", result.stdout


@pytest.fixture(scope="module")
def run_on_two(colors, tmp_path_factory) -> Path:
    cwd = tmp_path_factory.mktemp("two")
    launch(*TORCHRUN, SCRIPT, *options_of(dataset_name=colors, output_dir=cwd / "out"), cwd=cwd)
    return cwd / "out"


def test_a_run_leaves_a_checkpoint_folder_that_predicts(run):
    folder, _ = run
    assert {file.name for file in folder.iterdir()} == {
        "model.safetensors",
        "config.json",
        "README.md",
        "training.json",
    }
    predictor = Predictor(folder)
    assert predictor.label_names == NAMES
    assert predictor(Image.new("RGB", (50, 50), (30, 30, 200)))[0]["label"] == "blue"


def test_the_record_tells_recipe_versions_history_and_results(run):
    folder, _ = run
    record = record_of(folder)
    assert record["recipe"]["learning_rate"] == 0.01
    assert record["recipe"]["seed"] == 42
    assert record["recipe"]["dataset_name"] == "colors"  # not where it lies on this machine
    assert record["versions"]["torch"] == version("torch")
    assert record["datasets"] == [
        {"name": "colors", "description": "images", "train": 120, "validation": 23, "test": 71}
    ]
    assert [line["epoch"] for line in record["history"]] == [1, 2, 3]
    for line in record["history"]:
        for split in ("train", "validation"):
            assert set(line[split]) == {"loss", "accuracy", "macro_f1", "num_images"}
        assert line["train"]["num_images"] == 120
    matrix = np.array(record["results"][-1]["confusion_matrix"])
    assert matrix.shape == (3, 3)
    assert matrix.sum() == 71
    assert record["results"][-1]["accuracy"] == pytest.approx(matrix.trace() / 71)


def test_the_best_epoch_by_validation_is_the_one_kept(run):
    folder, output = run
    record = record_of(folder)
    accuracies = [line["validation"]["accuracy"] for line in record["history"]]
    assert accuracies[record["best_epoch"] - 1] == max(accuracies)
    assert [r["split"] for r in record["results"]] == ["validation", "test"]
    assert record["results"][0]["accuracy"] == max(accuracies)
    assert output.count("test on colors") == 1


def test_a_network_learns(run):
    folder, _ = run
    assert record_of(folder)["results"][-1]["accuracy"] > 0.9


def test_the_card_carries_the_results(run):
    folder, _ = run
    result = record_of(folder)["results"][-1]
    metrics = {
        (r.dataset_split, r.metric_type): r.metric_value for r in ModelCard.load(folder / "README.md").data.eval_results
    }
    assert metrics["test", "accuracy"] == round(result["accuracy"], 4)
    assert metrics["test", "f1"] == round(result["macro_f1"], 4)


def measure(folder: Path, dataset: Path) -> dict:
    """The test metrics of a checkpoint, in this process alone."""
    model = ResNetForImageClassification.from_pretrained(folder)
    rows = load_image_dataset(str(dataset))["test"]
    loader = make_loader(rows, EvaluationBatches(len(rows), batch_size=4), Collate(model.preprocessing))
    return evaluate(Accelerator(cpu=True), model, loader, description="test").metrics(model.num_classes)


def test_reported_results_are_those_of_the_saved_files(run, colors):
    folder, _ = run
    reported = record_of(folder)["results"][-1]
    assert {key: reported[key] for key in ("loss", "accuracy", "macro_f1", "confusion_matrix")} == {
        key: value for key, value in measure(folder, colors).items() if key != "num_images"
    }


def test_two_processes_report_what_one_measures(run_on_two, colors):
    record = record_of(run_on_two)
    assert record["hardware"]["processes"] == 2
    reported, measured = record["results"][-1], measure(run_on_two, colors)
    assert reported["num_images"] == 71
    assert reported["confusion_matrix"] == measured["confusion_matrix"]
    assert (reported["accuracy"], reported["macro_f1"]) == (measured["accuracy"], measured["macro_f1"])
    assert reported["loss"] == pytest.approx(measured["loss"], rel=1e-6)
    assert reported["accuracy"] > 0.9
    assert record["history"][0]["train"]["num_images"] == 112  # 7 global batches of 2 x 8


def test_accelerate_launch_trains_on_all_cores(colors, tmp_path):
    accelerate = (sys.executable, "-m", "accelerate.commands.launch")
    launch(*accelerate, SCRIPT, *options_of(dataset_name=colors, output_dir=tmp_path / "out"), cwd=tmp_path)
    record = record_of(tmp_path / "out")
    assert record["results"][-1]["num_images"] == 71
    if not torch.accelerator.is_available():
        assert record["hardware"]["threads per process"] == count_cores()


def test_without_data_it_says_loudly_that_hands_are_drawn(tmp_path):
    limits = ("--max_train_samples", "60", "--max_eval_samples", "30", "--save_dtype", "float16")
    result = launch(sys.executable, SCRIPT, *options_of(), *limits, cwd=tmp_path)
    assert "NOTE: SIGNS is not on this machine" in result.stdout
    folder = tmp_path / "runs" / "drawn-signs-resnet50"
    assert load_file(folder / "model.safetensors")["fc.weight"].dtype == torch.float16
    assert "drawn by code" in (folder / "README.md").read_text()


def test_a_second_dataset_joins_the_training_images_and_is_tested_apart(colors, tmp_path):
    write_colors(tmp_path / "more", {"train": 40, "test": 9})
    options = ("--dataset_name", colors, "--extra_dataset_name", tmp_path / "more", "--output_dir", tmp_path / "out")
    launch(sys.executable, SCRIPT, *options_of(), *options, cwd=tmp_path)
    record = record_of(tmp_path / "out")
    # 36 of the 40: its own validation is cut off, so that it stays unseen.
    assert [d["train"] for d in record["datasets"]] == [120, 36]
    assert record["history"][0]["train"]["num_images"] == 152
    assert [(r["dataset"], r["split"], r["num_images"]) for r in record["results"]] == [
        ("colors", "validation", 23),
        ("colors", "test", 71),
        ("more", "test", 9),
    ]


def test_a_loss_that_is_not_finite_ends_the_run_with_a_next_step(colors, tmp_path):
    options = ("--dataset_name", colors, "--learning_rate", "1e30", "--max_grad_norm", "0")
    result = launch(sys.executable, SCRIPT, *options_of(), *options, cwd=tmp_path, check=False)
    assert result.returncode == 2
    assert "step 2 of 45 (epoch 1, learning rate 5e+29), training images in rows " in result.stderr
    assert "Lower --learning_rate" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("num_workers", ["0", "1"])
def test_a_broken_image_is_named_with_its_row(tmp_path, num_workers):
    for split, name in [(split, name) for split in ("train", "validation", "test") for name in ("a", "b")]:
        (tmp_path / "images" / split / name).mkdir(parents=True)
        for i in range(8):
            Image.new("RGB", (8, 8)).save(tmp_path / "images" / split / name / f"{i}.png")
    (tmp_path / "images" / "train" / "b" / "3.png").write_text("no image")
    options = ("--dataset_name", tmp_path / "images", "--dataloader_num_workers", num_workers)
    result = launch(sys.executable, SCRIPT, *options_of(), *options, cwd=tmp_path, check=False)
    assert result.returncode == 2
    assert "error: row 11 of the dataset: " in result.stderr
    assert str(Path("train", "b", "3.png")) in result.stderr
    assert "Traceback" not in result.stderr


def test_user_errors_exit_with_2_a_next_step_and_no_traceback(run, colors, tmp_path):
    folder, _ = run
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    for options, message in [
        (("--dataset_name", colors, "--output_dir", folder), "holds a checkpoint already"),
        (("--dataset_name", tmp_path / "none"), "there is no folder"),
    ]:
        result = launch(sys.executable, SCRIPT, *options_of(), *options, cwd=tmp_path, check=False)
        assert result.returncode == 2
        assert f"error: {options[-1]}" in result.stderr or message in result.stderr
        assert message in result.stderr
        assert "Traceback" not in result.stderr
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
