"""What a run can be told: command line over recipe over defaults, refused before any work where it cannot work."""

from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

import train.config
from resnet_hub import ConfigurationError
from train.config import TrainingConfig, options_of, parse_config, read_recipe, recipe_of
from train.states import State, save_state


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
        ("optim: adamax", "--optim must be one of adamw, adam, sgd, got 'adamax'"),
        ("scale: 0.5", "wrong type for scale"),
        ("max_train_samples: many", "wrong type for max_train_samples"),
        ('measure_backgrounds: "no"', "wrong type for measure_backgrounds"),
        ("scale: [0.5, big]", "wrong type for scale"),
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
        ["--model_variant", "keras", "--model_name", "resnet101"],
        ["--train_val_split", "0"],
        ["--learning_rate", "inf"],
        ["--momentum", "1"],
        ["--ema_decay", "1"],
        ["--scale", "1.2", "0.8"],
        ["--save_top_k", "0"],
        ["--train_on_validation", "True", "--early_stopping_patience", "2"],
        ["--calibration_from", "runs/first"],
        ["--measure_backgrounds", "True"],
        ["--freeze", "layer2"],
        ["--gradient_accumulation_steps", "0"],
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


@pytest.mark.parametrize("file", sorted(Path(train.config.__file__).with_name("recipes").glob("*.yaml")))
def test_every_recipe_is_one(file):
    assert parse_config(["--config", str(file)]) != TrainingConfig()


def test_a_run_to_resume_brings_its_options(tmp_path):
    config = TrainingConfig(dataset_name="signs", learning_rate=0.25, scale=(0.5, 1.5), output_dir=Path("elsewhere"))
    save_state(tmp_path, 3, State({"options": options_of(config)}, {"a": torch.zeros(1)}), limit=1)
    resumed = parse_config(["--resume_from_checkpoint", str(tmp_path), "--dataloader_num_workers", "2"])
    expected = {"output_dir": tmp_path, "resume_from_checkpoint": str(tmp_path), "dataloader_num_workers": 2}
    assert resumed == replace(config, **expected)


def test_help_names_every_option_with_its_default(capsys):
    with pytest.raises(SystemExit) as exit_:
        parse_config(["--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    for field in fields(TrainingConfig):
        assert f"--{field.name} " in text
    assert text.count("(default: ") >= len(fields(TrainingConfig))
