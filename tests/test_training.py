"""train/train.py as users start it: from data to a checkpoint folder, with python, torchrun and accelerate launch."""

import copy
import re
import shutil
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from huggingface_hub import ModelCard
from other_libraries import keras_file
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training_runs import NAMES, SCRIPT, TORCHRUN, launch, one_thread, options_of, record_of, write_colors

from resnet_hub import Predictor, ResNetForImageClassification
from resnet_hub.calibration import fit_calibration
from resnet_hub.checkpoint import PICTURE_NAMES
from resnet_hub.data import load_image_dataset
from resnet_hub.errors import ConfigurationError, DatasetError, TrainingError
from resnet_hub.images import open_image
from train.batches import Batch, Collate, EvaluationBatches, make_loader
from train.engine import Predictions, evaluate, train_step
from train.environment import count_cores
from train.optimization import make_optimizer
from train.variants import BACKGROUND_VARIANTS, VARIANTS


@pytest.fixture(scope="module")
def run(colors, tmp_path_factory) -> tuple[Path, str]:
    """The checkpoint folder and the output of a plain run, started elsewhere than in the checkout."""
    cwd = tmp_path_factory.mktemp("elsewhere")
    result = launch(sys.executable, SCRIPT, *options_of(dataset_name=colors, sample_pictures=None), cwd=cwd)
    return cwd / "runs" / "colors-resnet50", result.stdout


@pytest.fixture(scope="module")
def run_on_two(colors, tmp_path_factory) -> Path:
    cwd = tmp_path_factory.mktemp("two")
    launch(*TORCHRUN, SCRIPT, *options_of(dataset_name=colors, output_dir=cwd / "out"), cwd=cwd)
    return cwd / "out"


def test_a_run_leaves_a_checkpoint_folder_that_predicts(run):
    folder, _ = run
    files = {"model.safetensors", "config.json", "README.md", "training.json", "predictions.safetensors"}
    assert files <= {file.name for file in folder.iterdir()} <= files | set(PICTURE_NAMES)
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
        {"name": "colors", "description": "images", "train": 120, "validation": 23, "test": 71, "test_in_train": 0}
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


def shown_in_the_card(folder: Path) -> set[str]:
    return set(re.findall(r"^!\[.+\]\((.*)\)$", (folder / "README.md").read_text(), flags=re.MULTILINE))


def test_the_card_shows_the_pictures_of_the_run(run):
    folder, _ = run
    matrix = np.array(record_of(folder)["results"][-1]["confusion_matrix"])
    expected = set(PICTURE_NAMES) - ({"mistakes.png"} if matrix.trace() == matrix.sum() else set())
    assert {file.name for file in folder.glob("*.png")} == expected
    assert shown_in_the_card(folder) == expected


def test_a_dataset_that_may_not_be_shown_is_not_and_no_picture_of_an_older_run_stays(run, train_here, tmp_path):
    folder, _ = run
    shutil.copytree(folder, tmp_path / "out")
    assert train_here(tmp_path / "out", overwrite_output_dir=True, sample_pictures=False, seed=7) == 0
    allowed = {"curves.png", "confusion_matrix.png"}
    assert {file.name for file in (tmp_path / "out").glob("*.png")} == allowed
    assert shown_in_the_card(tmp_path / "out") == allowed
    assert (tmp_path / "out" / "curves.png").read_bytes() != (folder / "curves.png").read_bytes()


def test_predictions_are_those_of_the_test_split_whatever_the_batches(run_on_two, colors):
    """What pictures and tables are made of: positions in the split with their own labels and predictions."""
    rows = load_image_dataset(str(colors))["test"]
    predictions = predict(run_on_two, colors)
    assert predictions.rows.tolist() == list(range(71))
    assert predictions.labels.tolist() == rows["label"][:]
    said = [best for (best,) in Predictor(run_on_two, precision="fp32")(list(rows["image"]), top_k=1)]
    assert [NAMES[prediction] for prediction in predictions.predictions] == [best["label"] for best in said]
    assert predictions.scores == pytest.approx([best["score"] for best in said], abs=1e-4)


