"""One step of training and one pass of evaluation, on any number of processes, with metrics that are exact."""

import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from itertools import zip_longest
from typing import NamedTuple, Self

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from tqdm import tqdm

from resnet_hub import ResNetForImageClassification
from resnet_hub.calibration import Calibration, energy, probabilities
from resnet_hub.checkpoint import Metrics
from resnet_hub.errors import DatasetError
from resnet_hub.imports import without_packages
from train.batches import Batch
from train.watch import Watch

with without_packages("transformers", "scipy"):  # ``evaluate`` would import them for what is not used here, for 3 s
    from resnet_hub.metrics import ImageClassificationMetric


class Predictions(NamedTuple):
    """What a network said of every image of a split, sorted by row; all arrays are (N,).

    Attributes:
        rows: Positions in the split.
        labels, predictions: Class indices.
        scores: Probability of the predicted class, 0 to 1, calibrated where the model is.
        losses: Cross-entropy, in nats.
        energies: High for images unlike those of the training, see :func:`resnet_hub.calibration.energy`.
        logits: (N, classes), where they were kept.
    """

    rows: np.ndarray
    labels: np.ndarray
    predictions: np.ndarray
    scores: np.ndarray
    losses: np.ndarray
    energies: np.ndarray
    logits: np.ndarray | None = None

    def take(self, rows: np.ndarray | slice) -> Self:
        """Those at these places, in their order."""
        return Predictions(*(None if column is None else column[rows] for column in self))

    def metrics(self, num_classes: int) -> Metrics:
        """Summed without rounding (``math.fsum``), so that the order of the images cannot show in the last digit."""
        scores = ImageClassificationMetric(keep_in_memory=True).compute(
            predictions=self.predictions, references=self.labels, num_classes=num_classes
        )
        return Metrics(loss=math.fsum(self.losses) / len(self.losses), **scores)

    def calibration_error(self, num_bins: int = 15) -> float:
        """How far scores are from the accuracy at that score, 0 to 1: expected calibration error.

        Over bins of equal width, weighted by their images (Guo et al. 2017, https://arxiv.org/abs/1706.04599).
        """
        bins = np.minimum((self.scores * num_bins).astype(np.int64), num_bins - 1)
        # In a bin, |sum of hits - sum of scores| / N is its weight times the difference of the means.
        difference = np.bincount(bins, (self.predictions == self.labels) - self.scores, minlength=num_bins)
        return float(np.abs(difference).sum() / len(self.scores))


class Tally:
    """Collects predictions batch by batch; kept on the device, so that no step waits for the host."""

    def __init__(
        self, columns: Tensor | None = None, *, calibration: Calibration | None = None, keep_logits: bool = False
    ) -> None:
        """``columns``: of a :meth:`gather` before, to go on with."""
        self._parts: list[Tensor] = [] if columns is None else [columns]
        self._calibration = calibration
        self._keep_logits = keep_logits

    @torch.no_grad()
    def add(self, batch: Batch, logits: Tensor, losses: Tensor) -> None:
        """``logits`` (N, classes) and ``losses`` (N,), on the batch's device."""
        scores, predictions = probabilities(logits, self._calibration).max(dim=1)
        columns = [batch.rows, batch.labels, predictions, scores, losses, energy(logits)]
        if self._keep_logits:
            columns += logits.unbind(dim=1)
        self._parts.append(torch.stack([column.double() for column in columns]))

    def gather(self) -> Tensor:
        """What all processes have collected: float64 (6 + logits, N), the same on each. Call it on every process."""
        mine = torch.cat([part.cpu() for part in self._parts], dim=1) if self._parts else None
        parts = [part for part in gather_object([mine]) if part is not None]
        everyone = torch.cat(parts, dim=1) if parts else torch.empty(6, 0).double()
        return everyone[:, everyone[0].argsort(stable=True)]

    def predictions(self) -> Predictions:
        """As :meth:`gather`, named."""
        rows, labels, predictions, scores, losses, energies, *logits = self.gather().numpy()
        return Predictions(
            *(column.astype(np.int64) for column in (rows, labels, predictions)),
            *(scores, losses, energies),
            np.stack(logits, axis=1) if logits else None,
        )


def train_step(
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Sequence[Batch],
    *,
    label_smoothing: float,
    max_grad_norm: float,
) -> list[tuple[Tensor, Tensor]]:
    """One update of the weights by the mean gradient of ``batches``, however many they are.

    Returns:
        Logits (N, classes) and losses (N,) of each batch.
    """
    outputs = []
    for i, batch in enumerate(batches):
        is_last = i == len(batches) - 1
        # Processes exchange gradients once an update, with the last of its batches.
        with accelerator.no_sync(model) if not is_last else nullcontext():
            logits = model(batch.images)
            losses = loss_of(logits, batch, label_smoothing)
            accelerator.backward(losses.mean() / len(batches))
        outputs.append((logits.detach(), losses.detach()))
    if max_grad_norm > 0:
        accelerator.clip_grad_norm_(model.parameters(), max_grad_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return outputs


def loss_of(logits: Tensor, batch: Batch, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of each image (N,); of a mixed one that of both labels in their shares."""
    losses = F.cross_entropy(logits.float(), batch.labels, label_smoothing=label_smoothing, reduction="none")
    if batch.shares is None:
        return losses
    others = F.cross_entropy(logits.float(), batch.second_labels, label_smoothing=label_smoothing, reduction="none")
    return batch.shares * losses + (1 - batch.shares) * others


@torch.no_grad()
def evaluate(
    accelerator: Accelerator,
    model: ResNetForImageClassification,
    loader: DataLoader,
    *,
    description: str,
    watch: Watch | None = None,
    keep_logits: bool = False,
) -> Predictions:
    """What ``model`` says of every image of the loader's split, on any number of processes.

    Args:
        model: The bare network: a distributed wrapper would wait for processes that have one batch less.
        loader: Of :class:`train.batches.EvaluationBatches`.
        watch: Asked after every batch whether to stop.
        keep_logits: Give them back too: for what a score and a loss do not tell.
    """
    model.eval()
    tally = Tally(calibration=model.calibration, keep_logits=keep_logits)
    batches = progress(loader, description, accelerator)
    # As many rounds on every process, of which some have a batch less: the watch needs all of them in each.
    for batch, _ in zip_longest(batches, range(loader.batch_sampler.rounds)):
        if batch is not None:
            batch = batch.to(accelerator.device)
            logits = model(batch.images)
            tally.add(batch, logits, loss_of(logits, batch))
        if watch is not None:
            watch.look()
    return tally.predictions()


def average_statistics(accelerator: Accelerator, model: nn.Module) -> None:
    """The mean of the processes' BatchNorm statistics, on each: all have seen different images, all must be equal."""
    if accelerator.num_processes > 1:
        for buffer in statistics_of(model).values():
            buffer.copy_(accelerator.reduce(buffer, reduction="mean"))


def statistics_of(model: nn.Module) -> dict[str, Tensor]:
    """BatchNorm's running means and variances by name: what differs between processes while an epoch is under way."""
    return {name: buffer for name, buffer in model.named_buffers() if "running_" in name}


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
