"""Which epochs are kept and when to stop: functions of the history alone, so that a resumed run decides the same."""

from collections.abc import Sequence
from typing import Literal

from resnet_hub.checkpoint import Epoch

#: Metrics of the validation split that can choose.
Monitor = Literal["accuracy", "macro_f1", "loss"]


def best_epochs(history: Sequence[Epoch], monitor: Monitor, k: int) -> list[int]:
    """Numbers of the ``k`` best epochs so far, best first; all where ``k`` is -1.

    Of two alike the one with the lower loss is better, for small validation sets give many alike; of two alike in both
    the earlier one, so that the first of them stays.
    """
    ranked = sorted(history, key=lambda line: (*_rank(line, monitor), -line["epoch"]), reverse=True)
    return [line["epoch"] for line in (ranked if k == -1 else ranked[:k])]


def should_stop(history: Sequence[Epoch], monitor: Monitor, patience: int, min_delta: float) -> bool:
    """Whether the last ``patience`` epochs brought no improvement by more than ``min_delta``.

    As Lightning's ``EarlyStopping`` counts: an epoch improves on the best one before it that did so itself, hence small
    steps add up only where each is larger than ``min_delta``.
    """
    best, waited = None, 0
    for line in history:
        score = _rank(line, monitor)[0]
        if best is None or score > best + min_delta:
            best, waited = score, 0
        else:
            waited += 1
    return waited >= patience


def _rank(line: Epoch, monitor: Monitor) -> tuple[float, float]:
    """Higher is better."""
    metrics = line["validation"]
    return (-metrics["loss"] if monitor == "loss" else metrics[monitor]), -metrics["loss"]