def predict(folder: Path, dataset: Path) -> Predictions:
    """What a checkpoint says of the test images, in this process alone."""
    model = ResNetForImageClassification.from_pretrained(folder)
    rows = load_image_dataset(str(dataset))["test"]
    loader = make_loader(rows, EvaluationBatches(len(rows), batch_size=4), Collate(model.preprocessing))
    with one_thread():  # as the runs have it, for sums in another order end in another digit
        return evaluate(Accelerator(cpu=True), model, loader, description="test")


def measure(folder: Path, dataset: Path) -> dict:
    return predict(folder, dataset).metrics(len(NAMES))


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


def test_without_data_it_says_loudly_that_hands_are_drawn(train_here, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("RESNET_HUB_DATA", "RESNET_HUB_SIGNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("resnet_hub.data.DRAWN_SPLITS", {"train": (60, 1), "validation": (30, 2), "test": (30, 3)})
    assert train_here(None, dataset_name=None, save_dtype="float16") == 0
    assert "NOTE: SIGNS is not on this machine" in capsys.readouterr().out
    folder = tmp_path / "runs" / "drawn-signs-resnet50"
    assert load_file(folder / "model.safetensors")["fc.weight"].dtype == torch.float16
    assert "drawn by code" in (folder / "README.md").read_text()


def test_a_second_dataset_joins_the_training_images_and_is_tested_apart(train_here, tmp_path):
    write_colors(tmp_path / "more", {"train": 40, "test": 9})
    assert train_here(tmp_path / "out", extra_dataset_name=str(tmp_path / "more")) == 0
    record = record_of(tmp_path / "out")
    # 36 of the 40: its own validation is cut off, so that it stays unseen.
    assert [d["train"] for d in record["datasets"]] == [120, 36]
    assert record["history"][0]["train"]["num_images"] == 152
    assert [(r["dataset"], r["split"], r["num_images"]) for r in record["results"]] == [
        ("colors", "validation", 23),
        ("colors", "test", 71),
        ("more", "test", 9),
    ]


def test_a_loss_that_is_not_finite_ends_the_run_and_overwrites_nothing(train_here, tmp_path):
    folder = tmp_path / "run"
    assert train_here(folder) == 0
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    message = (
        r"not finite any more: step 2 of 45 \(epoch 1, learning rate 5e\+29\), training images in rows \d+, .*"
        r"Lower --learning_rate, or add --detect_anomaly True"
    )
    with pytest.raises(TrainingError, match=message):
        train_here(folder, learning_rate=1e30, max_grad_norm=0, overwrite_output_dir=True)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_detect_anomaly_names_the_operation(colors, tmp_path):
    """The first step's gradients are finite, the second's come from infinite weights."""
    options = options_of(dataset_name=colors, learning_rate=1e30, max_grad_norm=0, detect_anomaly=True)
    result = launch(sys.executable, SCRIPT, *options, cwd=tmp_path, check=False)
    assert result.returncode == 2
    assert re.search(r"error: step \d, learning rate .*: Function '\w+Backward0' returned nan", result.stderr)


def test_everything_that_can_be_chosen_trains(train_here, tmp_path):
    """Options that change the network, its optimiser or its images, together; that they mean what they say, each on
    its own, is tested where they are made."""
    options = {
        **{"optim": "sgd", "lr_scheduler_type": "one_cycle", "ema_decay": 0.9, "gradient_accumulation_steps": 2},
        **{"mixup_alpha": 0.1, "cutmix_alpha": 1.0, "random_erasing": 0.1, "background_replacement": 0.5},
        **{"num_train_epochs": 8, "learning_rate": 0.1, "deterministic": True},
    }
    try:
        assert train_here(tmp_path / "run", **options) == 0
    finally:
        torch.use_deterministic_algorithms(False)
    assert record_of(tmp_path / "run")["results"][-1]["accuracy"] > 0.9


def test_accumulated_batches_are_one_large_batch(tiny_model):
    """Without BatchNorm, which sees the batches one by one; the tail of an epoch has fewer of them."""
    accelerator = Accelerator(cpu=True)
    images, labels = torch.randn(12, 3, 32, 32), torch.arange(12) % 6
    for size in (12, 4, 6):
        model = copy.deepcopy(tiny_model).eval()
        parts = [Batch(images[i : i + size], labels[i : i + size], labels) for i in range(0, 12, size)]
        optimizer = make_optimizer(model, "sgd", learning_rate=0.1, weight_decay=0, momentum=0)
        train_step(accelerator, model, optimizer, parts, label_smoothing=0, max_grad_norm=0)
        if size == 12:
            expected = model.state_dict()
        for name, value in model.state_dict().items():
            torch.testing.assert_close(value, expected[name])


def test_top_k_checkpoints_are_the_best_epochs(train_here, tmp_path):
    folder = tmp_path / "run"
    assert train_here(folder, num_train_epochs=5, save_top_k=2, monitor="loss", learning_rate=0.002) == 0
    history = record_of(folder)["history"]
    best = sorted(history, key=lambda line: line["validation"]["loss"])[:2]
    assert {f.name for f in (folder / "top_k").iterdir()} == {f"epoch-{line['epoch']:04d}" for line in best}
    newest = max(line["epoch"] for line in best)
    assert len(record_of(folder / "top_k" / f"epoch-{newest:04d}")["history"]) == newest
    kept = load_file(folder / "top_k" / f"epoch-{best[0]['epoch']:04d}" / "model.safetensors")
    assert all(torch.equal(value, kept[name]) for name, value in load_file(folder / "model.safetensors").items())


def test_training_on_validation_too_keeps_the_last_epoch(train_here, tmp_path):
    folder = tmp_path / "run"
    assert train_here(folder, train_on_validation=True) == 0
    record = record_of(folder)
    assert record["datasets"][0] | {"description": ""} == {
        "name": "colors",
        "description": "",
        "train": 143,
        "validation": 0,
        "test": 71,
        "test_in_train": 0,
    }
    assert record["best_epoch"] == 3
    assert [line["validation"] for line in record["history"]] == [None] * 3
    assert [result["split"] for result in record["results"]] == ["test"]


def test_a_run_is_calibrated_on_its_validation_images(run, colors):
    folder, _ = run
    model = ResNetForImageClassification.from_pretrained(folder)
    rows = load_image_dataset(str(colors))["validation"]
    with torch.inference_mode():
        logits = model(model.preprocessing(rows["image"][:]))
    expected = fit_calibration(logits, torch.tensor(rows["label"][:]), "colors", "validation")
    assert model.calibration.temperature == pytest.approx(expected.temperature, rel=1e-3)
    assert model.calibration.max_energy == pytest.approx(expected.max_energy, rel=1e-3)
    assert model.calibration.num_images == 23
    result = record_of(folder)["results"][-1]
    assert 0 <= result["calibration_error"] <= 1
    assert 0 <= result["unfamiliar"] <= 1
    card = (folder / "README.md").read_text()
    assert f"softmax of the logits divided by {model.calibration.temperature:.3f}" in card
    assert f"| {result['calibration_error']:.4f} | {result['unfamiliar']:.1%} |" in card


def test_a_run_leaves_what_it_says_of_every_test_image(run, colors):
    folder, _ = run
    told = ResNetForImageClassification.from_pretrained(folder).test_predictions
    rows = load_image_dataset(str(colors))["test"]
    assert told["labels"].tolist() == rows["label"][:]
    expected = Predictor(folder, precision="fp32")(rows["image"][:], top_k=1)
    assert [NAMES[i] for i in told["predictions"]] == [best["label"] for [best] in expected]
    assert told["scores"].tolist() == pytest.approx([best["score"] for [best] in expected], abs=1e-3)
    assert told["is_unfamiliar"].double().mean() == pytest.approx(record_of(folder)["results"][-1]["unfamiliar"])


def test_a_run_on_validation_too_takes_over_the_calibration_of_the_run_before(run, train_here, tmp_path):
    chosen = ResNetForImageClassification.from_pretrained(run[0]).calibration
    options = {"train_on_validation": True, "calibration_from": str(run[0]), "num_train_epochs": 1}
    assert train_here(tmp_path / "final", **options) == 0
    assert ResNetForImageClassification.from_pretrained(tmp_path / "final").calibration == chosen
    card = (tmp_path / "final" / "README.md").read_text()
    assert "by the run that chose the recipe, which did not learn from them" in card
    assert record_of(tmp_path / "final")["recipe"]["calibration_from"] == run[0].name
    ResNetForImageClassification(num_classes=3, layers=(1,) * 4, channels=(8,) * 4).save_pretrained(tmp_path / "u")
    with pytest.raises(ConfigurationError, match="has no calibration"):
        train_here(tmp_path / "other", **options | {"calibration_from": str(tmp_path / "u")})


def test_variants_are_measured_on_request(train_here, tmp_path):
    folder = tmp_path / "run"
    assert train_here(folder, measure_variants=True, num_train_epochs=1) == 0
    results = record_of(folder)["results"]
    variants = [(result["split"], result["variant"]) for result in results if "variant" in result]
    assert variants == [(split, name) for split in ("validation", "test") for name in VARIANTS]
    card = (folder / "README.md").read_text()
    assert all(f"| {name} |" in card for name in VARIANTS)


def test_other_backgrounds_are_measured_where_they_are_trained_for_or_on_request(train_here, tmp_path):
    def measured(**options: Any) -> set[str]:
        folder = tmp_path / "run"
        train_here(folder, measure_variants=True, num_train_epochs=1, overwrite_output_dir=True, **options)
        return {result.get("variant") for result in record_of(folder)["results"]} & set(BACKGROUND_VARIANTS)

    assert measured(background_replacement=0.5) == measured(measure_backgrounds=True) == set(BACKGROUND_VARIANTS)
    assert measured(background_replacement=0.5, measure_backgrounds=False) == set()


def test_the_record_tells_how_long_training_stood_still_for_data(train_here, tmp_path, monkeypatch):
    def open_slowly(source: bytes) -> Image.Image:
        time.sleep(0.02)
        return open_image(source)

    monkeypatch.setattr("train.batches.open_image", open_slowly)
    assert train_here(tmp_path / "slow", num_train_epochs=1, dataloader_num_workers=0) == 0
    [line] = record_of(tmp_path / "slow")["history"]
    images = line["train"]["num_images"]
    assert 0.02 * images <= line["data_wait"] <= line["seconds"] - 0.02 * line["validation"]["num_images"]


def test_frozen_stages_keep_their_weights_and_statistics(train_here, tmp_path, capsys):
    assert train_here(tmp_path / "first") == 0
    options = {"init_from": str(tmp_path / "first"), "freeze": "layer2", "body_learning_rate_ratio": 0.5}
    assert train_here(tmp_path / "second", **options) == 0
    assert "everything up to layer2 stays as it is" in capsys.readouterr().out
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "second"))
    same = {name.split(".")[0] for name in first if torch.equal(first[name], second[name])}
    assert {"conv1", "bn1", "layer1", "layer2"} <= same
    for name in first:
        assert torch.equal(first[name], second[name]) == name.startswith(("conv1", "bn1", "layer1", "layer2")), name


