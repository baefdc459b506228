"""train/evaluate.py: several checkpoints on one dataset, exactly, on any number of processes."""

import csv
import importlib.util
import shutil
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from other_libraries import keras_file, timm_folder, transformers_folder
from PIL import Image
from training_runs import NAMES, SCRIPT, TORCHRUN, launch, one_thread, record_of, train_here, write_colors

from resnet_hub import ResNetForImageClassification, convert
from resnet_hub.checkpoint import read_predictions
from resnet_hub.errors import CheckpointError, ConfigurationError, DatasetError
from train.cuts import Cut, choose_cut, recorded_cut, trained_on
from train.engine import Predictions
from train.evaluate import EvaluationConfig, main, with_labels_of

EVALUATE = SCRIPT.with_name("evaluate.py")


@pytest.fixture(scope="module")
def checkpoint(colors, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert train_here(dataset_name=str(colors), output_dir=folder) == 0
    return folder


def cells(output: str, name: str) -> list[str]:
    (line,) = [line for line in output.splitlines() if line.startswith(f"| {name} ")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_it_measures_what_training_reported_on_one_process_and_on_two(checkpoint, colors, tmp_path, capsys):
    result = record_of(checkpoint)["results"][-1]
    expected = [f"{result[name]:.4f}" for name in ("accuracy", "macro_f1", "loss")]
    with one_thread():
        main(EvaluationConfig((str(checkpoint),), str(colors), per_device_eval_batch_size=4, dataloader_num_workers=0))
    arguments = (checkpoint, "--dataset_name", colors, "--per_device_eval_batch_size", "4")
    tables = (capsys.readouterr().out, launch(*TORCHRUN, EVALUATE, *arguments, cwd=tmp_path).stdout)
    rows = [cells(table, str(checkpoint)) for table in tables]
    assert rows[0][1:4] == expected
    assert rows[1][:-1] == rows[0][:-1]  # all but the images per second


def test_checkpoints_are_rows_of_one_table(checkpoint, colors, tmp_path, capsys):
    worse = ResNetForImageClassification(label_names=NAMES, image_size=32, layers=(1, 1, 1, 1), channels=(8, 8, 8, 16))
    worse.save_pretrained(tmp_path / "worse")
    names = (str(checkpoint), str(tmp_path / "worse"))
    main(EvaluationConfig(names, str(colors), dataloader_num_workers=0))
    output = capsys.readouterr().out
    trained, untrained = (cells(output, name) for name in names)
    assert float(trained[1]) > 0.9 > float(untrained[1])
    assert untrained[5] == f"{sum(p.numel() for p in worse.parameters()):,}"


def test_networks_of_other_libraries_are_rows_of_the_same_table(checkpoint, colors, tmp_path, capsys):
    names = dict(enumerate(NAMES))
    theirs = [
        timm_folder(tmp_path / "timm", label_names=NAMES).source,
        transformers_folder(
            tmp_path / "transformers", id2label=names, label2id={n: i for i, n in names.items()}
        ).source,
        tmp_path / "keras",
    ]
    convert.load(keras_file(tmp_path / "a.keras", named=True).source, label_names=NAMES).save_pretrained(theirs[2])
    sources = (str(checkpoint), *map(str, theirs))
    main(EvaluationConfig(sources, str(colors), dataloader_num_workers=0))
    output = capsys.readouterr().out
    assert all(0 <= float(cells(output, source)[1]) <= 1 for source in sources)
    assert output.count("here it sees the whole image squashed") == 2  # under the table: of timm and of transformers


@pytest.fixture(scope="module")
def uncut(tmp_path_factory) -> Path:
    """A dataset that has training images alone."""
    folder = tmp_path_factory.mktemp("uncut") / "colors"
    write_colors(folder, {"train": 150})
    return folder


@pytest.fixture(scope="module")
def runs(uncut, tmp_path_factory) -> tuple[Path, Path]:
    """Of two ways to cut it."""
    folders = [tmp_path_factory.mktemp("runs") / f"seed{seed}" for seed in (3, 4)]
    for seed, folder in zip((3, 4), folders, strict=True):
        train_here(dataset_name=str(uncut), output_dir=folder, split_seed=seed, num_train_epochs=1)
    return folders[0], folders[1]


def test_images_that_a_run_cut_off_are_those_that_its_checkpoint_is_measured_on(runs, uncut, tmp_path, capsys):
    file = tmp_path / "predictions.parquet"
    for folder in runs:
        main(EvaluationConfig((str(folder),), str(uncut), predictions=file, dataloader_num_workers=0))
        seed = record_of(folder)["recipe"]["split_seed"]
        output = capsys.readouterr().out
        assert (
            f"has no test images of its own: these are cut off train by --train_val_split 0.1 --split_seed {seed}."
            in output
        )
        assert "was trained on" not in output
        said = read_predictions(folder)
        assert pq.read_table(file)["score"].to_pylist() == pytest.approx(said["scores"].tolist(), abs=1e-5)


def test_checkpoints_of_different_cuts_are_measured_together_only_on_request(runs, uncut, capsys):
    names = tuple(map(str, runs))
    with pytest.raises(
        ConfigurationError, match=r"seed3 was trained without .*--split_seed 3 .*seed4 .*--split_seed 4"
    ):
        main(EvaluationConfig(names, str(uncut), dataloader_num_workers=0))
    main(EvaluationConfig(names, str(uncut), split_seed=4, dataloader_num_workers=0))
    output = capsys.readouterr().out
    assert f"{runs[0]} was trained on some of these images" in output
    assert f"{runs[1]} was trained on" not in output


def test_of_a_run_on_validation_too_it_says_so(runs):
    record = record_of(runs[0])
    record["recipe"]["train_on_validation"] = True
    own = ("train", "validation", "test")
    assert trained_on(record, "colors", "validation", own, Cut()) == "--train_on_validation True"
    assert trained_on(record, "colors", "test", own, Cut()) is None
    assert trained_on(record, "elsewhere", "validation", own, Cut()) is None


def test_checkpoints_of_different_shares_are_measured_together_only_on_request():
    recorded = {"a": Cut(0.1, 3), "b": Cut(0.2, 3), "of another library": None}
    with pytest.raises(ConfigurationError, match="Measure them apart"):
        choose_cut(recorded, "test", None, None)
    assert choose_cut(recorded, "test", 0.3, None) == Cut(0.3, 3)


@pytest.mark.parametrize("options", [{"split_seed": "3"}, {"split_seed": -1}, {"train_val_split": 2.0}])
def test_a_record_that_says_nothing_sensible_chooses_nothing(runs, options):
    record = record_of(runs[0])
    record["recipe"] |= options
    assert recorded_cut(record, "colors") is None


def test_what_the_images_do_not_tell_is_refused_before_they_are_looked_at(checkpoint, colors, monkeypatch):
    monkeypatch.setattr("train.evaluate.check_dataset", lambda *_: pytest.fail("looked at the images"))
    with pytest.raises(CheckpointError, match="there is no folder"):
        main(EvaluationConfig((str(checkpoint), "./none"), str(colors), dataloader_num_workers=0))
    monkeypatch.setattr("resnet_hub.data.DRAWN_SPLITS", {"train": (6, 1), "validation": (6, 2), "test": (6, 3)})
    with pytest.raises(DatasetError, match="knows the classes red, green, blue; the dataset has 0, 1, "):
        main(EvaluationConfig((str(checkpoint),), "drawn-signs", dataloader_num_workers=0))


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_predictions_are_written_for_every_image(checkpoint, colors, tmp_path, suffix, capsys):
    file = tmp_path / f"predictions{suffix}"
    main(EvaluationConfig((str(checkpoint),), str(colors), predictions=file, dataloader_num_workers=0))
    rows = list(csv.DictReader(file.open())) if suffix == ".csv" else pq.read_table(file).to_pylist()
    assert [int(row["row"]) for row in rows] == list(range(71))
    accuracy = np.mean([row["label"] == row["prediction"] for row in rows])
    assert accuracy == pytest.approx(record_of(checkpoint)["results"][-1]["accuracy"])
    assert all(1 / 3 < float(row["score"]) <= 1 for row in rows)
    assert not list(tmp_path.glob(".*"))  # nothing half-written stays


def test_predictions_of_images_in_files_name_them(checkpoint, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 20, 20, 3), np.uint8)
    for i, name in enumerate(NAMES * 2):
        for split in ("train", "validation", "test"):
            image = tmp_path / "data" / split / name / f"{i}.png"
            image.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[i]).save(image)
    file = tmp_path / "predictions.csv"
    main(EvaluationConfig((str(checkpoint),), str(tmp_path / "data"), predictions=file, dataloader_num_workers=0))
    rows = list(csv.DictReader(file.open()))
    files = [Path(row["file"]) for row in rows]
    assert sorted(files) == sorted((tmp_path / "data" / "test").rglob("*.png"))
    assert [image.parent.name for image in files] == [row["label"] for row in rows]


