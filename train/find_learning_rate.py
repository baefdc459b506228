"""Find a learning rate: train a few steps while it grows from tiny to huge, and see where the loss is lowest.

    python train/find_learning_rate.py --config train/recipes/signs.yaml

Takes the options of train.py and leaves nothing behind. The method is the range test of Smith 2015,
https://arxiv.org/abs/1506.01186. What it suggests is a place to start from, not a result.
"""

import math
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

# As in train.py, beside which this lies.
if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from accelerate.utils import set_seed
from datasets import disable_progress_bars

from resnet_hub import convert
from resnet_hub.command import run_command
from resnet_hub.errors import TrainingError
from train.batches import Batch
from train.config import TrainingConfig, parse_config
from train.data import choose_dataset, load_training_data
from train.engine import progress, train_step
from train.environment import make_accelerator
from train.optimization import set_learning_rate
from train.train import make_model, start_record
from train.trainer import Trainer

NUM_STEPS = 100
LOWEST, HIGHEST = 1e-6, 10.0
#: Share of the newest loss in the running mean; losses of single batches are noisy.
SMOOTHING = 0.1


def main(config: TrainingConfig) -> None:
    accelerator = make_accelerator(config.mixed_precision)
    if not sys.stderr.isatty():
        disable_progress_bars()
    initial = convert.read(config.init_from) if config.init_from else None
    data = load_training_data(choose_dataset(config, accelerator), config, accelerator)
    set_seed(config.seed)
    model = make_model(config, data.label_names, accelerator, initial)
    trainer = Trainer(accelerator, model, data, config, start_record(config, data, accelerator), Path())
    rates, losses = range_test(trainer)
    for rate, loss in list(zip(rates, losses, strict=True))[::5]:
        accelerator.print(f"learning rate {rate:8.2g}   loss {loss:.4f}")
    accelerator.print(f"suggested: --learning_rate {suggest(rates, losses):.1g}")
    accelerator.end_training()


def range_test(trainer: Trainer) -> tuple[list[float], list[float]]:
    """Learning rates, and the smoothed loss after a step with each.

    Ends early where the loss has grown to four times its lowest, or is not finite any more.
    """
    trainer.network.train()
    rates, losses, mean = [], [], 0.0
    for step, batch in enumerate(islice(_endless(trainer), NUM_STEPS)):
        rate = LOWEST * (HIGHEST / LOWEST) ** (step / (NUM_STEPS - 1))
        set_learning_rate(trainer.optimizer, rate)
        ((_, loss),) = train_step(
            trainer.accelerator,
            trainer.network,
            trainer.optimizer,
            [batch.to(trainer.accelerator.device)],
            label_smoothing=trainer.config.label_smoothing_factor,
            max_grad_norm=trainer.config.max_grad_norm,
        )
        mean = (1 - SMOOTHING) * mean + SMOOTHING * trainer.accelerator.reduce(loss.mean(), "mean").item()
        smoothed = mean / (1 - (1 - SMOOTHING) ** (step + 1))  # else the first ones would lean towards zero
        if not math.isfinite(smoothed) or smoothed > 4 * min(losses, default=math.inf):
            break
        rates.append(rate)
        losses.append(smoothed)
    return rates, losses


def _endless(trainer: Trainer) -> Iterator[Batch]:
    """Batches of one epoch after the other."""
    while True:
        trainer.batches.epoch += 1
        yield from progress(trainer.loader, "range test", trainer.accelerator)


def suggest(rates: Sequence[float], losses: Sequence[float]) -> float:
    """A tenth of the rate with the lowest loss: where it still falls, well before training breaks.

    Raises:
        TrainingError: the loss falls at no rate.
    """
    lowest = min(range(len(losses)), key=losses.__getitem__, default=0)
    if lowest == 0:
        raise TrainingError("the loss fell at no learning rate: check the labels, or start from other weights")
    return rates[lowest] / 10


if __name__ == "__main__":
    run_command(lambda: main(parse_config()))
