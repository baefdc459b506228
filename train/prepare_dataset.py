"""Turn labelled images, however they lie on the disk, into a dataset repository for the Hub.

    python train/prepare_dataset.py path/to/my-images --output_dir my-dataset
    python train/prepare_dataset.py path/to/train.csv --push_to_hub me/my-dataset

It has parquet files with the images in them, stratified splits, and a card. Training takes it under its folder or id.
"""

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

# As in train.py, beside which this lies.
if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import tyro
from datasets import Dataset, DatasetDict, disable_progress_bars
from datasets.table import embed_table_storage
from huggingface_hub import DatasetCard, DatasetCardData

from resnet_hub.card import as_table, plain
from resnet_hub.command import run_command
from resnet_hub.data import cut_missing_splits, describe_cut, read_splits
from resnet_hub.data_checks import DatasetReport, check_dataset
from resnet_hub.errors import ConfigurationError, DatasetError
from resnet_hub.upload import prepare_repo, push_dataset

#: Images per parquet file: at 100 kB each about 500 MB, what the Hub advises at most.
IMAGES_PER_FILE = 5000


@dataclass(frozen=True)
class PreparationConfig:
    """Turn labelled images into a dataset folder, or push them to the Hub as one."""

    source: Annotated[str, tyro.conf.Positional]
    """As --dataset_name of train.py: folder of class folders, CSV file, HDF5 files, dataset folder, Hub id."""
    output_dir: Path | None = None
    """The dataset folder to write; must not exist."""
    push_to_hub: str | None = None
    """Id of the dataset on the Hub, such as me/my-dataset; made where it does not exist. After `hf auth login`."""
    private: bool = False
    """Make it a private one."""
    image_column_name: str | None = None
    """Column with the images, where it cannot be told."""
    label_column_name: str | None = None
    """Column with the labels, where it cannot be told."""
    image_dir: str | None = None
    """Where the images of a CSV file are, if not in its own folder."""
    train_val_split: float = 0.1
    """Share of train (0 to 1) that becomes validation where the source has none, and test likewise."""
    split_seed: int = 0
    """Seed of these cuts."""
    skip_corrupt: bool = False
    """Leave out images that cannot be read and rows without a class, rather than refuse."""

    def __post_init__(self) -> None:
        if (self.output_dir is None) == (self.push_to_hub is None):
            raise ConfigurationError("say where the dataset shall go: either --output_dir or --push_to_hub")
        if self.output_dir is not None and self.output_dir.exists():
            raise ConfigurationError(f"{self.output_dir} exists: choose another --output_dir")
        if not 0 < self.train_val_split < 1:
            raise ConfigurationError(f"--train_val_split must be above 0 and below 1, got {self.train_val_split}")


def main(config: PreparationConfig) -> None:
    if not sys.stderr.isatty():
        disable_progress_bars()
    if config.push_to_hub is not None:
        prepare_repo(config.push_to_hub, repo_type="dataset", private=config.private)
    own = read_splits(
        config.source,
        image_column=config.image_column_name,
        label_column=config.label_column_name,
        image_dir=config.image_dir,
    )
    splits = cut_missing_splits(
        own,
        config.source,
        split_fraction=config.train_val_split,
        seed=config.split_seed,
    )
    if cut := describe_cut(own, splits, config.split_seed):
        print(f"{config.source} {cut}")
    splits, report = check_dataset(splits, skip_corrupt=config.skip_corrupt)
    for line in report.lines():
        print(line)
    if config.output_dir is not None:
        write_dataset(splits, report, config.output_dir, config.output_dir.name)
        print(f"saved {config.output_dir}; train on it with: train/train.py --dataset_name {config.output_dir}")
        return
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory, "dataset")
        write_dataset(splits, report, folder, config.push_to_hub)
        url = push_dataset(folder, config.push_to_hub, private=config.private)
    print(f"pushed {url}; train on it with: train/train.py --dataset_name {config.push_to_hub}")


def write_dataset(splits: DatasetDict, report: DatasetReport, folder: Path, name: str) -> None:
    """Parquet files and a card, all or nothing.

    Args:
        name: What the card's example loads.

    Raises:
        DatasetError: the folder cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", suffix=".tmp", dir=folder.parent) as directory:
            staging = Path(directory, folder.name)
            for split, rows in splits.items():
                _write_split(rows, staging / "data", split)
            dataset_card(splits, report, name).save(staging / "README.md")
            staging.rename(folder)
    except OSError as error:
        raise DatasetError(f"{folder} cannot be written ({error}): choose another place, or make room") from error


def _write_split(rows: Dataset, folder: Path, split: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    num_files = max(1, -(-len(rows) // IMAGES_PER_FILE))
    for i in range(num_files):
        part = rows.shard(num_files, i, contiguous=True)
        # Images that lie in files of their own would stay behind as paths.
        part = part.with_format("arrow").map(embed_table_storage, batched=True, batch_size=100).with_format(None)
        part.to_parquet(folder / f"{split}-{i:05d}-of-{num_files:05d}.parquet")


def dataset_card(splits: DatasetDict, report: DatasetReport, name: str) -> DatasetCard:
    """What it is, how many there are of what, what was found in it, and how to train on it."""
    names = splits["train"].features["label"].names
    labels = {split: list(rows["label"]) for split, rows in splits.items()}
    counts = [[plain(label), *(str(labels[split].count(i)) for split in splits)] for i, label in enumerate(names)]
    total = ["**all**", *(str(len(rows)) for rows in splits.values())]
    title = name.split("/")[-1]
    data = DatasetCardData(
        task_categories=["image-classification"],
        pretty_name=title,
        size_categories=_size_category(sum(map(len, splits.values()))),
        configs=[{"config_name": "default", "data_files": [{"split": s, "path": f"data/{s}-*"} for s in splits]}],
    )
    found = "\n".join(map(plain, report.without_folders().lines()))
    findings = f"```text\n{found}\n```" if found else "Nothing is out of order."
    return DatasetCard(f"""---
{data.to_yaml()}
---

# {plain(title)}

Images of {len(names)} classes, columns `image` and `label`.

{as_table(["class", *splits], [*counts, total])}

## Checks

Every image was decoded and compared with the training images.

{findings}

## Use

```python
from datasets import load_dataset

dataset = load_dataset("{name}")
```

```bash
accelerate launch train/train.py --dataset_name {name}
```
""")


def _size_category(num_images: int) -> str:
    """The Hub's name for it."""
    limits = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M"}
    return next((category for limit, category in limits.items() if num_images < limit), "1M<n<10M")


if __name__ == "__main__":
    run_command(lambda: main(tyro.cli(PreparationConfig, config=(tyro.conf.FlagConversionOff,), use_underscores=True)))