def test_a_confusion_matrix_is_drawn_for_every_checkpoint(checkpoint, colors, tmp_path, capsys):
    copy = shutil.copytree(checkpoint, tmp_path / "copy")
    folder = tmp_path / "matrices"
    checkpoints = (str(checkpoint), str(copy))
    main(EvaluationConfig(checkpoints, str(colors), confusion_matrices=folder, dataloader_num_workers=0))
    pictures = sorted(folder.iterdir())
    assert [file.stem for file in pictures] == sorted(name.strip("/").replace("/", "-") for name in checkpoints)
    # Of the same data as the one that training drew.
    assert all(file.read_bytes() == (checkpoint / "confusion_matrix.png").read_bytes() for file in pictures)


def test_labels_are_numbered_as_the_checkpoint_does(tiny_model):
    features = datasets.Features(label=datasets.ClassLabel(names=["5", "4", "3", "2", "1", "0"]))
    rows = datasets.Dataset.from_dict({"label": [0, 5, 2]}, features)
    assert with_labels_of(rows, tiny_model, "tiny")["label"] == [5, 0, 3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"checkpoints": ()}, "name at least one checkpoint"),
        ({"predictions": Path("table.xlsx")}, "must end in .csv or .parquet"),
        ({"precision": "int8"}, "--precision is for --backend openvino"),
        ({"split_seed": -1}, "--split_seed must be at least 0, got -1"),
        ({"train_val_split": 1.0}, "--train_val_split must be above 0 and below 1, got 1.0"),
        ({"max_samples": 0}, "--max_samples must be at least 1, got 0"),
    ],
)
def test_what_cannot_work_is_refused_before_any_work(options, message):
    with pytest.raises(ConfigurationError, match=message):
        EvaluationConfig(**{"checkpoints": ("a",), "dataset_name": "signs"} | options)


