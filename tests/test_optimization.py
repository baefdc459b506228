"""Optimiser, learning rate and averaged weights do what their papers and PyTorch's own implementations do."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from train.optimization import ExponentialMovingAverage, LearningRate, freeze_up_to, make_optimizer, set_learning_rate


def rates(**options) -> list[float]:
    schedule = LearningRate(peak=0.1, num_steps=100, **options)
    return [schedule(step) for step in range(100)]


def test_cosine_rises_to_its_peak_and_falls_to_zero():
    values = rates(schedule="cosine", warmup_ratio=0.1)
    assert values[0] == pytest.approx(0.01)
    assert values[9] == values[10] == max(values) == 0.1
    assert all(a > b for a, b in pairwise(values[10:]))
    assert values[55] == pytest.approx(0.05)
    assert 0 < values[-1] < 1e-4


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant", "step"])
def test_every_schedule_warms_up_linearly(schedule):
    values = rates(schedule=schedule, warmup_ratio=0.2, step_size=50)
    assert values[:20] == pytest.approx([0.1 * (i + 1) / 20 for i in range(20)])
    assert rates(schedule=schedule, warmup_ratio=0, step_size=50)[0] == pytest.approx(0.1)


def test_linear_falls_evenly_and_constant_stays():
    linear = rates(schedule="linear", warmup_ratio=0)
    assert linear == pytest.approx([0.1 * (100 - i) / 100 for i in range(100)])
    assert rates(schedule="constant", warmup_ratio=0) == [0.1] * 100


@pytest.mark.parametrize("gamma", [0.1, 0.5])
def test_step_is_pytorchs(gamma):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=30, gamma=gamma)
    expected = []
    for _ in range(100):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates(schedule="step", warmup_ratio=0, step_size=30, gamma=gamma) == pytest.approx(expected)


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_one_cycle_is_pytorchs(share):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.1, total_steps=100, pct_start=share, cycle_momentum=False
    )
    expected = []
    for _ in range(100):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates(schedule="one_cycle", warmup_ratio=share) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "kind"), [("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam), ("sgd", torch.optim.SGD)]
)
def test_norms_and_biases_have_no_weight_decay(tiny_model, name, kind):
    optimizer = make_optimizer(tiny_model, name, learning_rate=1e-3, weight_decay=0.05)
    assert isinstance(optimizer, kind)
    for group in optimizer.param_groups:
        assert {p.ndim > 1 for p in group["params"]} == {group["weight_decay"] == 0.05}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(tiny_model.parameters()))


def test_sgd_has_nesterovs_momentum(tiny_model):
    (group, *_) = make_optimizer(tiny_model, "sgd", learning_rate=0.1, weight_decay=0, momentum=0.8).param_groups
    assert (group["momentum"], group["nesterov"]) == (0.8, True)


def test_the_body_learns_at_its_own_rate(tiny_model):
    optimizer = make_optimizer(tiny_model, learning_rate=1e-3, weight_decay=0, body_ratio=0.1)
    set_learning_rate(optimizer, 0.5)
    head = {id(p) for p in tiny_model.fc.parameters()}
    for group in optimizer.param_groups:
        expected = 0.5 if all(id(p) in head for p in group["params"]) else 0.05
        assert group["lr"] == pytest.approx(expected)
        assert len({id(p) in head for p in group["params"]}) == 1


def test_frozen_stages_have_nothing_to_learn(tiny_model):
    frozen = freeze_up_to(tiny_model, "layer2")
    names = {name.split(".")[0] for name, p in tiny_model.named_parameters() if not p.requires_grad}
    assert names == {"conv1", "bn1", "layer1", "layer2"}
    assert [tiny_model.conv1, tiny_model.bn1, tiny_model.layer1, tiny_model.layer2] == frozen
    learning = {
        id(p) for g in make_optimizer(tiny_model, learning_rate=1, weight_decay=0).param_groups for p in g["params"]
    }
    assert learning == {id(p) for p in tiny_model.parameters() if p.requires_grad}


def test_the_average_follows_weights_and_statistics(tiny_model):
    ema = ExponentialMovingAverage(tiny_model, decay=0.9)
    before = {name: value.clone() for name, value in tiny_model.state_dict().items()}
    with torch.no_grad():
        for value in tiny_model.state_dict().values():
            value += 1
    ema.update(tiny_model, step=1000)
    for name, value in ema.average.state_dict().items():
        step = 0.1 if value.is_floating_point() else 1  # counters are taken over
        torch.testing.assert_close(value, before[name] + step)


def test_the_average_leaves_the_random_start_behind_quickly(tiny_model):
    ema = ExponentialMovingAverage(tiny_model, decay=0.9999)
    with torch.no_grad():
        tiny_model.fc.bias.fill_(1)
    for step in range(20):
        ema.update(tiny_model, step)
    assert ema.average.fc.bias.min() > 0.99