def test_the_keras_variant_trains_and_starts_from_kerass_weights(train_here, tmp_path):
    source = keras_file(tmp_path / "course.h5", named=True, blocks=(1, 1, 1, 1), channels=(8, 8, 8, 8)).source
    options = {"model_variant": "keras", "image_size": 40, "num_train_epochs": 4, "init_from": str(source)}
    assert train_here(tmp_path / "run", **options) == 0
    model = ResNetForImageClassification.from_pretrained(tmp_path / "run")
    assert (model.variant, model.preprocessing.mean) == ("keras", (0, 0, 0))
    assert record_of(tmp_path / "run")["results"][-1]["accuracy"] > 0.7  # its statistics take 100 steps to follow
    assert record_of(tmp_path / "run")["recipe"]["init_from"] == "course.h5"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on a CPU")
def test_a_compiled_network_is_saved_under_the_usual_names(train_here, tmp_path):
    # 20 fill whole batches: one of another size would be compiled once more.
    assert train_here(tmp_path / "run", torch_compile=True, max_eval_samples=20) == 0
    assert train_here(tmp_path / "plain", num_train_epochs=1) == 0
    compiled, plain = (load_file(tmp_path / name / "model.safetensors") for name in ("run", "plain"))
    assert compiled.keys() == plain.keys()
    assert record_of(tmp_path / "run")["results"][-1]["accuracy"] > 0.9


