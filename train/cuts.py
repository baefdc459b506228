"""Which images checkpoints were not trained on, where a dataset has no validation or test images of its own.

``train.py`` cuts these off the training images, by options that the checkpoint's record keeps. Cut otherwise, some of
the images that a checkpoint is measured on would be those that it was trained on.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from resnet_hub.checkpoint import TrainingRecord
from resnet_hub.errors import ConfigurationError


@dataclass(frozen=True)
class Cut:
    """Options of ``train.py``: share of train (0 to 1, exclusive) that each missing split takes, and the seed."""

    train_val_split: float = 0.1
    split_seed: int = 0

    def __str__(self) -> str:
        return f"--train_val_split {self.train_val_split:g} --split_seed {self.split_seed}"


def recorded_cut(record: TrainingRecord | None, dataset: str) -> Cut | None:
    """That of a checkpoint which was trained on ``dataset``, a name as records have it; None of every other."""
    if record is None or dataset not in [described["name"] for described in record["datasets"]]:
        return None
    share = record["recipe"].get("train_val_split", Cut.train_val_split)
    seed = record["recipe"].get("split_seed", Cut.split_seed)
    # A record may be a stranger's, and say anything.
    return Cut(share, seed) if type(share) is float and 0 < share < 1 and type(seed) is int and seed >= 0 else None


def choose_cut(recorded: Mapping[str, Cut | None], split: str, share: float | None, seed: int | None) -> Cut:
    """The one by which to cut off ``split``: what was asked for, else that by which the checkpoints were trained.

    Args:
        recorded: Of each checkpoint, by name.
        share, seed: Asked for; None where nothing was said.

    Raises:
        ConfigurationError: the checkpoints were trained by different ones, and it was not said which to take.
    """

    def with_what_was_asked(cut: Cut) -> Cut:
        return Cut(cut.train_val_split if share is None else share, cut.split_seed if seed is None else seed)

    cuts = {name: with_what_was_asked(cut) for name, cut in recorded.items() if cut is not None}
    first_name, first = next(iter(cuts.items()), ("", with_what_was_asked(Cut())))
    for name, cut in cuts.items():
        if cut != first:
            raise ConfigurationError(
                f"the dataset has no {split} images of its own: {first_name} was trained without those that "
                f"{recorded[first_name]} cuts off, {name} without those of {recorded[name]}. Measure them apart, or "
                "name one cut by these options"
            )
    return first


def trained_on(record: TrainingRecord | None, dataset: str, split: str, own: Collection[str], cut: Cut) -> str | None:
    """The options by which a checkpoint was trained on images of ``split``; None where it was not.

    Args:
        own: Splits that the dataset has itself.
        cut: By which the others were cut off.
    """
    recorded = recorded_cut(record, dataset)
    if recorded is None or split == "train":
        return None
    is_main = record["datasets"][0]["name"] == dataset
    if split == "validation" and is_main and record["recipe"].get("train_on_validation") is True:
        return "--train_on_validation True"
    return None if split in own or recorded == cut else str(recorded)
