"""Best epochs and early stopping, as functions of the history."""

import pytest

from train.selection import best_epochs, should_stop


def history_of(accuracies: list[float], losses: list[float] | None = None) -> list[dict]:
    losses = losses or [1.0] * len(accuracies)
    return [
        {"epoch": i + 1, "validation": {"accuracy": accuracy, "macro_f1": 1 - accuracy, "loss": loss}}
        for i, (accuracy, loss) in enumerate(zip(accuracies, losses, strict=True))
    ]


def test_the_best_epochs_come_best_first():
    history = history_of([0.5, 0.9, 0.7, 0.8], losses=[4, 3, 1, 2])
    assert best_epochs(history, "accuracy", 2) == [2, 4]
    assert best_epochs(history, "loss", 3) == [3, 4, 2]
    assert best_epochs(history, "macro_f1", 1) == [1]
    assert best_epochs(history, "accuracy", -1) == [2, 4, 3, 1]


def test_of_two_alike_the_lower_loss_wins_then_the_earlier():
    assert best_epochs(history_of([0.9, 0.9], losses=[2, 1]), "accuracy", 1) == [2]
    assert best_epochs(history_of([0.9, 0.9], losses=[1, 1]), "accuracy", 1) == [1]


@pytest.mark.parametrize("k", [1, 2, 3])
def test_a_kept_epoch_never_comes_back_once_it_is_dropped(k):
    """Else its files would be gone when they are wanted again."""
    history = history_of([0.5, 0.9, 0.7, 0.8, 0.9, 0.6, 0.95])
    kept = set()
    for length in range(1, len(history) + 1):
        now = set(best_epochs(history[:length], "accuracy", k))
        assert now - kept <= {length}
        kept = now


@pytest.mark.parametrize(
    ("accuracies", "min_delta", "stops_after"),
    [
        ([0.5, 0.6, 0.6, 0.6, 0.6], 0.0, 4),  # equal is no improvement
        ([0.5, 0.6, 0.61, 0.62, 0.63], 0.015, None),  # 0.62 is more than 0.015 above 0.6, though not above 0.61
        ([0.5, 0.6, 0.61, 0.61, 0.63], 0.015, 4),
        ([0.5, 0.6, 0.55, 0.7, 0.65, 0.6], 0.0, 6),  # an improvement starts the count anew
    ],
)
def test_patience_and_min_delta_have_lightnings_meaning(accuracies, min_delta, stops_after):
    history = history_of(accuracies)
    stopped = [n for n in range(1, len(history) + 1) if should_stop(history[:n], "accuracy", 2, min_delta)]
    assert (stopped[0] if stopped else None) == stops_after


def test_a_falling_loss_is_an_improvement():
    assert not should_stop(history_of([0.5] * 4, losses=[4, 3, 2, 1]), "loss", patience=2, min_delta=0.5)
    assert should_stop(history_of([0.5] * 4, losses=[4, 3.8, 3.7, 3.6]), "loss", patience=2, min_delta=0.5)