def test_calibration_error_is_the_gap_between_scores_and_accuracy():
    def predictions(scores: list[float], hits: list[bool]) -> Predictions:
        labels = np.zeros(len(hits), np.int64)
        return Predictions(labels, labels, np.where(hits, 0, 1), np.array(scores), *np.zeros((2, len(hits))))

    assert predictions([0.75] * 4, [True, True, True, False]).calibration_error() == pytest.approx(0)
    assert predictions([1.0] * 4, [True, True, False, False]).calibration_error() == pytest.approx(0.5)
    # Two bins, 0.1 too sure in one and 0.4 too unsure in the other: not 0.15, as without bins.
    two_bins = predictions([1.0] * 10 + [0.6] * 10, [True] * 9 + [False] + [True] * 10)
    assert two_bins.calibration_error() == pytest.approx((0.1 + 0.4) / 2)


def test_what_the_page_computes_measures_the_same(checkpoint, colors, capsys):
    pytest.importorskip("openvino")
    rows = []
    precisions = [("torch", "auto"), ("openvino", "auto"), ("openvino", "int8")]
    for backend, precision in precisions[: 3 if importlib.util.find_spec("nncf") else 2]:
        options = {"backend": backend, "precision": precision, "dataloader_num_workers": 0}
        main(EvaluationConfig((str(checkpoint),), str(colors), **options))
        rows.append(cells(capsys.readouterr().out, str(checkpoint)))
    for row in rows[1:]:
        assert row[1:3] == rows[0][1:3]
        assert float(row[3]) == pytest.approx(float(rows[0][3]), abs=0.02)
