"""Which images a step sees, and in which order: functions of seed and epoch, whatever runs them."""

from collections.abc import Iterable

import pytest

from resnet_hub import DatasetError
from train.batches import EvaluationBatches, TrainingBatches


def batches_of_epoch(batches: TrainingBatches, epoch: int) -> list[list[tuple[int, int]]]:
    batches.epoch = epoch
    return list(batches)


def rows_of(batches: Iterable[list[tuple[int, int]]]) -> list[int]:
    return [row for batch in batches for _, row in batch]


def test_an_epoch_is_a_permutation_that_seed_and_epoch_give():
    batches = TrainingBatches(num_rows=20, batch_size=5, seed=1)
    first = batches_of_epoch(batches, 1)
    assert sorted(rows_of(first)) == list(range(20))
    assert first == batches_of_epoch(TrainingBatches(num_rows=20, batch_size=5, seed=1), 1)
    assert rows_of(first) != rows_of(batches_of_epoch(batches, 2))
    assert first != batches_of_epoch(TrainingBatches(num_rows=20, batch_size=5, seed=2), 1)


def test_two_processes_see_the_global_batches_of_one_with_twice_the_batch():
    one = batches_of_epoch(TrainingBatches(num_rows=23, batch_size=6, seed=1), 3)
    two = [batches_of_epoch(TrainingBatches(23, 3, 1, process, num_processes=2), 3) for process in (0, 1)]
    assert one == [a + b for a, b in zip(*two, strict=True)]


def test_too_few_images_for_a_batch_are_refused():
    with pytest.raises(DatasetError, match="7 training images do not fill one batch of 4 on each of 2 processes"):
        TrainingBatches(num_rows=7, batch_size=4, seed=0, num_processes=2)


@pytest.mark.parametrize("num_processes", [1, 2, 3])
def test_evaluation_sees_every_row_once_in_the_same_batches(num_processes):
    alone = list(EvaluationBatches(num_rows=23, batch_size=4))
    together = [batch for process in range(num_processes) for batch in EvaluationBatches(23, 4, process, num_processes)]
    assert sorted(together) == alone
    assert rows_of(alone) == list(range(23))


def test_an_interrupted_epoch_goes_on_with_the_batches_that_are_left():
    batches = TrainingBatches(num_rows=20, batch_size=5, seed=1)
    whole = batches_of_epoch(batches, 2)
    batches.start = 3
    assert batches_of_epoch(batches, 2) == whole[3:]
