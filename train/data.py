"""The images of a run: one dataset that chooses the epoch and is tested on, and perhaps a second that joins it."""

from dataclasses import dataclass
from typing import Any

import datasets
from accelerate import Accelerator

from resnet_hub.data import cut_missing_splits, describe, describe_cut, public_name, read_splits, signs_is_available
from resnet_hub.data_checks import DatasetReport, check_dataset
from resnet_hub.errors import DatasetError
from train.batches import require_a_batch
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


def load_training_data(name: str, config: TrainingConfig, accelerator: Accelerator) -> TrainingData:
    """Load the dataset ``name`` and what else the configuration names, look at every image, and say what was found.

    Raises:
        DatasetError: a dataset cannot be loaded, has other classes than the first or images that cannot be read, or
            there are too few images for one batch.
    """
    names = [name]
    if config.extra_dataset_name and config.extra_dataset_name != name:
        names.append(config.extra_dataset_name)
    with accelerator.main_process_first():  # the others then find what it cached
        loaded = {other: _load(other, config, accelerator, is_extra=other != name) for other in names}
        # What can be told without a look at the images comes first: that takes minutes for large datasets.
        classes = loaded[name]["train"].features["label"].names
        for other, splits in loaded.items():
            if (others := splits["train"].features["label"].names) != classes:
                raise DatasetError(f"--extra_dataset_name must have the classes {classes}, {other} has {others}")
        num_images = sum(len(splits["train"]) for splits in loaded.values())
        require_a_batch(num_images, config.per_device_train_batch_size, accelerator.num_processes)
        checked = {other: _check(other, splits, config, accelerator) for other, splits in loaded.items()}
    return TrainingData(
        {other: splits for other, (splits, _) in checked.items()},
        {other: report for other, (_, report) in checked.items()},
    )


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


def _load(name: str, config: TrainingConfig, accelerator: Accelerator, *, is_extra: bool) -> datasets.DatasetDict:
    """All splits, so much of them as the run uses."""
    own = read_splits(
        name,
        image_column=config.image_column_name,
        label_column=config.label_column_name,
        image_dir=None if is_extra else config.image_dir,
    )
    splits = cut_missing_splits(own, name, split_fraction=config.train_val_split, seed=config.split_seed)
    if cut := describe_cut(own, splits, config.split_seed):
        accelerator.print(f"{name} {cut}")
    for split, rows in splits.items():
        for_training = config.max_extra_train_samples if is_extra else config.max_train_samples
        limit = for_training if split == "train" else config.max_eval_samples
        if limit is not None and limit < len(rows):
            splits[split] = rows.shuffle(seed=config.split_seed).select(range(limit))
    if config.train_on_validation and not is_extra:
        splits["train"] = datasets.concatenate_datasets([splits["train"], splits["validation"]])
        splits["validation"] = splits["validation"].select([])
    return splits


def _check(
    name: str, splits: datasets.DatasetDict, config: TrainingConfig, accelerator: Accelerator
) -> tuple[datasets.DatasetDict, DatasetReport]:
    """Without what cannot be used, if that was asked for; says what else was found."""
    splits, report = check_dataset(splits, skip_corrupt=config.skip_corrupt)
    lines = report.lines()
    for line in lines:
        accelerator.print(f"{name}: {line}")
    if lines:
        accelerator.print(f"{name}: none of this keeps the training from going on")
    return splits, report
