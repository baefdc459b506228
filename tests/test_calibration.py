"""Probabilities that mean what they say, and images that a network does not know: fitted, stored, used."""

import json

import numpy as np
import pytest
import torch

from resnet_hub import CheckpointError, ConfigurationError, Predictor, ResNetForSigns
from resnet_hub.calibration import Calibration, energy, fit_calibration, probabilities

SIGNS = {"dataset": "signs", "split": "validation"}


def overconfident(num: int, factor: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of three classes, and labels drawn with the probabilities that they give at temperature ``factor``."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(num, 3, generator=generator) * 2 * factor
    labels = torch.multinomial((logits / factor).softmax(dim=1), 1, generator=generator)[:, 0]
    return logits, labels


@pytest.mark.parametrize("factor", [0.7, 1.0, 2.5])
def test_the_temperature_that_the_labels_were_drawn_with_is_found(factor):
    calibration = fit_calibration(*overconfident(20_000, factor), **SIGNS)
    assert calibration.temperature == pytest.approx(factor, rel=0.03)
    assert calibration.num_images == 20_000


def test_the_temperature_has_the_lowest_loss_of_all():
    logits, labels = overconfident(50, 1.5)
    found = fit_calibration(logits, labels, **SIGNS).temperature
    losses = {
        t: torch.nn.functional.cross_entropy(logits.double() / t, labels).item() for t in np.linspace(0.5, 5, 901)
    }
    assert found == pytest.approx(min(losses, key=losses.get), abs=0.006)


def test_no_mistake_on_few_images_does_not_make_certain():
    logits = torch.eye(3).repeat(5, 1) * 4
    assert fit_calibration(logits, logits.argmax(dim=1), **SIGNS).temperature == pytest.approx(0.5, abs=1e-4)


def test_one_in_a_hundred_validation_images_lies_beyond_the_bound():
    logits, labels = overconfident(1000, 1.0)
    calibration = fit_calibration(logits, labels, **SIGNS)
    assert calibration.is_unfamiliar(logits).sum() == 10
    assert calibration.is_unfamiliar(torch.tensor([[-3.0, -3.0, -3.0], [9.0, 0.0, 0.0]])).tolist() == [True, False]


def test_energy_is_minus_the_log_of_the_sum_of_exponentials():
    assert energy(torch.tensor([[0.0, 0.0], [1000.0, 0.0]])).tolist() == pytest.approx([-np.log(2), -1000])


def test_probabilities_are_the_softmax_at_the_temperature():
    logits = torch.tensor([[2.0, 0.0]])
    assert torch.equal(probabilities(logits, None), logits.softmax(dim=1))
    expected = (logits / 2).softmax(dim=1)
    assert torch.equal(probabilities(logits, Calibration(2.0, 0.0, "d", "test", 1)), expected)


def test_a_checkpoint_keeps_its_calibration_and_predicts_with_it(tmp_path):
    torch.manual_seed(0)
    model = ResNetForSigns(layers=(1, 1, 1, 1), channels=(8, 8, 8, 8)).eval()
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    plain = Predictor(model)(image, top_k=6)
    model.calibration = Calibration(0.5, -1.5, "signs", "validation", 108)
    model.save_pretrained(tmp_path / "m")
    loaded = ResNetForSigns.from_pretrained(tmp_path / "m")
    assert loaded.calibration == model.calibration
    calibrated = Predictor(loaded)(image, top_k=6)
    assert [p["label"] for p in calibrated] == [p["label"] for p in plain]
    squares = np.array([p["score"] for p in plain]) ** 2  # temperature 1/2
    assert [p["score"] for p in calibrated] == pytest.approx(squares / squares.sum())
    loaded.reset_classifier(3)
    assert loaded.calibration is None


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": 0},
        {"temperature": "1"},
        {"temperature": True},
        {"temperature": 1e9},
        {"max_energy": None},
        {"max_energy": float("inf")},
        {"dataset": 3},
        {"more": 1},
    ],
)
def test_a_calibration_that_cannot_be_is_refused(tmp_path, changes):
    model = ResNetForSigns(layers=(1, 1, 1, 1), channels=(8, 8, 8, 8))
    model.calibration = Calibration(0.7, -1.5, "signs", "validation", 108)
    model.save_pretrained(tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    config["calibration"] |= changes
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"config\.json: "):
        ResNetForSigns.from_pretrained(tmp_path / "m")


def test_values_out_of_range_are_named():
    with pytest.raises(ConfigurationError, match=r"temperature must be 0.5 to 5.0, got 9"):
        Calibration(9, 0, "d", "test", 1)
