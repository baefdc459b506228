"""The optimiser, its learning rate, and the average of the weights. What a step number gives is not stored."""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from resnet_hub import ResNetForImageClassification

OptimizerName = Literal["adamw", "adam", "sgd"]
ScheduleName = Literal["cosine", "linear", "constant", "step", "one_cycle"]

#: Of ``nn.Module`` names, from the image to the classifier: what ``freeze_up_to`` can name.
STAGES = ("stem", "layer1", "layer2", "layer3", "layer4")


def make_optimizer(
    model: ResNetForImageClassification,
    name: OptimizerName = "adamw",
    *,
    learning_rate: float,
    weight_decay: float,
    momentum: float = 0.9,
    body_ratio: float = 1.0,
) -> torch.optim.Optimizer:
    """The optimiser over all parameters that learn; weight decay on kernels and matrices only.

    A norm's scale and a bias have one dimension. Decaying them only shifts what the next layer undoes; leaving them out
    is "no bias decay" of He et al. 2018, https://arxiv.org/abs/1812.01187, section 3.1.

    Args:
        name: ``"adamw"``, ``"adam"`` (its weight decay is an L2 penalty) or ``"sgd"`` (Nesterov's momentum).
        learning_rate: Of the classifier, and of all else where ``body_ratio`` is 1.
        momentum: Of SGD alone, 0 to 1.
        body_ratio: Learning rate of everything before the classifier, as a share of ``learning_rate``.
    """
    head = set(model.fc.parameters())
    groups = []
    for in_head, ratio in ((False, body_ratio), (True, 1.0)):
        learning = [p for p in model.parameters() if p.requires_grad and (p in head) == in_head]
        for is_matrix, decay in ((True, weight_decay), (False, 0.0)):
            parameters = [p for p in learning if (p.ndim > 1) == is_matrix]
            if parameters:
                groups.append({"params": parameters, "weight_decay": decay, "ratio": ratio})
    if name == "sgd":
        return torch.optim.SGD(groups, lr=learning_rate, momentum=momentum, nesterov=momentum > 0, fused=True)
    adaptive = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[name]
    return adaptive(groups, lr=learning_rate, fused=True)


@dataclass(frozen=True)
class LearningRate:
    """The learning rate as a function of the step alone, so that a resumed run needs no schedule's state.

    Args:
        peak: The highest rate.
        num_steps: Of the whole run.
        schedule: After the warm-up ``"cosine"`` (Loshchilov and Hutter 2016, https://arxiv.org/abs/1608.03983) and
            ``"linear"`` fall to zero, ``"constant"`` stays, ``"step"`` is multiplied by ``gamma`` every ``step_size``
            steps. ``"one_cycle"`` (Smith and Topin 2017, https://arxiv.org/abs/1708.07120) rises from peak / 25 along a
            cosine, for the warm-up's share of the run, and falls to peak / 250,000: torch's ``OneCycleLR``.
        warmup_ratio: Share of the steps, 0 to 1, in which the rate rises, linearly but for ``"one_cycle"``.
        step_size: Of ``"step"``, in steps, counted from the start of the run.
        gamma: Of ``"step"``.
    """

    peak: float
    num_steps: int
    schedule: ScheduleName = "cosine"
    warmup_ratio: float = 0.1
    step_size: int = 1
    gamma: float = 0.1

    def __call__(self, step: int) -> float:
        """Of ``step``, from 0: already above zero there, and zero would be reached at ``num_steps``."""
        if self.schedule == "one_cycle":
            return self._one_cycle(step)
        warmup_steps = round(self.warmup_ratio * self.num_steps)
        if step < warmup_steps:
            return self.peak * (step + 1) / warmup_steps
        progress = (step - warmup_steps) / max(1, self.num_steps - warmup_steps)
        return (
            self.peak
            * {
                "cosine": 0.5 * (1 + math.cos(math.pi * progress)),
                "linear": 1 - progress,
                "constant": 1.0,
                "step": self.gamma ** (step // self.step_size),
            }[self.schedule]
        )

    def _one_cycle(self, step: int) -> float:
        first, last = self.peak / 25, self.peak / 25e4
        turn = self.warmup_ratio * self.num_steps - 1
        if step <= turn:
            return _cosine_between(first, self.peak, step / turn) if turn > 0 else self.peak
        return _cosine_between(self.peak, last, (step - turn) / (self.num_steps - 1 - turn))


def _cosine_between(start: float, end: float, progress: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * progress))


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["ratio"]


def freeze_up_to(model: ResNetForImageClassification, stage: str) -> list[nn.Module]:
    """Stop everything from the image up to and with ``stage`` (one of ``STAGES``) from learning.

    Returns:
        The frozen modules: keep them in evaluation mode, or their BatchNorm statistics would go on changing.
    """
    stages = STAGES[: STAGES.index(stage) + 1]
    frozen = [m for s in stages for m in ([model.conv1, model.bn1] if s == "stem" else [getattr(model, s)])]
    for module in frozen:
        module.requires_grad_(False)
    return frozen


class ExponentialMovingAverage:
    """A copy of the model whose weights and statistics follow the trained one's slowly, which evens out the last steps.

    average <- decay average + (1 - decay) model, after every step. Early on the decay is smaller,
    min(decay, (1 + step) / (10 + step)), or the copy would be stuck at the random start.

    Args:
        model: Copied as it is.
        decay: 0 to 1, exclusive; 0.999 averages over about the last thousand steps.
    """

    def __init__(self, model: ResNetForImageClassification, decay: float) -> None:
        self.average = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """After ``step`` (from 0) has changed ``model``."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averages, values = zip(*self._pairs(model), strict=True)
        torch._foreach_lerp_(averages, values, 1 - decay)
        for (name, average), (_, value) in zip(self.average.named_buffers(), model.named_buffers(), strict=True):
            if name.endswith("num_batches_tracked"):
                average.copy_(value)

    def _pairs(self, model: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
        """Everything that has an average."""
        for average, value in zip(self.average.state_dict().values(), model.state_dict().values(), strict=True):
            if average.is_floating_point():
                yield average, value
