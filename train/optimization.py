"""The optimiser and its learning rate; nothing in here has a state that a step number does not give."""

import math

import torch
from torch import nn


def make_optimizer(model: nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW; weight decay on kernels and matrices only.

    A norm's scale and a bias have one dimension. Decaying them only shifts what the next layer undoes; leaving them out
    is "no bias decay" of He et al. 2018, https://arxiv.org/abs/1812.01187, section 3.1.
    """
    decayed = [p for p in model.parameters() if p.ndim > 1]
    spared = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": spared, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate, fused=True)


def learning_rate_at(step: int, num_steps: int, peak: float, warmup_ratio: float) -> float:
    """Linear warm-up to ``peak``, then a cosine to zero (Loshchilov and Hutter 2016, https://arxiv.org/abs/1608.03983).

    Args:
        step: From 0; the rate is already above zero at step 0 and would reach zero at ``num_steps``.
        num_steps: Of the whole run.
        peak: The highest rate.
        warmup_ratio: Share of the steps that rise, 0 to 1.
    """
    warmup_steps = round(warmup_ratio * num_steps)
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, num_steps - warmup_steps)
    return peak * 0.5 * (1 + math.cos(math.pi * progress))


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
