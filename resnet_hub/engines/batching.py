"""Requests of many threads, joined into batches for one engine."""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

#: Images that pass through the network together. More cost memory and save no time.
MAX_BATCH = 32


@dataclass(eq=False)
class _Request:
    images: Tensor
    result: Tensor | None = None
    error: BaseException | None = None

    @property
    def is_done(self) -> bool:
        return self.result is not None or self.error is not None


class SharedBatches:
    """Calls ``engine`` for many threads, one pass at a time, with all that has come in meanwhile.

    Nobody waits for company: a request that finds the engine idle starts at once, alone, in its own thread. Those that
    come while it runs share the next pass, which one of their threads starts.

    Args:
        engine: Images (N, ...) -> one row of results for each, (N, ...).
        max_batch: Images in a pass. A request with more goes alone.
    """

    def __init__(self, engine: Callable[[Tensor], Tensor], max_batch: int = MAX_BATCH) -> None:
        self._engine = engine
        self._max_batch = max_batch
        self._waiting: deque[_Request] = deque()
        self._is_busy = False
        self._changed = threading.Condition()

    def __call__(self, images: Tensor) -> Tensor:
        """The engine's results for ``images``, or its error."""
        mine = _Request(images)
        with self._changed:
            self._waiting.append(mine)
        while not mine.is_done:
            with self._changed:
                self._changed.wait_for(lambda: mine.is_done or not self._is_busy)
                if mine.is_done:
                    break
                self._is_busy = True
                batch = self._take()
            try:
                self._run(batch)
            finally:
                with self._changed:
                    self._is_busy = False
                    self._changed.notify_all()
        if mine.error is not None:
            raise mine.error
        return mine.result

    def _take(self) -> list[_Request]:
        """From the front of the queue, as many as fit."""
        batch = [self._waiting.popleft()]
        room = self._max_batch - len(batch[0].images)
        while self._waiting and len(self._waiting[0].images) <= room:
            batch.append(self._waiting.popleft())
            room -= len(batch[-1].images)
        return batch

    def _run(self, batch: list[_Request]) -> None:
        try:
            images = batch[0].images if len(batch) == 1 else torch.cat([request.images for request in batch])
            results = self._engine(images).split([len(request.images) for request in batch])
        except BaseException as error:  # everybody's: an interrupt, too, ends the pass that all wait for
            for request in batch:
                request.error = error
        else:
            for request, result in zip(batch, results, strict=True):
                request.result = result