def test_the_record_does_not_tell_where_folders_lie(train_here, tmp_path):
    assert train_here(tmp_path / "first", num_train_epochs=1) == 0
    assert train_here(tmp_path / "second", num_train_epochs=1, init_from=str(tmp_path / "first")) == 0
    for file in ("training.json", "README.md"):
        assert str(tmp_path) not in (tmp_path / "second" / file).read_text()


def test_metrics_go_to_tensorboard_on_request(train_here, tmp_path):
    assert train_here(tmp_path / "run", report_to="tensorboard") == 0
    reader = EventAccumulator(str(next((tmp_path / "run" / "tensorboard").glob("events*")).parent))
    reader.Reload()
    history = record_of(tmp_path / "run")["history"]
    logged = [(event.step, event.value) for event in reader.Scalars("validation/accuracy")]
    assert logged == [(line["epoch"], pytest.approx(line["validation"]["accuracy"])) for line in history]


def test_a_missing_tracker_is_named_before_any_work(train_here, tmp_path, monkeypatch):
    monkeypatch.setattr("train.tracking.find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match="--report_to wandb needs the package wandb: pip install wandb"):
        train_here(tmp_path / "run", report_to="wandb")
    assert not (tmp_path / "run").exists()


def test_the_range_test_suggests_a_rate_that_trains(train_here, colors, tmp_path):
    script = SCRIPT.with_name("find_learning_rate.py")
    result = launch(sys.executable, script, *options_of(dataset_name=colors, learning_rate=None), cwd=tmp_path)
    rate = float(re.search(r"suggested: --learning_rate (\S+)", result.stdout)[1])
    assert 1e-4 < rate < 1
    assert list(tmp_path.iterdir()) == []  # it leaves nothing behind
    assert train_here(tmp_path / "run", learning_rate=rate) == 0
    assert record_of(tmp_path / "run")["results"][-1]["accuracy"] > 0.9


def test_a_broken_image_is_named_before_the_first_step_and_left_out_on_request(train_here, tmp_path, capsys):
    for split, name in [(split, name) for split in ("train", "validation", "test") for name in ("a", "b")]:
        (tmp_path / "images" / split / name).mkdir(parents=True)
        for i in range(8):
            Image.new("RGB", (8, 8), (i, i, 9)).save(tmp_path / "images" / split / name / f"{i}.png")
    (tmp_path / "images" / "train" / "b" / "3.png").write_text("no image")
    options = {"dataset_name": str(tmp_path / "images"), "num_train_epochs": 1}
    result = launch(sys.executable, SCRIPT, *options_of(**options), cwd=tmp_path, check=False)
    assert result.returncode == 2
    assert re.search(r"train, row 11 \(.*train/b/3\.png\): this is no image", result.stderr)
    assert "--skip_corrupt True" in result.stderr
    assert "Traceback" not in result.stderr
    assert train_here(tmp_path / "run", skip_corrupt=True, **options) == 0
    output = capsys.readouterr().out
    assert "1 image cannot be read and is left out:" in output
    assert "none of this keeps the training from going on" in output
    assert record_of(tmp_path / "run")["datasets"][0]["train"] == 15


def test_what_images_do_not_tell_is_refused_before_they_are_looked_at(run, train_here, tmp_path, monkeypatch):
    monkeypatch.setattr("train.data.check_dataset", lambda *_, **__: pytest.fail("looked at the images"))
    with pytest.raises(ConfigurationError, match="holds a checkpoint already"):
        train_here(run[0])
    with pytest.raises(DatasetError, match="20 training images do not fill one batch of 32"):
        train_here(tmp_path / "run", max_train_samples=20, per_device_train_batch_size=32)


def test_what_is_cut_off_a_dataset_without_splits_is_said_at_the_start(train_here, tmp_path, capsys):
    write_colors(tmp_path / "colors", {"train": 60})
    train_here(tmp_path / "run", dataset_name=str(tmp_path / "colors"), num_train_epochs=1, split_seed=3)
    said = "has no validation and no test split, so images are cut off train, of every class alike: 6 for validation"
    assert f"{said} and 6 for test, by split_seed 3; 48 stay" in capsys.readouterr().out
    datasets = record_of(tmp_path / "run")["datasets"]
    assert [(d["train"], d["validation"], d["test"]) for d in datasets] == [(48, 6, 6)]


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
