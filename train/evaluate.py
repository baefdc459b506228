"""Measure checkpoints on a dataset, side by side in one table.

    accelerate launch train/evaluate.py models/signs-resnet50 me/other-model --dataset_name signs
    python train/evaluate.py models/signs-resnet50 --dataset_name path/to/my-images --predictions predictions.csv

The figures are exact on any number of processes.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

# As in train.py, beside which this lies.
if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import datasets
import numpy as np
import pyarrow as pa
import tyro
from accelerate import Accelerator
from PIL import Image

from resnet_hub import ResNetForImageClassification, convert
from resnet_hub.checkpoint import Result, write_atomically
from resnet_hub.command import run_command
from resnet_hub.data import cut_missing_splits, public_name, read_splits
from resnet_hub.data_checks import check_dataset, files_of
from resnet_hub.engines import Engine, Precision, make_engine, quantization
from resnet_hub.errors import ConfigurationError, DatasetError
from train.batches import Collate, EvaluationBatches, make_loader
from train.cuts import Cut, choose_cut, recorded_cut, trained_on
from train.engine import Predictions, evaluate
from train.environment import make_accelerator
from train.pictures import draw_confusion_matrix, encode_png

COLUMNS = ("checkpoint", "accuracy", "macro-F1", "loss", "calibration error", "parameters", "images/s")


@dataclass(frozen=True)
class EvaluationConfig:
    """Measure checkpoints on one split of a dataset: accuracy, macro-F1, cross-entropy, calibration, speed."""

    checkpoints: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Checkpoint folders, Hub ids (timm's and transformers' too), and what else `resnet-hub convert` takes."""
    dataset_name: str
    """As for train.py: signs, cifar10, drawn-signs, a dataset folder or a Hub id."""
    split: Literal["train", "validation", "test"] = "test"
    """Part of the dataset."""
    train_val_split: float | None = None
    """Where the dataset has no such images of its own: share of train (0 to 1) cut off. Default: as in the checkpoints'
    runs."""
    split_seed: int | None = None
    """Seed of that cut. Default: as in the checkpoints' runs."""
    image_column_name: str | None = None
    """Column with the images, where it cannot be told from the column types."""
    label_column_name: str | None = None
    """Column with the labels, where it cannot be told from the column types."""
    image_dir: str | None = None
    """Where the images of a CSV file are, if not in its own folder."""
    max_samples: int | None = None
    """Use only so many images (for trials)."""
    per_device_eval_batch_size: int = 128
    """Images per step and process."""
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = "no"
    """no: fp32, as the weights are loaded. auto: bf16 where this machine computes it fast."""
    backend: Literal["torch", "openvino"] = "torch"
    """torch: the network as it is, exact. openvino: as the page computes on CPUs; --mixed_precision does not apply."""
    precision: Precision = "auto"
    """Of openvino: fp32, bf16, int8 (fitted to images of the train split), or auto, bf16 where the processor has it."""
    dataloader_num_workers: int = 1
    """Processes that read images beside each evaluating process; 0 for none."""
    predictions: Path | None = None
    """Write a row for every checkpoint and image to this .csv or .parquet file."""
    confusion_matrices: Path | None = None
    """Write a picture for every checkpoint into this folder, NAME.png."""

    def __post_init__(self) -> None:
        if not self.checkpoints:
            raise ConfigurationError("name at least one checkpoint: a folder or a Hub id")
        if self.predictions is not None and self.predictions.suffix not in (".csv", ".parquet"):
            raise ConfigurationError(f"--predictions must end in .csv or .parquet, got {self.predictions}")
        if self.backend == "torch" and self.precision != "auto":
            raise ConfigurationError("--precision is for --backend openvino: use --mixed_precision, or that backend")
        if self.train_val_split is not None and not 0 < self.train_val_split < 1:
            raise ConfigurationError(f"--train_val_split must be above 0 and below 1, got {self.train_val_split}")
        if self.split_seed is not None and self.split_seed < 0:
            raise ConfigurationError(f"--split_seed must be at least 0, got {self.split_seed}")
        for name in ("max_samples", "per_device_eval_batch_size"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ConfigurationError(f"--{name} must be at least 1, got {getattr(self, name)}")


def main(config: EvaluationConfig) -> None:
    accelerator = make_accelerator(config.mixed_precision)
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    with accelerator.main_process_first():  # the others then find the downloads in the cache
        models = [(name, convert.read(name)) for name in config.checkpoints]
        splits, notes = load_splits(config, models)
        labelled = [with_labels_of(splits[config.split], model, name) for name, model in models]
        check_dataset(datasets.DatasetDict({config.split: splits[config.split]}))
    files = files_of(splits[config.split]) if config.predictions is not None else []
    training_images = None
    if config.precision == "int8":
        training_images = splits["train"].select(quantization.choose(len(splits["train"])))["image"][:]
    table, predicted, matrices = [], [], {}
    for (name, model), rows in zip(models, labelled, strict=True):
        model.to(accelerator.device)
        if config.backend != "torch":
            model.forward = engine_for(model, config, accelerator, training_images)
        start = time.perf_counter()
        predictions = predict(accelerator, model, rows, config)
        seconds = time.perf_counter() - start
        notes += [f"{name}: {note}." for note in (model.origin.notes if model.origin else ())]
        table.append(table_row(name, model, predictions, seconds))
        if config.predictions is not None:
            predicted.append(prediction_rows(name, model, predictions, files))
        result = Result(
            dataset=public_name(config.dataset_name), split=config.split, **predictions.metrics(model.num_classes)
        )
        matrices[name] = (result, model.label_names)
    if accelerator.is_main_process:
        print(f"{config.dataset_name}, {config.split}: {len(splits[config.split]):,} images\n\n{as_table(table)}")
        if notes:
            print("\n" + "\n".join(notes))
        if config.predictions is not None:
            write_predictions(datasets.concatenate_datasets(predicted), config.predictions)
            print(f"\nwrote {config.predictions}")
        if config.confusion_matrices is not None:
            write_confusion_matrices(matrices, config.confusion_matrices)
            print(f"\nwrote {len(matrices)} pictures to {config.confusion_matrices}")
    accelerator.end_training()


def load_splits(
    config: EvaluationConfig, models: list[tuple[str, ResNetForImageClassification]]
) -> tuple[datasets.DatasetDict, list[str]]:
    """All splits, so much of the one to measure on as is used, and what is to be said of it under the table."""
    own = read_splits(
        config.dataset_name,
        image_column=config.image_column_name,
        label_column=config.label_column_name,
        image_dir=config.image_dir,
    )
    dataset, split, cut = public_name(config.dataset_name), config.split, Cut()
    records = {name: model.training_record for name, model in models}
    if split not in own:
        recorded = {name: recorded_cut(record, dataset) for name, record in records.items()}
        cut = choose_cut(recorded, split, config.train_val_split, config.split_seed)
    splits = cut_missing_splits(own, config.dataset_name, split_fraction=cut.train_val_split, seed=cut.split_seed)
    notes = []
    if split not in own:
        notes.append(f"{config.dataset_name} has no {split} images of its own: these are cut off train by {cut}.")
    for name, record in records.items():
        if options := trained_on(record, dataset, split, own, cut):
            notes.append(f"{name} was trained on some of these images, or all: its run had {options}.")
    if config.max_samples is not None:
        splits[split] = splits[split].select(range(min(len(splits[split]), config.max_samples)))
    return splits, notes


def with_labels_of(rows: datasets.Dataset, model: ResNetForImageClassification, name: str) -> datasets.Dataset:
    """``rows`` with labels numbered as ``model`` does. Raises ``DatasetError`` where the classes differ."""
    names = rows.features["label"].names
    if sorted(names) != sorted(model.label_names):
        is_nameless = model.origin is not None and not model.origin.has_label_names
        advice = "measure it on a dataset with its classes"
        if is_nameless:
            advice = "name them with `resnet-hub convert --label-names`"
        raise DatasetError(
            f"{name} knows the classes {', '.join(model.label_names[:10])}; the dataset has {', '.join(names[:10])}: "
            f"{advice}"
        )
    if list(names) == model.label_names:
        return rows
    # The label column alone: align_labels_with_mapping would write all images anew.
    numbers = np.array([model.label_names.index(label) for label in names])[np.asarray(rows["label"][:])]
    feature = datasets.ClassLabel(names=model.label_names)
    return (
        rows.add_column("renumbered", numbers, feature=feature)
        .remove_columns("label")
        .rename_column("renumbered", "label")
    )


def engine_for(
    model: ResNetForImageClassification,
    config: EvaluationConfig,
    accelerator: Accelerator,
    training_images: list[Image.Image] | None,
) -> Engine:
    pixels = None
    if training_images is not None:
        pixels = quantization.training_pixels(model.preprocessing, training_images)
    return make_engine(model, config.backend, config.precision, device=accelerator.device, training_pixels=pixels)


def predict(
    accelerator: Accelerator, model: ResNetForImageClassification, rows: datasets.Dataset, config: EvaluationConfig
) -> Predictions:
    batches = EvaluationBatches(
        len(rows), config.per_device_eval_batch_size, accelerator.process_index, accelerator.num_processes
    )
    loader = make_loader(rows, batches, Collate(model.preprocessing), num_workers=config.dataloader_num_workers)
    with accelerator.autocast():
        return evaluate(accelerator, model, loader, description="evaluation")


def table_row(
    name: str, model: ResNetForImageClassification, predictions: Predictions, seconds: float
) -> tuple[str, ...]:
    metrics = predictions.metrics(model.num_classes)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return (
        name,
        f"{metrics['accuracy']:.4f}",
        f"{metrics['macro_f1']:.4f}",
        f"{metrics['loss']:.4f}",
        f"{predictions.calibration_error():.4f}",
        f"{parameters:,}",
        f"{len(predictions.rows) / seconds:,.0f}",
    )


def as_table(table: list[tuple[str, ...]]) -> str:
    """Markdown, aligned to be read in a terminal too: names to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(COLUMNS, *table, strict=True)]
    lines = [COLUMNS, ["-" * widths[0], *(f"{'-' * (width - 1)}:" for width in widths[1:])], *table]
    return "\n".join(
        "| " + " | ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) + " |" for line in lines
    )


def prediction_rows(
    name: str, model: ResNetForImageClassification, predictions: Predictions, files: list[str | None]
) -> datasets.Dataset:
    names = np.array(model.label_names)
    return datasets.Dataset.from_dict(
        {
            "checkpoint": [name] * len(predictions.rows),
            "row": predictions.rows,
            "file": pa.array([files[row] for row in predictions.rows], pa.string()),
            "label": names[predictions.labels],
            "prediction": names[predictions.predictions],
            "score": predictions.scores,
            "loss": predictions.losses,
        }
    )


def write_predictions(table: datasets.Dataset, file: Path) -> None:
    write = table.to_csv if file.suffix == ".csv" else table.to_parquet
    try:
        with write_atomically(file) as temporary:
            write(temporary)
    except OSError as error:
        raise ConfigurationError(f"--predictions {file} cannot be written ({error}): choose another file") from error


def write_confusion_matrices(matrices: dict[str, tuple[Result, list[str]]], folder: Path) -> None:
    """``matrices``: by checkpoint its metrics and label names."""
    for name, (result, label_names) in matrices.items():
        # Folders and Hub ids have slashes in them.
        file = folder / f"{name.strip('./').replace('/', '-')}.png"
        try:
            with write_atomically(file) as temporary:
                temporary.write_bytes(encode_png(draw_confusion_matrix(result, label_names)))
        except OSError as error:
            raise ConfigurationError(f"{file} cannot be written ({error}): choose another folder") from error


if __name__ == "__main__":
    run_command(lambda: main(tyro.cli(EvaluationConfig, config=(tyro.conf.FlagConversionOff,), use_underscores=True)))
