"""What all processes must learn of each other after every step: that somebody asks to stop, or that a loss broke."""

import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from resnet_hub.errors import TrainingError

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(Exception):
    """SIGTERM or Ctrl-C reached one of the processes; all of them have finished the same step.

    Attributes:
        exit_code: 128 plus the signal's number, what shells and supervisors take for "ended by that signal".
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


def is_loss_of_a_process(error: RuntimeError) -> bool:
    """Whether it is how Gloo and NCCL say that another process is gone."""
    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error)


class Watch:
    """Call :meth:`look` after every step, on every process.

    What it finds out is told one step later: reading a flag at once would make the host wait for the GPU. So training
    runs one step more than it had to, and nothing is saved before :meth:`settle` has seen the last one.

    As a context it takes over SIGTERM and Ctrl-C. A second one ends the process at once.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._signal: int | None = None
        self._previous: dict[int, Any] = {}
        self._pending: tuple[Tensor, Callable[[], str] | None] | None = None

    def __enter__(self) -> Self:
        self._previous = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self._signal = number

    def look(self, losses: Tensor | None = None, describe: Callable[[], str] | None = None) -> None:
        """Share what this step brought, and act on what the step before brought.

        Args:
            losses: Of the step's images, on this process; None where none are checked.
            describe: Says which step that was and which images; called only where a loss is not finite.

        Raises:
            Interrupted: a process was asked to stop.
            TrainingError: a loss was NaN or infinite.
        """
        device = self._accelerator.device
        stop = torch.tensor(float(self._signal is not None), device=device)
        broken = stop.new_zeros(()) if losses is None else (~torch.isfinite(losses)).any().float()
        flags = self._accelerator.reduce(torch.stack([broken, stop]), reduction="sum")
        previous, self._pending = self._pending, (flags, describe if losses is not None else None)
        if previous is not None and self._judge(*previous):
            self.settle()  # whoever asked to stop still does, and this step must be sound before it is saved

    def settle(self) -> None:
        """Act on what the last :meth:`look` shared. Raises as it does."""
        pending, self._pending = self._pending, None
        if pending is not None and self._judge(*pending):
            raise Interrupted(self._signal or signal.SIGTERM)

    def _judge(self, flags: Tensor, describe: Callable[[], str] | None) -> bool:
        """Whether somebody asked to stop. Raises ``TrainingError`` where a loss was not finite."""
        broken, stop = flags.tolist()
        if broken:
            found = [text for text in gather_object([describe() if describe else ""]) if text]
            raise TrainingError(
                f"the loss is not finite any more: {'; '.join(found)}. Nothing was saved since. Lower --learning_rate, "
                "or add --detect_anomaly True to see which operation it comes from"
            )
        return bool(stop)
