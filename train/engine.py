"""One epoch of training and one pass of evaluation, on any number of processes, with metrics that are exact."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from tqdm import tqdm

from resnet_hub.checkpoint import Metrics
from resnet_hub.errors import DatasetError
from resnet_hub.metrics import ImageClassificationMetric
from resnet_hub.modeling import ResNet
from train.batches import Batch
from train.optimization import set_learning_rate


class Tally:
    """Losses and predictions of every image of a pass; kept on the device, so that no step waits for the host."""

    def __init__(self) -> None:
        self.rows: list[Tensor] = []
        self.losses: list[Tensor] = []
        self.predictions: list[Tensor] = []
        self.labels: list[Tensor] = []

    def add(self, batch: Batch, labels: Tensor, logits: Tensor, losses: Tensor) -> None:
        """``labels`` (N,), ``logits`` (N, classes) and ``losses`` (N,), all on the same device."""
        self.rows.append(batch.rows)
        self.losses.append(losses.detach())
        self.predictions.append(logits.detach().argmax(dim=1))
        self.labels.append(labels)

    def metrics(self, num_classes: int) -> Metrics:
        """Over all processes, the same on each. Call it on every process.

        Sorted by row and summed without rounding (``math.fsum``), so that how the images were spread over processes
        cannot show in the last digit.
        """
        columns = (self.rows, self.losses, self.predictions, self.labels)
        mine = np.stack([torch.cat(column).double().cpu().numpy() for column in columns])
        everyone = np.concatenate(gather_object([mine]), axis=1)
        _, losses, predictions, labels = everyone[:, np.argsort(everyone[0])]
        scores = ImageClassificationMetric(keep_in_memory=True).compute(
            predictions=predictions.astype(np.int64), references=labels.astype(np.int64), num_classes=num_classes
        )
        return Metrics(loss=math.fsum(losses) / len(losses), **scores)


def train_epoch(
    accelerator: Accelerator,
    model: nn.Module,
    loader: DataLoader,
    optimizer: torch.optim.Optimizer,
    learning_rates: Sequence[float],
    *,
    label_smoothing: float,
    max_grad_norm: float,
    description: str,
) -> Metrics:
    """One pass over the training images, with one of ``learning_rates`` for each step.

    Returns:
        Metrics of the images as they were when trained on, augmented; the loss is the one minimised, smoothed.
    """
    model.train()
    tally = Tally()
    for batch, learning_rate in zip(progress(loader, description, accelerator), learning_rates, strict=True):
        set_learning_rate(optimizer, learning_rate)
        labels = batch.labels.to(accelerator.device, non_blocking=True)
        logits = model(_to_device(batch.images, accelerator))
        losses = F.cross_entropy(logits, labels, label_smoothing=label_smoothing, reduction="none")
        accelerator.backward(losses.mean())
        if max_grad_norm > 0:
            accelerator.clip_grad_norm_(model.parameters(), max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        tally.add(batch, labels, logits, losses)
    network = accelerator.unwrap_model(model)
    average_statistics(accelerator, network)
    return tally.metrics(network.num_classes)


@torch.no_grad()
def evaluate(accelerator: Accelerator, model: ResNet, loader: DataLoader, *, description: str) -> Metrics:
    """Metrics over every image of the loader's split, on any number of processes. Plain cross-entropy.

    ``model`` is the bare network: a distributed wrapper would wait for processes that have one batch less.
    """
    model.eval()
    tally = Tally()
    for batch in progress(loader, description, accelerator):
        labels = batch.labels.to(accelerator.device, non_blocking=True)
        logits = model(_to_device(batch.images, accelerator)).float()
        tally.add(batch, labels, logits, F.cross_entropy(logits, labels, reduction="none"))
    return tally.metrics(model.num_classes)


def average_statistics(accelerator: Accelerator, model: nn.Module) -> None:
    """The mean of the processes' BatchNorm statistics, on each: all have seen different images, all must be equal."""
    if accelerator.num_processes > 1:
        for name, buffer in model.named_buffers():
            if "running_" in name:
                buffer.copy_(accelerator.reduce(buffer, reduction="mean"))


def progress(loader: DataLoader, description: str, accelerator: Accelerator) -> Iterator[Batch]:
    """The loader's batches, with a bar on a terminal, nothing in a log file, once for all processes.

    Raises:
        DatasetError: an image cannot be decoded.
    """
    hidden = None if accelerator.is_main_process else True
    for batch in tqdm(loader, desc=description, leave=False, disable=hidden, unit="batch"):
        if isinstance(batch, DatasetError):
            raise batch
        yield batch


def _to_device(images: Tensor, accelerator: Accelerator) -> Tensor:
    # In channels-last order, which is how convolutions are fastest on tensor cores and in oneDNN.
    return images.to(accelerator.device, non_blocking=True, memory_format=torch.channels_last)
