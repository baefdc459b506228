"""From dataset rows to batches: which images, in which order, augmented how - all functions of seed, epoch and row.

Nothing here depends on the number of processes or workers, or on where a run was resumed.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import datasets
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from resnet_hub.errors import DatasetError, ImageError
from resnet_hub.images import Preprocessing, open_image
from train.augmentation import Augmentation

#: (epoch, row): says everything about a sample.
Key = tuple[int, int]


@dataclass(frozen=True)
class Batch:
    """``images`` float32 (N, 3, H, W), ``labels`` int64 (N,), ``rows`` int64 (N,): positions in the split."""

    images: Tensor
    labels: Tensor
    rows: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def pin_memory(self) -> "Batch":
        return Batch(self.images.pin_memory(), self.labels.pin_memory(), self.rows)


#: Key, pixels uint8 (H, W, 3), label.
Sample = tuple[Key, np.ndarray, int]


class ResizedImages(Dataset):
    """Rows of a split, decoded and resized, by key.

    What cannot be decoded is returned as an error and raised by whoever takes the batch: raised here, in a worker
    process, it would reach the user as a page of traceback.
    """

    def __init__(self, rows: datasets.Dataset, preprocessing: Preprocessing) -> None:
        self.rows = rows.cast_column("image", datasets.Image(decode=False))
        self.preprocessing = preprocessing

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: Key) -> Sample | DatasetError:
        row = self.rows[key[1]]
        try:
            image = open_image(row["image"]["bytes"] or row["image"]["path"])
        except ImageError as error:
            return DatasetError(f"row {key[1]} of the dataset: {error}")
        return key, np.asarray(self.preprocessing.resize(image)), row["label"]


class Collate:
    """Samples -> a normalised batch, or the first error among them.

    In the worker processes, so that the training process only trains.
    """

    def __init__(self, preprocessing: Preprocessing, augmentation: Augmentation | None) -> None:
        self.preprocessing = preprocessing
        self.augmentation = augmentation

    def __call__(self, samples: list[Sample | DatasetError]) -> Batch | DatasetError:
        for sample in samples:
            if isinstance(sample, DatasetError):
                return sample
        keys, pixels, labels = zip(*samples, strict=True)
        pixels = torch.from_numpy(np.stack(pixels))
        if self.augmentation is not None:
            pixels = self.augmentation(pixels, keys)
        rows = torch.tensor([row for _, row in keys])
        return Batch(self.preprocessing.normalize(pixels), torch.tensor(labels), rows)


class TrainingBatches(Sampler[list[Key]]):
    """Each epoch a permutation of all rows, cut into global batches, of which each process takes its slice.

    The permutation is a function of (seed, epoch), so the global batches are the same for one process with batch size
    2 B as for two with B. Rows that do not fill a batch are left out of that epoch (other ones each time): a batch of a
    few images has no BatchNorm statistics worth learning from.

    Set ``epoch`` before each pass.
    """

    def __init__(self, num_rows: int, batch_size: int, seed: int, process: int = 0, num_processes: int = 1) -> None:
        self.num_rows = num_rows
        self.batch_size = batch_size
        self.seed = seed
        self.process = process
        self.num_processes = num_processes
        self.epoch = 0
        if len(self) == 0:
            raise DatasetError(
                f"{num_rows} training images do not fill one batch of {batch_size} on {num_processes} processes: "
                "lower --per_device_train_batch_size"
            )

    def __len__(self) -> int:
        return self.num_rows // (self.batch_size * self.num_processes)

    def __iter__(self) -> Iterator[list[Key]]:
        permutation = np.random.default_rng((self.seed, self.epoch)).permutation(self.num_rows).tolist()
        for step in range(len(self)):
            start = (step * self.num_processes + self.process) * self.batch_size
            yield [(self.epoch, row) for row in permutation[start : start + self.batch_size]]


class EvaluationBatches(Sampler[list[Key]]):
    """Every row exactly once over all processes: whole batches in turn, no padding.

    Batches are composed alike on any number of processes, so each image's logits are too.
    """

    def __init__(self, num_rows: int, batch_size: int, process: int = 0, num_processes: int = 1) -> None:
        self.starts = range(0, num_rows, batch_size)[process::num_processes]
        self.num_rows = num_rows
        self.batch_size = batch_size

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[list[Key]]:
        for start in self.starts:
            yield [(0, row) for row in range(start, min(start + self.batch_size, self.num_rows))]


def make_loader(
    rows: datasets.Dataset,
    batches: TrainingBatches | EvaluationBatches,
    preprocessing: Preprocessing,
    augmentation: Augmentation | None = None,
    num_workers: int = 0,
) -> DataLoader:
    """A loader of what :class:`Collate` gives. Its workers persist: an epoch starts without starting processes."""
    return DataLoader(
        ResizedImages(rows, preprocessing),
        batch_sampler=batches,
        collate_fn=Collate(preprocessing, augmentation),
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=torch.cuda.is_available(),
    )
