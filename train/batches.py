"""From dataset rows to batches: which images, in which order, changed how - all functions of seed, epoch and row.

Nothing here depends on the number of processes or workers, or on where a run was resumed.
"""

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import datasets
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from resnet_hub.errors import DatasetError, ImageError
from resnet_hub.images import Preprocessing, open_image
from train.augmentation import Augmentation, Key
from train.mixing import Mixing
from train.variants import make_variant


@dataclass(frozen=True)
class Batch:
    """Images ready for the network, and what they show.

    Attributes:
        images: float32 (N, 3, H, W), normalised.
        labels: int64 (N,).
        rows: int64 (N,): positions in the split.
        second_labels, shares: Of mixed images the other label, int64 (N,), and the share of the first, (N,) in 0..1.
    """

    images: Tensor
    labels: Tensor
    rows: Tensor
    second_labels: Tensor | None = None
    shares: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def pin_memory(self) -> "Batch":
        return self._map(lambda tensor: tensor.pin_memory())

    def to(self, device: torch.device) -> "Batch":
        """On ``device``; images in channels-last order, in which convolutions are fastest."""
        moved = self._map(lambda tensor: tensor.to(device, non_blocking=True))
        return replace(moved, images=moved.images.to(memory_format=torch.channels_last))

    def _map(self, function: Callable[[Tensor], Tensor]) -> "Batch":
        return Batch(*(None if tensor is None else function(tensor) for tensor in vars(self).values()))


#: Key, pixels uint8 (H, W, 3), label.
Sample = tuple[Key, np.ndarray, int]


class ResizedImages(Dataset):
    """Rows of a split, decoded and resized, by key.

    What cannot be decoded is returned as an error and raised by whoever takes the batch: raised here, in a worker
    process, it would reach the user as a page of traceback.
    """

    def __init__(self, rows: datasets.Dataset, preprocessing: Preprocessing, variant: str | None = None) -> None:
        self.rows = rows.cast_column("image", datasets.Image(decode=False))
        self.preprocessing = preprocessing
        self.variant = variant

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: Key) -> Sample | DatasetError:
        row = self.rows[key[1]]
        try:
            image = open_image(row["image"]["bytes"] or row["image"]["path"])
        except ImageError as error:
            return DatasetError(f"row {key[1]} of the dataset: {error}")
        if self.variant is not None:
            image = make_variant(self.variant, image, key[1])
        return key, np.asarray(self.preprocessing.resize(image)), row["label"]


class Collate:
    """Samples -> a normalised batch, or the first error among them.

    In the worker processes, so that the training process only trains.
    """

    def __init__(
        self, preprocessing: Preprocessing, augmentation: Augmentation | None = None, mixing: Mixing | None = None
    ) -> None:
        self.preprocessing = preprocessing
        self.augmentation = augmentation
        self.mixing = mixing

    def __call__(self, samples: list[Sample | DatasetError]) -> Batch | DatasetError:
        for sample in samples:
            if isinstance(sample, DatasetError):
                return sample
        keys, pixels, labels = zip(*samples, strict=True)
        pixels = torch.from_numpy(np.stack(pixels))
        if self.augmentation is not None:
            pixels = self.augmentation(pixels, keys)
        images, labels = self.preprocessing.normalize(pixels), torch.tensor(labels)
        rows = torch.tensor([row for _, row in keys])
        if self.mixing is None:
            return Batch(images, labels, rows)
        images, second_labels, shares = self.mixing(images, labels, keys)
        return Batch(images, labels, rows, second_labels, shares)


def require_a_batch(num_rows: int, batch_size: int, num_processes: int) -> None:
    """Raise ``DatasetError`` where so few images fill no batch on every process."""
    if num_rows < batch_size * num_processes:
        where = f" on each of {num_processes} processes" if num_processes > 1 else ""
        raise DatasetError(
            f"{num_rows:,} training images do not fill one batch of {batch_size}{where}: lower "
            "--per_device_train_batch_size, or add images"
        )


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
        self.start = 0
        require_a_batch(num_rows, batch_size, num_processes)

    def __len__(self) -> int:
        return self.num_rows // (self.batch_size * self.num_processes)

    def __iter__(self) -> Iterator[list[Key]]:
        permutation = np.random.default_rng((self.seed, self.epoch)).permutation(self.num_rows).tolist()
        for step in range(self.start, len(self)):
            start = (step * self.num_processes + self.process) * self.batch_size
            yield [(self.epoch, row) for row in permutation[start : start + self.batch_size]]


class EvaluationBatches(Sampler[list[Key]]):
    """Every row exactly once over all processes: whole batches in turn, no padding.

    Batches are composed alike on any number of processes, so each image's logits are too.
    """

    def __init__(self, num_rows: int, batch_size: int, process: int = 0, num_processes: int = 1) -> None:
        self.starts = range(0, num_rows, batch_size)[process::num_processes]
        self.rounds = math.ceil(num_rows / batch_size / num_processes)  # batches of the process that has most
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
    collate: Collate,
    *,
    variant: str | None = None,
    num_workers: int = 0,
) -> DataLoader:
    """A loader of what ``collate`` gives. Its workers persist: an epoch starts without starting processes.

    Args:
        variant: Changes every image, see :func:`train.variants.make_variant`.
    """
    return DataLoader(
        ResizedImages(rows, collate.preprocessing, variant),
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_leave_the_process_group,
    )


def _leave_the_process_group(worker: int) -> None:
    """Ctrl-C and ``timeout`` signal the whole group; workers must live until the step is finished and saved."""
    if hasattr(os, "setpgrp"):
        os.setpgrp()
