"""The images of a run: one dataset that chooses the epoch and is tested on, and perhaps a second that joins it."""

from dataclasses import dataclass
from typing import Any

import datasets
from accelerate import Accelerator

from resnet_hub.data import describe, load_image_dataset, public_name, signs_is_available
from resnet_hub.data_checks import DatasetReport, check_dataset
from resnet_hub.errors import DatasetError
from train.config import TrainingConfig


@dataclass(frozen=True)
class TrainingData:
    """Datasets by name, the main one first; all have the same classes. ``reports`` say what was found in them."""

    datasets: dict[str, datasets.DatasetDict]
    reports: dict[str, DatasetReport]

    @property
    def name(self) -> str:
        return next(iter(self.datasets))

    @property
    def label_names(self) -> list[str]:
        return self.validation.features["label"].names

    @property
    def train(self) -> datasets.Dataset:
        return datasets.concatenate_datasets([splits["train"] for splits in self.datasets.values()])

    @property
    def validation(self) -> datasets.Dataset:
        """Of the main dataset alone: what the run is for decides which epoch is best."""
        return self.datasets[self.name]["validation"]

    @property
    def tests(self) -> dict[str, datasets.Dataset]:
        return {name: splits["test"] for name, splits in self.datasets.items()}

    def describe(self) -> list[dict[str, Any]]:
        """For the training record: names, what they are, images per split that this run uses.

        ``test_in_train`` are the test images that stand in train too, pixel for pixel.
        """
        return [
            {
                "name": public_name(name),
                "description": describe(name),
                "train": len(splits["train"]),
                "validation": len(splits["validation"]) if name == self.name else 0,
                "test": len(splits["test"]),
                "test_in_train": sum(finding.split == "test" for finding in self.reports[name].duplicates),
            }
            for name, splits in self.datasets.items()
        ]


def load_training_data(config: TrainingConfig, accelerator: Accelerator) -> TrainingData:
    """Load what the configuration names.

    Raises:
        DatasetError: a dataset cannot be loaded, or the second one has other classes than the first.
    """
    names = [choose_dataset(config, accelerator)]
    if config.extra_dataset_name and config.extra_dataset_name not in names:
        names.append(config.extra_dataset_name)
    with accelerator.main_process_first():  # the others then find what it cached
        loaded = {name: _load_checked(name, config, accelerator) for name in names}
    data = TrainingData(
        {name: splits for name, (splits, _) in loaded.items()}, {name: report for name, (_, report) in loaded.items()}
    )
    for name, splits in data.datasets.items():
        classes = splits["train"].features["label"].names
        if classes != data.label_names:
            raise DatasetError(f"--extra_dataset_name must have the classes {data.label_names}, {name} has {classes}")
    return data


def choose_dataset(config: TrainingConfig, accelerator: Accelerator) -> str:
    """What was asked for; else SIGNS; else drawn hands, and that is said loudly."""
    if config.dataset_name:
        return config.dataset_name
    if signs_is_available():
        return "signs"
    accelerator.print(
        "*** NOTE: SIGNS is not on this machine, so this trains on hands DRAWN BY CODE. The result reads drawings; how "
        "it reads photos is not measured.\n*** For photos set RESNET_HUB_DATA or RESNET_HUB_SIGNS, or --dataset_name."
    )
    return "drawn-signs"


def _load_checked(
    name: str, config: TrainingConfig, accelerator: Accelerator
) -> tuple[datasets.DatasetDict, DatasetReport]:
    """Without what cannot be used, if that was asked for; says what else was found."""
    splits = load_image_dataset(
        name,
        image_column=config.image_column_name,
        label_column=config.label_column_name,
        image_dir=None if name == config.extra_dataset_name else config.image_dir,
        validation_fraction=config.train_val_split,
        seed=config.split_seed,
    )
    is_extra = name == config.extra_dataset_name
    for split, rows in splits.items():
        for_training = config.max_extra_train_samples if is_extra else config.max_train_samples
        limit = for_training if split == "train" else config.max_eval_samples
        if limit is not None and limit < len(rows):
            splits[split] = rows.shuffle(seed=config.split_seed).select(range(limit))
    if config.train_on_validation and not is_extra:
        splits["train"] = datasets.concatenate_datasets([splits["train"], splits["validation"]])
        splits["validation"] = splits["validation"].select([])
    splits, report = check_dataset(splits, skip_corrupt=config.skip_corrupt)
    for line in report.lines():
        accelerator.print(f"{name}: {line}")
    return splits, report
