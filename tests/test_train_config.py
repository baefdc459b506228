"""What a run can be told: command line over recipe over defaults, refused before any work where it cannot work."""

import pytest

from resnet_hub import ConfigurationError
from train.config import TrainingConfig, parse_config, read_recipe, recipe_of


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
