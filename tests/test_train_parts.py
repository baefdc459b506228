"""The foundations of training: order, augmentation and learning rate are functions, whatever runs them."""

from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import pytest
import torch

from resnet_hub import ConfigurationError, DatasetError
from train import environment
from train.augmentation import Augmentation
from train.batches import EvaluationBatches, TrainingBatches
from train.config import TrainingConfig, parse_config, read_recipe, recipe_of
from train.optimization import learning_rate_at, make_optimizer


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
    with pytest.raises(DatasetError, match="7 training images do not fill one batch of 4 on 2 processes"):
        TrainingBatches(num_rows=7, batch_size=4, seed=0, num_processes=2)


@pytest.mark.parametrize("num_processes", [1, 2, 3])
def test_evaluation_sees_every_row_once_in_the_same_batches(num_processes):
    alone = list(EvaluationBatches(num_rows=23, batch_size=4))
    together = [batch for process in range(num_processes) for batch in EvaluationBatches(23, 4, process, num_processes)]
    assert sorted(together) == alone
    assert rows_of(alone) == list(range(23))


@pytest.mark.parametrize(
    ("requested", "launcher", "fast", "chosen"),
    [
        ("auto", None, True, "bf16"),
        ("auto", None, False, "no"),
        ("auto", "no", True, "bf16"),  # what accelerate launch says when it was told nothing
        ("auto", "fp16", True, "fp16"),
        ("no", "bf16", True, "no"),
    ],
)
def test_precision_is_what_was_asked_for_or_else_what_is_fast(monkeypatch, requested, launcher, fast, chosen):
    monkeypatch.setattr(environment, "computes_bf16_fast", lambda: fast)
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    if launcher is not None:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launcher)
    assert environment.choose_mixed_precision(requested) == chosen


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8))


def test_augmentation_is_a_function_of_seed_epoch_and_row(pixels):
    keys = [(1, row) for row in range(6)]
    together = Augmentation(seed=0)(pixels, keys)
    for row in (0, 5):
        assert torch.equal(Augmentation(seed=0)(pixels[row : row + 1], keys[row : row + 1])[0], together[row])
    assert not torch.equal(Augmentation(seed=0)(pixels, [(2, row) for row in range(6)]), together)
    assert not torch.equal(Augmentation(seed=1)(pixels, keys), together)


def test_augmentation_that_is_off_changes_nothing(pixels):
    off = Augmentation(seed=0, horizontal_flip=0, rotation=0, scale=0, translation=0, color_jitter=0)
    assert torch.equal(off(pixels, [(1, row) for row in range(6)]), pixels)


def test_flip_alone_mirrors(pixels):
    flip = Augmentation(seed=0, horizontal_flip=1, rotation=0, scale=0, translation=0, color_jitter=0)
    assert torch.equal(flip(pixels, [(1, row) for row in range(6)]), pixels.flip(2))


def test_learning_rate_rises_to_its_peak_and_falls_to_zero():
    rates = [learning_rate_at(step, num_steps=100, peak=0.1, warmup_ratio=0.1) for step in range(100)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[9] == rates[10] == max(rates) == 0.1
    assert all(a > b for a, b in pairwise(rates[10:]))
    assert rates[55] == pytest.approx(0.05)
    assert 0 < rates[-1] < 1e-4
    assert learning_rate_at(0, num_steps=10, peak=0.1, warmup_ratio=0) == 0.1


def test_norms_and_biases_have_no_weight_decay(tiny_model):
    decayed, spared = make_optimizer(tiny_model, learning_rate=1e-3, weight_decay=0.05).param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.05, 0)
    assert {p.ndim for p in decayed["params"]} == {2, 4}
    assert {p.ndim for p in spared["params"]} == {1}
    assert len(decayed["params"]) + len(spared["params"]) == len(list(tiny_model.parameters()))


def test_command_line_wins_over_recipe_and_recipe_over_defaults(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("learning_rate: 0.5\nseed: 7\nlayers: [1, 1, 1, 1]\n")
    config = parse_config(["--seed", "8", "--config", str(recipe), "--max_train_samples", "9"])
    assert (config.learning_rate, config.seed, config.layers) == (0.5, 8, (1, 1, 1, 1))
    assert config.max_train_samples == 9
    assert config.weight_decay == TrainingConfig.weight_decay
    assert parse_config([f"--config={recipe}"]).seed == 7


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("learning_rat: 0.5", "unknown options learning_rat"),
        ("learning_rate: fast", "wrong type for learning_rate"),
        ("seed: 1.5", "wrong type for seed"),
        ("num_train_epochs: 0", "--num_train_epochs must be at least 1, got 0"),
        ("- a list", "option: value"),
        ("a: [", "not valid YAML"),
    ],
)
def test_a_wrong_recipe_is_refused_before_any_work(tmp_path, content, message):
    (tmp_path / "recipe.yaml").write_text(content)
    with pytest.raises(ConfigurationError, match=message):
        parse_config(["--config", str(tmp_path / "recipe.yaml")])


def test_a_missing_recipe_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match=r"none\.yaml cannot be read .*check the path"):
        read_recipe(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--learning_rate", "0"],
        ["--learning_rate", "nan"],
        ["--label_smoothing_factor", "1"],
        ["--warmup_ratio", "-0.1"],
        ["--image_size", "16"],
        ["--train_val_split", "0"],
    ],
)
def test_values_out_of_range_are_refused_by_name(arguments):
    with pytest.raises(ConfigurationError, match=arguments[0]):
        parse_config(arguments)


def test_an_unknown_option_exits_with_2(capsys):
    with pytest.raises(SystemExit) as exit_:
        parse_config(["--learning_rat", "1"])
    assert exit_.value.code == 2
    assert "learning_rat" in capsys.readouterr().err


def test_the_recorded_recipe_trains_the_same_again(tmp_path):
    config = TrainingConfig(dataset_name="signs", learning_rate=0.25, layers=(1, 1, 1, 1), output_dir=tmp_path)
    recipe = recipe_of(config)
    assert "output_dir" not in recipe  # where it lay on somebody's machine
    assert TrainingConfig(**recipe, output_dir=tmp_path) == config
